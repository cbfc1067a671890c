//! Signals between instances: one connection that listens for all, and one voice that tells the others.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::aggregated::feed::Feeds;
use super::aggregated::projector::ProjectorHandle;
use super::back_off::BackOff;
use super::subscriptions::Subscriptions;
use super::tail::Tail;
use crate::domain::observation::Observation;
use crate::domain::signal::Signal;
use crate::store::{Database, StoreError};
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
        let mut back_off = BackOff::new("listener", self.observer.clone());
        loop {
            let Err(error) = tokio::select! {
                () = stopping.cancelled() => return,
                ended = self.listen(&mut back_off) => ended,
            };
            if self.is_live.swap(false, Ordering::SeqCst) {
                self.observer.record(Observation::ListenerDown { error: error.to_string() });
            }
            let pause = back_off.failed(&error);
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Listens until that fails.
    async fn listen(&self, back_off: &mut BackOff) -> Result<Infallible, StoreError> {
        let (session, mut heard) = self.database.listen(self.settings.heartbeat_timeout).await?;
        back_off.worked();
        self.is_live.store(true, Ordering::SeqCst);
        self.observer.record(Observation::ListenerUp);
        // Listen before the first look, so no message falls between them.
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
        match signal {
            Signal::Appended(global_position) => self.tail.hint_at(global_position),
            Signal::Projected => self.feeds.kick(),
            Signal::Defined => {
                self.projector.reload();
                self.feeds.kick();
            }
            Signal::Changed(ids) => self.subscriptions.have_changed(&ids),
            Signal::Room(ids) => self.subscriptions.have_room(&ids),
        }
    }

    /// Anything may have been missed.
    fn look_everywhere(&self) {
        self.tail.hint();
        self.feeds.kick();
        self.subscriptions.may_have_changed();
    }
}

/// What this instance has to tell the others: for whoever commits something. Cheap to clone.
#[derive(Clone, Default)]
pub struct Signals {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    untold: Mutex<Untold>,
    wake: Notify,
}

/// What is to be told next. Bounded: the subscriptions there are, and a little.
#[derive(Default)]
struct Untold {
    appended: Option<i64>,
    is_projected: bool,
    changed: BTreeSet<i64>,
    with_room: BTreeSet<i64>,
}

impl Signals {
    /// This instance has committed messages up to a global position.
    pub fn appended(&self, global_position: i64) {
        self.untold().appended = Some(global_position);
        self.inner.wake.notify_one();
    }

    /// It has written a round of the projector.
    pub fn projected(&self) {
        self.untold().is_projected = true;
        self.inner.wake.notify_one();
    }

    /// It has changed a subscription.
    pub fn changed(&self, subscription: i64) {
        self.untold().changed.insert(subscription);
        self.inner.wake.notify_one();
    }

    /// Consumers of this subscription on other instances may have room again.
    pub fn room(&self, subscription: i64) {
        self.untold().with_room.insert(subscription);
        self.inner.wake.notify_one();
    }

    fn take(&self) -> Vec<Signal> {
        let untold = std::mem::take(&mut *self.untold());
        let appended = untold.appended.map(Signal::Appended);
        let projected = untold.is_projected.then_some(Signal::Projected);
        let changed = in_parts(untold.changed).map(Signal::Changed);
        let room = in_parts(untold.with_room).map(Signal::Room);
        appended.into_iter().chain(projected).chain(changed).chain(room).collect()
    }

    /// Nothing in here is left half done by a panic, so a poisoned lock is as good as another.
    fn untold(&self) -> MutexGuard<'_, Untold> {
        self.inner.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn in_parts(ids: BTreeSet<i64>) -> impl Iterator<Item = Vec<i64>> {
    let ids: Vec<i64> = ids.into_iter().collect();
    ids.chunks(Signal::IDS_MAX).map(<[i64]>::to_vec).collect::<Vec<_>>().into_iter()
}

/// Tells the other instances what this one has committed: after the commit, and for many commits at once. A
/// notification inside the appends' own transactions would make all commits of the database go one by one.
pub struct Notifier {
    pub database: Database,
    pub signals: Signals,
    pub settings: HintSettings,
}

impl Notifier {
    /// Runs until the service stops. Signals that cannot be sent are left out: the others look by themselves.
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
