//! The agent that reads the log's end, decides what is settled, and hands it to the cache.

mod looks;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::cache::Fetched;
use super::erasures::SeenErasures;
use super::fetching::FetchBudget;
use super::held_back::Hole;
use super::history::Memory;
use super::oddities::Oddities;
use super::{Tail, UNSETTLED_BYTES_MAX};
use crate::domain::history::{Known, Landmark};
use crate::domain::message::Message;
use crate::domain::observation::Observation;
use crate::domain::settling::{Settling, Step};
use crate::domain::trace::Span;
use crate::service::back_off::BackOff;
use crate::store::{Session, StoreError};
use looks::Looked;

/// Committed positions of this instance that wait behind a hole; beyond, they are read again instead.
const PENDING_MAX: usize = 5_000;
/// How often the settled position is kept for the next start.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5);

/// The one reader of an instance.
pub struct Reader {
    pub(super) tail: Tail,
    pub(super) memory: Memory,
    /// It has not begun yet.
    is_new: bool,
    settling: Settling,
    /// This instance's own commits that are not settled yet, by global position.
    pending: BTreeMap<i64, Pending>,
    budget: FetchBudget,
    oddities: Oddities,
    pub(super) erasures: SeenErasures,
    hole: Hole,
    checkpoint: (i64, Instant),
    /// The server that was named with it.
    kept_of: Option<String>,
}

struct Pending {
    id: Uuid,
    message: Option<Arc<Message>>,
    opened: u64,
}

impl Reader {
    pub(super) fn new(tail: Tail) -> Self {
        let budget = FetchBudget::new(tail.inner.settings.cache_bytes_max);
        Self {
            tail,
            memory: Memory::default(),
            is_new: true,
            settling: Settling::default(),
            pending: BTreeMap::new(),
            budget,
            oddities: Oddities::default(),
            erasures: SeenErasures::default(),
            hole: Hole::default(),
            checkpoint: (0, Instant::now()),
            kept_of: None,
        }
    }

