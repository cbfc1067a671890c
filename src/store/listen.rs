//! The one LISTEN connection of an instance, and the hints it sends to the others.

use std::future::poll_fn;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, Client};

use super::{Database, StoreError, source_text};

/// The channel of our hints. A payload is a global position, never a message.
pub const CHANNEL: &str = "headwater";
/// Hints that wait to be taken; they are only hints, so what does not fit is dropped.
const HINTS_MAX: usize = 64;

/// A hint that takes longer is left out, and so is its connection.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection that listens.
pub struct ListenLink {
    client: Client,
    hints: mpsc::Receiver<i64>,
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
                        let _ = sender.try_send(hint.payload().parse().unwrap_or(i64::MAX));
                    }
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return source_text(&error),
                    None => return "the connection was closed".into(),
                }
            }
        });
        database.set_up(client.batch_execute(&format!("LISTEN {CHANNEL}"))).await?;
        Ok(Self { client, hints, ended })
    }

    /// The next hint; `None` when the connection has ended.
    pub async fn hint(&mut self) -> Option<i64> {
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

impl Database {
    /// Tells the other instances up to where there is something new.
    pub async fn notify(&self, global_position: i64) -> Result<(), StoreError> {
        let client = self.client().await?;
        let statement = client.prepare_cached("SELECT pg_notify($1, $2::bigint::text)").await?;
        match tokio::time::timeout(NOTIFY_TIMEOUT, client.query(&statement, &[&CHANNEL, &global_position])).await {
            Ok(result) => Ok(result.map(|_| ())?),
            Err(_) => {
                // Not back into the pool: whoever got it next would wait for it too.
                drop(deadpool_postgres::Object::take(client));
                Err(StoreError::Unavailable("a notification took too long".into()))
            }
        }
    }
}
