//! A look at the log in the database: what others have written is found by it, and what is behind a hole.

use std::pin::pin;
use std::sync::Arc;

use super::Reader;
use crate::domain::history::Landmark;
use crate::domain::message::Message;
use crate::domain::settling::{Settling, Step};
use crate::store::settled::{Look, NewRow};
use crate::store::{Session, StoreError};

/// New rows looked at together.
const ROWS_MAX: i64 = 5_000;
/// This far behind, and with so many rows at least, the messages between are left to the followers themselves.
const FAR_BEHIND: i64 = 50_000;
const FAR_BEHIND_ROWS: usize = 256;
/// Reads of one look at most.
const READS_MAX: usize = 50;

/// How a look at the database ended.
pub(super) enum Looked {
    /// Everything that is visible is settled.
    Complete,
    /// Somebody holds a hole open; look again soon.
    HeldBack,
    /// There is more, but those that wait for this look have waited long enough.
    MoreToRead,
}

impl Reader {
    /// Reads what is new until there is nothing more, or a hole that somebody may still fill.
    pub(super) async fn look(&mut self, session: &Session) -> Result<Looked, StoreError> {
        for _ in 0..READS_MAX {
            let opened = self.tail.cache().opened();
            // Sent together, and judged by the later one: rows of another log are not taken for news of this one.
            let (look, seen) = tokio::join!(self.read_new(session, None), self.look_at_history(session));
            let (mut look, seen) = (look?, seen?);
            if self.is_another_log(session, &seen).await? {
                return Ok(Looked::MoreToRead);
            }
            let is_all = look.is_to_the_end && look.rows.len() < ROWS_MAX as usize;
            let before = self.settling.settled();
            let took_in = self.until_flushed_beside_own(session, &mut look).await?;
            if look.rows.is_empty() && self.settling.settled() > before {
                // It showed nothing but what this instance has committed.
                self.hole.closed(&self.tail);
                match is_all {
                    true => return Ok(Looked::Complete),
                    false => continue,
                }
            }
            let new = self.pass(look);
            let positions = positions(&new);
            let (run, step) = match positions.last() {
                Some(&last) => {
                    self.saw(last);
                    if positions.len() >= FAR_BEHIND_ROWS && self.jump(session).await? {
                        continue;
                    }
                    self.settling.on_rows(&positions)
                }
                // Nothing shows as far as this look went; what comes after that is behind a hole.
                None => match session.given_far_after(self.settling.settled()).await? {
                    Some(given) => (0, self.settling.jump_to(given)),
                    None => {
                        if !took_in {
                            // What was committed before this look and does not show has been deleted since.
                            self.pending.clear();
                        }
                        self.hole.closed(&self.tail);
                        return Ok(Looked::Complete);
                    }
                },
            };
            if run > 0 {
                self.fetch(session, new, run, opened).await?;
            }
            if step == Step::AskHolders {
                match self.settling.on_holders(session.holders().await?) {
                    Step::ReadAgain { up_to } => self.decide(session, up_to).await?,
                    _ => {
                        self.hole.holds_back(&self.tail, &self.settling);
                        self.note_settled();
                        return Ok(Looked::HeldBack);
                    }
                }
            }
            self.hole.closed(&self.tail);
        }
        Ok(Looked::MoreToRead)
    }

    /// The rows after the settled position, up to another one or as far as one look goes.
    async fn read_new(&self, session: &Session, up_to: Option<i64>) -> Result<Look, StoreError> {
        let has_topics = self.tail.cache().has_topics();
        session.look_after(self.settling.settled(), up_to, ROWS_MAX, has_topics).await
    }

    /// The rows of a look that may be settled.
    fn pass(&mut self, look: Look) -> Vec<NewRow> {
        self.oddities.pass(look, self.settling.settled(), &self.tail.inner.observer)
    }

    /// Waits until the rows of a look are on disk, while what this instance commits goes on to its followers: a row that came
    /// with an append's answer is on disk, and is left out here. Answers whether anything came so.
    async fn until_flushed_beside_own(&mut self, session: &Session, look: &mut Look) -> Result<bool, StoreError> {
        let tail = self.tail.clone();
        let mut flushed = pin!(session.until_flushed(look.unflushed));
        let mut took_in = false;
        loop {
            took_in |= self.take_in();
            let settled = self.settling.settled();
            look.rows.retain(|row| row.global_position > settled);
            if look.rows.is_empty() {
                return Ok(took_in);
            }
            tokio::select! {
                outcome = &mut flushed => return outcome.map(|()| took_in),
                () = tail.inner.wake.notified() => {}
            }
        }
    }

