//! Cursors over a scripted log: whatever happens between their steps, each sees every message of its source once, in
//! order, is woken for what is new, and is never fed from a log that is gone. A failure names its seed.

use std::sync::Arc;

use fastrand::Rng;
use tokio::sync::watch;

use super::cursor::{Cursor, Next};
use super::{Entry, Page, Place, Read};
use crate::domain::event_id::{Check, EventId};
use crate::domain::filter::Filter;
use crate::domain::message::{Message, MessageParts};
use crate::domain::source::Source;
use crate::domain::time::Timestamp;
use crate::service::seeds::seeds;
use crate::service::tail::cache::{Cache, Fetched};
use crate::store::read::{FollowedPage, PageLimit};

const ROUNDS: u64 = 200;
const STEPS: usize = 600;
/// So little is taken from memory at once that it seldom is all.
const AT_ONCE: PageLimit = PageLimit { messages: 4, bytes: 1_000 };
/// Room for some dozen messages, so that cursors fall behind often.
const CACHE_BYTES_MAX: usize = 8 << 10;
/// Whoever takes more steps than this without waiting goes round in circles.
const STEPS_TO_END_MAX: usize = 10_000;
const STREAMS: [&str; 5] = ["a-1", "a-2", "b-1", "b-2", "c-1"];

struct World {
    rng: Rng,
    /// What is settled, in order.
    messages: Vec<Arc<Message>>,
    settled: i64,
    history: u64,
    cache: Cache,
    readers: Vec<Reader>,
}

struct Reader {
    source: Source,
    start: Place,
    cursor: Cursor,
    wakers: Vec<watch::Receiver<()>>,
    /// A page on its way from the database; `None` in it: it was lost.
    page: Option<Option<Page>>,
    is_waiting: bool,
    seen: Vec<i64>,
}

impl World {
    fn new(seed: u64) -> Self {
        let (rng, cache) = (Rng::with_seed(seed), Cache::new(CACHE_BYTES_MAX));
        Self { rng, messages: Vec::new(), settled: 0, history: 0, cache, readers: Vec::new() }
    }

    fn act(&mut self) {
        match self.rng.u32(0..100) {
            0..25 => self.publish(),
            25..33 => self.begin_somewhere(),
            33..35 => self.jump(),
            35 => self.go_back(),
            36..40 => drop(self.leave()),
            40..44 => self.reconnect(),
            _ => self.step_one(),
        }
        assert!(self.cache.bytes() <= CACHE_BYTES_MAX, "memory is bounded");
    }

    /// New messages, with holes before them. What nobody follows is not kept, and some of the rest is left out.
    fn publish(&mut self) {
        let opened = self.cache.opened();
        let new = self.write();
        // Others come while it is read.
        if self.rng.u32(0..4) == 0 {
            self.begin_somewhere();
        }
        let mut fetched = Fetched::default();
        for message in new.into_iter().filter(|message| self.cache.follows(&message.stream_name)) {
            match self.rng.u32(0..10) {
                0 => fetched.left_out.push((message.global_position, message.stream_name.to_string())),
                _ => fetched.messages.push(message),
            }
        }
        if self.rng.u32(0..4) == 0 {
            self.begin_somewhere();
        }
        self.settle();
        self.cache.publish(fetched, self.settled, opened);
    }

    /// Far behind, what is new is settled without having been read.
    fn jump(&mut self) {
        self.write();
        self.settle();
        self.cache.skip_to(self.settled);
    }

    /// The log goes back: what followed is given to other messages.
    fn go_back(&mut self) {
        let kept = self.rng.usize(0..=self.messages.len());
        self.messages.truncate(kept);
        self.settled = self.messages.last().map_or(0, |last| last.global_position);
        self.history += 1;
        self.cache.begin_at(self.settled);
        if let Some(last) = self.messages.last().filter(|_| self.rng.bool()) {
            self.cache.recognise(last.global_position, Check::of(last.id));
        }
    }

    fn write(&mut self) -> Vec<Arc<Message>> {
        let mut at = self.settled.max(self.messages.last().map_or(0, |last| last.global_position));
        (0..self.rng.usize(0..6))
            .map(|_| {
                at += if self.rng.u32(0..5) == 0 { self.rng.i64(2..5) } else { 1 };
                let stream_name = *self.rng.choice(&STREAMS).unwrap();
                let message = self.message(stream_name, at);
                self.messages.push(message.clone());
                message
            })
            .collect()
    }

