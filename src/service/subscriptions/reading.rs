//! Reads what comes next in the source of a subscription: in its log, or in the partitions of an aggregated stream.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::catalog::Subscription;
use super::consumer::Consumer;
use crate::domain::message::Message;
use crate::service::log::cursor::{Cursor, Next};
use crate::service::log::{Log, Place, Trimmed};
use crate::store::StoreError;
use crate::store::read::PageLimit;
use crate::store::subscriptions::{At, Held, SharedCursor};

/// How many messages one round may look at without delivering any, and for how long: of those of other types it may not
/// know. What the round has passed over is kept at its end.
const EXAMINED_MAX: usize = 10_000;
const EXAMINED_FOR: Duration = Duration::from_secs(1);

/// A partition that messages may be delivered from.
pub(super) struct PartitionReader {
    pub partition: i32,
    /// Its cursor in the database, and how often that was rewound.
    pub expected: i64,
    pub rewind_generation: i64,
    /// Everything up to here was looked at.
    pub cursor: i64,
    pub taken: Vec<(i64, Arc<Message>)>,
    /// Messages were passed over for good, so that its place is worth keeping in the database.
    pub has_passed: bool,
    /// Nothing more is taken from this partition in this round.
    is_closed: bool,
    in_flight: i64,
    /// The next message that has failed before: it is delivered alone.
    failed_head: Option<i64>,
    done: Vec<i64>,
}

impl PartitionReader {
    pub fn of(held: &Held, cursor: i64) -> Self {
        Self {
            partition: held.partition,
            expected: held.read_up_to,
            rewind_generation: held.rewind_generation,
            cursor,
            taken: Vec::new(),
            has_passed: false,
            is_closed: false,
            in_flight: held.in_flight,
            failed_head: held.failed_head.map(|(position, _)| position),
            done: held.done.clone(),
        }
    }

    /// The shared cursor of a competing subscription.
    pub fn shared(at: &SharedCursor, cursor: i64) -> Self {
        Self {
            partition: at.partition,
            expected: at.read_up_to,
            rewind_generation: at.rewind_generation,
            cursor,
            taken: Vec::new(),
            has_passed: false,
            is_closed: false,
            in_flight: 0,
            failed_head: None,
            done: Vec::new(),
        }
    }

    /// Decides whether to take the next message of this partition.
    fn consider(&mut self, subscription: &Subscription, position: i64, message: &Arc<Message>) -> bool {
        if self.is_closed || position <= self.cursor {
            return false;
        }
        let is_wanted = !self.done.contains(&position)
            && subscription.expression.as_ref().is_none_or(|expression| expression.passes(message));
        if !is_wanted {
            self.has_passed = true;
            return false;
        }
        if self.failed_head == Some(position) {
            self.is_closed = true;
            let is_alone = self.in_flight == 0 && self.taken.is_empty();
            self.cursor = if is_alone { position } else { position - 1 };
            if is_alone {
                self.taken.push((position, message.clone()));
            }
            return is_alone;
        }
        self.taken.push((position, message.clone()));
        true
    }

    /// Its next message has failed before, and is delivered alone once all before it are acked.
    pub fn waits_for_acks(&self) -> bool {
        self.is_closed && self.taken.is_empty()
    }

    fn move_on(&mut self, up_to: i64) {
        if !self.is_closed {
            self.cursor = self.cursor.max(up_to);
        }
    }
}

/// How much more may be taken. The first message is taken whatever its size.
pub(super) struct Budget {
    pub messages: usize,
    pub bytes: usize,
    pub is_first: bool,
}

impl Budget {
    fn has(&self, message: &Message) -> bool {
        self.messages > 0 && (self.is_first || self.bytes >= message.json().len())
    }

    fn take(&mut self, message: &Message) {
        self.messages -= 1;
        self.bytes = self.bytes.saturating_sub(message.json().len());
        self.is_first = false;
    }
}

/// What comes next in the source of a subscription.
#[derive(Default)]
struct Found {
    /// In the order of the log; `None`: the message is of another type, or was deleted.
    messages: Vec<(At, Option<Arc<Message>>)>,
    /// The position up to which all partitions were read, if they share one order.
    up_to: Option<i64>,
    is_end: bool,
}

