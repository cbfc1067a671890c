//! Reading pages from the database: how large they are, in turns, and in time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use super::reach::Reach;
use super::{Page, Place, Trimmed};
use crate::domain::filter::Filter;
use crate::domain::keyed::Part;
use crate::domain::message::Message;
use crate::domain::scope::Readable;
use crate::domain::source::{Source, Topic};
use crate::service::replicas::{ReplicaRead, Replicas};
use crate::store::aggregated_streams::AggregatedPage;
use crate::store::read::{self, PageLimit, Span};
use crate::store::replica::ReplicaQuery;
use crate::store::subscriptions::{At, Linked};
use crate::store::{Database, StoreError};

/// A page that is not there by then is asked for again, smaller.
pub const PAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Between what a reader's pages grow and shrink.
#[derive(Debug, Clone, Copy)]
pub struct PageBounds {
    /// Messages of the first page.
    pub first: i64,
    pub messages_max: i64,
    /// Bytes of a page, but for its last message.
    pub bytes_max: usize,
}

/// How large the next page of one reader may be: it follows the messages' size.
#[derive(Debug, Clone)]
pub struct PageSizer {
    messages: i64,
    bounds: PageBounds,
}

impl PageSizer {
    pub fn new(bounds: PageBounds) -> Self {
        Self { messages: bounds.first, bounds }
    }

    /// How large the next page may be.
    pub fn limit(&self) -> PageLimit {
        PageLimit { messages: self.messages, bytes: self.bounds.bytes_max }
    }

    /// A page had so much: the next one has as many as fit by that, and twice as many as this one at most.
    pub fn saw(&mut self, messages: usize, bytes: usize) {
        let fits = self.bounds.bytes_max.saturating_mul(messages).checked_div(bytes).unwrap_or(usize::MAX) as i64;
        let most = (self.messages * 2).min(self.bounds.messages_max);
        self.messages = if fits < 0 { most } else { fits.clamp(1, most) };
    }

    /// A page was not had: what is asked for next is less.
    pub fn failed(&mut self) {
        self.messages = (self.messages / 2).max(1);
    }
}

/// Reads pages of history: in turns, so that they leave room for others, and in time. Cheap to clone.
#[derive(Clone)]
pub struct PageReader {
    database: Database,
    /// Pages of messages are read from them as far as they go.
    replicas: Replicas,
    turns: Arc<Semaphore>,
    reach: Reach,
    /// What answers in place of the database.
    #[cfg(test)]
    script: Option<super::model::Script>,
}

impl PageReader {
    pub fn new(database: Database, replicas: Replicas, at_once_max: usize) -> Self {
        let turns = Arc::new(Semaphore::new(at_once_max));
        Self {
            database,
            replicas,
            turns,
            reach: Reach::default(),
            #[cfg(test)]
            script: None,
        }
    }

    /// The same with turns of its own.
    pub fn in_turns_of(&self, at_once_max: usize) -> Self {
        Self { turns: Arc::new(Semaphore::new(at_once_max)), ..self.clone() }
    }

    #[cfg(test)]
    pub fn scripted(database: Database, at_once_max: usize, script: super::model::Script) -> Self {
        // Its logs are short: what follows a page that failed has a part of them.
        let reach = Reach::at_least(2);
        Self { script: Some(script), reach, ..Self::new(database, Replicas::none(), at_once_max) }
    }

    /// What a source has after a place, up to a settled position, or as far as one page looks. What only the service can
    /// judge is not judged.
    pub async fn messages(
        &self,
        source: &Source,
        place: Place,
        settled: i64,
        limit: PageLimit,
        filter: &Filter,
    ) -> Result<Page, StoreError> {
        // A stream is read by its own positions: how many of them there are is not known from global ones.
        if place.stream_after.is_some() {
            return self.in_turn(self.page_up_to(source, place, settled, limit, filter)).await;
        }
        let turn = self.turn().await;
        let look = self.reach.look(place.after, settled);
        let read = in_time(self.page_up_to(source, place, look.up_to, limit, filter)).await;
        drop(turn);
        match read {
            Ok(page) => {
                let is_end = page.is_end && !look.is_bounded();
                look.worked();
                Ok(Page { is_end, ..page })
            }
            Err(error) => {
                look.failed();
                Err(error)
            }
        }
    }

