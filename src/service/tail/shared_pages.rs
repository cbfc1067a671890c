//! Pages of history that several readers of a source want at about the same time: one of them reads, the others take what it
//! has read. So it is when many followers come back at once, and when the consumers of a subscription catch up.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Generation;
use crate::domain::filter::Filter;
use crate::domain::message::Message;
use crate::domain::source::Source;
use crate::service::log::{Entry, Page, Place, suffix};
use crate::store::read::PageLimit;

/// So many pages are kept at most, however small they are.
const PAGES_MAX: usize = 256;
/// A page is kept for so long. It is for readers that come together: what another program deletes or changes in the table is
/// counted nowhere, and is to be seen soon.
const KEPT_FOR: Duration = Duration::from_secs(5);

/// The last pages that were read for sources with several readers. Cheap to clone.
#[derive(Clone)]
pub(super) struct SharedPages {
    state: Arc<Mutex<State>>,
    bytes_max: usize,
}

#[derive(Default)]
struct State {
    /// All pages are of this generation of the log's past.
    generation: Option<Generation>,
    /// What there is of each source, and is being read.
    shelves: HashMap<Arc<PageOf>, Shelf>,
    /// Whose pages were kept when, the oldest first: one for each page.
    kept: VecDeque<(Arc<PageOf>, Instant)>,
    bytes: usize,
    reads_begun: u64,
}

/// What a page is of.
#[derive(Debug, PartialEq, Eq, Hash)]
struct PageOf {
    source: Source,
    filter: Filter,
}

#[derive(Default)]
struct Shelf {
    /// The oldest first.
    pages: VecDeque<SharedPage>,
    reads: Vec<ReadUnderWay>,
}

struct SharedPage {
    after: i64,
    up_to: i64,
    messages: Vec<Arc<Message>>,
    bytes: usize,
    /// There was no more when it was read.
    is_end: bool,
}

struct ReadUnderWay {
    number: u64,
    after: i64,
    messages_max: i64,
    done: watch::Sender<()>,
}

/// What a reader does who wants a page.
pub(super) enum Share {
    /// Another one has read it.
    Page(Page),
    /// Another one reads it at this moment.
    Wait(watch::Receiver<()>),
    /// It reads, and then gives what it has read to the others.
    Read(ReadTurn),
}

/// A read that others wait for, until it is dropped.
pub(super) struct ReadTurn {
    pages: SharedPages,
    number: u64,
    of: Arc<PageOf>,
    after: i64,
    generation: Generation,
}

impl SharedPages {
    pub fn new(bytes_max: usize) -> Self {
        Self { state: Arc::default(), bytes_max }
    }

    pub fn is_on(&self) -> bool {
        self.bytes_max > 0
    }

    /// The page after a global place, of the generation that the log's past is in now and up to what is settled now.
    pub fn share(
        &self,
        source: &Source,
        filter: &Filter,
        place: Place,
        limit: PageLimit,
        (generation, settled): (&Generation, i64),
    ) -> Share {
        let of = PageOf { source: source.clone(), filter: filter.clone() };
        let mut state = self.state.lock();
        if state.generation.as_ref() != Some(generation) {
            state.forget();
            state.generation = Some(generation.clone());
        }
        state.forget_old();
        let (of, shelf) = match state.shelves.get_key_value(&of) {
            Some((of, shelf)) => (of.clone(), Some(shelf)),
            None => (Arc::new(of), None),
        };
        if let Some(shelf) = shelf {
            let holds = |one: &&SharedPage| one.after <= place.after && place.after < one.up_to;
            // The newest is the likeliest.
            if let Some(shared) = shelf.pages.iter().rev().find(holds) {
                return Share::Page(shared.after(place, limit, settled));
            }
            // A message has a position of its own, so a full page ends no earlier than this.
            let will_hold =
                |one: &&ReadUnderWay| one.after <= place.after && place.after - one.after < one.messages_max;
            if let Some(read) = shelf.reads.iter().find(will_hold) {
                return Share::Wait(read.done.subscribe());
            }
        }
        state.reads_begun += 1;
        let number = state.reads_begun;
        let done = watch::Sender::new(());
        let read = ReadUnderWay { number, after: place.after, messages_max: limit.messages, done };
        state.shelves.entry(of.clone()).or_default().reads.push(read);
        Share::Read(ReadTurn { pages: self.clone(), number, of, after: place.after, generation: generation.clone() })
    }

    /// Pages that were kept for long enough give back their memory, also when nobody asks for any.
    pub fn forget_old(&self) {
        self.state.lock().forget_old();
    }

    /// Something was erased: what was read before that is not shown.
    pub fn forget(&self) {
        self.state.lock().forget();
    }
}

impl State {
    fn forget(&mut self) {
        // What is read at this moment is not kept, so that nobody needs to wait for it.
        *self = Self { reads_begun: self.reads_begun, ..Self::default() };
    }

    fn forget_old(&mut self) {
        while self.kept.front().is_some_and(|(_, at)| at.elapsed() >= KEPT_FOR) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((of, _)) = self.kept.pop_front() else { return };
        let Some(shelf) = self.shelves.get_mut(&of) else { return };
        self.bytes -= shelf.pages.pop_front().map_or(0, |page| page.bytes);
        self.clear_away(&of);
    }

