//! What an event stream says beside its messages.

use serde::Serialize;
use utoipa::ToSchema;

use super::pages::Message;

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
#[serde(rename_all = "snake_case")]
pub enum ClosingReason {
    Draining,
}

/// A line of the NDJSON twin of an event stream.
#[derive(Serialize, ToSchema)]
#[serde(tag = "event", content = "data", rename_all = "kebab-case")]
#[allow(dead_code)] // described only: lines are put together from parts that stand already
pub enum EventLine {
    /// A message.
    Message(Box<Message>),
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
