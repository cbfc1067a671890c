//! Following: from what a request asks for to what its connection is told.

use std::time::Duration;

use super::Service;
use super::aggregated::FindError;
use super::aggregated::log::AggregatedSource;
use super::auth::Caller;
use super::detached::Detached;
use super::event_source::EventSource;
use super::event_streams::{Admission, AdmissionError, Event, Events};
use super::log::Place;
use super::log::cursor::Next;
use super::log::follower::Follower;
use super::log::following::Following;
use super::log::latest::{LatestError, LatestOfEach, LatestPositions};
use super::log::merged::{self, MergedFollower};
use super::read::{PlaceError, Start};
use super::subscriptions::{ConsumeRequest, SubscriptionError};
use crate::domain::Violation;
use crate::domain::closing::ClosingReason;
use crate::domain::event_id::EventId;
use crate::domain::filter::Filter;
use crate::domain::keyed::Part;
use crate::domain::partitioner::PARTITIONS_MAX;
use crate::domain::scope::Readable;
use crate::domain::source::{Source, Topic};
use crate::store::StoreError;
use crate::store::aggregated_streams::FoundStream;

/// What is to be followed, from where, and how.
#[derive(Debug)]
pub struct FollowRequest {
    pub target: Target,
    pub start: Start,
    pub filter: Filter,
    /// How long it may be quiet before a heartbeat.
    pub heartbeat: Duration,
}

/// What is followed: streams and categories as one log, and aggregated streams, each as one more.
#[derive(Debug, Default)]
pub struct Target {
    pub log: Option<Source>,
    pub aggregated: Vec<AggregatedTarget>,
}

/// An aggregated stream that is followed.
#[derive(Debug)]
pub struct AggregatedTarget {
    pub name: String,
    pub part: Part,
}

