//! Reads pages and single messages.

mod places;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::counting::Counting;
use super::log::Place;
use super::log::cursor::Next;
use super::log::follower::Follower;
use super::log::pages::{PageBounds, PageSizer};
use super::long_poll::LongPoll;
use super::tail::Tail;
use crate::domain::filter::Filter;
use crate::domain::message::Message;
use crate::domain::source::Source;
use crate::domain::stream_name::{Category, StreamName};
pub use crate::store::read::CategoryOptions;
use crate::store::read::{Page, PageLimit, Span, StreamSummary};
use crate::store::{Database, StoreError};
pub use places::{PlaceError, Start};

/// How many messages one request may look at for what only the service can judge. After these the page ends, and names where to go on.
pub(super) const EXAMINED_MAX: usize = 10_000;
/// The bounds of one read of that kind, which looks at messages in memory.
pub(super) const EXAMINED_AT_ONCE: PageBounds = PageBounds { first: 500, messages_max: 500, bytes_max: 4 << 20 };

/// So many positions are looked through at once for what the database judges; then twice as many, where that was quick.
const POSITIONS_AT_ONCE: i64 = 1_000_000;
const QUICK: Duration = Duration::from_millis(100);
/// For so long one request looks for messages that it wants. After that the page ends, and names where to go on.
const LOOKING_TIME_MAX: Duration = Duration::from_secs(2);

/// The log that a page is read of.
#[derive(Debug, Clone)]
pub enum PageSource {
    All,
    Category(Category, CategoryOptions),
    Stream(StreamName),
}

/// Where a page begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageStart {
    /// The beginning, or (backward) the end.
    Default,
    /// A position, inclusive: in the stream for a stream, global otherwise.
    At(i64),
    /// The newest message of this type; without one, the beginning. Streams only.
    NewestOf(String),
}

/// A request for a page.
#[derive(Debug, Clone)]
pub struct PageRequest {
    pub source: PageSource,
    pub from: PageStart,
    /// Towards the beginning.
    pub backward: bool,
    pub limit: usize,
    pub filter: Filter,
    /// How long an empty page waits for a message.
    pub wait: Duration,
}

/// A page, and where to go on.
#[derive(Debug)]
pub struct PageRead {
    pub messages: Vec<Arc<Message>>,
    /// The value to pass as `from` for what follows; `None` if nothing can follow (the beginning, backward).
    pub next: Option<i64>,
    pub at_end: bool,
    /// The stream's last position, -1 for none; 0 for other logs.
    pub version: i64,
    /// The number of the last erasure in the stream, 0 for none.
    pub erasure: i64,
    /// The first position of the stream that was not trimmed, 0 if none was.
    pub first_position: i64,
    /// It stays the same, but for erasures and trims: something follows, and nothing can appear in it.
    pub is_settled: bool,
}

/// Reads of the log. Cheap to clone.
#[derive(Clone)]
pub struct Reads {
    database: Database,
    tail: Tail,
    counting: Counting,
    draining: CancellationToken,
    /// A page ends when its messages have this many bytes.
    page_bytes_max: usize,
}

impl Reads {
    pub fn new(database: Database, tail: Tail, draining: CancellationToken, page_bytes_max: usize) -> Self {
        let counting = Counting::new(database.clone(), tail.clone());
        Self { database, tail, counting, draining, page_bytes_max }
    }

    /// A page; if it would be empty, waits for a message as long as the request says.
    pub async fn page(&self, request: &PageRequest) -> Result<PageRead, PlaceError> {
        // The topic is joined before the first look, so that no message falls between the two.
        let membership = (!request.wait.is_zero()).then(|| self.tail.join(&request.source.source()));
        let poll = LongPoll::new(&self.tail, &self.draining, request.wait);
        let mut from = self.first_position(request).await?;
        loop {
            // As of before the read: what the read could not see comes after it.
            let settled = self.tail.settled();
            let mut page = self.read_page(request, from).await?;
            let Some(membership) = membership.as_ref().filter(|_| page.messages.is_empty() && !request.backward) else {
                return Ok(page);
            };
            if request.is_trimmed(&page) {
                return Ok(page);
            }
            let is_to_look = match (page.at_end, page.next) {
                (true, Some(next)) => {
                    let place = request.source.place_before(next, settled, poll.history());
                    let mut follower = membership.follow(place, request.filter.clone());
                    self.wait(request, &poll, &mut follower, &mut page).await?
                }
                _ => !poll.is_over(),
            };
            if !is_to_look {
                return Ok(page);
            }
            // Messages that did not pass the filter need not be looked at again.
            from = page.next.or(from);
        }
    }

