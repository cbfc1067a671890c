//! Whatever a connection may follow, over a scripted database: the real tail's cache, feeds, cursors and merging, with
//! pages that come late or never, and a projector that is here or elsewhere. Whatever happens between the steps, each
//! reader sees every message of its sources once, in order, is woken for what is new, and is never fed from a log that is
//! gone. A failure names its seed.

mod projecting;
mod reader;
mod stored;

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use super::cursor::Next;
use crate::domain::event_id::{Check, EventId};
use crate::domain::filter::Filter;
use crate::domain::keyed;
use crate::domain::message::{Message, MessageParts};
use crate::domain::source::Source;
use crate::service::aggregated::feed::Feeds;
use crate::service::aggregated::log::AggregatedSource;
use crate::service::seeds::seeds;
use crate::service::tail::Tail;
use crate::service::tail::cache::Fetched;
use projecting::Projecting;
use reader::{Part, Reader, Reading};
pub use stored::Script;

const ROUNDS: u64 = 40;
const STEPS: usize = 800;
/// Room for some dozen messages, so that readers fall behind often.
const CACHE_BYTES_MAX: usize = 8 << 10;
const FEED_BYTES_MAX: usize = 3 << 10;
/// A reader that takes more steps than this without waiting goes round in circles.
const STEPS_TO_END_MAX: usize = 10_000;
/// Looks whenever nothing has happened for a while: here so often at the end.
const LOOKS_AT_END: usize = 60;
/// Longer than the pause after an answer that was lost.
const MOMENT: Duration = Duration::from_secs(3);
const STREAMS: [&str; 5] = ["a-1", "a-2", "b-1", "b-2", "c-1"];

struct World {
    rng: Rng,
    script: Script,
    tail: Tail,
    feeds: Feeds,
    /// The log that this instance reads: what it has settled, and what it has not seen yet.
    log: Vec<Arc<Message>>,
    projecting: Projecting,
    readers: Vec<Reader>,
}

impl World {
    fn new(seed: u64) -> Self {
        let script = Script::new(seed);
        let tail = Tail::scripted(CACHE_BYTES_MAX, script.clone());
        {
            let mut stored = script.stored();
            stored.create();
            stored.create();
        }
        Self {
            rng: Rng::with_seed(seed),
            tail,
            feeds: Feeds::new(FEED_BYTES_MAX),
            log: Vec::new(),
            projecting: Projecting::default(),
            readers: Vec::new(),
            script,
        }
    }

    fn act(&mut self) {
        match self.rng.u32(0..100) {
            0..10 => self.write(),
            10..20 => self.publish(),
            20 => self.jump(),
            21 => self.go_back(),
            22..25 => self.notice(),
            25..30 => self.begin_somewhere(),
            30..32 => drop(self.leave()),
            32..36 => self.reconnect(),
            36..50 => self.project(),
            50..56 => self.look(),
            56..58 => self.feeds.forget(self.tail.history()),
            _ => self.step_one(),
        }
        assert!(self.tail.cache_size().0 <= CACHE_BYTES_MAX, "memory is bounded");
    }

    /// New messages, with holes before them.
    fn write(&mut self) {
        let script = self.script.clone();
        let mut stored = script.stored();
        let mut at = stored.end().max(if stored.is_away { 0 } else { self.tail.settled() });
        for _ in 0..self.rng.usize(0..6) {
            at += if self.rng.u32(0..5) == 0 { self.rng.i64(2..5) } else { 1 };
            let stream_name = *self.rng.choice(&STREAMS).unwrap();
            let before = stored.messages.iter().rev().find(|one| *one.stream_name == *stream_name);
            let position = before.map_or(0, |one| one.position + 1);
            let data = format!("\"{}\"", "x".repeat(self.rng.usize(0..400)));
            let message = Arc::new(Message::new(MessageParts {
                id: uuid::Uuid::from_u128(self.rng.u128(..)),
                stream_name,
                message_type: if self.rng.bool() { "T" } else { "U" },
                position,
                global_position: at,
                data: Some(&data),
                ..MessageParts::EXAMPLE
            }));
            if !stored.is_away {
                self.log.push(message.clone());
            }
            stored.messages.push(message);
        }
    }

    fn end(&self) -> i64 {
        self.log.last().map_or(0, |last| last.global_position).max(self.tail.settled())
    }

    /// What is new is settled. What nobody follows is not kept, and some of the rest is left out.
    fn publish(&mut self) {
        if self.script.stored().is_away {
            return;
        }
        let opened = self.tail.scripted_cache().opened();
        let (settled, end) = (self.tail.settled(), self.end());
        let new: Vec<_> = self.log.iter().filter(|one| one.global_position > settled).cloned().collect();
        // Others come while it is read.
        if self.rng.u32(0..4) == 0 {
            self.begin_somewhere();
        }
        let mut fetched = Fetched::default();
        for message in new {
            if !self.tail.scripted_cache().follows(&message.stream_name) {
                continue;
            }
            match self.rng.u32(0..10) {
                0 => fetched.left_out.push((message.global_position, message.stream_name.to_string())),
                _ => fetched.messages.push(message),
            }
        }
        if self.rng.u32(0..4) == 0 {
            self.begin_somewhere();
        }
        self.tail.scripted_cache().publish(fetched, end, opened);
    }

