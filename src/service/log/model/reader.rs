//! A reader of the model: whatever one connection follows, and what it has been given.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::stored::partition_of;
use crate::domain::event_id::EventId;
use crate::domain::filter::Filter;
use crate::domain::keyed;
use crate::domain::message::Message;
use crate::domain::source::Source;
use crate::service::aggregated::feed::Feeds;
use crate::service::aggregated::log::{AggregatedLog, AggregatedSource};
use crate::service::log::cursor::Next;
use crate::service::log::follower::Follower;
use crate::service::log::following::Following;
use crate::service::log::merged::{self, MergedFollower};
use crate::service::log::{Entry, Log, Place};
use crate::service::tail::Tail;
use crate::telemetry::Observer;

/// One of the logs that a reader follows.
#[derive(Debug, Clone)]
pub enum Part {
    Messages(Source),
    Aggregated(AggregatedSource),
}

/// What is read, and from where on.
#[derive(Debug, Clone)]
pub struct Reading {
    pub parts: Vec<Part>,
    pub filter: Filter,
    /// In the stream where one stream is followed.
    pub start: EventId,
    pub history: u64,
}

pub struct Reader {
    pub what: Reading,
    /// Which messages it was given, each with the part that it came from.
    pub seen: Vec<(i64, usize)>,
    pub is_waiting: bool,
    /// It was told that history is done, and has not fallen behind since.
    pub is_caught_up: bool,
    state: State,
}

enum State {
    Idle(Box<Following>),
    AtWork(Pin<Box<dyn Future<Output = (Box<Following>, Next)>>>),
}

impl Part {
    fn has(&self, message: &Message) -> bool {
        match self {
            Part::Messages(source) => source.topics().iter().any(|topic| topic.has(message)),
            Part::Aggregated(source) => partition_of(message).is_some_and(|partition| match &source.part {
                keyed::Part::Partitions(some) => some.contains(&partition),
                keyed::Part::All | keyed::Part::Keys(_) => true,
            }),
        }
    }

    /// Whether an entry says that it is of this part.
    fn is_of(&self, entry: &Entry) -> bool {
        match (self, &entry.link) {
            (Part::Messages(_), None) => true,
            (Part::Aggregated(source), Some(link)) => source.name == link.aggregated_stream,
            _ => false,
        }
    }
}

impl Reading {
    /// The stream, where one is followed by its own positions.
    pub fn stream(&self) -> Option<&Arc<str>> {
        match &*self.parts {
            [Part::Messages(source)] => source.single_stream(),
            _ => None,
        }
    }

    /// What of a log it is to be given, as far as each part has come by now.
    pub fn expected(&self, log: &[Arc<Message>], end_of: impl Fn(&Part) -> i64) -> Vec<(i64, usize)> {
        let EventId { position, sources, .. } = self.start;
        let is_after = |message: &Message, part: usize| match self.stream() {
            Some(_) => message.position > position,
            // At the place itself, only the first so many have been seen.
            None if sources > 0 && message.global_position == position => part >= sources as usize,
            None => message.global_position > position,
        };
        let parts = || self.parts.iter().enumerate();
        let of = |message: &Arc<Message>| {
            let at = message.global_position;
            let passes = self.filter.passes(message);
            let having = parts()
                .filter(|(part, what)| passes && is_after(message, *part) && what.has(message) && at <= end_of(what));
            having.map(|(part, _)| (at, part)).collect::<Vec<_>>()
        };
        log.iter().flat_map(of).collect()
    }

    /// `known_after`: where a position in a stream is in the whole log.
    fn follow(&self, tail: &Tail, feeds: &Feeds, known_after: i64) -> Following {
        let follow = |part: &Part, place: Place, is_merged: bool| match part {
            Part::Messages(source) => tail.follow(source, place, self.filter.clone()),
            Part::Aggregated(source) => {
                let log = Log::Aggregated(Box::new(AggregatedLog::new(feeds, tail, source.clone(), is_merged)));
                Follower::new(log, place, self.filter.clone(), Observer::new())
            }
        };
        let at = |after| Place::global(after, self.history);
        let start = self.start.position;
        match &*self.parts {
            [only] if self.stream().is_some() => {
                let place = Place { stream_after: Some(start), ..at(known_after) };
                Following::One(follow(only, place, false))
            }
            [only] => Following::One(follow(only, at(start), false)),
            several => {
                let places = merged::places(self.start, several.len()).map(at);
                let followers = several.iter().zip(places).map(|(part, place)| follow(part, place, true));
                Following::Merged(Box::new(MergedFollower::new(followers.collect(), self.start)))
            }
        }
    }
}

impl Reader {
    pub fn new(what: Reading, tail: &Tail, feeds: &Feeds, after: i64) -> Self {
        let state = State::Idle(Box::new(what.follow(tail, feeds, after)));
        Self { what, seen: Vec::new(), is_waiting: false, is_caught_up: false, state }
    }

    /// The id with which its client may come back; `None` while a page is read.
    pub fn id(&self) -> Option<EventId> {
        match &self.state {
            State::Idle(following) => Some(following.cursor()?.to_string().parse().unwrap()),
            State::AtWork(_) => None,
        }
    }

    /// Whether it waits and nothing has woken it.
    pub fn sleeps(&mut self) -> bool {
        let State::Idle(following) = &mut self.state else { return false };
        self.is_waiting = self.is_waiting && poll(Box::pin(following.changed()).as_mut()).is_pending();
        self.is_waiting
    }

    /// What comes of its next step; `None`: it is still at work.
    pub fn step(&mut self) -> Option<Next> {
        match &mut self.state {
            State::Idle(following) => match following.advance() {
                Next::NeedsPage => {
                    let State::Idle(mut following) = std::mem::replace(&mut self.state, State::AtWork(never())) else {
                        unreachable!()
                    };
                    self.state = State::AtWork(Box::pin(async move {
                        let next = following.read_page().await;
                        (following, next)
                    }));
                    None
                }
                next => Some(next),
            },
            State::AtWork(reading) => {
                let Poll::Ready((following, next)) = poll(reading.as_mut()) else { return None };
                self.state = State::Idle(following);
                Some(next).filter(|next| !matches!(next, Next::NeedsPage))
            }
        }
    }

    /// Takes what it was given.
    pub fn take(&mut self, entries: &[Entry]) {
        for entry in entries {
            let part = self.what.parts.iter().position(|part| part.is_of(entry)).expect("a part that is followed");
            self.seen.push((entry.global_position(), part));
        }
    }
}

fn never() -> Pin<Box<dyn Future<Output = (Box<Following>, Next)>>> {
    Box::pin(std::future::pending())
}

fn poll<T>(future: Pin<&mut (impl Future<Output = T> + ?Sized)>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}
