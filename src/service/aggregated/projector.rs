//! The projector: on one instance at a time, under a lease, it projects all aggregated streams in one pass over the tail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::feed::Feeds;
use super::term::{LeadershipLost, ProjectorTerm};
use crate::domain::observation::Observation;
use crate::service::back_off::BackOff;
use crate::service::hints::Signals;
use crate::service::tail::Tail;
use crate::store::Database;
use crate::telemetry::Observer;

/// The pause between two attempts to take the lease.
const CANDIDATE_PAUSE: Duration = Duration::from_millis(500);
/// The pause after another instance has taken over.
const FENCED_PAUSE: Duration = Duration::from_millis(200);

/// The settings of the projector.
#[derive(Debug, Clone)]
pub struct ProjectorSettings {
    /// How long the lease lasts without being prolonged.
    pub lease: Duration,
    /// How many projections catch up at the same time.
    pub catch_ups_max: usize,
}

/// A handle to the projector of this instance. Cheap to clone.
#[derive(Clone)]
pub struct ProjectorHandle {
    pub(super) reload: Arc<Notify>,
    pub(super) is_alive: Arc<AtomicBool>,
}

impl ProjectorHandle {
    /// Tells the projector that a definition or a state has changed.
    pub fn reload(&self) {
        self.reload.notify_one();
    }

    /// Whether the projector has its connection, and so projects or is ready to take over.
    pub fn is_alive(&self) -> Arc<AtomicBool> {
        self.is_alive.clone()
    }
}

/// Waits for the lease, and projects while it has it.
pub struct Projector {
    pub(super) database: Database,
    pub(super) tail: Tail,
    pub(super) feeds: Feeds,
    pub(super) signals: Signals,
    pub(super) settings: ProjectorSettings,
    pub(super) observer: Observer,
    pub(super) handle: ProjectorHandle,
    pub(super) holder: Uuid,
}

impl Projector {
    pub fn new(
        database: Database,
        tail: Tail,
        feeds: Feeds,
        signals: Signals,
        settings: ProjectorSettings,
        observer: Observer,
    ) -> (Self, ProjectorHandle) {
        let handle = ProjectorHandle { reload: Arc::default(), is_alive: Arc::new(AtomicBool::new(true)) };
        let holder = Uuid::now_v7();
        (Self { database, tail, feeds, signals, settings, observer, handle: handle.clone(), holder }, handle)
    }

    /// Runs until the service stops. While the database is away, the projector waits for it.
    pub async fn run(self, stopping: CancellationToken) {
        let mut back_off = BackOff::new("projector", self.observer.clone());
        loop {
            let mut led = false;
            let lost = self.stand_by(&stopping, &mut led, &mut back_off).await;
            self.feeds.resign();
            if led {
                self.observer.record(Observation::ProjectorLeads { leads: false, epoch: 0 });
            }
            let pause = match lost {
                Ok(()) => return,
                Err(LeadershipLost::Fenced) => FENCED_PAUSE,
                Err(LeadershipLost::Store(error)) => {
                    self.handle.is_alive.store(false, Ordering::SeqCst);
                    back_off.failed(&error)
                }
            };
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Takes the lease when it can, and projects until it is lost. Returns `Ok` only when the service stops.
    async fn stand_by(
        &self,
        stopping: &CancellationToken,
        led: &mut bool,
        back_off: &mut BackOff,
    ) -> Result<(), LeadershipLost> {
        let session = self.database.projector_session().await?;
        loop {
            let lease = session.take_lease(self.holder, self.settings.lease).await?;
            self.handle.is_alive.store(true, Ordering::SeqCst);
            back_off.worked();
            if let Some(lease) = lease {
                *led = true;
                self.observer.record(Observation::ProjectorLeads { leads: true, epoch: lease.epoch });
                ProjectorTerm::new(self, &session, lease).lead(stopping).await?;
                // The service stops: another instance need not wait for the lease to end.
                session.release_lease(lease.epoch).await?;
                return Ok(());
            }
            tokio::select! {
                () = stopping.cancelled() => return Ok(()),
                () = tokio::time::sleep(CANDIDATE_PAUSE) => {}
            }
        }
    }
}