    fn message(&mut self, stream_name: &str, global_position: i64) -> Arc<Message> {
        let data = format!("\"{}\"", "x".repeat(self.rng.usize(0..400)));
        Arc::new(Message::new(MessageParts {
            id: uuid::Uuid::from_u128(self.rng.u128(..)),
            stream_name,
            message_type: if self.rng.bool() { "T" } else { "U" },
            position: self.last_position(stream_name) + 1,
            global_position,
            data: Some(&data),
            metadata: None,
            time: Timestamp(0),
        }))
    }

    fn last_position(&self, stream_name: &str) -> i64 {
        self.messages.iter().rev().find(|one| *one.stream_name == *stream_name).map_or(-1, |one| one.position)
    }

    fn settle(&mut self) {
        self.settled = self.settled.max(self.messages.last().map_or(0, |last| last.global_position));
    }

    /// Somebody begins to follow: anything, from anywhere.
    fn begin_somewhere(&mut self) {
        let source = match self.rng.u32(0..5) {
            0 => Source::all(),
            1 => Source::category("a"),
            2 => Source::several(&["a-1".into(), "c-1".into()], &["b".into()]).unwrap(),
            _ => Source::stream(self.rng.choice(&STREAMS).unwrap()),
        };
        let types: &[&str] = self.rng.choice::<[&[&str]; 4]>([&[], &["T"], &["T", "U"], &["V"]]).unwrap();
        let types = types.iter().map(|name| (*name).to_owned()).collect();
        let after = if self.rng.bool() { self.settled } else { self.rng.i64(0..=self.settled) };
        let mut start = Place::global(after, self.history);
        if let Some(name) = source.single_stream() {
            let before =
                self.settled_messages().filter(|one| *one.stream_name == **name && one.global_position <= after);
            let stream_after = Some(before.last().map_or(-1, |one| one.position));
            // As a client comes back: where that is in the whole log is not known.
            let after = if self.rng.bool() { after } else { 0 };
            start = Place { after, stream_after, ..start };
        }
        self.begin(source, Filter { types, ..Filter::default() }, start);
    }

    fn begin(&mut self, source: Source, filter: Filter, start: Place) {
        let wakers = source.topics().iter().map(|topic| self.cache.join(topic)).collect();
        let cursor = Cursor::new(start, filter);
        self.readers.push(Reader { source, start, cursor, wakers, page: None, is_waiting: false, seen: Vec::new() });
    }

    fn leave(&mut self) -> Option<Reader> {
        if self.readers.is_empty() {
            return None;
        }
        let gone = self.readers.swap_remove(self.rng.usize(0..self.readers.len()));
        gone.source.topics().iter().for_each(|topic| self.cache.leave(topic));
        Some(gone)
    }

    /// A client comes back with the id of the last event that it has seen.
    fn reconnect(&mut self) {
        let Some(gone) = self.leave().filter(|gone| gone.start.history == self.history) else { return };
        let (id, name) = (self.id(&gone), gone.source.single_stream());
        let start = match name {
            Some(_) => Place { stream_after: Some(id.position), ..Place::global(0, self.history) },
            None => Place::global(id.position, self.history),
        };
        let filter = gone.cursor.filter().clone();
        let (seen, expected) = (gone.seen.len(), self.expected(&gone));
        self.begin(gone.source, filter, start);
        let anew = self.expected(self.readers.last().unwrap());
        assert_eq!(expected[seen..], anew, "what comes after {id}");
    }

    /// The id with which a reader's client may come back: it names the message that stands there.
    fn id(&self, reader: &Reader) -> EventId {
        let id: EventId = reader.cursor.id().to_string().parse().unwrap();
        let found = self.settled_messages().find(|one| match reader.source.single_stream() {
            Some(name) => *one.stream_name == **name && one.position == id.position,
            None => one.global_position == id.position,
        });
        assert!(!id.names_another_than(found.map(|one| one.id)), "{id} is refused");
        assert!(id.check.is_some() || reader.seen.is_empty(), "{id} names nothing, though a message was seen");
        id
    }

    fn step_one(&mut self) {
        if !self.readers.is_empty() {
            let at = self.rng.usize(0..self.readers.len());
            self.step(at);
        }
    }

