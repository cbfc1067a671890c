//! The events of an event stream beside its messages.

use serde::Serialize;
use utoipa::ToSchema;

use super::page_bodies::Message;
use super::partitions::AggregatedMessage;
use crate::domain::closing::ClosingReason;

/// Data of `caught-up`: what was in the log has been sent, from now on messages are live.
#[derive(Serialize, ToSchema)]
pub struct CaughtUpEvent {
    /// The cursor.
    pub position: i64,
    /// When the event was made.
    #[schema(format = DateTime)]
    pub time: String,
}

/// Data of `fell-behind`: messages are read from the database again, until the next `caught-up`.
#[derive(Serialize, ToSchema)]
pub struct FellBehindEvent {
    /// The cursor.
    pub position: i64,
    /// When the event was made.
    #[schema(format = DateTime)]
    pub time: String,
}

/// Data of `trimmed`: messages that come next in order were deleted, as a trim or a retention says.
#[derive(Serialize, ToSchema)]
pub struct TrimmedEvent {
    /// How many, whether they would have passed the filter or not. Of a stream it is exact; of other sources it is a share
    /// if the cursor was among the trimmed messages.
    pub count: i64,
    /// The first position after them.
    pub first_position: i64,
}

/// Data of `heartbeat`.
#[derive(Serialize, ToSchema)]
pub struct HeartbeatEvent {
    /// The highest global position seen.
    pub head: i64,
    /// The global position up to which nothing can appear any more: followers get messages up to here.
    pub settled: i64,
    /// `head` less `settled`.
    pub lag: i64,
}

/// Data of `closing`: the server ends the event stream after this event.
#[derive(Serialize, ToSchema)]
pub struct ClosingEvent {
    pub reason: ClosingReason,
}

/// The enum of an event stream's events: its messages, and those that all event streams have. Its name ends with
/// `EventLine`.
macro_rules! event_lines {
    ($(#[$meta:meta])* $name:ident { $($(#[$message_meta:meta])* $message:ident($data:ty),)+ }) => {
        $(#[$meta])*
        #[derive(Serialize, ToSchema)]
        #[serde(tag = "event", content = "data", rename_all = "kebab-case")]
        #[allow(dead_code)] // described only: lines are put together from texts that are JSON already
        pub enum $name {
            $($(#[$message_meta])* $message($data),)+
            /// What was in the log has been sent: from now on messages are live.
            CaughtUp(CaughtUpEvent),
            /// Messages that come next in order were trimmed.
            Trimmed(TrimmedEvent),
            /// Messages are read from the database again, until the next `caught-up`.
            FellBehind(FellBehindEvent),
            /// Nothing else was sent for a while.
            Heartbeat(HeartbeatEvent),
            /// The server ends the event stream after this event.
            Closing(ClosingEvent),
            /// The cursor has moved on over messages that the filter skips.
            Progress,
        }
    };
}

event_lines! {
    /// A line of a stream, a category or the whole log, as it is followed.
    EventLine {
        /// A message.
        Message(Box<Message>),
    }
}

event_lines! {
    /// A line of an aggregated stream, as it is followed.
    AggregatedEventLine {
        /// A message in its partition.
        #[serde(rename = "message")]
        Aggregated(Box<AggregatedMessage>),
    }
}

event_lines! {
    /// A line of several sources that are followed together.
    SeveralEventLine {
        /// A message of a stream or a category.
        Message(Box<Message>),
        /// A message of an aggregated stream, in its partition.
        #[serde(rename = "message")]
        Aggregated(Box<AggregatedMessage>),
    }
}