    fn keep(&mut self, of: &Arc<PageOf>, page: SharedPage, bytes_max: usize) {
        self.bytes += page.bytes;
        self.shelves.entry(of.clone()).or_default().pages.push_back(page);
        self.kept.push_back((of.clone(), Instant::now()));
        while self.bytes > bytes_max || self.kept.len() > PAGES_MAX {
            self.forget_oldest();
        }
    }

    fn end(&mut self, of: &Arc<PageOf>, number: u64) {
        if let Some(shelf) = self.shelves.get_mut(of) {
            shelf.reads.retain(|read| read.number != number);
            self.clear_away(of);
        }
    }

    /// Nothing is left of a source that has no page and no reader.
    fn clear_away(&mut self, of: &Arc<PageOf>) {
        if self.shelves.get(of).is_some_and(|shelf| shelf.pages.is_empty() && shelf.reads.is_empty()) {
            self.shelves.remove(of);
        }
    }
}

impl SharedPage {
    fn after(&self, place: Place, limit: PageLimit, settled: i64) -> Page {
        let seen = self.messages.partition_point(|one| one.global_position <= place.after);
        let entry = |message: &Arc<Message>| Entry::of(message.clone(), false);
        let page = suffix::page(self.messages.iter().skip(seen), limit, self.up_to, entry);
        // More may have been settled since it was read.
        let is_end = page.is_end && self.is_end && self.up_to >= settled;
        Page { is_end, ..page }
    }
}

impl Share {
    pub fn turn(self) -> Option<ReadTurn> {
        match self {
            Share::Read(turn) => Some(turn),
            Share::Page(_) | Share::Wait(_) => None,
        }
    }
}

impl ReadTurn {
    /// Keeps what was read for the others, unless the log's past has changed meanwhile, or something of it was trimmed: how
    /// much that is differs from place to place.
    pub fn keep(&self, page: &Page) {
        if page.trimmed.is_some() || page.up_to <= self.after {
            return;
        }
        let messages: Vec<_> = page.entries.iter().map(|entry| entry.message.clone()).collect();
        let bytes = messages.iter().map(|message| message.memory_bytes()).sum();
        let mut state = self.pages.state.lock();
        if state.generation.as_ref() == Some(&self.generation) {
            let (after, up_to, is_end) = (self.after, page.up_to, page.is_end);
            state.keep(&self.of, SharedPage { after, up_to, messages, bytes, is_end }, self.pages.bytes_max);
        }
    }
}

