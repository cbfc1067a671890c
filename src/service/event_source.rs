//! What the events of one connection are made from: a log, or a subscription.

use super::event_streams::Event;
use super::follow::Followed;
use super::subscriptions::Connection;
use crate::domain::event_id::EventId;

/// What the events of one connection are made from.
#[allow(clippy::large_enum_variant)] // nearly all connections have the large one
pub(super) enum Source {
    Log(Followed),
    Subscription(Connection),
}

impl Source {
    pub async fn next(&mut self) -> Option<Event> {
        match self {
            Source::Log(followed) => followed.next().await,
            Source::Subscription(connection) => connection.next().await,
        }
    }

    /// Everything up to this global position was told. `None` as for the cursor.
    pub fn told_up_to(&self) -> Option<i64> {
        match self {
            Source::Log(followed) => followed.told_up_to(),
            Source::Subscription(_) => None,
        }
    }

    /// `None` where the service keeps the cursor, or while a page is being read.
    pub fn cursor(&self) -> Option<EventId> {
        match self {
            Source::Log(followed) => followed.cursor(),
            Source::Subscription(_) => None,
        }
    }
}
