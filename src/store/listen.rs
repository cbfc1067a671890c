//! Signals between instances: each listens on one connection, and sends notifications.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_postgres::AsyncMessage;

use super::{Connection, Database, Session, StoreError, in_time, source_text};
use crate::domain::signal::Signal;

/// The channel of all signals, which `write_message` and the trigger use too.
const CHANNEL: &str = "headwater";
/// How many signals may wait to be taken. Further ones are dropped: signals may be lost.
const SIGNALS_MAX: usize = 64;
/// Signals that cannot be sent within this time are dropped, and their connection is closed.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(2);

/// What a listening session hears: a signal, `None` for one that this version does not know, and at the end why it hears
/// nothing more.
pub type Heard = Result<Option<Signal>, String>;

impl Database {
    /// A session that listens, and what it hears. Signals that were sent before are not heard, so the caller has to look
    /// at the tables now. `limit`: the time limit of each statement.
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

    /// Sends signals to the other instances. What they are about must be committed before.
    pub async fn notify(&self, signals: &[Signal]) -> Result<(), StoreError> {
        let payloads: Vec<String> = signals.iter().map(Signal::encode).collect();
        let notifying =
            sqlx::query!("SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS payload", CHANNEL, &payloads);
        in_time(NOTIFY_TIMEOUT, "a notification", notifying.execute(self)).await.map(drop)
    }
}
