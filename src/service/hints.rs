//! Hints between instances: one connection that listens for all, and one voice that tells the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::aggregated::feed::Feeds;
use super::aggregated::projector::ProjectorHandle;
use super::subscriptions::Subscriptions;
use super::tail::Tail;
use crate::domain::observation::Observation;
use crate::store::Database;
use crate::store::listen::{Hint, ListenLink};
use crate::telemetry::Observer;

/// The times of listener and notifier.
#[derive(Debug, Clone)]
pub struct HintSettings {
    /// How often the listening session is asked whether it is still there.
    pub heartbeat_interval: Duration,
    /// How long it may take to answer.
    pub heartbeat_timeout: Duration,
    /// Other instances are told at most this often.
    pub notify_interval: Duration,
}

/// Between two attempts to listen again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);

/// Keeps the one LISTEN connection of this instance.
pub struct Listener {
    database: Database,
    tail: Tail,
    feeds: Feeds,
    projector: ProjectorHandle,
    subscriptions: Subscriptions,
    settings: HintSettings,
    observer: Observer,
    is_live: Arc<AtomicBool>,
}

impl Listener {
    pub fn new(
        database: Database,
        tail: Tail,
        feeds: Feeds,
        projector: ProjectorHandle,
        subscriptions: Subscriptions,
        settings: HintSettings,
        observer: Observer,
    ) -> Self {
        Self { database, tail, feeds, projector, subscriptions, settings, observer, is_live: Arc::default() }
    }

    /// Whether it listens at this moment.
    pub fn is_live(&self) -> Arc<AtomicBool> {
        self.is_live.clone()
    }

    /// Runs until the service stops; a connection that is lost or silent is made again.
    pub async fn run(self, stopping: CancellationToken) {
        loop {
            let error = tokio::select! {
                () = stopping.cancelled() => return,
                error = self.listen() => error,
            };
            if self.is_live.swap(false, Ordering::SeqCst) {
                self.observer.record(Observation::ListenerDown { error });
            }
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(RECONNECT_PAUSE) => {}
            }
        }
    }

    /// Listens until that fails, and says why.
    async fn listen(&self) -> String {
        let mut link = match ListenLink::open(&self.database).await {
            Ok(link) => link,
            Err(error) => return error.to_string(),
        };
        self.is_live.store(true, Ordering::SeqCst);
        self.observer.record(Observation::ListenerUp);
        // Listen before the first look, so no message falls between them.
        self.tail.hint();
        self.feeds.kick();
        self.subscriptions.hint(None);
        loop {
            tokio::select! {
                hint = link.hint() => match hint {
                    Some(Hint::Appended(global_position)) => self.tail.hint_at(global_position),
                    Some(Hint::Projected) => self.feeds.kick(),
                    Some(Hint::Defined) => {
                        self.projector.reload();
                        self.feeds.kick();
                    }
                    Some(Hint::Subscriptions(text)) => self.subscriptions.hint(Some(&text)),
                    None => return link.end().await,
                },
                () = tokio::time::sleep(self.settings.heartbeat_interval) => {
                    if let Err(error) = link.beat(self.settings.heartbeat_timeout).await {
                        return error.to_string();
                    }
                }
            }
        }
    }
}

/// Tells the other instances what this one has committed: after the commit, and for many commits at once. A
/// notification inside the appends' own transactions would make all commits of the database go one by one.
pub struct Notifier {
    database: Database,
    committed: watch::Receiver<i64>,
    projected: watch::Receiver<u64>,
    settings: HintSettings,
}

impl Notifier {
    pub fn new(database: Database, tail: &Tail, projector: &ProjectorHandle, settings: HintSettings) -> Self {
        Self { database, committed: tail.committed_positions(), projected: projector.rounds(), settings }
    }

    /// Runs until the service stops. A hint that cannot be sent is left out: the others look by themselves.
    pub async fn run(mut self, stopping: CancellationToken) {
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                changed = self.committed.changed() => {
                    if changed.is_err() { return }
                    let global_position = *self.committed.borrow_and_update();
                    let _ = self.database.notify_appended(global_position).await;
                }
                changed = self.projected.changed() => {
                    if changed.is_err() { return }
                    let _ = self.database.notify_projected().await;
                }
            }
            tokio::time::sleep(self.settings.notify_interval).await;
        }
    }
}
