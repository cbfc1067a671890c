//! The newest part of a log, in memory: everything after a place, up to the log's end.

use std::collections::VecDeque;
use std::collections::vec_deque;
use std::sync::Arc;

use tokio::sync::watch;

use super::{Entry, Page};
use crate::domain::aggregated_stream::AggregatedMessage;
use crate::domain::message::Message;
use crate::store::read::PageLimit;

/// Something that is kept at a global position.
pub trait Kept {
    fn message(&self) -> &Message;
}

impl Kept for Arc<Message> {
    fn message(&self) -> &Message {
        self
    }
}

impl Kept for AggregatedMessage {
    fn message(&self) -> &Message {
        &self.message
    }
}

/// The newest part of a log. Its owner knows where the log ends, and bounds the bytes of this part, or of several together.
#[derive(Debug)]
pub struct Suffix<T> {
    /// Every entry of the log after this global position is here.
    complete_from: i64,
    entries: VecDeque<T>,
    bytes: usize,
    newest: watch::Sender<()>,
}

impl<T: Kept> Suffix<T> {
    pub fn after(position: i64) -> Self {
        Self { complete_from: position, entries: VecDeque::new(), bytes: 0, newest: watch::Sender::new(()) }
    }

    /// A suffix of which nothing is known yet.
    pub fn unknown() -> Self {
        Self::after(i64::MAX)
    }

    pub fn is_known(&self) -> bool {
        self.complete_from < i64::MAX
    }

    /// Appends the next entry, unless its position is before the suffix. Readers are woken by [`wake`](Self::wake).
    pub fn push(&mut self, entry: T) -> bool {
        let is_in = entry.message().global_position > self.complete_from;
        if is_in {
            self.bytes += entry.message().memory_bytes();
            self.entries.push_back(entry);
        }
        is_in
    }

    /// Forgets the entries up to a position.
    pub fn forget_up_to(&mut self, position: i64) {
        self.complete_from = self.complete_from.max(position);
        while let Some(first) = self.entries.pop_front_if(|first| first.message().global_position <= position) {
            self.bytes -= first.message().memory_bytes();
        }
    }

    /// An entry must not be read any more: if it is here, it is forgotten, with those before it.
    pub fn erase(&mut self, position: i64) {
        if self.entries.binary_search_by_key(&position, |one| one.message().global_position).is_ok() {
            self.forget_up_to(position);
        }
    }

    /// Forgets everything, and begins after a position.
    pub fn begin_after(&mut self, position: i64) {
        self.complete_from = position;
        self.entries.clear();
        self.bytes = 0;
        self.wake();
    }

    /// Forgets the oldest entries until the others have no more bytes than this.
    pub fn keep(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max {
            let Some(oldest) = self.entries.front() else { break };
            self.forget_up_to(oldest.message().global_position);
        }
    }

    /// The entries after a position; `None`: not all of them are here.
    pub fn read(&self, after: i64) -> Option<vec_deque::Iter<'_, T>> {
        let seen = || self.entries.partition_point(|one| one.message().global_position <= after);
        (self.complete_from <= after).then(|| self.entries.range(seen()..))
    }

    /// Wakes every reader that waits.
    pub fn wake(&self) {
        self.newest.send_replace(());
    }

    pub fn waker(&self) -> watch::Receiver<()> {
        self.newest.subscribe()
    }
}

/// The entries of several suffixes, which have none in common, in one order.
pub fn merge<'a, T: Kept>(mut nexts: Vec<vec_deque::Iter<'a, T>>) -> impl Iterator<Item = &'a T> {
    std::iter::from_fn(move || {
        let peek = |next: &vec_deque::Iter<'a, T>| next.clone().next().map(|one| one.message().global_position);
        nexts.iter_mut().filter_map(|next| Some((peek(next)?, next))).min_by_key(|(at, _)| *at)?.1.next()
    })
}

/// Takes as much as fits of what comes next, and the first entry in any case. Everything up to `end` is in `nexts`.
pub fn page<'a, T: Kept + 'a>(
    nexts: impl Iterator<Item = &'a T>,
    limit: PageLimit,
    end: i64,
    entry: impl Fn(&T) -> Entry,
) -> Page {
    let (mut entries, mut bytes) = (Vec::new(), 0);
    for one in nexts {
        bytes += one.message().json().len();
        if entries.len() as i64 >= limit.messages || (bytes > limit.bytes && !entries.is_empty()) {
            return Page {
                entries,
                up_to: one.message().global_position - 1,
                check: None,
                is_end: false,
                trimmed: None,
            };
        }
        entries.push(entry(one));
    }
    Page { entries, up_to: end, check: None, is_end: true, trimmed: None }
}