    async fn page_up_to(
        &self,
        source: &Source,
        place: Place,
        settled: i64,
        limit: PageLimit,
        filter: &Filter,
    ) -> Result<Page, StoreError> {
        #[cfg(test)]
        if let Some(script) = &self.script {
            let page = script.messages(source, place.position(), settled, limit, filter).await?;
            return Ok(Page::followed(page, place, settled));
        }
        if let Some(page) = self.page_of_replica(source, place, settled, limit, filter).await? {
            return Ok(page);
        }
        let page = self.database.messages().follow_page(source, place.position(), settled, limit, filter).await?;
        let page = Page::followed(page, place, settled);
        let trimmed = self.trimmed(source, place, filter, &page).await?;
        Ok(Page { trimmed, ..page })
    }

    /// The same from a replica, up to where that has replayed. `None`: it has to be read from the primary, also where
    /// messages were trimmed: what a replica still has of them is not shown.
    async fn page_of_replica(
        &self,
        source: &Source,
        place: Place,
        settled: i64,
        limit: PageLimit,
        filter: &Filter,
    ) -> Result<Option<Page>, StoreError> {
        let wanted = ReplicaQuery::After(source, place.position());
        let reading = ReplicaRead { wanted, after: place.after, history: place.history, settled, limit, filter };
        let Some((read, up_to)) = self.replicas.page(&self.database, reading).await else { return Ok(None) };
        let page = Page::followed(read.page, place, up_to);
        let is_trimmed = self.is_trimmed(source, place, page.up_to).await?;
        // After the end of what the replica has, there is more.
        let is_end = page.is_end && up_to == settled;
        Ok((!is_trimmed).then_some(Page { is_end, ..page }))
    }

    /// Whether the primary has trimmed anything between a place and a global position, whatever the reader may know of it.
    async fn is_trimmed(&self, source: &Source, place: Place, up_to: i64) -> Result<bool, StoreError> {
        let messages = self.database.messages();
        if let (Some(name), Some(after)) = (source.single_stream(), place.stream_after) {
            return Ok(messages.first_position(name).await? > after.saturating_add(1));
        }
        let everything = Source::all();
        let has_patterns = source.topics().iter().any(|topic| matches!(topic, Topic::Selected(_)));
        let source = if has_patterns { &everything } else { source };
        Ok(messages.trimmed_between(source, &Readable::All, place.after, up_to).await?.is_some())
    }

    /// What was trimmed between a place and the end of a page.
    async fn trimmed(
        &self,
        source: &Source,
        place: Place,
        filter: &Filter,
        page: &Page,
    ) -> Result<Option<Trimmed>, StoreError> {
        let messages = self.database.messages();
        let trimmed = match (source.single_stream(), place.stream_after) {
            (Some(name), Some(after)) => {
                let first = page.entries.first().map_or(i64::MAX, |first| first.message.position);
                let first_position = messages.first_position(name).await?.min(first);
                Some(Trimmed { count: first_position - after - 1, first_position })
            }
            _ => messages.trimmed_between(source, &filter.readable, place.after, page.up_to).await?,
        };
        Ok(trimmed.filter(|trimmed| trimmed.count > 0))
    }

    /// All messages in a span, up to a settled position: a full page from a replica that has replayed so far, else what the
    /// primary has.
    pub async fn all(
        &self,
        span: Span,
        history: u64,
        settled: i64,
        limit: PageLimit,
        filter: &Filter,
    ) -> Result<read::Page, StoreError> {
        let latest = if span.backward { span.from.min(settled) } else { span.from.saturating_add(limit.messages) };
        let reading = ReplicaRead {
            wanted: ReplicaQuery::All(span),
            after: latest.saturating_sub(1),
            history,
            settled,
            limit,
            filter,
        };
        if let Some((read, _)) = self.replicas.page(&self.database, reading).await
            && (read.page.is_full || span.backward)
        {
            let page = read.into_page(settled);
            let positions = page.messages.iter().map(|message| message.global_position);
            let (first, last) = (positions.clone().min().unwrap_or(0), positions.max().unwrap_or(0));
            if !self.is_trimmed(&Source::all(), Place::global(first - 1, history), last).await? {
                return Ok(page);
            }
        }
        self.database.messages().all_page(span, settled, limit, filter).await
    }

