//! Looks at what other instances have projected, once for all followers of this one.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Feeds;
use crate::domain::keyed::Part;
use crate::service::back_off::BackOff;
use crate::service::log::pages::in_time;
use crate::service::tail::Tail;
use crate::store::aggregated_streams::{AggregatedPage, Progress};
use crate::store::read::PageLimit;
use crate::store::{Database, StoreError};
use crate::telemetry::Observer;

/// How often aggregated streams that are followed are looked at without a hint.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Read at once for all followers of an aggregated stream; a follower that is further behind reads by itself.
const READ_MAX: PageLimit = PageLimit { messages: 1_000, bytes: 4 << 20 };

impl Feeds {
    /// Runs until the service stops.
    pub async fn run(self, database: Database, tail: Tail, observer: Observer, stopping: CancellationToken) {
        let mut back_off = BackOff::new("aggregated feeds", observer);
        let (mut histories, mut erasures) = (tail.histories(), tail.erasures());
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                _ = histories.changed() => {
                    let history = *histories.borrow_and_update();
                    self.forget(history);
                }
                _ = erasures.changed() => {
                    erasures.borrow_and_update();
                    self.erase(&tail.erased_positions());
                    continue;
                }
                () = self.inner.kick.notified() => {}
                () = tokio::time::sleep(POLL_INTERVAL) => {}
            }
            // Waited out: the next look goes on.
            back_off.after(self.look(&database, &tail).await, &stopping).await;
        }
    }

    async fn look(&self, database: &Database, tail: &Tail) -> Result<(), StoreError> {
        let followed = self.followed_from_afar();
        if followed.is_empty() {
            return Ok(());
        }
        let history = tail.history();
        let found = database.aggregated_streams().progress(&followed).await?;
        let mut outcome = Ok(());
        for id in followed {
            let progress = found.iter().find(|progress| progress.aggregated_stream_id == id);
            let Some(progress) = progress else {
                self.deleted(history, id);
                continue;
            };
            let Some(from) = self.on_progress(history, progress) else { continue };
            let history_number = tail.history_number();
            let reading = database.aggregated_streams().page(id, progress.is_keyed, &Part::All, from, READ_MAX);
            match in_time(reading).await {
                Ok(page) => self.on_page(history, id, from, page, history_number),
                // The others do not wait until it can be read.
                Err(error) => {
                    self.on_failed_page(history, progress);
                    outcome = outcome.and(Err(error));
                }
            }
        }
        outcome
    }

    /// Those that are followed here and not projected here.
    pub fn followed_from_afar(&self) -> Vec<i64> {
        let state = self.state();
        state.feeds.keys().copied().filter(|id| state.led(*id).is_none()).collect()
    }

    /// Takes how far one is. Answers from where on its messages are to be read for all.
    pub fn on_progress(&self, history: u64, progress: &Progress) -> Option<i64> {
        let mut state = self.state_of(history)?;
        let id = progress.aggregated_stream_id;
        // It has gone live here since the look: that is newer.
        let is_led = state.led(id).is_some();
        let feed = state.feeds.get_mut(&id).filter(|_| !is_led)?;
        let Progress { projection_id, projected_position, is_catching_up, .. } = *progress;
        // Before what is known here: PostgreSQL has lost the rounds after it.
        let is_void = is_catching_up || projected_position < feed.up_to;
        if !feed.goes_on_at((projection_id, projected_position), is_catching_up, is_void) {
            return None;
        }
        if projected_position == feed.up_to {
            // What it is has changed perhaps, if not where it is.
            feed.messages.wake();
            return None;
        }
        Some(feed.up_to)
    }

    /// What comes after a position could not be read for all: each follower reads it for itself, in pages that get smaller.
    pub fn on_failed_page(&self, history: u64, progress: &Progress) {
        let Some(mut state) = self.state_of(history) else { return };
        let id = progress.aggregated_stream_id;
        let is_led = state.led(id).is_some();
        if let Some(feed) = state.feeds.get_mut(&id).filter(|_| !is_led) {
            feed.begin_anew(progress.projected_position);
        }
    }

    /// Takes what was read after a position. `history_number`: of the log that was known here before.
    pub fn on_page(&self, history: u64, id: i64, from: i64, page: Option<AggregatedPage>, history_number: i64) {
        let Some(page) = page else { return self.deleted(history, id) };
        if page.history_number != history_number {
            // The tail has not found the log that is there now: nobody is fed from it under the old one's places.
            return;
        }
        let Some(mut state) = self.state_of(history) else { return };
        let is_led = state.led(id).is_some();
        let Some(feed) = state.feeds.get_mut(&id).filter(|_| !is_led) else { return };
        if page.more_after.is_some() || page.projection_id != feed.projection_id {
            feed.projection_id = page.projection_id;
            feed.begin_anew(page.projected_position);
            return;
        }
        feed.advance(from, page.messages, page.projected_position, self.inner.bytes_max);
    }
}