    /// Runs until the service stops. The database going away is waited out.
    pub async fn run(mut self, stopping: CancellationToken) {
        let mut begun = false;
        let mut back_off = BackOff::new("tail", self.tail.inner.observer.clone());
        loop {
            let outcome = tokio::select! {
                () = stopping.cancelled() => return,
                outcome = self.read_until_lost(&mut begun, &mut back_off) => outcome,
            };
            let Err(error) = outcome else { continue };
            let pause = back_off.failed(&error);
            if error.is_unavailable() {
                // What rests in the pool led to the same server. A caller that comes again finds the one that is there.
                self.tail.inner.database.forget_connections();
            }
            self.tail.reads(false);
            self.settling.forget_holders();
            // Nobody is to wait for a look that cannot be taken.
            self.tail.inner.done.send_replace(self.tail.inner.asked.load(Ordering::SeqCst));
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Reads until the session fails. Without an error: until it may lead to another server than new connections do.
    async fn read_until_lost(&mut self, begun: &mut bool, back_off: &mut BackOff) -> Result<(), StoreError> {
        let database = self.tail.inner.database.clone();
        let (session, turns) = database.tail_session().await?;
        self.memory.server = session.server().await?;
        if self.tail.inner.looked_at.load(Ordering::SeqCst) != turns {
            // They may be of another log than the one that this session shows, and who can still fill a hole is known of
            // another server.
            self.pending.clear();
            self.settling.forget_holders();
        }
        self.oddities.begin();
        // Before anything is read: what is erased after this is found by its number.
        self.look_for_erasures(&session).await?;
        if !*begun {
            self.begin_first(&session).await?;
            *begun = true;
        }
        let mut next_look = Instant::now();
        loop {
            // Before the turns are compared: a reader that has seen another turn and asks for a look at it is not answered by one at
            // the server of before.
            let asked = self.tail.inner.asked.load(Ordering::SeqCst);
            if database.server_turns() != turns {
                return Ok(());
            }
            self.take_in();
            self.look_for_erasures(&session).await?;
            self.tail.inner.shared_pages.forget_old();
            let is_asked = self.tail.inner.asked.load(Ordering::SeqCst) > *self.tail.inner.done.borrow();
            if is_asked || !self.pending.is_empty() || Instant::now() >= next_look {
                let round = self.look(&session).await?;
                self.tail.inner.looked_at.store(turns, Ordering::SeqCst);
                if self.tail.is_reading() {
                    self.tail.inner.done.send_replace(asked);
                }
                next_look = Instant::now()
                    + match round {
                        Looked::Complete => self.tail.inner.settings.poll_interval,
                        Looked::HeldBack => self.hole.next_poll(),
                        Looked::MoreToRead => Duration::ZERO,
                    };
                self.keep_checkpoint(&session).await?;
                self.oddities.look_behind(&session, self.settling.settled(), &self.tail.inner.observer).await?;
                back_off.worked();
                self.tail.reads(true);
                // After an outage, or at the start: a reader that waits for a look is to find a tail that reads.
                self.tail.inner.done.send_if_modified(|done| std::mem::replace(done, asked) != asked);
                if !matches!(round, Looked::HeldBack) {
                    continue;
                }
            }
            // Behind a hole every commit would wake this, to look at the same hole again: then the timer alone does.
            let wake_early = async {
                match self.hole.is_open() {
                    true => tokio::time::sleep(self.hole.poll()).await,
                    false => self.tail.inner.wake.notified().await,
                }
            };
            tokio::select! {
                () = wake_early => {}
                () = tokio::time::sleep_until(next_look.min(self.erasures.next_look()).into()) => {}
            }
        }
    }

    /// Begins for the first time: what was kept may be of another log by now.
    async fn begin_first(&mut self, session: &Session) -> Result<(), StoreError> {
        let (settled, known) = session.kept_checkpoint().await?;
        self.settling = Settling::at(settled);
        self.memory.known = known;
        let seen = self.look_at_history(session).await?;
        if !self.is_another_log(session, &seen).await? {
            self.begin(session).await?;
        }
        Ok(())
    }

    /// Finds a position to begin at. Mostly nobody is writing, so that everything visible is settled; otherwise the
    /// checkpoint is a place from which to read on. Answers where the log ends.
    pub(super) async fn begin(&mut self, session: &Session) -> Result<i64, StoreError> {
        let head = match session.holders().await?.is_empty() {
            true => session.head().await?,
            // What they have not committed may be much, and lies before it.
            false => session.kept_checkpoint().await?.0,
        };
        let start = match Settling::at(0).jump_to(head) {
            Step::AskHolders if !session.holders().await?.is_empty() => session.kept_checkpoint().await?.0.min(head),
            _ => head,
        };
        let seen = session.look_at_history(&Known::default(), start, self.memory.server.as_deref()).await?;
        let is_first = std::mem::take(&mut self.is_new);
        self.oddities.begin();
        self.settling = Settling::at(start);
        self.pending.clear();
        self.hole.closed(&self.tail);
        // Of another log it is kept at once, so that the next reader finds this one.
        let kept_at = Instant::now().checked_sub(CHECKPOINT_INTERVAL).filter(|_| !is_first);
        self.checkpoint = (if is_first { start } else { 0 }, kept_at.unwrap_or_else(Instant::now));
        self.tail.begin_at(start, head, seen.number, is_first);
        self.memory.known = Known::of(&seen);
        seen.newest.into_iter().for_each(|newest| self.recognise(newest));
        Ok(head)
    }

    pub(super) fn settled(&self) -> i64 {
        self.settling.settled()
    }

    /// Settles what this instance has committed itself, as far as there is no hole before it: nothing is read for it. Answers
    /// whether there was anything.
    fn take_in(&mut self) -> bool {
        let inbox = std::mem::take(&mut *self.tail.inner.inbox.lock());
        let is_any = !inbox.batches.is_empty();
        for batch in inbox.batches {
            // What was sent to another log, or is where this one was settled before, says that the log is another. So
            // may what was sent to a server on which this reader has not looked at the log.
            let is_doubtful = batch.positions.first().is_some_and(|(first, _)| *first <= batch.settled);
            let is_elsewhere = batch.turns != self.tail.inner.looked_at.load(Ordering::SeqCst);
            if is_doubtful || is_elsewhere || batch.history != self.tail.history() {
                self.tail.inner.asked.fetch_add(1, Ordering::SeqCst);
                // A look finds what comes behind it, too.
                break;
            }
            let mut messages = batch.messages.into_iter().peekable();
            for (at, id) in batch.positions {
                let message = messages.next_if(|message| message.global_position == at);
                if at > self.settling.settled() {
                    self.pending.insert(at, Pending { id, message, opened: batch.opened });
                }
            }
        }
        let positions: Vec<i64> = self
            .pending
            .keys()
            .copied()
            .zip(self.settling.settled().saturating_add(1)..=i64::MAX)
            .take_while(|(at, next)| at == next)
            .map(|(at, _)| at)
            .collect();
        let run = self.settling.on_committed(&positions);
        if run > 0 {
            let rest = self.pending.split_off(&self.settling.settled().saturating_add(1));
            let settled = std::mem::replace(&mut self.pending, rest);
            let opened = settled.values().map(|pending| pending.opened).min().unwrap_or(0);
            let landmark = |(at, pending): (&i64, &Pending)| Landmark { position: *at, id: pending.id };
            let ends = settled.first_key_value().map(landmark).zip(settled.last_key_value().map(landmark));
            let messages = settled.into_values().filter_map(|pending| pending.message).collect();
            self.publish(Fetched { messages, left_out: Vec::new() }, opened);
            self.has_settled(ends);
        }
        let kept = self.pending.values().filter_map(|pending| pending.message.as_ref());
        if self.pending.len() > PENDING_MAX
            || kept.map(|message| message.memory_bytes()).sum::<usize>() > UNSETTLED_BYTES_MAX
        {
            self.pending.clear();
            self.tail.inner.asked.fetch_add(1, Ordering::SeqCst);
        }
        is_any
    }

    fn publish(&mut self, new: Fetched, opened: u64) {
        let settled = self.settling.settled();
        self.saw(settled);
        self.pending = self.pending.split_off(&settled.saturating_add(1));
        let observer = &self.tail.inner.observer;
        if observer.traces() {
            let spans = new.messages.iter().filter_map(|message| Span::of_message("tail", message));
            spans.for_each(|span| observer.span(span));
        }
        let size = {
            let mut cache = self.tail.cache();
            cache.publish(new, settled, opened);
            (cache.bytes(), cache.messages())
        };
        self.tail.inner.observer.record(Observation::CacheSize { bytes: size.0, messages: size.1 });
        self.note_settled();
    }

    fn note_settled(&self) {
        let settled = self.settling.settled();
        self.tail.inner.observer.record(Observation::Settled { settled, head: self.tail.head() });
    }

    fn saw(&self, head: i64) {
        self.tail.inner.head.fetch_max(head, Ordering::Relaxed);
    }

    async fn keep_checkpoint(&mut self, session: &Session) -> Result<(), StoreError> {
        let settled = self.settling.settled();
        let is_further = settled > self.checkpoint.0 && self.checkpoint.1.elapsed() >= CHECKPOINT_INTERVAL;
        // Replicas are told by it which primary they have replayed.
        if is_further || self.kept_of != self.memory.known.ground.server {
            session.keep_checkpoint(settled, &self.memory.known).await?;
            self.checkpoint = (settled, Instant::now());
            self.kept_of = self.memory.known.ground.server.clone();
        }
        Ok(())
    }
}