    /// Far behind, what is new is settled without having been read.
    fn jump(&mut self) {
        let end = self.end();
        if !self.script.stored().is_away {
            self.tail.scripted_cache().skip_to(end);
        }
    }

    /// The log goes back: what followed is given to other messages. Another instance has seen that.
    fn go_back(&mut self) {
        {
            let mut stored = self.script.stored();
            let kept = self.rng.usize(0..=stored.messages.len());
            stored.go_back(kept);
            stored.is_away = true;
        }
        self.is_fenced();
    }

    /// This instance sees it too.
    fn notice(&mut self) {
        let mut stored = self.script.stored();
        if std::mem::take(&mut stored.is_away) {
            self.log = stored.messages.clone();
            self.tail.begin_another_log(stored.end(), stored.history_number);
            if let Some(last) = self.log.last().filter(|_| self.rng.bool()) {
                self.tail.scripted_cache().recognise(last.global_position, Check::of(last.id));
            }
        }
    }

    /// Somebody begins to follow: anything, from anywhere.
    fn begin_somewhere(&mut self) {
        if self.script.stored().is_away {
            return;
        }
        let source = match self.rng.u32(0..5) {
            0 => Source::all(),
            1 => Source::category("a"),
            2 => Source::several(&["a-1".into(), "c-1".into()], &["b".into()]).unwrap(),
            3 => Source::several(&[(*self.rng.choice(&STREAMS).unwrap()).into()], &[]).unwrap(),
            _ => Source::stream(self.rng.choice(&STREAMS).unwrap()),
        };
        let ids: Vec<i64> = self.script.stored().aggregated.iter().map(|one| one.id).collect();
        let mut aggregated: Vec<Part> = ids.into_iter().map(|id| Part::Aggregated(self.some_of(id))).collect();
        self.rng.shuffle(&mut aggregated);
        let parts = match self.rng.u32(0..10) {
            0..5 => vec![Part::Messages(source)],
            5..7 => aggregated.drain(..1).collect(),
            7 => aggregated,
            // In a merge, a stream is followed by global positions.
            _ if source.single_stream().is_some() => vec![Part::Messages(source)],
            _ => [Part::Messages(source)].into_iter().chain(aggregated).collect(),
        };
        let types: &[&str] = self.rng.choice::<[&[&str]; 4]>([&[], &["T"], &["T", "U"], &["V"]]).unwrap();
        let filter = Filter { types: types.iter().map(|name| (*name).to_owned()).collect(), ..Filter::default() };
        let settled = self.tail.settled();
        let after = if self.rng.bool() { settled } else { self.rng.i64(0..=settled) };
        let sources = if parts.len() > 1 { self.rng.u32(0..parts.len() as u32) } else { 0 };
        let start = EventId { sources, ..after.into() };
        let mut what = Reading { parts, filter, start, history: self.tail.history() };
        let mut place = after;
        if let Some(name) = what.stream() {
            let mut before = self.log.iter().filter(|one| *one.stream_name == **name && one.global_position <= after);
            what.start = before.next_back().map_or(-1, |one| one.position).into();
            // As a client comes back: where that is in the whole log is not known.
            place = if self.rng.bool() { after } else { 0 };
        }
        self.begin(what, place);
    }

    fn some_of(&mut self, id: i64) -> AggregatedSource {
        let partitions = self.rng.choice::<[&[i32]; 3]>([&[0, 1, 2], &[1], &[0, 2]]).unwrap();
        let part = if self.rng.bool() { keyed::Part::Partitions(partitions.into()) } else { keyed::Part::All };
        AggregatedSource { id, name: id.to_string().into(), is_keyed: false, part }
    }

    fn begin(&mut self, what: Reading, after: i64) {
        self.readers.push(Reader::new(what, &self.tail, &self.feeds, after));
    }

    fn leave(&mut self) -> Option<Reader> {
        let at = (!self.readers.is_empty()).then(|| self.rng.usize(0..self.readers.len()))?;
        Some(self.readers.swap_remove(at))
    }

    /// A client comes back with the id of the last event that it has seen.
    fn reconnect(&mut self) {
        let (history, is_away) = (self.tail.history(), self.script.stored().is_away);
        let Some(gone) = self.leave().filter(|one| one.what.history == history && !is_away) else { return };
        let (Some(id), false) = (self.id(&gone), gone.what.parts.iter().any(|part| self.is_deleted(part))) else {
            return;
        };
        let what = Reading { start: id, ..gone.what.clone() };
        assert_eq!(self.expected(&gone.what)[gone.seen.len()..], self.expected(&what), "what comes after {id}");
        self.begin(what, 0);
    }