/// Why nothing can be followed.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    #[error(transparent)]
    Latest(#[from] LatestError),
    #[error(transparent)]
    Aggregated(#[from] FindError),
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The aggregated stream has no such part.
    #[error("{} {}", .0.field, .0.message)]
    Part(Violation),
    #[error(transparent)]
    Subscription(#[from] SubscriptionError),
}

impl Target {
    pub fn log(source: Source) -> Self {
        Self { log: Some(source), ..Self::default() }
    }

    /// Whether an event of this target may have a cursor as its id.
    pub fn may_have(&self, cursor: EventId) -> bool {
        let lowest = if self.cursor_log().single_stream().is_some() { -1 } else { 0 };
        let sources = self.aggregated.len() + usize::from(self.log.is_some());
        cursor.position >= lowest && (cursor.sources as usize) < sources
    }

    /// Whether the newest message of each of its streams can be told first: streams and categories by global positions.
    pub fn has_latest(&self) -> bool {
        let named = |topic: &Topic| matches!(topic, Topic::Category(_) | Topic::Stream(_));
        self.aggregated.is_empty()
            && self.log.as_ref().is_some_and(|log| log.single_stream().is_none() && log.topics().iter().all(named))
    }

    /// The log whose positions are the cursor.
    fn cursor_log(&self) -> Source {
        self.log.clone().filter(|_| self.aggregated.is_empty()).unwrap_or_else(Source::all)
    }
}

/// Refuses what an aggregated stream without keys cannot have.
fn check_part(part: &Part) -> Result<(), FollowError> {
    let violation = match part {
        Part::All => return Ok(()),
        Part::Partitions(partitions) if partitions.iter().all(|one| i64::from(*one) < PARTITIONS_MAX) => return Ok(()),
        Part::Partitions(_) => Violation::new("partition", format!("must be from 0 to {}", PARTITIONS_MAX - 1)),
        Part::Keys(_) => Violation::new("key", "must not be given: this aggregated stream has no keys"),
    };
    Err(FollowError::Part(violation))
}

impl Service {
    /// Follows a target until the events are dropped; the admission is the connection's. The filter of the request leaves
    /// out what the caller may not read of streams and categories.
    pub async fn follow(&self, caller: &Caller, request: FollowRequest) -> Result<(Admission, Events), FollowError> {
        let FollowRequest { target, start, filter, heartbeat } = request;
        let admission = self.event_streams.admit(caller)?;
        let cursor_log = target.cursor_log();
        let mut aggregated = Vec::with_capacity(target.aggregated.len());
        for AggregatedTarget { name, part } in target.aggregated {
            let FoundStream { id, is_keyed, .. } = self.aggregated.find(&name, caller.rights()).await?;
            if !is_keyed {
                check_part(&part)?;
            }
            aggregated.push(AggregatedSource { id, name: name.into(), is_keyed, part });
        }
        // Joined before the place is looked up: what is settled meanwhile is kept for this follower.
        let membership = self.tail.join(&cursor_log);
        let place = self.reads.place(&cursor_log, start).await?;
        let is_beyond_end = matches!(start, Start::At(_)) && self.reads.is_beyond_end(&cursor_log, place).await?;
        let following = match (target.log, &*aggregated) {
            (Some(log), []) if start == Start::LatestOfEach => {
                let positions = self.latest_positions(&log, &filter.readable, place.after).await?;
                let (tail, observer) = (self.tail.clone(), self.observer.clone());
                let follower = tail.follow(&log, place, filter.clone());
                Following::Latest(Box::new(LatestOfEach::new(positions, tail, filter, observer, follower)))
            }
            (Some(log), []) => Following::One(self.tail.follow(&log, place, filter)),
            (None, [one]) => Following::One(self.aggregated.follow(one.clone(), false, place, filter)),
            (log, _) => Following::Merged(Box::new(self.merged(log, aggregated, start, place, filter))),
        };
        drop(membership);
        let mut events = Events::new(&admission, EventSource::Log(Followed(Detached::Idle(following))), heartbeat);
        if is_beyond_end {
            events.keep_first_cursor();
        }
        Ok((admission, events))
    }

    /// Joins the consumers of a subscription until the events are dropped; the admission is the connection's.
    pub async fn consume(&self, caller: &Caller, request: ConsumeRequest) -> Result<(Admission, Events), FollowError> {
        let admission = self.event_streams.admit(caller)?;
        let connection = self.subscriptions.consumers.connect(&request, caller.rights()).await?;
        let events = Events::new(&admission, EventSource::Subscription(connection), request.heartbeat);
        Ok((admission, events))
    }

    /// Where the newest messages of all streams of a log are, up to a settled position.
    async fn latest_positions(
        &self,
        log: &Source,
        readable: &Readable,
        settled: i64,
    ) -> Result<LatestPositions, FollowError> {
        let mut latest = self.latest.begin();
        for topic in log.topics() {
            let category = match topic {
                Topic::Category(category) => category,
                Topic::Stream(name) if !readable.has(name) => continue,
                Topic::Stream(name) => {
                    latest.count(1)?;
                    latest.extend(self.tail.pages().newest_positions(&[name.to_string()], settled).await?);
                    continue;
                }
                Topic::All | Topic::Selected(_) => continue,
            };
            let mut after = None;
            loop {
                let mut names = self.reports.streams_of(category, after).await?;
                latest.count(names.examined)?;
                names.found.retain(|name| readable.has(name));
                latest.extend(self.tail.pages().newest_positions(&names.found, settled).await?);
                after = names.next;
                if after.is_none() {
                    break;
                }
            }
        }
        latest.finish();
        Ok(latest)
    }

    fn merged(
        &self,
        log: Option<Source>,
        aggregated: Vec<AggregatedSource>,
        start: Start,
        place: Place,
        filter: Filter,
    ) -> MergedFollower {
        // At the cursor's position itself, only so many of the sources have been seen.
        let sources = match start {
            Start::After(cursor) => cursor.sources,
            Start::At(_) | Start::Beginning | Start::End | Start::AtTime(_) | Start::LatestOfEach => 0,
        };
        let cursor = EventId { position: place.after, sources, check: place.check };
        let mut places = merged::places(cursor, aggregated.len() + usize::from(log.is_some()))
            .map(|after| Place::global(after, place.history));
        let mut next_place = || places.next().unwrap_or(place);
        let log = log.map(|log| self.tail.follow(&log, next_place(), filter.clone()));
        let mut followers: Vec<_> = log.into_iter().collect();
        for one in aggregated {
            followers.push(self.aggregated.follow(one, true, next_place(), filter.clone()));
        }
        MergedFollower::new(followers, cursor)
    }
}

impl From<StoreError> for FollowError {
    fn from(error: StoreError) -> Self {
        Self::Place(error.into())
    }
}

/// What one connection follows, and the page that is being read for it.
pub(super) struct Followed(Detached<Following, Next>);

impl Followed {
    /// Passed to a later request, it goes on after the last event. `None` while a page is being read, or newest messages
    /// are told.
    pub fn cursor(&self) -> Option<EventId> {
        match &self.0 {
            Detached::Idle(following) => following.cursor(),
            Detached::AtWork(_) | Detached::Lost => None,
        }
    }

    /// Everything up to this global position was told. `None` as for the cursor.
    pub fn told_up_to(&self) -> Option<i64> {
        match &self.0 {
            Detached::Idle(following) => following.told_up_to(),
            Detached::AtWork(_) | Detached::Lost => None,
        }
    }

    /// One log that is followed live: others may be told the same.
    pub fn live(&self) -> Option<&Follower> {
        match &self.0 {
            Detached::Idle(following) => following.one().filter(|follower| follower.is_live()),
            Detached::AtWork(_) | Detached::Lost => None,
        }
    }

    /// Another one at the same place, of one log.
    pub fn fork(&self) -> Option<Self> {
        match &self.0 {
            Detached::Idle(following) => Some(Self(Detached::Idle(Following::One(following.one()?.fork())))),
            Detached::AtWork(_) | Detached::Lost => None,
        }
    }

    /// What there is already; `None`: nothing that need not be waited for.
    pub fn try_next(&mut self) -> Option<Event> {
        let Detached::Idle(following) = &mut self.0 else { return None };
        let next = following.advance();
        self.event(next)
    }

    /// What comes next, however long that takes; `None` at the end. May be given up at any point without a loss.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            let next = match &mut self.0 {
                Detached::Idle(following) => match following.advance() {
                    Next::NeedsPage => {
                        self.0.begin(|mut following| async move {
                            let next = following.read_page().await;
                            (following, next)
                        });
                        continue;
                    }
                    Next::Idle => {
                        following.changed().await;
                        continue;
                    }
                    next => next,
                },
                Detached::AtWork(_) => self.0.done().await?,
                Detached::Lost => return None,
            };
            if let Some(event) = self.event(next) {
                return Some(event);
            }
        }
    }

    fn event(&self, next: Next) -> Option<Event> {
        Some(match (next, self.cursor()) {
            (Next::Messages(entries), Some(_)) => Event::Messages(entries),
            (Next::Messages(entries), None) => Event::Latest(entries),
            (Next::Trimmed(_, entries), None) if !entries.is_empty() => Event::Latest(entries),
            (Next::Trimmed(trimmed, entries), Some(cursor)) => Event::Trimmed { trimmed, entries, cursor },
            (Next::Moved, Some(cursor)) => Event::Moved(cursor),
            (Next::CaughtUp, Some(cursor)) => Event::CaughtUp { position: cursor.position },
            (Next::FellBehind, Some(cursor)) => Event::FellBehind { position: cursor.position },
            (Next::Deleted, _) => Event::Closing(ClosingReason::Deleted),
            (Next::Failed(_), _) => Event::Closing(ClosingReason::InternalError),
            (Next::HistoryChanged, _) => Event::Closing(ClosingReason::HistoryChanged),
            // Nothing was on this page. Whether there is another one, the next step says.
            (Next::NeedsPage | Next::Idle | Next::Moved | Next::CaughtUp | Next::FellBehind | Next::Trimmed(..), _) => {
                return None;
            }
        })
    }
}