impl Drop for ReadTurn {
    fn drop(&mut self) {
        // Those that wait for it notice that its sender has gone.
        self.pages.state.lock().end(&self.of, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::message::MessageParts;

    const LIMIT: PageLimit = PageLimit { messages: 10, bytes: 1 << 20 };

    fn message(global_position: i64) -> Arc<Message> {
        Arc::new(Message::new(MessageParts { position: global_position, global_position, ..MessageParts::EXAMPLE }))
    }

    fn page(positions: impl Iterator<Item = i64>, up_to: i64, is_end: bool) -> Page {
        let entries = positions.map(|at| Entry::of(message(at), false)).collect();
        Page { entries, up_to, check: None, is_end, trimmed: None }
    }

    /// What there is of a category after a place, up to position 100.
    fn ask(pages: &SharedPages, after: i64, limit: PageLimit) -> Share {
        ask_in(pages, after, limit, &Generation::default())
    }

    fn ask_in(pages: &SharedPages, after: i64, limit: PageLimit, generation: &Generation) -> Share {
        pages.share(&Source::category("a"), &Filter::default(), Place::global(after, 0), limit, (generation, 100))
    }

    fn turn(share: Share) -> ReadTurn {
        share.turn().expect("a turn to read")
    }

    fn found(share: Share) -> (Vec<i64>, i64, bool) {
        let Share::Page(page) = share else { panic!("no page is shared") };
        (page.entries.iter().map(Entry::global_position).collect(), page.up_to, page.is_end)
    }

    #[test]
    fn what_one_has_read_is_there_for_all_whose_place_is_within_it() {
        let pages = SharedPages::new(1 << 20);
        turn(ask(&pages, 0, LIMIT)).keep(&page([2, 4, 6, 8].into_iter(), 8, false));
        assert_eq!(found(ask(&pages, 0, LIMIT)), (vec![2, 4, 6, 8], 8, false));
        assert_eq!(found(ask(&pages, 5, LIMIT)), (vec![6, 8], 8, false));
        let two = PageLimit { messages: 2, ..LIMIT };
        assert_eq!(found(ask(&pages, 0, two)), (vec![2, 4], 5, false));
        let small = PageLimit { bytes: 1, ..LIMIT };
        assert_eq!(found(ask(&pages, 2, small)), (vec![4], 5, false));
        turn(ask(&pages, 8, LIMIT)).keep(&page(std::iter::once(9), 100, true));
        assert_eq!(found(ask(&pages, 8, LIMIT)), (vec![9], 100, true));
        assert_eq!(found(ask(&pages, 50, LIMIT)), (vec![], 100, true));
        turn(ask(&pages, 100, LIMIT));
    }

    #[test]
    fn an_end_is_none_any_more_once_there_is_more() {
        let pages = SharedPages::new(1 << 20);
        turn(ask(&pages, 0, LIMIT)).keep(&page(std::iter::once(9), 99, true));
        assert_eq!(found(ask(&pages, 0, LIMIT)), (vec![9], 99, false));
    }

    #[test]
    fn pages_are_of_one_source_one_filter_and_one_generation() {
        let pages = SharedPages::new(1 << 20);
        turn(ask(&pages, 0, LIMIT)).keep(&page(1..=3, 3, false));
        let (at, now) = (Place::global(0, 0), (&Generation::default(), 100));
        turn(pages.share(&Source::category("b"), &Filter::default(), at, LIMIT, now));
        let filter = Filter { types: Arc::new(["T".to_owned()]), ..Filter::default() };
        turn(pages.share(&Source::category("a"), &filter, at, LIMIT, now));
        let later = Generation::of_history(1);
        // One that was under way when the log's past changed is not kept either.
        let before = turn(ask(&pages, 3, LIMIT));
        turn(ask_in(&pages, 0, LIMIT, &later));
        before.keep(&page(4..=6, 6, false));
        turn(ask_in(&pages, 3, LIMIT, &later));
    }

    #[test]
    fn readers_of_what_is_being_read_wait_until_it_is_there_or_its_reader_gone() {
        let pages = SharedPages::new(1 << 20);
        let first = turn(ask(&pages, 0, LIMIT));
        let Share::Wait(mut waiting) = ask(&pages, 9, LIMIT) else { panic!("it does not wait") };
        turn(ask(&pages, 10, LIMIT));
        assert!(!waiting.has_changed().unwrap());
        first.keep(&page(1..=10, 10, false));
        drop(first);
        assert!(futures_util::FutureExt::now_or_never(waiting.changed()).expect("it is over").is_err());
        assert_eq!(found(ask(&pages, 9, LIMIT)), (vec![10], 10, false));
        let dropped = turn(ask(&pages, 10, LIMIT));
        let Share::Wait(mut waiting) = ask(&pages, 10, LIMIT) else { panic!("it does not wait") };
        drop(dropped);
        assert!(futures_util::FutureExt::now_or_never(waiting.changed()).expect("it is over").is_err());
        turn(ask(&pages, 10, LIMIT));
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_go_first() {
        let one = message(100_000).memory_bytes();
        let pages = SharedPages::new(10 * one);
        for n in 0..100 {
            turn(ask(&pages, 3 * n, LIMIT)).keep(&page(3 * n + 1..=3 * n + 3, 3 * n + 3, false));
            assert!(pages.state.lock().bytes <= 10 * one);
        }
        turn(ask(&pages, 3 * 90, LIMIT));
        assert_eq!(found(ask(&pages, 3 * 99, LIMIT)).0, [298, 299, 300]);
        turn(ask(&pages, 300, PageLimit { messages: 100, ..LIMIT })).keep(&page(301..=400, 400, false));
        turn(ask(&pages, 300, LIMIT));
        for n in 0..2 * PAGES_MAX as i64 {
            turn(ask(&pages, 1_000 + n, LIMIT)).keep(&page(0..0, 1_001 + n, false));
        }
        assert_eq!(pages.state.lock().kept.len(), PAGES_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_is_kept_for_those_that_come_together() {
        let pages = SharedPages::new(1 << 20);
        turn(ask(&pages, 0, LIMIT)).keep(&page(1..=3, 3, false));
        tokio::time::advance(KEPT_FOR / 2).await;
        turn(ask(&pages, 3, LIMIT)).keep(&page(4..=6, 6, false));
        assert_eq!(found(ask(&pages, 0, LIMIT)).0, [1, 2, 3]);
        tokio::time::advance(KEPT_FOR / 2).await;
        let read_again = turn(ask(&pages, 0, LIMIT));
        assert_eq!(found(ask(&pages, 3, LIMIT)).0, [4, 5, 6]);
        tokio::time::advance(KEPT_FOR / 2).await;
        pages.forget_old();
        assert_eq!(pages.state.lock().bytes, 0);
        assert!(pages.state.lock().kept.is_empty());
        drop(read_again);
        assert!(pages.state.lock().shelves.is_empty(), "nothing is left of a source without pages and readers");
    }

    #[test]
    fn what_was_erased_or_trimmed_is_not_shared() {
        let pages = SharedPages::new(1 << 20);
        turn(ask(&pages, 0, LIMIT)).keep(&page(1..=3, 3, false));
        pages.forget();
        turn(ask(&pages, 0, LIMIT));
        let trimmed = Some(crate::service::log::Trimmed { count: 1, first_position: 2 });
        turn(ask(&pages, 0, LIMIT)).keep(&Page { trimmed, ..page(2..=3, 3, false) });
        turn(ask(&pages, 0, LIMIT));
    }
}
