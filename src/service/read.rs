//! Reads pages and single messages, and finds the place where a follower begins.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::counting::Counting;
use super::log::Place;
use super::log::pages::{PageBounds, PageSizer};
use super::long_poll::LongPoll;
use super::tail::Tail;
use crate::domain::event_id::{Check, EventId};
use crate::domain::filter::Filter;
use crate::domain::message::Message;
use crate::domain::source::Source;
use crate::domain::stream_name::{Category, StreamName};
use crate::domain::time::Timestamp;
pub use crate::store::read::CategoryOptions;
use crate::store::read::{Page, PageLimit, Span, StreamSummary};
use crate::store::{Database, StoreError};

/// How many messages one request may look at for what only the service can judge. After these the page ends, and names where to go on.
pub(super) const EXAMINED_MAX: usize = 10_000;
/// The bounds of one read of that kind, which looks at messages in memory.
pub(super) const EXAMINED_AT_ONCE: PageBounds = PageBounds { first: 500, messages_max: 500, bytes_max: 4 << 20 };

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
    pub messages: Vec<Message>,
    /// The value to pass as `from` for what follows; `None` if nothing can follow (the beginning, backward).
    pub next: Option<i64>,
    pub at_end: bool,
    /// The stream's last position, -1 for none; 0 for other logs.
    pub version: i64,
    /// The number of the last erasure in the stream, 0 for none.
    pub erasure: i64,
    /// The first position of the stream that was not trimmed, 0 if none was.
    pub first_position: i64,
}

/// Where a follower begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// After a cursor, which is the id of an earlier event.
    After(EventId),
    /// At a position, inclusive: in the stream for a single stream, otherwise global.
    At(i64),
    Beginning,
    End,
    AtTime(Timestamp),
    /// At the end, after the newest message of each stream.
    LatestOfEach,
}