    /// The id with which a reader's client may come back: it names the message at that place.
    fn id(&self, reader: &Reader) -> Option<EventId> {
        let id = reader.id()?;
        let stream = reader.what.stream();
        let existing = self.log.iter().find(|one| match stream {
            Some(name) => *one.stream_name == **name && one.position == id.position,
            None => one.global_position == id.position,
        });
        assert!(!id.names_another_than(existing.map(|one| one.id)), "{id} is refused");
        let is_one = reader.what.parts.len() == 1;
        assert!(
            id.check.is_some() || reader.seen.is_empty() || !is_one,
            "{id} names nothing, though a message was seen"
        );
        Some(id)
    }

    fn is_deleted(&self, part: &Part) -> bool {
        matches!(part, Part::Aggregated(source) if self.script.stored().get(source.id).is_none())
    }

    /// What a reader is to have seen by now, if it has kept up.
    fn expected(&self, what: &Reading) -> Vec<(i64, usize)> {
        let stored = self.script.stored();
        what.expected(&self.log, |part| match part {
            Part::Messages(_) => self.tail.settled(),
            // What is projected of a log that went back, or was of one that is deleted, is not known any more.
            Part::Aggregated(_) if stored.is_away => i64::MAX,
            // What was told before rounds were lost is projected again.
            Part::Aggregated(source) => {
                stored.progress(source.id).map_or(i64::MAX, |one| one.projected_position.max(stored.lost_up_to))
            }
        })
    }

    fn step_one(&mut self) {
        if !self.readers.is_empty() {
            let at = self.rng.usize(0..self.readers.len());
            self.step(at);
        }
    }

    /// One step of a reader, which is the last one then. Answers whether it took one: not if it waits and was not woken.
    fn step(&mut self, at: usize) -> bool {
        let mut reader = self.readers.swap_remove(at);
        if reader.sleeps() {
            self.readers.push(reader);
            return false;
        }
        match reader.step() {
            Some(Next::Messages(entries) | Next::Trimmed(_, entries)) => {
                assert_eq!(reader.what.history, self.tail.history(), "the log is gone");
                assert!(!entries.is_empty());
                reader.take(&entries);
                let expected = self.expected(&reader.what);
                assert_eq!(reader.seen, expected[..reader.seen.len().min(expected.len())], "of {:?}", reader.what);
            }
            Some(Next::CaughtUp) => {
                self.assert_at_end(&reader);
                reader.is_caught_up = true;
            }
            Some(Next::Idle) => {
                self.assert_at_end(&reader);
                reader.is_waiting = true;
            }
            Some(Next::HistoryChanged) => {
                assert!(reader.what.history != self.tail.history() || self.script.stored().is_away);
                return true;
            }
            Some(Next::Deleted) => {
                assert!(reader.what.parts.iter().any(|part| self.is_deleted(part)));
                return true;
            }
            Some(Next::FellBehind) => reader.is_caught_up = false,
            None | Some(Next::Moved) => {}
            Some(Next::Failed(_) | Next::NeedsPage) => unreachable!("nothing is refused"),
        }
        if reader.what.history == self.tail.history() {
            self.id(&reader);
        }
        self.readers.push(reader);
        true
    }

    /// What is projected elsewhere is heard of later.
    fn assert_at_end(&self, reader: &Reader) {
        if let [Part::Messages(_)] = &*reader.what.parts {
            assert_eq!(reader.seen, self.expected(&reader.what), "nothing new");
        }
    }

    /// Answers whether anybody took a step.
    fn step_all(&mut self) -> bool {
        let all = self.readers.len();
        // A reader that has taken its step is the last by then.
        (0..all).rev().filter(|at| self.step(*at)).count() > 0
    }

    /// Nothing happens any more: everybody comes to the end and waits.
    async fn come_to_the_end(&mut self) {
        self.notice();
        self.publish();
        self.project_all();
        self.feeds.forget(self.tail.history());
        for _ in 0..LOOKS_AT_END {
            self.look();
            self.step_all();
        }
        for _ in 0..STEPS_TO_END_MAX {
            tokio::time::advance(MOMENT).await;
            if self.step_all() {
                continue;
            }
            for reader in &self.readers {
                let is_gone = reader.what.parts.iter().any(|part| self.is_deleted(part));
                assert!(!is_gone, "nobody has told that it is gone: {:?}", reader.what);
                assert_eq!(reader.seen, self.expected(&reader.what), "at the end, of {:?}", reader.what);
                assert!(reader.is_caught_up, "nobody has told that this is the end: {:?}", reader.what);
            }
            return;
        }
        panic!("somebody never comes to the end");
    }
}

#[tokio::test(start_paused = true)]
async fn every_reader_sees_each_message_once_and_in_order() {
    for seed in seeds(ROUNDS) {
        let mut world = World::new(seed);
        // No task is among these, so nobody has to have a turn.
        let simulation = tokio::task::unconstrained(async {
            for step in 0..STEPS {
                world.act();
                if step % 20 == 0 {
                    tokio::time::advance(MOMENT).await;
                }
            }
            world.come_to_the_end().await;
        });
        simulation.await;
    }
}