impl Consumer {
    /// Takes what comes next in these partitions, as far as the budget allows. Answers whether there is nothing more.
    pub(super) async fn select(&self, readers: &mut [PartitionReader], mut budget: Budget) -> Result<bool, StoreError> {
        let by_partition: HashMap<i32, usize> =
            readers.iter().enumerate().map(|(at, one)| (one.partition, at)).collect();
        let wanted = budget.messages;
        let (mut examined, began) = (0, Instant::now());
        while readers.iter().any(|one| !one.is_closed) {
            let found = match (&self.source, &self.subscription.aggregated) {
                (_, Some(aggregated)) if !aggregated.is_keyed => {
                    self.find_in_partitions(aggregated.id, readers, &budget).await?
                }
                (Some(log), _) => self.find_in_log(log, readers, &budget).await?,
                (None, _) => return Ok(true),
            };
            if !found.messages.is_empty() {
                let messages = found.messages.iter().filter_map(|(_, message)| message.as_ref());
                let bytes = messages.map(|message| message.memory_bytes()).sum();
                self.shared.saw_page(found.messages.len(), bytes);
            }
            examined += found.messages.len();
            for (At { partition, position }, message) in found.messages {
                let Some(&at) = by_partition.get(&partition) else { continue };
                match message {
                    Some(message) if !budget.has(&message) => {
                        if found.up_to.is_some() {
                            readers.iter_mut().for_each(|one| one.move_on(position - 1));
                        }
                        return Ok(false);
                    }
                    Some(message) => {
                        if readers[at].consider(&self.subscription, position, &message) {
                            budget.take(&message);
                        }
                    }
                    None => readers[at].has_passed |= !readers[at].is_closed,
                }
                readers[at].move_on(position);
            }
            if let Some(up_to) = found.up_to {
                readers.iter_mut().for_each(|one| one.move_on(up_to));
            }
            if found.is_end {
                return Ok(true);
            }
            let is_enough = budget.messages <= wanted / 2;
            if is_enough || examined >= EXAMINED_MAX || began.elapsed() >= EXAMINED_FOR {
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// Reads on from the lowest place of the partitions that are open: they are at one place after that.
    async fn find_in_log(&self, log: &Log, readers: &[PartitionReader], budget: &Budget) -> Result<Found, StoreError> {
        let Subscription { definition, types, .. } = &*self.subscription;
        let from = readers.iter().filter(|one| !one.is_closed).map(|one| one.cursor).min().unwrap_or_default();
        let mut cursor = Cursor::new(self.place(from), types.clone());
        // Of the messages that are read, those of other consumers' partitions are passed over: so many more are read.
        let others = definition.partition_count().div_ceil(readers.len().max(1));
        let limit = self.shared.page_limit();
        let limit = PageLimit { messages: ((budget.messages * others) as i64).clamp(1, limit.messages), ..limit };
        let next = match cursor.on_newest(log.newest(cursor.place(), limit)) {
            Some(Next::NeedsPage) => Some(cursor.on_page(log.page(cursor.place(), limit, types).await?)),
            next => next,
        };
        let (entries, is_end) = match next {
            Some(Next::Messages(entries)) => (entries, false),
            Some(Next::Trimmed(trimmed, entries)) => {
                self.passed_over_trimmed(trimmed, from);
                (entries, false)
            }
            None | Some(Next::Moved | Next::NeedsPage) => (Vec::new(), false),
            Some(Next::Failed(error)) => return Err(error),
            // Nothing more at this moment, also where history is still being projected; or it was deleted, or is another log
            // now, which the next round finds.
            Some(Next::CaughtUp | Next::Idle | Next::FellBehind | Next::Deleted | Next::HistoryChanged) => {
                (Vec::new(), true)
            }
        };
        let place = cursor.place();
        if place.stream_after.is_some() {
            self.shared.set_stream_seen(place.position(), place.after);
        }
        let messages = entries.into_iter().flat_map(|entry| {
            let position = definition.position_of(&entry.message);
            let partitions = self.subscription.partitions_of(&entry);
            partitions.into_iter().map(move |partition| (At { partition, position }, Some(entry.message.clone())))
        });
        Ok(Found { messages: messages.collect(), up_to: Some(place.position()), is_end })
    }

    /// A place in the subscription's log: of a single stream its positions are known, of all others global ones.
    fn place(&self, after: i64) -> Place {
        let is_stream = self.subscription.log.as_ref().is_some_and(|log| log.single_stream().is_some());
        match is_stream {
            true => Place { stream_after: Some(after), ..Place::global(self.shared.stream_seen(after), self.history) },
            false => Place::global(after, self.history),
        }
    }

    /// Notes trimmed messages after a position, unless they were noted before: a source that is read for several
    /// partitions is read from the lowest of their places on.
    fn passed_over_trimmed(&self, trimmed: Trimmed, after: i64) {
        if after < self.trimmed_up_to.fetch_max(trimmed.first_position - 1, Ordering::Relaxed) {
            return;
        }
        let mut sum = self.trimmed.lock();
        let before = sum.map_or(0, |before| before.count);
        *sum = Some(Trimmed { count: before + trimmed.count, ..trimmed });
    }

    /// Reads from the place of each partition of an aggregated stream on.
    async fn find_in_partitions(
        &self,
        id: i64,
        readers: &[PartitionReader],
        budget: &Budget,
    ) -> Result<Found, StoreError> {
        let cursor = |one: &PartitionReader| At { partition: one.partition, position: one.cursor };
        let cursors: Vec<At> = readers.iter().filter(|one| !one.is_closed).map(cursor).collect();
        let limit = self.shared.page_limit();
        let limit = PageLimit { messages: limit.messages.min(budget.messages.max(1) as i64), ..limit };
        let (links, is_end) = self.consumers.common.tail.pages().partitions(id, &cursors, limit).await?;
        let mut next: HashMap<i32, i64> = cursors.iter().map(|at| (at.partition, at.position + 1)).collect();
        for (At { partition, position }, _) in &links {
            // Positions of a partition have holes only where messages were trimmed.
            if let Some(expected) = next.insert(*partition, position + 1).filter(|expected| expected < position) {
                self.passed_over_trimmed(Trimmed { count: position - expected, first_position: *position }, i64::MAX);
            }
        }
        let wanted =
            |message: Option<Message>| message.filter(|message| self.subscription.types.passes(message)).map(Arc::new);
        let messages = links.into_iter().map(|(at, message)| (at, wanted(message))).collect();
        Ok(Found { messages, up_to: None, is_end })
    }
}
