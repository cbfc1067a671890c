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
    #[schema(format = DateTime)]
    pub time: String,
}

/// Data of `fell-behind`: messages are read from the database again, until the next `caught-up`.
#[derive(Serialize, ToSchema)]
pub struct FellBehindEvent {
    /// The cursor.
    pub position: i64,
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

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClosingReason {
    /// The service stops: come back, to another instance or to this one.
    Draining,
    /// What was followed has been deleted.
    Deleted,
    /// The consumer was sent away, or its lease ran out: come back to join again.
    Removed,
    /// Another connection has come with the consumer's name.
    Replaced,
}

/// A line of the NDJSON twin.
#[derive(Serialize, ToSchema)]
#[allow(dead_code)] // described only: lines are put together from parts that stand already
pub struct EventLine {
    /// `message` or the message's type, `caught-up`, `fell-behind`, `heartbeat`, `progress` or `closing`.
    pub event: String,
    /// The cursor after this event.
    pub id: Option<String>,
    pub data: EventData,
}

#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code)] // described only
pub enum EventData {
    Message(Box<Message>),
    Aggregated(Box<AggregatedMessage>),
    CaughtUp(CaughtUpEvent),
    FellBehind(FellBehindEvent),
    Heartbeat(HeartbeatEvent),
    Closing(ClosingEvent),
}