    /// What was trimmed of a part of a projection between two global positions.
    pub async fn trimmed_links(
        &self,
        projection: i64,
        part: &Part,
        after: i64,
        up_to: i64,
    ) -> Result<Option<Trimmed>, StoreError> {
        #[cfg(test)]
        if self.script.is_some() {
            return Ok(None);
        }
        in_time(self.database.aggregated_streams().trimmed_between(projection, part, after, up_to)).await
    }

    /// The messages at global positions, in order, as far as they fit, and how many of the positions were read.
    pub async fn at(&self, positions: &[i64], limit: PageLimit) -> Result<(Vec<Message>, usize), StoreError> {
        self.in_turn(self.database.messages().at(positions, limit)).await
    }

    /// The global positions of the newest messages of streams, up to a settled position.
    pub async fn newest_positions(&self, stream_names: &[String], up_to: i64) -> Result<Vec<i64>, StoreError> {
        self.in_turn(self.database.messages().newest_positions(stream_names, up_to)).await
    }

    /// Messages of an aggregated stream after a global position; `None`: there is no such stream.
    pub async fn aggregated(
        &self,
        id: i64,
        is_keyed: bool,
        part: &Part,
        after: i64,
        limit: PageLimit,
    ) -> Result<Option<AggregatedPage>, StoreError> {
        #[cfg(test)]
        if let Some(script) = &self.script {
            return self.in_turn(script.aggregated(id, part, after, limit)).await;
        }
        self.in_turn(self.database.aggregated_streams().page(id, is_keyed, part, after, limit)).await
    }

    /// What comes next in some partitions of an aggregated stream, and whether that is all.
    pub async fn partitions(
        &self,
        id: i64,
        cursors: &[At],
        limit: PageLimit,
    ) -> Result<(Vec<Linked>, bool), StoreError> {
        self.in_turn(self.database.subscriptions().partition_pages(id, cursors, limit)).await
    }

    fn in_turn<T>(
        &self,
        reading: impl Future<Output = Result<T, StoreError>>,
    ) -> impl Future<Output = Result<T, StoreError>> {
        let reading = in_time(reading);
        async {
            let _turn = self.turn().await;
            reading.await
        }
    }

    async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.turns.acquire().await.ok()
    }
}

/// A page, unless that takes too long. The reading is put on the heap: every follower's future has room for one, and most
/// of them wait without one.
pub fn in_time<T>(reading: impl Future<Output = Result<T, StoreError>>) -> impl Future<Output = Result<T, StoreError>> {
    crate::store::in_time(PAGE_TIMEOUT, "a page", Box::pin(reading))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: PageBounds = PageBounds { first: 32, messages_max: 512, bytes_max: 512 << 10 };

    fn next(sizer: &PageSizer) -> i64 {
        sizer.limit().messages
    }

    #[test]
    fn pages_of_small_messages_grow_to_a_bound() {
        let mut sizer = PageSizer::new(BOUNDS);
        let mut seen = Vec::new();
        for _ in 0..6 {
            seen.push(next(&sizer));
            sizer.saw(next(&sizer) as usize, 100 * next(&sizer) as usize);
        }
        assert_eq!(seen, [32, 64, 128, 256, 512, 512]);
    }

    #[test]
    fn pages_of_large_messages_have_as_many_as_fit_and_one_at_least() {
        let mut sizer = PageSizer::new(BOUNDS);
        sizer.saw(6, 600 << 10);
        assert_eq!(next(&sizer), 5);
        sizer.saw(1, 60 << 20);
        assert_eq!(next(&sizer), 1);
        sizer.saw(1, 300 << 10);
        assert_eq!(next(&sizer), 1);
        sizer.saw(1, 100);
        assert_eq!(next(&sizer), 2);
        sizer.saw(0, 0);
        sizer.failed();
        assert_eq!(next(&sizer), 2);
    }
}
