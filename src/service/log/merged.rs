//! Several logs on one cursor: each message of each of them, in global order.

use std::collections::VecDeque;

use futures_util::future::select_all;

use super::cursor::{BATCH, Next};
use super::follower::Follower;
use super::{Entry, Trimmed};
use crate::domain::event_id::EventId;

/// Streams and categories are one source, and each aggregated stream is one more. A message that several sources have
/// comes once from each, in the order of the sources.
///
/// Messages wait until all sources have come to their position: an aggregated stream that is paused or stopped holds back
/// all others.
pub struct MergedFollower {
    sources: Vec<MergedSource>,
    cursor: EventId,
    is_live: bool,
}

struct MergedSource {
    follower: Follower,
    /// Read and not handed over yet.
    pending: VecDeque<Entry>,
    needs_page: bool,
    is_live: bool,
    /// Messages of it were trimmed, which is still to be said.
    trimmed: Option<Trimmed>,
}

impl MergedFollower {
    /// The followers, in the order of the sources, begin where the cursor says (see [`places`]).
    pub fn new(followers: Vec<Follower>, cursor: EventId) -> Self {
        let source = |follower| MergedSource {
            follower,
            pending: VecDeque::new(),
            needs_page: false,
            is_live: false,
            trimmed: None,
        };
        Self { sources: followers.into_iter().map(source).collect(), cursor, is_live: false }
    }

    pub fn cursor(&self) -> EventId {
        self.cursor
    }

    /// What is next, without waiting.
    pub fn advance(&mut self) -> Next {
        let mut moved = false;
        for source in &mut self.sources {
            while source.pending.is_empty() && !source.needs_page {
                let next = source.follower.advance();
                match source.take(next) {
                    SourceStep::More => {}
                    SourceStep::Moved => moved = true,
                    SourceStep::Nothing => break,
                    SourceStep::Ended(next) => return next,
                }
            }
        }
        let merged = self.merge();
        if !merged.is_empty() {
            return Next::Messages(merged);
        }
        if self.sources.iter().any(|source| source.needs_page) {
            if std::mem::replace(&mut self.is_live, false) {
                return Next::FellBehind;
            }
            return Next::NeedsPage;
        }
        let is_live = self.sources.iter().all(|source| source.is_live);
        if is_live && !std::mem::replace(&mut self.is_live, true) {
            return Next::CaughtUp;
        }
        if moved { Next::Moved } else { Next::Idle }
    }

    /// Reads the next page of each source that needs one.
    pub async fn read_page(&mut self) -> Next {
        for source in self.sources.iter_mut().filter(|source| source.needs_page) {
            source.needs_page = false;
            match source.follower.read_page().await {
                // The page had nothing that passes. The next step tells whether there is another page.
                Next::NeedsPage => {}
                next => {
                    if let SourceStep::Ended(next) = source.take(next) {
                        return next;
                    }
                }
            }
        }
        let trimmed = self.sources.iter_mut().filter_map(|source| source.trimmed.take()).reduce(|one, other| Trimmed {
            count: one.count + other.count,
            first_position: one.first_position.max(other.first_position),
        });
        match (trimmed, self.merge()) {
            (Some(trimmed), merged) => Next::Trimmed(trimmed, merged),
            (None, merged) if merged.is_empty() => Next::NeedsPage,
            (None, merged) => Next::Messages(merged),
        }
    }

    /// Waits until there may be something new.
    pub async fn changed(&mut self) {
        let waits = self.sources.iter_mut().map(|source| Box::pin(source.follower.changed()));
        select_all(waits).await;
    }

    /// Takes what is next in global order, up to the place that all sources have come to.
    fn merge(&mut self) -> Vec<Entry> {
        let mut merged = Vec::new();
        while (merged.len() as i64) < BATCH.messages {
            // A source without pending messages has none up to its place.
            let empty = self.sources.iter().filter(|source| source.pending.is_empty());
            let behind = empty.map(|source| source.follower.place()).min_by_key(|place| place.after);
            let bound = behind.map_or(i64::MAX, |place| place.after);
            let first =
                self.sources.iter().enumerate().filter_map(|(at, source)| Some((source.pending_position()?, at)));
            let Some((position, at)) = first.min().filter(|(position, _)| *position <= bound) else {
                if let Some(behind) = behind.filter(|behind| behind.after > self.cursor.position) {
                    self.cursor = EventId { check: behind.check, ..bound.into() };
                }
                break;
            };
            let Some(entry) = self.sources[at].pending.pop_front() else { break };
            let others_follow = self.sources.iter().any(|source| source.pending_position() == Some(position));
            self.cursor = EventId { sources: if others_follow { at as u32 + 1 } else { 0 }, ..entry.id };
            merged.push(Entry { id: self.cursor, ..entry });
        }
        merged
    }
}

/// Where each of `sources` sources begins: those that were seen at the cursor's position after it, the others before it.
pub fn places(cursor: EventId, sources: usize) -> impl Iterator<Item = i64> {
    (0..sources).map(move |at| {
        let is_ahead = cursor.sources == 0 || at < cursor.sources as usize;
        if is_ahead { cursor.position } else { cursor.position - 1 }
    })
}

/// What a step of one source gave.
enum SourceStep {
    More,
    Moved,
    Nothing,
    /// The source gives nothing more, which ends the merged follower too.
    Ended(Next),
}

impl MergedSource {
    fn take(&mut self, next: Next) -> SourceStep {
        match next {
            Next::Messages(entries) => self.pending.extend(entries),
            Next::Trimmed(trimmed, entries) => {
                self.trimmed = Some(trimmed);
                self.pending.extend(entries);
            }
            Next::Moved => return SourceStep::Moved,
            Next::CaughtUp => self.is_live = true,
            Next::FellBehind => self.is_live = false,
            Next::NeedsPage => self.needs_page = true,
            Next::Idle => return SourceStep::Nothing,
            ended @ (Next::Deleted | Next::HistoryChanged | Next::Failed(_)) => return SourceStep::Ended(ended),
        }
        SourceStep::More
    }

    fn pending_position(&self) -> Option<i64> {
        self.pending.front().map(Entry::global_position)
    }
}