    /// One step of a reader. Answers whether it took one: not if it waits and was not woken.
    fn step(&mut self, at: usize) -> bool {
        let mut reader = self.readers.swap_remove(at);
        let next = match reader.page.take() {
            Some(None) => {
                reader.cursor.on_failed_page();
                None
            }
            Some(Some(page)) => {
                let is_there = reader.start.history == self.history;
                Some(reader.cursor.on_page(if is_there { Read::Page(page) } else { Read::HistoryChanged }))
            }
            None if reader.is_waiting && !reader.is_woken() => {
                self.readers.push(reader);
                return false;
            }
            None => {
                reader.is_waiting = false;
                reader.cursor.on_newest(self.newest(&reader))
            }
        };
        match next {
            Some(Next::Messages(entries)) => self.take(&mut reader, entries),
            Some(Next::CaughtUp) => assert_eq!(reader.seen, self.expected(&reader), "caught up"),
            Some(Next::Idle) => {
                assert_eq!(reader.seen, self.expected(&reader), "nothing new");
                reader.is_waiting = true;
            }
            Some(Next::NeedsPage) => reader.page = Some((self.rng.u32(0..8) > 0).then(|| self.page(&reader))),
            Some(Next::HistoryChanged) => {
                assert_ne!(reader.start.history, self.history);
                reader.source.topics().iter().for_each(|topic| self.cache.leave(topic));
                return true;
            }
            None | Some(Next::Moved | Next::FellBehind) => {}
            Some(Next::Deleted | Next::Failed(_)) => unreachable!("nothing is deleted, and nothing refused"),
        }
        if reader.start.history == self.history {
            self.id(&reader);
        }
        self.readers.push(reader);
        true
    }

    fn take(&self, reader: &mut Reader, entries: Vec<Entry>) {
        assert_eq!(reader.start.history, self.history, "the log is gone");
        assert!(!entries.is_empty());
        reader.seen.extend(entries.iter().map(Entry::global_position));
        let expected = self.expected(reader);
        assert_eq!(reader.seen, expected[..reader.seen.len().min(expected.len())], "of {:?}", reader.source);
    }

    /// As the tail gives it.
    fn newest(&self, reader: &Reader) -> Read {
        let place = reader.cursor.place();
        if place.history != self.history {
            return Read::HistoryChanged;
        }
        self.cache.read(&reader.source, place, AT_ONCE).map_or(Read::Miss, Read::Page)
    }

    /// As the database gives it.
    fn page(&self, reader: &Reader) -> Page {
        let (place, limit, types) = (reader.cursor.place(), reader.cursor.page_limit(), reader.cursor.filter());
        let is_next = |one: &&Arc<Message>| match place.stream_after {
            Some(seen) => one.position > seen,
            None => one.global_position > place.after,
        };
        let mut messages = Vec::new();
        let mut bytes = 0;
        let in_source = self.settled_messages().filter(|one| reader.source.topics().iter().any(|topic| topic.has(one)));
        for one in in_source.filter(is_next).filter(|one| types.passes(one)) {
            if messages.len() as i64 >= limit.messages || bytes >= limit.bytes {
                break;
            }
            bytes += one.memory_bytes();
            messages.push(copy(one));
        }
        let is_full = messages.len() as i64 >= limit.messages || bytes >= limit.bytes;
        Page::followed(FollowedPage { messages, is_full }, place, self.settled)
    }

    fn settled_messages(&self) -> impl Iterator<Item = &Arc<Message>> {
        self.messages.iter().take_while(|one| one.global_position <= self.settled)
    }

    /// What a reader is to have seen by now.
    fn expected(&self, reader: &Reader) -> Vec<i64> {
        let Place { after, stream_after, .. } = reader.start;
        let is_after = |one: &&Arc<Message>| match stream_after {
            Some(seen) => one.position > seen,
            None => one.global_position > after,
        };
        self.settled_messages()
            .filter(is_after)
            .filter(|one| reader.source.topics().iter().any(|topic| topic.has(one)))
            .filter(|one| reader.cursor.filter().passes(one))
            .map(|one| one.global_position)
            .collect()
    }

    /// Nothing happens any more: everybody comes to the end and waits.
    fn come_to_the_end(&mut self) {
        for _ in 0..STEPS_TO_END_MAX {
            let all = self.readers.len();
            // A reader that has taken its step is the last by then.
            if (0..all).rev().filter(|at| !self.step(*at)).count() == all {
                for reader in &self.readers {
                    assert_eq!(reader.seen, self.expected(reader), "at the end, of {:?}", reader.source);
                }
                return;
            }
        }
        panic!("somebody never comes to the end");
    }
}

impl Reader {
    fn is_woken(&mut self) -> bool {
        let is_woken = self.wakers.iter().any(|waker| waker.has_changed().unwrap());
        self.wakers.iter_mut().for_each(watch::Receiver::mark_unchanged);
        is_woken
    }
}

fn copy(message: &Message) -> Message {
    Message::new(MessageParts {
        id: message.id,
        stream_name: &message.stream_name,
        message_type: &message.message_type,
        position: message.position,
        global_position: message.global_position,
        data: None,
        metadata: None,
        time: message.time,
    })
}

#[test]
fn every_cursor_sees_each_message_once_and_in_order() {
    for seed in seeds(ROUNDS) {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.act();
        }
        world.come_to_the_end();
    }
}
