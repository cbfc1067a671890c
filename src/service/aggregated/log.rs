//! An aggregated stream as a log: a place in it is a global position, for any set of its partitions.

use std::sync::Arc;

use tokio::sync::watch;

use super::feed::{FeedMember, Feeds, ProgressInterest};
use crate::domain::keyed::Part;
use crate::service::log::{Entry, Page, Place, Read};
use crate::service::tail::Tail;
use crate::store::StoreError;
use crate::store::read::PageLimit;

/// An aggregated stream, or a part of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AggregatedSource {
    pub id: i64,
    pub name: Arc<str>,
    pub is_keyed: bool,
    pub part: Part,
}

/// The log of an aggregated stream.
pub struct AggregatedLog {
    source: AggregatedSource,
    feeds: Feeds,
    member: FeedMember,
    tail: Tail,
    histories: watch::Receiver<u64>,
    /// Steps forward are waited for, also those without a message.
    progress: Option<ProgressInterest>,
}

impl AggregatedLog {
    pub fn new(feeds: &Feeds, tail: &Tail, source: AggregatedSource, with_progress: bool) -> Self {
        Self {
            feeds: feeds.clone(),
            member: feeds.join(source.id),
            tail: tail.clone(),
            histories: tail.histories(),
            progress: with_progress.then(|| feeds.register_progress_interest()),
            source,
        }
    }

    pub fn source(&self) -> &AggregatedSource {
        &self.source
    }

    /// The same log, joined once more.
    pub fn again(&self) -> Self {
        Self::new(&self.feeds, &self.tail, self.source.clone(), self.progress.is_some())
    }

    /// Whether it has other followers here.
    pub fn has_company(&self) -> bool {
        self.feeds.followers(self.source.id) > 1
    }

    /// What is in memory after a place.
    pub fn newest(&self, place: Place, limit: PageLimit) -> Read {
        if self.tail.history() != place.history {
            return Read::HistoryChanged;
        }
        let AggregatedSource { id, name, part, .. } = &self.source;
        self.recognised(self.feeds.newest((*id, name), part, place, limit))
    }

    /// What is in the database after a place.
    pub async fn page(&self, place: Place, limit: PageLimit) -> Result<Read, StoreError> {
        let AggregatedSource { id, name, is_keyed, part } = &self.source;
        let history_number = self.tail.history_number();
        // Asked before the page is read, so the page has all of it, unless PostgreSQL has lost some.
        let known = self.feeds.known_in(place.history, *id);
        let page = self.tail.pages().aggregated(*id, *is_keyed, part, place.after, limit).await?;
        // Another instance may have found the log that is there now before this one.
        let is_of_another_log = page.as_ref().is_some_and(|page| page.history_number != history_number);
        if is_of_another_log || self.tail.history() != place.history {
            return Ok(Read::HistoryChanged);
        }
        let Some(page) = page else {
            self.feeds.deleted(place.history, *id);
            return Ok(Read::Deleted);
        };
        self.feeds.saw(place.history, *id, known, &page);
        let up_to = page.more_after.unwrap_or(known.or(page.projected_position)).max(place.after);
        let entries: Vec<_> = page.messages.into_iter().map(|one| Entry::aggregated(name, one)).collect();
        let is_end = page.more_after.is_none() && !page.is_catching_up;
        let trimmed = self.tail.pages().trimmed_links(page.projection_id, part, place.after, up_to).await?;
        Ok(self.recognised(Read::Page(Page { entries, up_to, check: None, is_end, trimmed })))
    }

    /// Waits until there may be something new.
    pub async fn changed(&mut self) {
        let Self { member, progress, histories, .. } = self;
        let changed = async {
            match progress {
                Some(_) => member.progressed().await,
                None => member.changed().await,
            }
        };
        tokio::select! {
            () = changed => {}
            _ = histories.changed() => {}
        }
    }

    /// With what the message at the end of a page is recognised by, if that is known.
    fn recognised(&self, read: Read) -> Read {
        match read {
            Read::Page(page) => Read::Page(Page { check: self.tail.check_at(page.up_to), ..page }),
            read => read,
        }
    }
}
