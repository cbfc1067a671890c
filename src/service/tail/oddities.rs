//! What others do to the log's positions by which messages could be missed: noticed, and said once.

use crate::domain::observation::Observation;
use crate::store::settled::{Look, NewRow};
use crate::telemetry::Observer;

/// What was odd at the last look.
#[derive(Debug, Default)]
pub struct Oddities {
    cached: Option<i64>,
    is_ahead: bool,
}

impl Oddities {
    /// The rows of a look that may be settled. Behind a hole that reaches beyond what the sequence has given, a row was
    /// numbered by hand: the sequence will still give what lies before it, so it waits for that.
    pub fn pass(&mut self, look: Look, settled: i64, observer: &Observer) -> Vec<NewRow> {
        let Look { mut rows, given, cached, .. } = look;
        if let Some(numbers) = cached.filter(|numbers| *numbers != self.cached.unwrap_or(1)) {
            self.cached = cached;
            observer.record(Observation::SequenceCaches { numbers });
        }
        let run = rows.iter().zip(settled + 1..).take_while(|(row, next)| row.global_position == *next).count();
        let given_rows = given.map_or(rows.len(), |given| rows.partition_point(|row| row.global_position <= given));
        let ahead = rows.split_off(run.max(given_rows));
        let is_ahead = !ahead.is_empty();
        if std::mem::replace(&mut self.is_ahead, is_ahead) != is_ahead {
            let at = ahead.first().map(|row| row.global_position);
            observer.record(Observation::PositionsAhead { at, given: given.unwrap_or_default() });
        }
        rows
    }
}