    /// Waits at the end of a log, and takes what comes into an empty page: from memory, as many may wait for the same.
    /// Answers whether the database has to be looked at in place of that.
    async fn wait(
        &self,
        request: &PageRequest,
        poll: &LongPoll<'_>,
        follower: &mut Follower,
        page: &mut PageRead,
    ) -> Result<bool, PlaceError> {
        loop {
            let next = follower.advance();
            let position = follower.place().position();
            match next {
                Next::Messages(entries) if request.source.is_judged_here() => {
                    page.messages = entries.into_iter().map(|entry| entry.message).collect();
                    let is_cut = page.messages.len() > request.limit;
                    page.messages.truncate(request.limit);
                    // The same for all who wait for it, so that caches can take what they ask for next for one.
                    page.next = page.messages.last().map(|last| request.position_of(last).saturating_add(1));
                    page.at_end = !is_cut && matches!(follower.advance(), Next::CaughtUp | Next::Idle);
                    page.version = follower.place().stream_after.unwrap_or(0);
                    return Ok(false);
                }
                Next::Moved => {}
                Next::CaughtUp | Next::Idle => {
                    if !poll.wait_in_log(follower.changed(), position).await? {
                        return Ok(false);
                    }
                }
                Next::HistoryChanged => {
                    return Err(PlaceError::HistoryChanged { position, head: self.tail.settled() });
                }
                // Whoever writes without a pause does not lengthen the wait.
                _ => return Ok(!poll.is_over()),
            }
        }
    }

    async fn first_position(&self, request: &PageRequest) -> Result<Option<i64>, StoreError> {
        match (&request.from, &request.source) {
            (PageStart::At(position), _) => Ok(Some(*position)),
            (PageStart::NewestOf(message_type), PageSource::Stream(name)) => {
                self.database.messages().last_position_of(name.as_str(), message_type).await
            }
            (PageStart::NewestOf(_) | PageStart::Default, _) => Ok(None),
        }
    }

    /// Reads a page of what is there now, without waiting.
    async fn read_page(&self, request: &PageRequest, begin: Option<i64>) -> Result<PageRead, StoreError> {
        let filter = &request.filter;
        // One more than was asked for, to know whether anything follows.
        let wanted = request.limit + 1;
        let mut pages = PageSizer::new(EXAMINED_AT_ONCE);
        let spans = self.counting.spans(&request.filter, request.source.single_stream()).await?;
        let mut from = begin.unwrap_or(if request.backward { i64::MAX } else { 0 });
        // As of before the read: all up to there is visible to it.
        let settled = self.tail.settled();
        let (mut examined, mut bytes) = (0, 0);
        let mut kept = Vec::new();
        let (began, mut reach) = (Instant::now(), POSITIONS_AT_ONCE);
        loop {
            let room = self.page_bytes_max.saturating_sub(bytes);
            let limit = match filter.is_of_columns() {
                true => PageLimit { messages: (wanted - kept.len()) as i64, bytes: room },
                false => PageLimit { bytes: pages.limit().bytes.min(room), ..pages.limit() },
            };
            let (mut span, mut is_last_span) = spans.next(from, request.backward);
            if request.is_judged_in_sql()
                && let Some(part) = span.first_part(reach, settled)
            {
                (span, is_last_span) = (part, false);
            }
            let asked = Instant::now();
            let mut page = self.read_chunk(request, span, limit).await?;
            if asked.elapsed() < QUICK {
                reach = reach.saturating_mul(2);
            }
            let is_end_of_span = (page.messages.len() as i64) < limit.messages && !page.is_cut;
            let last = page.messages.last().map(|message| request.position_of(message));
            let read: usize = page.messages.iter().map(|message| message.json().len()).sum();
            pages.saw(page.messages.len(), read);
            (examined, bytes) = (examined + page.messages.len(), bytes + read);
            let (head, erasure, first_position) = (page.head, page.erasure, page.first_position);
            page.messages.retain(|message| filter.judge(message));
            kept.append(&mut page.messages);
            let is_end = is_last_span || !request.backward && span.to >= head;
            if is_end_of_span && is_end || kept.len() > request.limit {
                let page = Page { messages: kept, head, erasure, first_position, is_cut: false };
                return Ok(finish(request, begin, page, settled));
            }
            // A page that ended before the end of the span has messages.
            let end = last.filter(|_| !is_end_of_span).unwrap_or(span.to);
            from = if request.backward { (end - 1).min(head) } else { end.saturating_add(1) };
            if examined >= EXAMINED_MAX || bytes >= self.page_bytes_max || began.elapsed() >= LOOKING_TIME_MAX {
                let version = if matches!(request.source, PageSource::Stream(_)) { head } else { 0 };
                let next = Some(from).filter(|next| *next >= request.source.first_position());
                let (at_end, is_settled) = (next.is_none(), false);
                let messages = kept.into_iter().map(Arc::new).collect();
                return Ok(PageRead { messages, at_end, next, version, erasure, first_position, is_settled });
            }
        }
    }

    async fn read_chunk(&self, request: &PageRequest, span: Span, limit: PageLimit) -> Result<Page, StoreError> {
        let filter = &request.filter;
        match &request.source {
            PageSource::Stream(name) => self.database.messages().stream_page(name.as_str(), span, limit, filter).await,
            PageSource::Category(name, options) => {
                self.database.messages().category_page(name.as_str(), span, limit, filter, options).await
            }
            PageSource::All => {
                // Only settled messages: a later page could not come back for one that appears before them.
                let settled = self.tail.refresh().await;
                self.tail.pages().all(span, self.tail.history(), settled, limit, filter).await
            }
        }
    }

