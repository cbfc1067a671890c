//! The projector while it has the lease: rounds of the live projections.

mod joining;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::catch_up::Ended;
use super::projector::Projector;
use super::round::{Projection, Round};
use crate::domain::aggregated_stream::{Aggregation, Definition};
use crate::domain::filter::Filter;
use crate::domain::message::Message;
use crate::domain::observation::Observation;
use crate::domain::selection::Selections;
use crate::domain::source::Source;
use crate::service::back_off::BackOff;
use crate::service::log::Place;
use crate::service::log::cursor::Next;
use crate::service::log::follower::Follower;
use crate::service::log::pages::PageReader;
use crate::store::projector::{Lease, RoundAnswer, RoundRows, StoredProjection};
use crate::store::{Session, StoreError};

/// Messages of one live round.
const ROUND_MESSAGES_MAX: usize = 1_000;
/// How often progress without a message is kept.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// The same while somebody waits for it.
const WISHED_INTERVAL: Duration = Duration::from_millis(5);
/// A projection whose database failed, or that stood elsewhere, is looked at again after this.
const RELOAD_PAUSE: Duration = Duration::from_millis(100);
/// How often rows that nobody reads any more are deleted, and how many at once.
const PURGE_INTERVAL: Duration = Duration::from_secs(1);
const PURGE_ROWS: i32 = 10_000;

/// Why it does not project any more.
pub enum LeadershipLost {
    Fenced,
    Store(StoreError),
}

impl From<StoreError> for LeadershipLost {
    fn from(error: StoreError) -> Self {
        LeadershipLost::Store(error)
    }
}

/// The projector while it has the lease.
pub struct ProjectorTerm<'a> {
    projector: &'a Projector,
    session: &'a Session,
    lease: Lease,
    live: HashMap<i64, Projection>,
    catching_up: JoinSet<Ended>,
    /// Those that are catching up, by projection.
    past: HashSet<i64>,
    goal: watch::Sender<i64>,
    pages: PageReader,
    /// The log that it projects.
    history: u64,
    /// `None` while there is nothing that anybody selects.
    follower: Option<Follower>,
    /// All live projections are projected up to here.
    position: i64,
    kept: (i64, Instant),
    purging: (Option<JoinHandle<()>>, Instant),
    reload_at: Option<Instant>,
    /// Of the projections that catch up, over all.
    back_off: BackOff,
    /// What is followed has changed since the last round, so there may be something at once.
    is_fresh: bool,
}

impl<'a> ProjectorTerm<'a> {
    pub fn new(projector: &'a Projector, session: &'a Session, lease: Lease) -> Self {
        Self {
            projector,
            session,
            lease,
            live: HashMap::new(),
            catching_up: JoinSet::new(),
            past: HashSet::new(),
            goal: watch::Sender::new(lease.live_position),
            pages: projector.tail.pages().in_turns_of(projector.settings.catch_ups_max),
            history: projector.tail.history(),
            follower: None,
            position: lease.live_position,
            kept: (lease.live_position, Instant::now()),
            purging: (None, Instant::now()),
            reload_at: Some(Instant::now()),
            back_off: BackOff::new("projector", projector.observer.clone()),
            is_fresh: true,
        }
    }

    pub async fn lead(mut self, stopping: &CancellationToken) -> Result<(), LeadershipLost> {
        while !stopping.is_cancelled() {
            self.check_log()?;
            if self.reload_at.is_some_and(|at| Instant::now() >= at) {
                self.reload().await?;
            }
            self.is_fresh = false;
            let idle = self.round(stopping).await?;
            self.keep().await?;
            // Also under a load that never lets it wait.
            while let Some(ended) = self.catching_up.try_join_next() {
                self.joined(ended).await?;
            }
            if idle && !self.is_fresh {
                self.wait(stopping).await?;
            }
        }
        self.project(self.position, &mut Round::default()).await?;
        Ok(())
    }

    /// The log went back: what it knows is of one that is gone, so it takes the lease anew.
    fn check_log(&self) -> Result<(), LeadershipLost> {
        if self.projector.tail.history() == self.history { Ok(()) } else { Err(LeadershipLost::Fenced) }
    }

