//! What the events of one connection are made from: a log, or a subscription.

use super::event_streams::Event;
use super::follow::Followed;
use super::subscriptions::Connection;
use crate::domain::event_id::EventId;

/// What the events of one connection are made from.
#[allow(clippy::large_enum_variant)] // nearly all connections have the large one
pub(super) enum EventSource {
    Log(Followed),
    Subscription(Connection),
}

impl EventSource {
    pub async fn next(&mut self) -> Option<Event> {
        match self {
            EventSource::Log(followed) => followed.next().await,
            EventSource::Subscription(connection) => connection.next().await,
        }
    }

    /// Everything up to this global position was told. `None` as for the cursor.
    pub fn told_up_to(&self) -> Option<i64> {
        match self {
            EventSource::Log(followed) => followed.told_up_to(),
            EventSource::Subscription(_) => None,
        }
    }

    /// `None` where the service keeps the cursor, or while a page is being read.
    pub fn cursor(&self) -> Option<EventId> {
        match self {
            EventSource::Log(followed) => followed.cursor(),
            EventSource::Subscription(_) => None,
        }
    }
}
