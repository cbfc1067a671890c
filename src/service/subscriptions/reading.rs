//! What comes next in the source of a subscription: from the tail, or from the partitions of an aggregated stream.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Subscriptions;
use super::catalog::Subscription;
use super::hub::Local;
use crate::domain::message::Message;
use crate::service::tail::Place;
use crate::service::tail::follower::in_time;
use crate::store::StoreError;
use crate::store::read::PageLimit;
use crate::store::subscriptions::{At, Held, PartitionCursor};

/// Messages that one round may look at without delivering any.
const EXAMINED_MAX: usize = 10_000;
/// Pages have from one to so many messages.
const PAGE_MESSAGES_MAX: usize = 1_000;
/// The next page is smaller when one holds more bytes than this.
const PAGE_BYTES_MAX: usize = 2 << 20;

/// A partition that messages may be delivered from.
pub(super) struct Open {
    pub partition: i32,
    /// Where it stands in the database.
    pub expected: i64,
    /// Everything up to here was looked at.
    pub cursor: i64,
    pub taken: Vec<(i64, Arc<Message>)>,
    /// Messages were passed over for good, so that its place is worth keeping.
    pub has_passed: bool,
    /// Nothing more is taken from it in this round.
    is_closed: bool,
    in_flight: i64,
    /// The next message that has failed before: it goes alone.
    suspect: Option<i64>,
    done: Vec<i64>,
}

impl Open {
    pub fn of(held: &Held, cursor: i64) -> Self {
        Self {
            partition: held.partition,
            expected: held.read_upto,
            cursor,
            taken: Vec::new(),
            has_passed: false,
            is_closed: false,
            in_flight: held.in_flight,
            suspect: held.suspect.map(|(position, _)| position),
            done: held.done.clone(),
        }
    }

    /// The shared cursor of a competing subscription.
    pub fn shared(at: At, cursor: i64) -> Self {
        Self {
            partition: at.partition,
            expected: at.position,
            cursor,
            taken: Vec::new(),
            has_passed: false,
            is_closed: false,
            in_flight: 0,
            suspect: None,
            done: Vec::new(),
        }
    }

