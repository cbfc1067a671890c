//! Subscriptions in PostgreSQL: each step of a delivery is one call of a function, and one transaction.

mod acks;
mod competing;
mod consumers;
mod definitions;
mod doubts;
mod inspect;
mod partitioned;
mod sources;

pub use acks::{AckEntry, AckOutcome, StepEntry};
pub use competing::{Claim, Claimable, Claimed, SharedCursor, Take};
pub use consumers::{Joined, Leaving, Renewal};
pub use definitions::{NewSubscription, State, StoredSubscription, Update};
pub use doubts::{Doubt, Given};
pub use inspect::{ConsumerInfo, Lag, ParkedMessage, PartitionLag, PendingDelivery, PendingSummary};
pub use partitioned::{Advance, Assignments, Held};
pub use sources::Linked;

/// Whether a consumer is a member of its subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsumerStatus {
    Member,
    /// There is no consumer of that name: it never joined, was removed, or its lease ran out.
    Unknown,
    /// Another connection has joined under its name.
    Replaced,
}

impl ConsumerStatus {
    fn read(text: &str) -> Self {
        match text {
            "member" => ConsumerStatus::Member,
            "replaced" => ConsumerStatus::Replaced,
            _ => ConsumerStatus::Unknown,
        }
    }
}

/// A place in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    pub partition: i32,
    pub position: i64,
}

impl At {
    /// The place before all others.
    pub const FIRST: At = At { partition: -1, position: -1 };
}
