//! Signals between instances: the one LISTEN connection of each, and what it tells the others.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_postgres::AsyncMessage;

use super::{Connection, Database, Session, StoreError, source_text};
use crate::domain::signal::Signal;

/// The channel of all signals, which `write_message` and the trigger use too.
const CHANNEL: &str = "headwater";
/// Signals that wait to be taken; they are only hints, so what does not fit is dropped.
const SIGNALS_MAX: usize = 64;
/// Signals that cannot be sent in this time are left out, and so is their connection.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(2);

/// What a listening session hears: `None` for words that this version does not know; at last why it hears no more.
pub type Heard = Result<Option<Signal>, String>;

impl Database {
    /// A session that listens, and what it hears. What was sent before is not heard: read from the last position now.
    /// `limit`: of each statement.
    pub async fn listen(&self, limit: Duration) -> Result<(Session, mpsc::Receiver<Heard>), StoreError> {
        let (sender, heard) = mpsc::channel(SIGNALS_MAX);
        let driver = |mut connection: Pin<Box<Connection>>| async move {
            let reason = loop {
                match poll_fn(|context| connection.poll_message(context)).await {
                    Some(Ok(AsyncMessage::Notification(notification))) => {
                        let _ = sender.try_send(Ok(Signal::decode(notification.payload())));
                    }
                    Some(Ok(_)) => {}
                    Some(Err(error)) => break source_text(&error),
                    None => break "the connection was closed".into(),
                }
            };
            let _ = sender.send(Err(reason)).await;
        };
        let session = Session::open_driven_by(self, Some((limit, "the listening session")), driver).await?;
        session.batch(&format!("LISTEN {CHANNEL}")).await?;
        Ok((session, heard))
    }

    /// Tells the other instances, after what is told of was committed.
    pub async fn notify(&self, signals: &[Signal]) -> Result<(), StoreError> {
        let payloads: Vec<String> = signals.iter().map(Signal::encode).collect();
        let notifying =
            sqlx::query!("SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS payload", CHANNEL, &payloads);
        match tokio::time::timeout(NOTIFY_TIMEOUT, notifying.execute(self)).await {
            Ok(result) => Ok(result.map(drop)?),
            Err(_) => Err(StoreError::too_slow("a notification")),
        }
    }
}