    /// Decides on the next message of this partition. Answers whether it is taken.
    fn offer(&mut self, subscription: &Subscription, position: i64, message: &Arc<Message>) -> bool {
        if self.is_closed || position <= self.cursor {
            return false;
        }
        let is_wanted = !self.done.contains(&position)
            && subscription.expression.as_ref().is_none_or(|expression| expression.passes(message));
        if !is_wanted {
            self.has_passed = true;
            return false;
        }
        if self.suspect == Some(position) {
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

    /// Its next message has failed before, and goes alone once all before it are acked.
    pub fn waits_for_acks(&self) -> bool {
        self.is_closed && self.taken.is_empty()
    }

    fn move_on(&mut self, upto: i64) {
        if !self.is_closed {
            self.cursor = self.cursor.max(upto);
        }
    }
}

/// How much is still to be taken.
pub(super) struct Room {
    pub messages: usize,
    pub bytes: usize,
    pub is_first: bool,
}

impl Room {
    fn has(&self, message: &Message) -> bool {
        self.messages > 0 && (self.is_first || self.bytes >= message.json().len())
    }

    fn take(&mut self, message: &Message) {
        self.messages -= 1;
        self.bytes = self.bytes.saturating_sub(message.json().len());
        self.is_first = false;
    }
}

impl Subscriptions {
    /// Takes what comes next in these partitions, as far as there is room. Answers whether there is nothing more.
    pub(super) async fn pick(
        &self,
        subscription: &Subscription,
        local: &Local,
        open: &mut [Open],
        room: Room,
    ) -> Result<bool, StoreError> {
        match subscription.aggregated_stream_id {
            Some(id) => self.pick_from_partitions(subscription, local, id, open, room).await,
            None => self.pick_from_log(subscription, local, open, room).await,
        }
    }

    async fn pick_from_log(
        &self,
        subscription: &Subscription,
        local: &Local,
        open: &mut [Open],
        mut room: Room,
    ) -> Result<bool, StoreError> {
        let Some(log) = &subscription.log else { return Ok(true) };
        let definition = &subscription.definition;
        let by_partition: HashMap<i32, usize> = open.iter().enumerate().map(|(at, one)| (one.partition, at)).collect();
        let wanted = room.messages;
        let mut examined = 0;
        loop {
            let from = open.iter().filter(|one| !one.is_closed).map(|one| one.cursor).min();
            let Some(from) = from else { return Ok(false) };
            let place = match log.single_stream() {
                Some(_) => Place { after: local.stream_seen(from), stream_after: Some(from) },
                None => Place { after: from, stream_after: None },
            };
            // As many as there is room for, if this consumer gets its share of what is read.
            let others = definition.partition_count().div_ceil(open.len().max(1));
            let page_messages = (room.messages * others).clamp(1, local.page_messages.load(Ordering::Relaxed));
            let page = self.inner.tail.page(log, place, &subscription.types, page_messages).await?;
            size_pages(local, &page.messages);
            for message in &page.messages {
                let position = definition.position_of(message);
                let Some(&at) = by_partition.get(&definition.partition_of(message)) else { continue };
                if !room.has(message) {
                    open.iter_mut().for_each(|one| one.move_on(position - 1));
                    return Ok(false);
                }
                if open[at].offer(subscription, position, message) {
                    room.take(message);
                }
            }
            examined += page.messages.len();
            let upto = match log.single_stream() {
                Some(_) => {
                    let last = page.messages.last().map_or(from, |last| last.position);
                    local.set_stream_seen(last, page.upto);
                    last
                }
                None => page.upto,
            };
            open.iter_mut().for_each(|one| one.move_on(upto));
            if page.at_end {
                return Ok(true);
            }
            let is_enough = room.messages <= wanted / 2;
            if is_enough || examined >= EXAMINED_MAX {
                return Ok(false);
            }
        }
    }

    async fn pick_from_partitions(
        &self,
        subscription: &Subscription,
        local: &Local,
        aggregated_stream_id: i64,
        open: &mut [Open],
        mut room: Room,
    ) -> Result<bool, StoreError> {
        let turns = self.inner.tail.catch_up_reads();
        let wanted = room.messages;
        let mut examined = 0;
        loop {
            let cursors: Vec<PartitionCursor> = open
                .iter()
                .filter(|one| !one.is_closed)
                .map(|one| PartitionCursor { partition: one.partition, after: one.cursor })
                .collect();
            if cursors.is_empty() {
                return Ok(false);
            }
            let limit = local.page_messages.load(Ordering::Relaxed).min(room.messages.max(1));
            let page = PageLimit { messages: limit as i64, bytes: PAGE_BYTES_MAX };
            let (links, is_all) = {
                // As everybody else who reads history.
                let _turn = turns.acquire().await;
                in_time(self.database().partition_pages(aggregated_stream_id, &cursors, page)).await?
            };
            let by_partition: HashMap<i32, usize> =
                open.iter().enumerate().map(|(at, one)| (one.partition, at)).collect();
            examined += links.len();
            let mut page = Vec::with_capacity(links.len());
            for (at, message) in links {
                let Some(one) = by_partition.get(&at.partition).map(|at| &mut open[*at]) else { continue };
                match message.map(Arc::new) {
                    Some(message) if subscription.types.passes(&message) => {
                        if !room.has(&message) {
                            return Ok(false);
                        }
                        if one.offer(subscription, at.position, &message) {
                            room.take(&message);
                        }
                        page.push(message);
                    }
                    // Of another type, or its message is gone.
                    _ => one.has_passed |= !one.is_closed,
                }
                one.move_on(at.position);
            }
            size_pages(local, &page);
            if is_all {
                return Ok(true);
            }
            let is_enough = room.messages <= wanted / 2;
            if is_enough || examined >= EXAMINED_MAX {
                return Ok(false);
            }
        }
    }
}

fn size_pages(local: &Local, page: &[Arc<Message>]) {
    let bytes: usize = page.iter().map(|message| message.memory_bytes()).sum();
    let before = local.page_messages.load(Ordering::Relaxed);
    let next = if bytes > PAGE_BYTES_MAX { page.len() / 2 } else { before * 2 };
    local.page_messages.store(next.clamp(1, PAGE_MESSAGES_MAX), Ordering::Relaxed);
}
