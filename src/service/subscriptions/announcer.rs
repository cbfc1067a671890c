//! Tells the other instances of acks that consumers there may be waiting for. What the database changes by itself it
//! announces itself.

use std::collections::HashSet;
use std::sync::Mutex;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Subscriptions;
use super::hub::lock;

/// Before the ids of subscriptions whose consumers have room again. A single number is a subscription that has changed.
const ROOM: char = 'r';
/// Ids in one notification: its payload is less than 8,000 bytes.
const IDS_MAX: usize = 300;

#[derive(Default)]
pub(super) struct Announcer {
    waiting: Mutex<HashSet<i64>>,
    wake: Notify,
}

impl Announcer {
    /// Consumers of this subscription on other instances may have room again.
    pub fn announce(&self, subscription: i64) {
        lock(&self.waiting).insert(subscription);
        self.wake.notify_one();
    }

    fn take(&self) -> Option<String> {
        let mut waiting = lock(&self.waiting);
        let some: Vec<i64> = waiting.iter().take(IDS_MAX).copied().collect();
        if some.is_empty() {
            return None;
        }
        let mut payload = String::from(ROOM);
        for (at, id) in some.iter().enumerate() {
            waiting.remove(id);
            if at > 0 {
                payload.push(',');
            }
            payload.push_str(&id.to_string());
        }
        Some(payload)
    }
}

/// Runs until the service stops. An announcement that cannot be made is left out: the others look by themselves.
pub(super) async fn run(subscriptions: Subscriptions, stopping: CancellationToken) {
    let announcer = &subscriptions.inner.announcer;
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            () = announcer.wake.notified() => {}
        }
        while let Some(payload) = announcer.take() {
            let _ = subscriptions.database().notify_subscriptions(&payload).await;
            tokio::time::sleep(subscriptions.inner.settings.notify_interval).await;
        }
    }
}

/// What another instance, or the database, has said.
pub(super) fn take_in(subscriptions: &Subscriptions, text: &str) {
    if let Some(ids) = text.strip_prefix(ROOM) {
        for id in ids.split(',').filter_map(|id| id.parse().ok()) {
            subscriptions.inner.hub.wake(id);
        }
    } else if let Ok(id) = text.parse() {
        subscriptions.inner.catalog.forget(id);
        subscriptions.inner.hub.wake(id);
    }
}