    /// Publishes what is settled by now: of the first `run` new rows, those that somebody follows.
    async fn fetch(
        &mut self,
        session: &Session,
        mut rows: Vec<NewRow>,
        run: usize,
        opened: u64,
    ) -> Result<(), StoreError> {
        rows.truncate(run);
        let landmark = |row: &NewRow| Landmark { position: row.global_position, id: row.id };
        let ends = rows.first().map(landmark).zip(rows.last().map(landmark));
        {
            let cache = self.tail.cache();
            rows.retain(|row| cache.follows(&row.stream_name) || cache.selects(&row.stream_name, None));
        }
        let own = self.take_own(&mut rows);
        let (mut fetched, outcome) = self.budget.fetch(session, rows).await;
        if !own.is_empty() {
            fetched.messages.extend(own);
            fetched.messages.sort_unstable_by_key(|message| message.global_position);
        }
        // Also after a failure: these positions are settled, and are not looked at again.
        self.publish(fetched, opened);
        self.has_settled(ends);
        outcome
    }

    /// Of these rows, the messages that this instance has committed itself and still has.
    fn take_own(&mut self, rows: &mut Vec<NewRow>) -> Vec<Arc<Message>> {
        let mut own = Vec::new();
        rows.retain(|row| {
            let pending = self.pending.get_mut(&row.global_position).filter(|pending| pending.id == row.id);
            let message = pending.and_then(|pending| pending.message.take());
            let is_read = message.is_none();
            own.extend(message);
            is_read
        });
        own
    }

    /// Every transaction that could fill a hole up to here has ended: what a new look shows is final.
    async fn decide(&mut self, session: &Session, up_to: i64) -> Result<(), StoreError> {
        while self.settling.settled() < up_to {
            let opened = self.tail.cache().opened();
            let look = self.read_new(session, Some(up_to)).await?;
            session.until_flushed(look.unflushed).await?;
            let new = self.pass(look);
            let positions = positions(&new);
            if positions.len() >= FAR_BEHIND_ROWS && up_to - self.settling.settled() >= FAR_BEHIND {
                session.until_all_flushed().await?;
                if self.is_known_at(session, up_to).await? {
                    self.settling.on_decided(up_to);
                    self.skipped_to(up_to);
                }
                return Ok(());
            }
            if positions.is_empty() {
                // With no row to wait for, a crash would take back that they were given.
                session.until_all_flushed().await?;
            }
            // A look that shows not all it could has shown all there is: a hole is one step.
            let last = positions.last().filter(|_| positions.len() == ROWS_MAX as usize);
            self.settling.on_decided(last.copied().unwrap_or(up_to));
            self.fetch(session, new, positions.len(), opened).await?;
        }
        Ok(())
    }

    /// Far behind, the messages between are not worth keeping: if nobody holds a hole open, all is settled at once.
    async fn jump(&mut self, session: &Session) -> Result<bool, StoreError> {
        // While somebody writes it would be in vain, and what a large transaction has not committed lies before the head.
        if !session.holders().await?.is_empty() {
            return Ok(false);
        }
        let head = session.head().await?;
        self.saw(head);
        if head - self.settling.settled() < FAR_BEHIND || !session.holders().await?.is_empty() {
            return Ok(false);
        }
        if self.is_known_at(session, head).await? {
            self.settling = Settling::at(head);
            self.skipped_to(head);
        }
        Ok(true)
    }

    /// What was settled just now, too far ahead to be read here, is left to the followers.
    fn skipped_to(&mut self, settled: i64) {
        self.saw(settled);
        self.pending = self.pending.split_off(&settled.saturating_add(1));
        self.tail.cache().skip_to(settled);
        self.note_settled();
    }
}

fn positions(rows: &[NewRow]) -> Vec<i64> {
    rows.iter().map(|row| row.global_position).collect()
}
