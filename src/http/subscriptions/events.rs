//! The events of a subscription's event stream.

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::closing::RevokedReason;
use crate::http::events::{CaughtUpEvent, ClosingEvent, HeartbeatEvent, TrimmedEvent};
use crate::http::page_bodies::Message;

/// Data of `message`, and an entry of what a fetch answers.
#[derive(Serialize, ToSchema)]
#[allow(dead_code)] // described only: it is put together from texts that are JSON already
pub struct DeliveredMessage {
    #[schema(example = 2, minimum = 0)]
    pub partition: i32,
    /// As the subscription counts: in the partition of an aggregated stream, in a single stream, or else globally.
    #[schema(example = 40, minimum = 0)]
    pub position: i64,
    /// An ack has to name it.
    #[schema(example = 3)]
    pub epoch: i64,
    /// How often the message was delivered, this delivery included.
    #[schema(example = 1, minimum = 1)]
    pub delivery_count: i64,
    pub message: Message,
}

/// Data of `assigned`: the consumer holds the partition from now on.
#[derive(Serialize, ToSchema)]
pub struct AssignedEvent {
    pub partition: i32,
    pub epoch: i64,
    /// The last message that was acked. The next one is delivered next.
    pub position: i64,
}

/// Data of `revoked`: no more messages of the partition are delivered under the epoch that it was assigned with.
#[derive(Serialize, ToSchema)]
pub struct RevokedEvent {
    pub partition: i32,
    pub reason: RevokedReason,
}

/// A line of a subscription's event stream. The service keeps the cursor, so `id` is always null.
#[derive(Serialize, ToSchema)]
#[serde(tag = "event", content = "data", rename_all = "kebab-case")]
#[allow(dead_code)] // described only
pub enum SubscriptionEventLine {
    /// The consumer holds a partition from now on.
    Assigned(AssignedEvent),
    /// A message to process.
    Message(Box<DeliveredMessage>),
    /// The consumer does not hold a partition any more.
    Revoked(RevokedEvent),
    /// Messages that come next in order were trimmed, and are passed over.
    Trimmed(TrimmedEvent),
    /// What was there has been delivered: from now on messages are live.
    CaughtUp(CaughtUpEvent),
    /// Nothing else was sent for a while.
    Heartbeat(HeartbeatEvent),
    /// The server ends the event stream after this event.
    Closing(ClosingEvent),
}