/// Why a place cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Another message is at the cursor's position than the cursor names, or the cursor is beyond the end; or the log went
    /// back meanwhile.
    #[error(
        "the history of the log has changed: position {position} is one of an earlier log, and the log ends at {head} now"
    )]
    HistoryChanged { position: i64, head: i64 },
    #[error(transparent)]
    Store(#[from] StoreError),
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
        let mut log = (!request.wait.is_zero()).then(|| self.tail.join(&request.source.source()));
        let poll = LongPoll::new(&self.tail, &self.draining, request.wait);
        let mut from = self.first_position(request).await?;
        loop {
            let page = self.read_page(request, from).await?;
            if request.is_trimmed(&page) {
                return Ok(page);
            }
            let Some(log) = log.as_mut().filter(|_| page.messages.is_empty() && !request.backward) else {
                return Ok(page);
            };
            let position = from.unwrap_or(0);
            let is_over = if page.at_end { !poll.wait_in_log(log.changed(), position).await? } else { poll.is_over() };
            if is_over {
                return Ok(page);
            }
            // Messages that did not pass the filter need not be looked at again.
            from = page.next.or(from);
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
        let (mut examined, mut bytes) = (0, 0);
        let mut kept = Vec::new();
        loop {
            let room = self.page_bytes_max.saturating_sub(bytes);
            let limit = match filter.is_of_columns() {
                true => PageLimit { messages: (wanted - kept.len()) as i64, bytes: room },
                false => PageLimit { bytes: pages.limit().bytes.min(room), ..pages.limit() },
            };
            let (span, is_last_span) = spans.next(from, request.backward);
            let mut page = self.read_chunk(request, span, limit).await?;
            let is_end_of_span = (page.messages.len() as i64) < limit.messages && !page.is_cut;
            let last = page.messages.last().map(|message| request.position_of(message));
            let read: usize = page.messages.iter().map(|message| message.json().len()).sum();
            pages.saw(page.messages.len(), read);
            (examined, bytes) = (examined + page.messages.len(), bytes + read);
            let (head, erasure, first_position) = (page.head, page.erasure, page.first_position);
            page.messages.retain(|message| filter.judge(message));
            kept.append(&mut page.messages);
            if is_end_of_span && is_last_span || kept.len() > request.limit {
                return Ok(finish(
                    request,
                    begin,
                    Page { messages: kept, head, erasure, first_position, is_cut: false },
                ));
            }
            // A page that ended before the end of the span has messages.
            let end = last.filter(|_| !is_end_of_span).unwrap_or(span.to);
            from = if request.backward { end - 1 } else { end.saturating_add(1) };
            if examined >= EXAMINED_MAX || bytes >= self.page_bytes_max {
                let version = if matches!(request.source, PageSource::Stream(_)) { head } else { 0 };
                let next = Some(from).filter(|next| *next >= request.source.first_position());
                return Ok(PageRead { messages: kept, at_end: next.is_none(), next, version, erasure, first_position });
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
                self.database.messages().all_page(span, settled, limit, filter).await
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

    /// The place in a source where a follower begins.
    pub async fn place(&self, source: &Source, start: Start) -> Result<Place, PlaceError> {
        // Everything that is committed by now is to be found, so the tail looks once more.
        self.tail.refresh().await;
        let begin = Place::global(0, self.tail.history());
        match source.single_stream() {
            Some(name) => self.place_in_stream(name, start, begin).await,
            None => self.place_in_log(source, start, begin).await,
        }
    }

    async fn place_in_log(&self, source: &Source, start: Start, begin: Place) -> Result<Place, PlaceError> {
        let (after, check) = match start {
            Start::After(cursor) => {
                let found = self.database.messages().id_at(cursor.position).await?;
                let end = self.end_at_least(cursor.position).await?;
                (cursor.position, checked(cursor, found, end)?)
            }
            Start::At(position) => (position.saturating_sub(1).max(0), None),
            Start::Beginning => (0, None),
            Start::End | Start::LatestOfEach => {
                let after = self.tail.refresh().await;
                (after, self.database.messages().id_at(after).await?.map(Check::of))
            }
            Start::AtTime(time) => {
                // A message that is not settled may still appear before the first one that is visible now.
                let settled = self.tail.refresh().await;
                let messages = self.database.messages();
                let first = settled.min(messages.first_global_position_at(time).await? - 1);
                // From there on other sources have messages of that time, this one perhaps later.
                let filter = Filter { from_time: Some(time), ..Filter::default() };
                let page = messages.follow_page(source, first, settled, PageLimit::ONE, &filter).await?;
                (page.messages.first().map_or(settled, |message| message.global_position - 1), None)
            }
        };
        Ok(Place { after, check, ..begin })
    }

    /// Whether a place is beyond the end of its source, so that it cannot be a client's cursor yet.
    pub async fn is_beyond_end(&self, source: &Source, place: Place) -> Result<bool, StoreError> {
        match (source.single_stream(), place.stream_after) {
            (Some(name), Some(after)) => Ok(after > self.database.messages().stream_version(name, None).await?),
            _ => Ok(place.after > self.end_at_least(place.after).await?),
        }
    }

    /// The place in a single stream, whose cursors are positions in it. The global position before it is found by reading.
    async fn place_in_stream(&self, name: &str, start: Start, begin: Place) -> Result<Place, PlaceError> {
        let (after, stream_after, check) = match start {
            Start::After(cursor) => {
                let found = self.database.messages().id_in_stream(name, cursor.position).await?;
                let end = self.database.messages().stream_version(name, None).await?;
                (0, cursor.position, checked(cursor, found, end)?)
            }
            Start::At(position) => (0, position.saturating_sub(1).max(-1), None),
            Start::Beginning => (0, -1, None),
            Start::End | Start::LatestOfEach => {
                let settled = self.tail.refresh().await;
                let end = self.database.messages().stream_version(name, Some(settled)).await?;
                (settled, end, self.database.messages().id_in_stream(name, end).await?.map(Check::of))
            }
            Start::AtTime(time) => {
                let messages = self.database.messages();
                let first = messages.first_global_position_at(time).await?;
                let span = Span::forward(messages.first_position_after(name, first - 1).await?);
                let filter = Filter { from_time: Some(time), ..Filter::default() };
                let page = messages.stream_page(name, span, PageLimit::ONE, &filter).await?;
                (0, page.messages.first().map_or(page.head, |message| message.position - 1), None)
            }
        };
        Ok(Place { after, stream_after: Some(stream_after), check, ..begin })
    }

    /// The end of the log. It is looked up only if the settled position known here is before the cursor, which another
    /// instance may have given out.
    async fn end_at_least(&self, cursor: i64) -> Result<i64, StoreError> {
        let settled = self.tail.settled();
        if cursor <= settled { Ok(settled) } else { self.database.messages().last_position_given().await }
    }
}

/// The check of the message at a cursor, if the log is still the one that the cursor came from. A position without a message
/// (trimmed, erased, a hole) proves nothing.
fn checked(cursor: EventId, found: Option<Uuid>, head: i64) -> Result<Option<Check>, PlaceError> {
    let position = cursor.position;
    if position > head || cursor.names_another_than(found) {
        return Err(PlaceError::HistoryChanged { position, head });
    }
    Ok(found.map(Check::of))
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

    fn source(&self) -> Source {
        match self {
            PageSource::All => Source::all(),
            PageSource::Category(name, _) => Source::category(name.as_str()),
            PageSource::Stream(name) => Source::stream(name.as_str()),
        }
    }
}

impl PageRequest {
    /// The request names a position whose message was trimmed.
    pub fn is_trimmed(&self, page: &PageRead) -> bool {
        matches!(self.from, PageStart::At(from) if from < page.first_position)
    }

    fn position_of(&self, message: &Message) -> i64 {
        match self.source {
            PageSource::Stream(_) => message.position,
            PageSource::All | PageSource::Category(..) => message.global_position,
        }
    }
}

/// Cuts a page to its limit. It was read with one message more, to know whether it is the last page.
fn finish(request: &PageRequest, begin: Option<i64>, mut page: Page) -> PageRead {
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
    PageRead {
        messages: page.messages,
        next,
        at_end: at_end || next.is_none(),
        version,
        erasure: page.erasure,
        first_position: page.first_position,
    }
}
