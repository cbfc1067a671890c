//! Notices what other programs do to the log's positions by which messages could be missed, and reports it once.

use std::time::{Duration, Instant};

use crate::domain::observation::Observation;
use crate::store::settled::{Look, NewRow};
use crate::store::written_behind::Mark;
use crate::store::{Session, StoreError};
use crate::telemetry::Observer;

/// How often the tail looks for rows that were written behind the settled position.
const LOOK_BEHIND_INTERVAL: Duration = Duration::from_secs(1);

/// What was found at the last look.
#[derive(Debug, Default)]
pub struct Oddities {
    cached: Option<i64>,
    is_ahead: bool,
    mark: Mark,
    looked_behind: Option<Instant>,
}

impl Oddities {
    /// Forgets what was found: from now on the server or the log is another one.
    pub fn begin(&mut self) {
        (self.mark, self.looked_behind) = (Mark::default(), None);
    }

    /// Looks, once an interval, whether rows were written behind the settled position. If the database refuses that, the
    /// tail goes on without.
    pub async fn look_behind(
        &mut self,
        session: &Session,
        settled: i64,
        observer: &Observer,
    ) -> Result<(), StoreError> {
        if self.looked_behind.is_some_and(|at| at.elapsed() < LOOK_BEHIND_INTERVAL) {
            return Ok(());
        }
        self.looked_behind = Some(Instant::now());
        match session.written_behind(&mut self.mark, settled).await {
            Ok(Some(found)) => {
                let (messages, first) = (found.messages, found.first);
                observer.record(Observation::WrittenBehind { messages, first, settled });
                Ok(())
            }
            Err(error) if error.is_unavailable() => Err(error),
            Ok(None) | Err(_) => Ok(()),
        }
    }

    /// The rows of a look that may be settled. A row beyond what the sequence has given, behind a hole, was numbered by hand:
    /// it waits, because the sequence will still give the positions before it.
    pub fn pass(&mut self, look: Look, settled: i64, observer: &Observer) -> Vec<NewRow> {
        let Look { mut rows, given, cached, is_to_the_end, .. } = look;
        if let Some(numbers) = cached.filter(|numbers| *numbers != self.cached.unwrap_or(1)) {
            self.cached = cached;
            observer.record(Observation::SequenceCaches { numbers });
        }
        let run = rows
            .iter()
            .zip(settled.saturating_add(1)..=i64::MAX)
            .take_while(|(row, next)| row.global_position == *next)
            .count();
        let given_rows = given.map_or(rows.len(), |given| rows.partition_point(|row| row.global_position <= given));
        let ahead = rows.split_off(run.max(given_rows));
        let is_ahead = !ahead.is_empty();
        if is_to_the_end && std::mem::replace(&mut self.is_ahead, is_ahead) != is_ahead {
            let at = ahead.first().map(|row| row.global_position);
            observer.record(Observation::PositionsAhead { at, given: given.unwrap_or_default() });
        }
        rows
    }
}
