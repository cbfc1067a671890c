//! Projections that catch up, and how they join the live ones.

use std::time::Instant;

use tokio::task::JoinError;

use super::{LeadershipLost, ProjectorTerm, RELOAD_PAUSE};
use crate::service::aggregated::catch_up::{CatchUp, Ended};
use crate::service::aggregated::round::Round;
use crate::store::projector::RoundAnswer;

/// One that has caught up but for this many positions takes the last steps while the live ones wait for it.
const LAST_STEPS_MAX: i64 = 2_000;

impl ProjectorTerm<'_> {
    pub(super) fn catch_up(&self) -> CatchUp {
        CatchUp {
            database: self.projector.database.clone(),
            feeds: self.projector.feeds.clone(),
            observer: self.projector.observer.clone(),
            pages: self.pages.clone(),
            epoch: self.lease.epoch,
            history: self.history,
            goal: self.goal.subscribe(),
        }
    }

    /// Takes one whose task has ended.
    pub(super) async fn joined(&mut self, ended: Result<Ended, JoinError>) -> Result<(), LeadershipLost> {
        match ended {
            Ok(ended) => self.ended(ended).await,
            // It panicked, which is logged; the next reload starts it again.
            Err(_) => {
                self.past.clear();
                self.reload_at = Some(Instant::now() + RELOAD_PAUSE);
                Ok(())
            }
        }
    }

    async fn ended(&mut self, ended: Ended) -> Result<(), LeadershipLost> {
        let (mut projection, position) = match ended {
            Ended::Arrived(projection, position) => {
                self.back_off.worked();
                (projection, position)
            }
            Ended::Superseded(id) => {
                self.past.remove(&id);
                self.reload_at = Some(Instant::now() + RELOAD_PAUSE);
                return Ok(());
            }
            Ended::Failed(id, error) => {
                self.past.remove(&id);
                self.reload_at = Some(Instant::now() + self.back_off.failed(&error));
                return Ok(());
            }
        };
        if self.position - position > LAST_STEPS_MAX {
            self.catching_up.spawn(self.catch_up().run(projection, position));
            return Ok(());
        }
        self.past.remove(&projection.id);
        // The live ones wait until this one is at their position.
        let Ok(Some(position)) = self.catch_up().finish(&mut projection, position).await else {
            self.reload_at = Some(Instant::now() + RELOAD_PAUSE);
            return Ok(());
        };
        if !self.project(position, &mut Round::default()).await? {
            return Ok(());
        }
        match self.session.go_live(self.lease, projection.id, position).await? {
            RoundAnswer::Projected => {
                let (id, stream, is_rebuild) = (projection.id, projection.aggregated_stream_id, !projection.is_current);
                if is_rebuild {
                    self.live.retain(|_, live| live.aggregated_stream_id != stream);
                    projection.is_current = true;
                }
                self.live.insert(id, projection);
                self.follow_anew();
                if is_rebuild {
                    self.projector.feeds.switched(self.history, stream, id, position);
                }
                self.projector.signals.projected();
            }
            RoundAnswer::Fenced => return Err(LeadershipLost::Fenced),
            RoundAnswer::Changed | RoundAnswer::Stale => self.reload_at = Some(Instant::now()),
        }
        Ok(())
    }
}
