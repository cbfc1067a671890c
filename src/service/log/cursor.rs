//! A cursor: a place in a log, a filter, and a pace. It is a pure machine, fed with what a log gives.

use super::pages::{PageBounds, PageSizer};
use super::{Entry, Page, Place, Read, Trimmed};
use crate::domain::event_id::EventId;
use crate::domain::filter::Filter;
use crate::store::StoreError;
use crate::store::read::PageLimit;

/// What is handed over at once from memory: what waits together leaves in one write.
pub const BATCH: PageLimit = PageLimit { messages: 256, bytes: 128 << 10 };
/// Pages from the database.
const PAGES: PageBounds = PageBounds { first: 32, messages_max: 512, bytes_max: 512 << 10 };
/// A filter that lets nothing pass: after so many messages the place is reported all the same.
const PROGRESS_EVERY: usize = 1_000;

/// What there is next at a cursor.
#[derive(Debug)]
pub enum Next {
    /// Messages that pass the filter, in order; never empty.
    Messages(Vec<Entry>),
    /// Messages were trimmed that it had not seen; then come those that pass the filter, if there are any.
    Trimmed(Trimmed, Vec<Entry>),
    /// The filter let nothing pass for a while; the place has moved on.
    Moved,
    /// History is done; from here on messages come as they are settled.
    CaughtUp,
    /// Its place is not in memory any more: pages are read from the database again.
    FellBehind,
    /// A page has to be read from the database.
    NeedsPage,
    /// There is nothing new.
    Idle,
    /// What was followed has been deleted.
    Deleted,
    /// The database refuses to give what follows, or it cannot be read: waiting does not help.
    Failed(StoreError),
    /// The log went back: the place is one of a log that is gone.
    HistoryChanged,
}

/// A place in a log and what is wanted from there on.
#[derive(Debug, Clone)]
pub struct Cursor {
    place: Place,
    filter: Filter,
    /// The last message that it has seen, whether that passed the filter or not.
    last: Option<EventId>,
    is_live: bool,
    /// Messages that did not pass since something was reported.
    passed_over: usize,
    pages: PageSizer,
}

impl Cursor {
    pub fn new(place: Place, filter: Filter) -> Self {
        Self { place, filter, last: None, is_live: false, passed_over: 0, pages: PageSizer::new(PAGES) }
    }

    pub fn place(&self) -> Place {
        self.place
    }

    /// Whether history is done.
    pub fn is_live(&self) -> bool {
        self.is_live
    }

    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// How large the next page from the database may be.
    pub fn page_limit(&self) -> PageLimit {
        self.pages.limit()
    }

    /// The id with which a client may come back: it goes on after everything that was handed over.
    pub fn id(&self) -> EventId {
        EventId::of_place(self.place.position(), self.place.check, self.last)
    }

    /// Takes what is in memory after its place. `None`: nothing of that passed, and there may be more at once.
    pub fn on_newest(&mut self, read: Read) -> Option<Next> {
        let (examined, is_end) = match &read {
            Read::Page(page) => (page.entries.len(), page.is_end),
            Read::Miss | Read::Deleted | Read::HistoryChanged => (0, false),
        };
        match self.take(read) {
            Next::NeedsPage if std::mem::replace(&mut self.is_live, false) => Some(Next::FellBehind),
            Next::Idle if examined > 0 => None,
            // While history is being projected, its end has not been seen.
            Next::Idle if is_end && !std::mem::replace(&mut self.is_live, true) => Some(Next::CaughtUp),
            next => Some(next),
        }
    }

    /// Takes a page from the database. Nothing passed does not mean that there is no more.
    pub fn on_page(&mut self, read: Read) -> Next {
        let mut is_between = false;
        if let Read::Page(page) = &read {
            self.pages.saw(page.entries.len(), page.entries.iter().map(|entry| entry.message.memory_bytes()).sum());
            is_between = page.entries.is_empty() && !page.is_end;
        }
        match self.take(read) {
            // The database has passed over what the filter does not want, as far as one page looks.
            Next::Idle if is_between => Next::Moved,
            Next::Idle => Next::NeedsPage,
            next => next,
        }
    }

    /// A page was not had: the next one is smaller.
    pub fn on_failed_page(&mut self) {
        self.pages.failed();
    }

    fn take(&mut self, read: Read) -> Next {
        let page = match read {
            Read::Page(page) => page,
            Read::Miss => return Next::NeedsPage,
            Read::Deleted => return Next::Deleted,
            Read::HistoryChanged => return Next::HistoryChanged,
        };
        self.move_on(&page);
        let mut entries = page.entries;
        let examined = entries.len();
        if !self.filter.is_empty() {
            entries.retain(|entry| self.filter.passes(&entry.message));
        }
        if let Some(trimmed) = page.trimmed {
            self.passed_over = 0;
            return Next::Trimmed(trimmed, entries);
        }
        if !entries.is_empty() {
            self.passed_over = 0;
            return Next::Messages(entries);
        }
        self.passed_over += examined;
        if self.passed_over < PROGRESS_EVERY {
            return Next::Idle;
        }
        self.passed_over = 0;
        Next::Moved
    }

    fn move_on(&mut self, page: &Page) {
        let place = &mut self.place;
        if let Some(last) = page.entries.last() {
            self.last = Some(last.id);
        }
        match (&mut place.stream_after, page.entries.last()) {
            (Some(seen), Some(last)) => (*seen, place.check) = (last.id.position, last.id.check),
            (Some(_), None) => {}
            (None, _) => place.check = page.check.or(place.check.filter(|_| page.up_to <= place.after)),
        }
        if let (Some(seen), Some(trimmed)) = (&mut place.stream_after, page.trimmed)
            && *seen < trimmed.first_position - 1
        {
            // No message is there any more by which the place could be recognised, and it is not to be told again.
            *seen = trimmed.first_position - 1;
            (place.check, self.last) = (None, None);
        }
        place.after = place.after.max(page.up_to);
    }
}
