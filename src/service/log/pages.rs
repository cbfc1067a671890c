//! Reading pages from the database: how large they are, in turns, and in time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::{Page, Place, Trimmed};
use crate::domain::filter::Filter;
use crate::domain::keyed::Part;
use crate::domain::message::Message;
use crate::domain::source::Source;
use crate::store::aggregated_streams::AggregatedPage;
use crate::store::read::PageLimit;
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
    turns: Arc<Semaphore>,
    /// What answers in place of the database.
    #[cfg(test)]
    script: Option<super::model::Script>,
}

impl PageReader {
    pub fn new(database: Database, at_once_max: usize) -> Self {
        let turns = Arc::new(Semaphore::new(at_once_max));
        Self {
            database,
            turns,
            #[cfg(test)]
            script: None,
        }
    }

    #[cfg(test)]
    pub fn scripted(database: Database, at_once_max: usize, script: super::model::Script) -> Self {
        Self { script: Some(script), ..Self::new(database, at_once_max) }
    }

    /// What a source has after a place, up to a settled position. What only the service can judge is not judged.
    pub async fn messages(
        &self,
        source: &Source,
        place: Place,
        settled: i64,
        limit: PageLimit,
        filter: &Filter,
    ) -> Result<Page, StoreError> {
        #[cfg(test)]
        if let Some(script) = &self.script {
            let reading = script.messages(source, place.position(), settled, limit, filter);
            return Ok(Page::followed(self.in_turn(reading).await?, place, settled));
        }
        let reading = async {
            let messages = self.database.messages();
            let page = messages.follow_page(source, place.position(), settled, limit, filter).await?;
            let page = Page::followed(page, place, settled);
            let trimmed = match (source.single_stream(), place.stream_after) {
                (Some(name), Some(after)) => {
                    let first = page.entries.first().map_or(i64::MAX, |first| first.message.position);
                    let first_position = messages.first_position(name).await?.min(first);
                    Some(Trimmed { count: first_position - after - 1, first_position })
                }
                _ => messages.trimmed_between(source, &filter.readable, place.after, page.up_to).await?,
            };
            Ok(Page { trimmed: trimmed.filter(|trimmed| trimmed.count > 0), ..page })
        };
        self.in_turn(reading).await
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

    async fn in_turn<T>(&self, reading: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        // It is never closed.
        let _turn = self.turns.acquire().await;
        in_time(reading).await
    }
}

/// A page, unless that takes too long.
pub async fn in_time<T>(reading: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let too_slow = |_| StoreError::Unavailable("a page took too long".into());
    tokio::time::timeout(PAGE_TIMEOUT, reading).await.map_err(too_slow)?
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
