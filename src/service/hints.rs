//! Signals between instances: one connection listens for the whole instance, and one agent sends.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::aggregated::feed::Feeds;
use super::aggregated::projector::ProjectorHandle;
use super::auth::Credentials;
use super::back_off::BackOff;
use super::subscriptions::Subscriptions;
use super::tail::Tail;
use crate::domain::observation::Observation;
use crate::domain::signal::Signal;
use crate::store::{Database, StoreError};
use crate::telemetry::Observer;

/// The intervals of listener and notifier.
#[derive(Debug, Clone)]
pub struct HintSettings {
    /// How often the listening session is asked whether it is still there.
    pub heartbeat_interval: Duration,
    /// How long its answer may take.
    pub heartbeat_timeout: Duration,
    /// Signals are sent at most this often.
    pub notify_interval: Duration,
}

/// Keeps the one LISTEN connection of this instance.
pub struct Listener {
    database: Database,
    targets: SignalTargets,
    settings: HintSettings,
    observer: Observer,
    is_live: Arc<AtomicBool>,
}

/// The parts of the service that are told of signals.
pub struct SignalTargets {
    pub credentials: Credentials,
    pub tail: Tail,
    pub feeds: Feeds,
    pub projector: ProjectorHandle,
    pub subscriptions: Subscriptions,
}

impl Listener {
    pub fn new(database: Database, targets: SignalTargets, settings: HintSettings, observer: Observer) -> Self {
        Self { database, targets, settings, observer, is_live: Arc::default() }
    }

    /// Whether it listens at this moment.
    pub fn is_live(&self) -> Arc<AtomicBool> {
        self.is_live.clone()
    }

    /// Runs until the service stops; a connection that is lost or silent is made again.
    pub async fn run(self, stopping: CancellationToken) {
        let mut back_off = BackOff::new("listener", self.observer.clone());
        loop {
            let Err(error) = tokio::select! {
                () = stopping.cancelled() => return,
                ended = self.listen(&mut back_off) => ended,
            };
            if self.is_live.swap(false, Ordering::SeqCst) {
                self.observer.record(Observation::ListenerDown { error: error.to_string() });
            }
            back_off.after(Err(error), &stopping).await;
        }
    }

    /// Listens until that fails.
    async fn listen(&self, back_off: &mut BackOff) -> Result<Infallible, StoreError> {
        let (session, mut heard) = self.database.listen(self.settings.heartbeat_timeout).await?;
        back_off.worked();
        self.is_live.store(true, Ordering::SeqCst);
        self.observer.record(Observation::ListenerUp);
        // It listens before the first look, so that no message falls between the two.
        self.look_everywhere();
        loop {
            tokio::select! {
                heard = heard.recv() => match heard {
                    Some(Ok(Some(signal))) => self.pass_on(signal),
                    Some(Ok(None)) => self.look_everywhere(),
                    Some(Err(reason)) => return Err(StoreError::Unavailable(reason)),
                    None => return Err(StoreError::Unavailable("the connection was given up".into())),
                },
                () = tokio::time::sleep(self.settings.heartbeat_interval) => session.batch("").await?,
            }
        }
    }

    fn pass_on(&self, signal: Signal) {
        let targets = &self.targets;
        match signal {
            Signal::Appended(global_position) => targets.tail.hint_at(global_position),
            Signal::Erased => targets.tail.hint_erased(),
            Signal::Keys => targets.credentials.look_again(),
            Signal::Projected => targets.feeds.kick(),
            Signal::Defined => {
                targets.projector.reload();
                targets.feeds.kick();
            }
            Signal::Changed(ids) => targets.subscriptions.have_changed(&ids),
            Signal::Room(ids) => targets.subscriptions.have_room(&ids),
        }
    }

    /// Signals may have been missed: everything is looked at.
    fn look_everywhere(&self) {
        let targets = &self.targets;
        targets.tail.hint();
        targets.tail.hint_erased();
        targets.credentials.look_again();
        targets.feeds.kick();
        targets.subscriptions.may_have_changed();
    }
}

/// Where a commit notes the signals that are to be sent. Cheap to clone.
#[derive(Clone, Default)]
pub struct Signals {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    unsent: Mutex<Unsent>,
    wake: Notify,
}

/// The signals to be sent next, bounded by the number of subscriptions.
#[derive(Default)]
struct Unsent {
    appended: Option<i64>,
    is_projected: bool,
    changed: BTreeSet<i64>,
    with_room: BTreeSet<i64>,
}

impl Signals {
    /// This instance has committed messages up to a global position.
    pub fn appended(&self, global_position: i64) {
        let mut unsent = self.inner.unsent.lock();
        unsent.appended = unsent.appended.max(Some(global_position));
        drop(unsent);
        self.inner.wake.notify_one();
    }

    /// This instance has written a round of the projector.
    pub fn projected(&self) {
        self.inner.unsent.lock().is_projected = true;
        self.inner.wake.notify_one();
    }

    /// This instance has changed a subscription.
    pub fn changed(&self, subscription: i64) {
        self.inner.unsent.lock().changed.insert(subscription);
        self.inner.wake.notify_one();
    }

    /// Consumers of this subscription on other instances may have credit again.
    pub fn room(&self, subscription: i64) {
        self.inner.unsent.lock().with_room.insert(subscription);
        self.inner.wake.notify_one();
    }

    fn take(&self) -> Vec<Signal> {
        let unsent = std::mem::take(&mut *self.inner.unsent.lock());
        let appended = unsent.appended.map(Signal::Appended);
        let projected = unsent.is_projected.then_some(Signal::Projected);
        let changed = in_parts(unsent.changed).map(Signal::Changed);
        let room = in_parts(unsent.with_room).map(Signal::Room);
        appended.into_iter().chain(projected).chain(changed).chain(room).collect()
    }
}

fn in_parts(ids: BTreeSet<i64>) -> impl Iterator<Item = Vec<i64>> {
    let ids: Vec<i64> = ids.into_iter().collect();
    ids.chunks(Signal::IDS_MAX).map(<[i64]>::to_vec).collect::<Vec<_>>().into_iter()
}

/// Sends signals after commits, for many commits at once. A notification inside the appends' own transactions would make
/// all commits of the database go one by one.
pub struct Notifier {
    pub database: Database,
    pub signals: Signals,
    pub settings: HintSettings,
}

impl Notifier {
    /// Runs until the service stops. Signals that cannot be sent are dropped: the other instances poll as well.
    pub async fn run(self, stopping: CancellationToken) {
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                () = self.signals.inner.wake.notified() => {}
            }
            let signals = self.signals.take();
            if !signals.is_empty() {
                let _ = self.database.notify(&signals).await;
            }
            tokio::time::sleep(self.settings.notify_interval).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_committed_meanwhile_is_told_once() {
        let signals = Signals::default();
        let ids: Vec<i64> = (0..=Signal::IDS_MAX as i64).collect();
        for at in [5, 9] {
            signals.appended(at);
            signals.projected();
            signals.changed(7);
            ids.iter().for_each(|id| signals.room(*id));
        }
        let (many, last) = ids.split_at(Signal::IDS_MAX);
        let room = [Signal::Room(many.into()), Signal::Room(last.into())];
        let expected = [[Signal::Appended(9), Signal::Projected, Signal::Changed(vec![7])].as_slice(), &room].concat();
        assert_eq!(signals.take(), expected);
        assert!(signals.take().is_empty());
    }
}
