//! What an event stream says beside its messages.

use serde::Serialize;
use utoipa::ToSchema;

use super::pages::Message;
use super::partitions::AggregatedMessage;

/// Data of `caught-up`: history has been sent, the stream is live.
#[derive(Serialize, ToSchema)]
pub struct CaughtUpEvent {
    /// The cursor.
    pub position: i64,
    /// When it was so.
    #[schema(format = DateTime)]
    pub time: String,
}

/// Data of `fell-behind`: messages are read from the database again, until the next `caught-up`.
#[derive(Serialize, ToSchema)]
pub struct FellBehindEvent {
    /// The cursor.
    pub position: i64,
    /// When it was so.
    #[schema(format = DateTime)]
    pub time: String,
}

/// Data of `heartbeat`.
#[derive(Serialize, ToSchema)]
pub struct HeartbeatEvent {
    /// The highest global position seen.
    pub head: i64,
    /// The highest global position below which nothing can still appear: followers get messages up to here.
    pub settled: i64,
    /// `head` less `settled`.
    pub lag: i64,
}

/// Data of `closing`: the server ends the stream after it.
#[derive(Serialize, ToSchema)]
pub struct ClosingEvent {
    pub reason: ClosingReason,
}

/// Why the server ends an event stream.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ClosingReason {
    /// The service stops: come back, to another instance or to this one.
    Draining,
    /// What was followed has been deleted.
    Deleted,
    /// The consumer was sent away, or its lease ran out: come back to join again.
    Removed,
    /// The log is not the one any more that was followed: restored, taken over by a replica that had not received
    /// everything, or truncated. Begin anew.
    HistoryChanged,
    /// Another connection has come with the consumer's name.
    Replaced,
    /// The database refuses to give what follows, or it cannot be read; the service's log says more.
    #[serde(rename = "internal-error")]
    InternalError,
}

/// The enum of what an event stream says: its messages, and what all of them say beside. Its name ends with `EventLine`.
macro_rules! event_lines {
    ($(#[$meta:meta])* $name:ident { $($(#[$message_meta:meta])* $message:ident($data:ty),)+ }) => {
        $(#[$meta])*
        #[derive(Serialize, ToSchema)]
        #[serde(tag = "event", content = "data", rename_all = "kebab-case")]
        #[allow(dead_code)] // described only: lines are put together from parts that stand already
        pub enum $name {
            $($(#[$message_meta])* $message($data),)+
            /// History has been sent: what comes now is live.
            CaughtUp(CaughtUpEvent),
            /// Messages are read from the database again, until the next `caught-up`.
            FellBehind(FellBehindEvent),
            /// Nothing else has come for a while.
            Heartbeat(HeartbeatEvent),
            /// The server ends the stream after it.
            Closing(ClosingEvent),
            /// The cursor has moved on over messages that the filter leaves out.
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
