//! Projecting history: one projection by itself, page by page, until it has come to where the live ones are.

use std::sync::Arc;

use tokio::sync::{Semaphore, watch};

use super::feed::Feeds;
use super::round::{Projection, Round};
use crate::domain::filter::Filter;
use crate::domain::message::Message;
use crate::domain::observation::Observation;
use crate::domain::source::{SOURCE_TOPICS_MAX, Source};
use crate::service::tail::follower::in_time;
use crate::store::projector::{PastRound, RoundRows};
use crate::store::read::PageLimit;
use crate::store::{Database, StoreError};
use crate::telemetry::Observer;

/// Messages of one round: the first, and the most. Between them it follows the messages' size.
const ROUND_MESSAGES_MIN: i64 = 250;
const ROUND_MESSAGES_MAX: i64 = 4_000;
/// Bytes of a round's messages, but for the last.
const ROUND_BYTES_MAX: usize = 4 << 20;

/// What a projection that catches up needs of the projector.
#[derive(Clone)]
pub struct CatchUp {
    pub database: Database,
    pub feeds: Feeds,
    pub observer: Observer,
    /// Rounds of this kind at the same time, over all projections; they take turns.
    pub turns: Arc<Semaphore>,
    pub epoch: i64,
    /// Where the live ones are.
    pub goal: watch::Receiver<i64>,
}

/// How it ended.
#[derive(Debug)]
pub enum Ended {
    /// It has come to where the live ones were, and stands there.
    Arrived(Projection, i64),
    /// It was stopped, paused, deleted, or another instance has taken over.
    Elsewhere(i64),
    /// The database failed.
    Failed(i64, StoreError),
}

impl CatchUp {
    pub async fn run(mut self, mut projection: Projection, position: i64) -> Ended {
        match self.project(&mut projection, position).await {
            Ok(Some(position)) => Ended::Arrived(projection, position),
            Ok(None) => Ended::Elsewhere(projection.id),
            Err(error) => Ended::Failed(projection.id, error),
        }
    }

    async fn project(&mut self, projection: &mut Projection, mut position: i64) -> Result<Option<i64>, StoreError> {
        // After a take-over the live ones may stand before it: what they stood at is kept less often.
        let _ = self.goal.wait_for(|goal| *goal >= position).await;
        let mut limit = ROUND_MESSAGES_MIN;
        let mut page = self.read(projection, position, limit).await?;
        loop {
            let round = Round::of([&mut *projection], &page.messages);
            let upto = round.stopped.first().map_or(page.upto, |stopped| stopped.position);
            let bytes: usize = page.messages.iter().map(|message| message.memory_bytes()).sum();
            let fits = if bytes > ROUND_BYTES_MAX { page.messages.len() as i64 / 2 } else { limit * 2 };
            limit = fits.clamp(1, ROUND_MESSAGES_MAX);
            // The next page is read while this one is written.
            let (written, next) = tokio::join!(
                self.write(projection.id, position, upto, &round.rows),
                self.read(projection, page.upto, limit)
            );
            if !written? {
                return Ok(None);
            }
            if let Some(stopped) = round.stopped.into_iter().next() {
                let name = projection.name.to_string();
                self.observer.record(Observation::ProjectionStopped { name, reason: stopped.reason });
                return Ok(None);
            }
            position = upto;
            self.observer.record(Observation::Projected { messages: round.rows.projections.len(), live: false });
            if projection.is_current {
                self.feeds.caught_up_to(projection.aggregated_stream_id, position);
            }
            if page.is_last && position >= *self.goal.borrow() {
                return Ok(Some(position));
            }
            page = next?;
        }
    }

    /// The last steps, up to where the live ones stand at this moment, while they wait.
    pub async fn finish(&mut self, projection: &mut Projection, from: i64) -> Result<Option<i64>, StoreError> {
        if from >= *self.goal.borrow() { Ok(Some(from)) } else { self.project(projection, from).await }
    }

    async fn write(&self, id: i64, from: i64, upto: i64, rows: &RoundRows) -> Result<bool, StoreError> {
        self.database.project_past(self.epoch, PastRound { projection_id: id, from, upto, rows }).await
    }

    async fn read(&self, projection: &Projection, after: i64, limit: i64) -> Result<Page, StoreError> {
        let goal = *self.goal.borrow();
        if after >= goal {
            return Ok(Page { messages: Vec::new(), upto: after, is_last: true });
        }
        let types = projection.aggregation.definition().types.as_slice().into();
        let filter = Filter { types, ..Filter::default() };
        let _turn = self.turns.acquire().await;
        let source = source_of(projection);
        let limit = PageLimit { messages: limit, bytes: ROUND_BYTES_MAX };
        let page = in_time(self.database.follow_page(&source, after, goal, limit, &filter)).await?;
        let (messages, is_last) = (page.messages, !page.is_full);
        let upto = if is_last { goal } else { messages.last().map_or(goal, |last| last.global_position) };
        Ok(Page { messages: messages.into_iter().map(Arc::new).collect(), upto, is_last })
    }
}

struct Page {
    messages: Vec<Arc<Message>>,
    upto: i64,
    is_last: bool,
}

/// Where its messages are read: in their categories, if those are known.
fn source_of(projection: &Projection) -> Source {
    let categories = projection.aggregation.streams().categories();
    categories
        .filter(|categories| categories.len() <= SOURCE_TOPICS_MAX)
        .and_then(|categories| Source::several(&[], &categories))
        .unwrap_or_else(Source::all)
}
