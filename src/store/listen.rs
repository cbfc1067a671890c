//! The one LISTEN connection of an instance, and the hints it sends to the others.

use std::future::poll_fn;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, Client};

use super::{Database, SESSION_SETTINGS, StoreError, source_text};

/// The channel of our hints. A payload is a global position, never a message.
pub const CHANNEL: &str = "headwater";
/// The channel of what concerns aggregated streams. A payload is [`PROJECTED`], or `defined` (sent by the functions
/// that change a definition or a state).
pub const PROJECTED_CHANNEL: &str = "headwater_projected";
/// The channel of subscriptions. A payload is the id of one that has changed, or what an instance tells the others.
pub const SUBSCRIPTIONS_CHANNEL: &str = "headwater_subscriptions";
const PROJECTED: &str = "projected";
/// Hints that wait to be taken; they are only hints, so what does not fit is dropped.
const HINTS_MAX: usize = 64;

/// A hint that takes longer is left out, and so is its connection.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(2);

/// What a notification hints at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// There are messages up to this global position.
    Appended(i64),
    /// Aggregated streams have new messages.
    Projected,
    /// An aggregated stream was defined or deleted, or its state has changed.
    Defined,
    /// Consumers of subscriptions have to look again.
    Subscriptions(String),
}

/// A connection that listens.
pub struct ListenLink {
    client: Client,
    hints: mpsc::Receiver<Hint>,
    ended: tokio::task::JoinHandle<String>,
}

impl ListenLink {
    /// Connects and listens. Hints that were sent before are not heard: read from the last position now.
    pub async fn open(database: &Database) -> Result<Self, StoreError> {
        let (client, mut connection) = database.connect().await?;
        let (sender, hints) = mpsc::channel(HINTS_MAX);
        let ended = tokio::spawn(async move {
            loop {
                match poll_fn(|context| connection.poll_message(context)).await {
                    Some(Ok(AsyncMessage::Notification(hint))) => {
                        let _ = sender.try_send(read_hint(hint.channel(), hint.payload()));
                    }
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return source_text(&error),
                    None => return "the connection was closed".into(),
                }
            }
        });
        database
            .set_up(client.batch_execute(&format!(
                "{SESSION_SETTINGS}; LISTEN {CHANNEL}; LISTEN {PROJECTED_CHANNEL}; LISTEN {SUBSCRIPTIONS_CHANNEL}"
            )))
            .await?;
        Ok(Self { client, hints, ended })
    }

    /// The next hint; `None` when the connection has ended.
    pub async fn hint(&mut self) -> Option<Hint> {
        self.hints.recv().await
    }

    /// Asks the session whether it is still there.
    pub async fn beat(&self, timeout: Duration) -> Result<(), StoreError> {
        match tokio::time::timeout(timeout, self.client.batch_execute("")).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(StoreError::Unavailable("the listening session does not answer".into())),
        }
    }

    /// Why the connection ended, if it has.
    pub async fn end(self) -> String {
        drop(self.client);
        self.ended.abort();
        self.ended.await.unwrap_or_else(|_| "the connection was given up".into())
    }
}

fn read_hint(channel: &str, payload: &str) -> Hint {
    match (channel, payload) {
        (PROJECTED_CHANNEL, PROJECTED) => Hint::Projected,
        (PROJECTED_CHANNEL, _) => Hint::Defined,
        (SUBSCRIPTIONS_CHANNEL, text) => Hint::Subscriptions(text.to_owned()),
        (_, position) => Hint::Appended(position.parse().unwrap_or(i64::MAX)),
    }
}

impl Database {
    /// Tells the other instances up to where there is something new.
    pub async fn notify_appended(&self, global_position: i64) -> Result<(), StoreError> {
        self.notify(CHANNEL, &global_position.to_string()).await
    }

    /// Tells the other instances that aggregated streams have new messages.
    pub async fn notify_projected(&self) -> Result<(), StoreError> {
        self.notify(PROJECTED_CHANNEL, PROJECTED).await
    }

    /// Tells the other instances about subscriptions.
    pub async fn notify_subscriptions(&self, payload: &str) -> Result<(), StoreError> {
        self.notify(SUBSCRIPTIONS_CHANNEL, payload).await
    }

    async fn notify(&self, channel: &str, payload: &str) -> Result<(), StoreError> {
        let client = self.client().await?;
        let statement = client.prepare_cached("SELECT pg_notify($1, $2)").await?;
        match tokio::time::timeout(NOTIFY_TIMEOUT, client.query(&statement, &[&channel, &payload])).await {
            Ok(result) => result.map(|_| ()),
            Err(_) => Err(StoreError::too_slow("a notification")),
        }
    }
}