    /// A stream's version without its messages, -1 if it has none, the number of the last erasure in it, and the first
    /// position that was not trimmed.
    pub async fn stream_version(&self, name: &StreamName) -> Result<(i64, i64, i64), StoreError> {
        let version = self.database.messages().stream_version(name.as_str(), None).await?;
        // Read after the version: a page that is newer than its tag is only read once more.
        let erasure = self.database.messages().last_erasure(name.as_str()).await?;
        Ok((version, erasure, self.database.messages().first_position(name.as_str()).await?))
    }

    pub async fn message(&self, id: Uuid) -> Result<Option<Message>, StoreError> {
        self.database.messages().by_id(id).await
    }

    pub async fn last_message(
        &self,
        name: &StreamName,
        message_type: Option<&str>,
    ) -> Result<Option<Message>, StoreError> {
        self.database.messages().last(name.as_str(), message_type).await
    }

    pub async fn stream_summary(&self, name: &StreamName) -> Result<Option<StreamSummary>, StoreError> {
        self.database.messages().stream_summary(name.as_str()).await
    }
}

impl PageSource {
    /// The first position that there can be.
    fn first_position(&self) -> i64 {
        match self {
            PageSource::Stream(_) => 0,
            PageSource::All | PageSource::Category(..) => 1,
        }
    }

    fn single_stream(&self) -> Option<&str> {
        match self {
            PageSource::Stream(name) => Some(name.as_str()),
            PageSource::All | PageSource::Category(..) => None,
        }
    }

    /// Whether a filter says all that is asked of messages; else only SQL can judge them.
    fn is_judged_here(&self) -> bool {
        match self {
            PageSource::Category(_, options) => *options == CategoryOptions::default(),
            PageSource::All | PageSource::Stream(_) => true,
        }
    }

    /// The place before a position, after which nothing more was to be found up to a settled position.
    fn place_before(&self, position: i64, settled: i64, history: u64) -> Place {
        match self {
            PageSource::All | PageSource::Category(..) => Place::global(settled.max(position - 1), history),
            PageSource::Stream(_) => Place { stream_after: Some(position - 1), ..Place::global(settled, history) },
        }
    }

    fn source(&self) -> Source {
        match self {
            PageSource::All => Source::all(),
            PageSource::Category(name, _) => Source::category(name.as_str()),
            PageSource::Stream(name) => Source::stream(name.as_str()),
        }
    }
}

impl PageRequest {
    /// The database passes over what the request does not want.
    fn is_judged_in_sql(&self) -> bool {
        !self.filter.types.is_empty() || !self.source.is_judged_here()
    }

    /// The request names a position whose message was trimmed.
    pub fn is_trimmed(&self, page: &PageRead) -> bool {
        matches!(self.from, PageStart::At(from) if from < page.first_position)
    }

    /// Whether nothing can appear in a full page any more where everything up to a position is settled.
    fn is_settled_with(&self, messages: &[Message], settled: i64) -> bool {
        let begins_where_it_did = match (&self.from, &self.source) {
            (PageStart::NewestOf(_), _) => false,
            (PageStart::Default, _) => !self.backward,
            (PageStart::At(_), _) if !self.backward => true,
            // From beyond the end backward: what is appended comes first then.
            (PageStart::At(from), PageSource::Stream(_)) => {
                messages.first().is_some_and(|first| first.position == *from)
            }
            (PageStart::At(from), PageSource::All | PageSource::Category(..)) => *from <= settled,
        };
        begins_where_it_did && messages.iter().all(|message| message.global_position <= settled)
    }

    fn position_of(&self, message: &Message) -> i64 {
        match self.source {
            PageSource::Stream(_) => message.position,
            PageSource::All | PageSource::Category(..) => message.global_position,
        }
    }
}

/// Cuts a page to its limit. It was read with one message more, to know whether it is the last page.
fn finish(request: &PageRequest, begin: Option<i64>, mut page: Page, settled: i64) -> PageRead {
    let at_end = page.messages.len() <= request.limit;
    page.messages.truncate(request.limit);
    let last = page.messages.last().map(|message| request.position_of(message));
    let next = match (request.backward, at_end) {
        (true, true) => None,
        (true, false) => last.map(|last| last - 1).filter(|next| *next >= request.source.first_position()),
        // No message that passes is between the last one and the head of the same snapshot.
        (false, true) => {
            let after_last = last.map_or(0, |last| last.saturating_add(1));
            Some(page.head.saturating_add(1).max(begin.unwrap_or(0)).max(after_last))
        }
        (false, false) => last.map(|last| last.saturating_add(1)),
    };
    let version = if matches!(request.source, PageSource::Stream(_)) { page.head } else { 0 };
    let at_end = at_end || next.is_none();
    PageRead {
        is_settled: !at_end && request.is_settled_with(&page.messages, settled),
        messages: page.messages.into_iter().map(Arc::new).collect(),
        next,
        at_end,
        version,
        erasure: page.erasure,
        first_position: page.first_position,
    }
}
