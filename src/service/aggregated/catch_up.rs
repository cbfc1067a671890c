//! Projecting history: one projection by itself, page by page, until it has come to where the live ones are.

use std::sync::Arc;

use tokio::sync::watch;

use super::feed::Feeds;
use super::round::{Projection, Round};
use crate::domain::filter::Filter;
use crate::domain::message::Message;
use crate::domain::observation::Observation;
use crate::domain::source::{SOURCE_TOPICS_MAX, Source};
use crate::service::log::pages::{PageBounds, PageReader, PageSizer};
use crate::service::log::{Page, Place};
use crate::store::projector::{PastRound, RoundRows};
use crate::store::{Database, StoreError};
use crate::telemetry::Observer;

/// The messages of one round.
const PAGES: PageBounds = PageBounds { first: 250, messages_max: 4_000, bytes_max: 4 << 20 };

/// What a projection that catches up needs of the projector.
#[derive(Clone)]
pub struct CatchUp {
    pub database: Database,
    pub feeds: Feeds,
    pub observer: Observer,
    /// All projections that catch up take turns with it.
    pub pages: PageReader,
    pub epoch: i64,
    /// The log that it projects.
    pub history: u64,
    /// Where the live ones are.
    pub goal: watch::Receiver<i64>,
}

/// How it ended.
#[derive(Debug)]
pub enum Ended {
    /// It has come to the position of the live ones, and waits there.
    Arrived(Projection, i64),
    /// It was stopped, paused, deleted, or another instance has taken over.
    Superseded(i64),
    /// The database failed.
    Failed(i64, StoreError),
}

impl CatchUp {
    pub async fn run(mut self, mut projection: Projection, position: i64) -> Ended {
        match self.project(&mut projection, position).await {
            Ok(Some(position)) => Ended::Arrived(projection, position),
            Ok(None) => Ended::Superseded(projection.id),
            Err(error) => Ended::Failed(projection.id, error),
        }
    }

    async fn project(&mut self, projection: &mut Projection, mut position: i64) -> Result<Option<i64>, StoreError> {
        // After a take-over the live ones may be behind it: their position is kept less often.
        let _ = self.goal.wait_for(|goal| *goal >= position).await;
        let mut pages = PageSizer::new(PAGES);
        let mut page = self.read(projection, position, &pages).await?;
        loop {
            let messages: Vec<Arc<Message>> = page.entries.into_iter().map(|entry| entry.message).collect();
            let round = Round::of([&mut *projection], &messages);
            let projected = round.messages_placed();
            let up_to = round.stopped.first().map_or(page.up_to, |stopped| stopped.position);
            pages.saw(messages.len(), messages.iter().map(|message| message.memory_bytes()).sum());
            // The next page is read while this one is written.
            let (written, next) = tokio::join!(
                self.write(projection.id, position, up_to, &round.rows),
                self.read(projection, page.up_to, &pages)
            );
            if !written? {
                return Ok(None);
            }
            if let Some(stopped) = round.stopped.into_iter().next() {
                let name = projection.name.to_string();
                self.observer.record(Observation::ProjectionStopped { name, reason: stopped.reason });
                return Ok(None);
            }
            position = up_to;
            self.observer.record(Observation::Projected { messages: projected, live: false });
            if projection.is_current {
                self.feeds.caught_up_to(self.history, projection.aggregated_stream_id, position);
            }
            if page.is_end && position >= *self.goal.borrow() {
                return Ok(Some(position));
            }
            page = next?;
        }
    }

    /// The last steps, up to the position of the live ones at this moment, while they wait.
    pub async fn finish(&mut self, projection: &mut Projection, from: i64) -> Result<Option<i64>, StoreError> {
        if from >= *self.goal.borrow() { Ok(Some(from)) } else { self.project(projection, from).await }
    }

    async fn write(&self, id: i64, from: i64, up_to: i64, rows: &RoundRows) -> Result<bool, StoreError> {
        self.database
            .aggregated_streams()
            .project_past(self.epoch, PastRound { projection_id: id, from, up_to, rows })
            .await
    }

    async fn read(&self, projection: &Projection, after: i64, pages: &PageSizer) -> Result<Page, StoreError> {
        let goal = *self.goal.borrow();
        if after >= goal {
            return Ok(Page { entries: Vec::new(), up_to: after, check: None, is_end: true, trimmed: None });
        }
        let types = projection.aggregation.definition().types.as_slice().into();
        let filter = Filter { types, ..Filter::default() };
        let place = Place::global(after, self.history);
        self.pages.messages(&source_of(projection), place, goal, pages.limit(), &filter).await
    }
}

/// Where its messages are read: in their categories, if those are known.
fn source_of(projection: &Projection) -> Source {
    let categories = projection.aggregation.streams().categories();
    categories
        .filter(|categories| categories.len() <= SOURCE_TOPICS_MAX)
        .and_then(|categories| Source::several(&[], &categories))
        .unwrap_or_else(Source::all)
}