    /// Reads which projections there are, and their positions.
    async fn reload(&mut self) -> Result<(), LeadershipLost> {
        self.reload_at = None;
        let stored = self.read_projections().await?;
        self.live.clear();
        if !stored.iter().any(|stored| stored.is_live) {
            // Nothing is projected up to here, so nothing is left out by looking at the end alone: as it is now, so
            // that what is history already is not taken for news.
            let settled = self.projector.tail.refresh().await;
            // Nothing of the log that is there now is to be taken for projected.
            self.check_log()?;
            self.moved_to(settled, Round::default());
        }
        for stored in stored {
            let (is_live, position) = (stored.is_live, stored.projected_position);
            let name = stored.name.clone();
            let projection = match compiled(stored) {
                Ok(projection) => projection,
                Err(reason) => {
                    self.projector.observer.record(Observation::ProjectionStopped { name, reason });
                    continue;
                }
            };
            if is_live {
                self.live.insert(projection.id, projection);
            } else if self.past.insert(projection.id) {
                self.catching_up.spawn(self.catch_up().run(projection, position));
            }
        }
        self.follow_anew();
        Ok(())
    }

    /// The projections that may go on. One that a newer version has defined, in words that this one does not know, is
    /// left to it: it stays where it is, because the live ones go on without it.
    async fn read_projections(&mut self) -> Result<Vec<StoredProjection>, LeadershipLost> {
        loop {
            let (generation, stored) = self.session.projections().await?;
            self.lease.generation = generation;
            let unknown = stored.iter().filter(|stored| stored.is_live && aggregation(stored).is_err());
            let unknown: Vec<i64> = unknown.map(|stored| stored.id).collect();
            if unknown.is_empty() {
                return Ok(stored);
            }
            let rows = RoundRows {
                stopped_positions: vec![self.position; unknown.len()],
                stopped_errors: vec![None; unknown.len()],
                stopped_projections: unknown,
                ..RoundRows::default()
            };
            let lasting = self.projector.settings.lease;
            let (answer, _) = self.session.project_live(self.lease, lasting, self.position, &rows).await?;
            if answer == RoundAnswer::Fenced {
                return Err(LeadershipLost::Fenced);
            }
        }
    }

    /// Follows what the live projections select, from where they are.
    fn follow_anew(&mut self) {
        let selections = self.live.values().map(|live| {
            let aggregation = &live.aggregation;
            (aggregation.streams(), aggregation.definition().types.as_slice())
        });
        let selections = Selections::new(selections);
        let place = Place::global(self.position, self.projector.tail.history());
        let follow = |selections| self.projector.tail.follow(&Source::selected(selections), place, Filter::default());
        self.follower = Some(selections).filter(|selections| !selections.is_empty()).map(follow);
        self.is_fresh = true;
        let live = self.live.values().filter(|live| live.is_current).map(|live| live.aggregated_stream_id);
        self.projector.feeds.lead(self.history, live.collect(), self.position, self.kept.0);
    }

    /// Projects what there is, and says whether there was nothing.
    async fn round(&mut self, stopping: &CancellationToken) -> Result<bool, LeadershipLost> {
        let (messages, up_to, idle) = self.gather(stopping).await?;
        let mut round = Round::of(self.live.values_mut(), &messages);
        if round.is_empty() {
            self.moved_to(up_to, round);
            return Ok(idle);
        }
        if self.project(up_to, &mut round).await? {
            self.projector.observer.record(Observation::Projected { messages: round.messages_placed(), live: true });
            for stopped in &round.stopped {
                if let Some(projection) = self.live.remove(&stopped.projection_id) {
                    let (name, reason) = (projection.name.to_string(), stopped.reason.clone());
                    self.projector.observer.record(Observation::ProjectionStopped { name, reason });
                }
            }
            let some_stopped = !round.stopped.is_empty();
            self.moved_to(up_to, round);
            self.projector.signals.projected();
            if some_stopped {
                self.follow_anew();
            }
        }
        Ok(idle)
    }

    /// The messages that are there now, up to a position, and whether these are all.
    async fn gather(&mut self, stopping: &CancellationToken) -> Result<(Vec<Arc<Message>>, i64, bool), StoreError> {
        let Some(follower) = &mut self.follower else {
            return Ok((Vec::new(), self.position.max(self.projector.tail.settled()), true));
        };
        let mut gathered = Vec::new();
        while gathered.len() < ROUND_MESSAGES_MAX {
            let next = match follower.advance() {
                // What was gathered need not wait for a page.
                Next::NeedsPage if !gathered.is_empty() => break,
                Next::NeedsPage => tokio::select! {
                    next = follower.read_page() => next,
                    () = stopping.cancelled() => return Ok((gathered, follower.place().after, true)),
                },
                next => next,
            };
            match next {
                Next::Messages(entries) | Next::Trimmed(_, entries) => {
                    gathered.extend(entries.into_iter().map(|entry| entry.message));
                }
                Next::Idle | Next::Deleted | Next::HistoryChanged => {
                    return Ok((gathered, follower.place().after, true));
                }
                Next::Failed(error) => return Err(error),
                Next::NeedsPage | Next::Moved | Next::CaughtUp | Next::FellBehind => {}
            }
        }
        Ok((gathered, follower.place().after, false))
    }

