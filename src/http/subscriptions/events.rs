//! What an event stream of a subscription says.

use serde::Serialize;
use utoipa::ToSchema;

use crate::http::events::{CaughtUpEvent, ClosingEvent, HeartbeatEvent};
use crate::http::pages::Message;
use crate::service::subscriptions::RevokeReason;

/// Data of `message`, and an entry of what a fetch answers.
#[derive(Serialize, ToSchema)]
#[allow(dead_code)] // described only: it is put together from parts that stand already
pub struct DeliveredMessage {
    #[schema(example = 2, minimum = 0)]
    pub partition: i32,
    /// As the subscription counts: in the aggregated stream's partition, in the one stream, otherwise globally.
    #[schema(example = 40, minimum = 0)]
    pub position: i64,
    /// To be given with the ack.
    #[schema(example = 3)]
    pub epoch: i64,
    /// How often it has been delivered, this time counted.
    #[schema(example = 1, minimum = 1)]
    pub delivery_count: i64,
    pub message: Message,
}

/// Data of `assigned`: the consumer holds the partition from now on.
#[derive(Serialize, ToSchema)]
pub struct AssignedEvent {
    pub partition: i32,
    pub epoch: i64,
    /// The last message that was acked; what comes next is what follows it.
    pub position: i64,
}

/// Data of `revoked`: nothing more of the partition comes under the epoch it was assigned with.
#[derive(Serialize, ToSchema)]
pub struct RevokedEvent {
    pub partition: i32,
    pub reason: RevokedReason,
}

/// Why a partition is taken from a consumer.
#[derive(Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RevokedReason {
    /// It goes to another consumer. What is acked within a short grace still counts.
    Rebalance,
    /// It was sought or taken back; it is assigned again with a new epoch.
    Reset,
}

impl From<RevokeReason> for RevokedReason {
    fn from(reason: RevokeReason) -> Self {
        match reason {
            RevokeReason::Rebalance => Self::Rebalance,
            RevokeReason::Reset => Self::Reset,
        }
    }
}

/// A line of a subscription, as one consumer has it. The service keeps the cursor, so its `id` is always null.
#[derive(Serialize, ToSchema)]
#[serde(tag = "event", content = "data", rename_all = "kebab-case")]
#[allow(dead_code)] // described only
pub enum SubscriptionEventLine {
    /// The consumer holds a partition from now on.
    Assigned(AssignedEvent),
    /// A message to work on.
    Message(Box<DeliveredMessage>),
    /// The consumer does not hold a partition any more.
    Revoked(RevokedEvent),
    /// History has been sent: what comes now is live.
    CaughtUp(CaughtUpEvent),
    /// Nothing else has come for a while.
    Heartbeat(HeartbeatEvent),
    /// The server ends the stream after it.
    Closing(ClosingEvent),
}