    /// Writes a round. `false`: a definition or a state has changed, and it has to be made again.
    async fn project(&mut self, up_to: i64, round: &mut Round) -> Result<bool, LeadershipLost> {
        let lasting = self.projector.settings.lease;
        let (answer, places) = self.session.project_live(self.lease, lasting, up_to, &round.rows).await?;
        match answer {
            RoundAnswer::Projected => {
                round.number(places);
                self.kept = (up_to, Instant::now());
                self.projector.feeds.wrote(self.history, up_to);
                Ok(true)
            }
            RoundAnswer::Fenced => Err(LeadershipLost::Fenced),
            RoundAnswer::Changed | RoundAnswer::Stale => {
                // The counts in memory have moved on without being written, and the follower too.
                self.reload().await?;
                Ok(false)
            }
        }
    }

    fn moved_to(&mut self, up_to: i64, round: Round) {
        if up_to > self.position {
            self.position = up_to;
            self.goal.send_replace(up_to);
            let stopped = round.stopped.iter().map(|one| (one.aggregated_stream_id, one.position)).collect();
            self.projector.feeds.projected(self.history, up_to, round.messages, &stopped);
        }
    }

    /// Keeps the lease, and progress without a message.
    async fn keep(&mut self) -> Result<(), LeadershipLost> {
        let since = self.kept.1.elapsed();
        let is_due = self.position > self.kept.0 && !self.live.is_empty() && since >= self.progress_interval();
        if is_due || since >= self.projector.settings.lease / 3 {
            self.project(self.position, &mut Round::default()).await?;
            if is_due {
                // Readers that merge sources on other instances wait for progress as such.
                self.projector.signals.projected();
            }
        }
        self.purge();
        Ok(())
    }

    /// Deletes what nobody reads any more, beside all else.
    fn purge(&mut self) {
        let (purging, since) = &mut self.purging;
        if since.elapsed() < PURGE_INTERVAL || purging.as_ref().is_some_and(|purging| !purging.is_finished()) {
            return;
        }
        *since = Instant::now();
        let database = self.projector.database.clone();
        *purging = Some(tokio::spawn(async move {
            // What fails now is done at one of the next times.
            while let Ok(1..) = database.aggregated_streams().purge(PURGE_ROWS).await {}
        }));
    }

    fn progress_interval(&self) -> Duration {
        if self.projector.feeds.is_progress_awaited() { WISHED_INTERVAL } else { PROGRESS_INTERVAL }
    }

    async fn wait(&mut self, stopping: &CancellationToken) -> Result<(), LeadershipLost> {
        let feeds = self.projector.feeds.clone();
        let interval = self.progress_interval();
        let changed = async {
            match &mut self.follower {
                Some(follower) => follower.changed().await,
                None => std::future::pending().await,
            }
        };
        let mut histories = self.projector.tail.histories();
        tokio::select! {
            () = stopping.cancelled() => {}
            _ = histories.changed() => {}
            () = changed => {}
            () = self.projector.handle.reload.notified() => self.reload_at = Some(Instant::now()),
            () = feeds.interest_registered() => {}
            Some(ended) = self.catching_up.join_next() => self.joined(ended).await?,
            () = tokio::time::sleep(interval) => {}
        }
        Ok(())
    }
}

fn aggregation(stored: &StoredProjection) -> Result<Aggregation, String> {
    let definition = Definition::deserialize(&stored.definition).map_err(|error| error.to_string())?;
    definition.compile().map_err(|errors| format!("{errors:?}"))
}

fn compiled(stored: StoredProjection) -> Result<Projection, String> {
    let aggregation = Arc::new(aggregation(&stored)?);
    Ok(Projection {
        id: stored.id,
        aggregated_stream_id: stored.aggregated_stream_id,
        name: stored.name.into(),
        aggregation,
        is_current: stored.is_current,
        message_counts: stored.message_counts,
    })
}
