//! Why something ends for a client: an event stream, or its hold on a partition. What the service decides is what the
//! client reads.

use serde::Serialize;
use utoipa::ToSchema;

/// Why the server ends an event stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ClosingReason {
    /// The service stops: connect again, to another instance or to this one.
    Draining,
    /// The credential has expired or was revoked: connect again with another one.
    Expired,
    /// What was followed was deleted.
    Deleted,
    /// The consumer was removed, or its lease ran out: connect again to join again.
    Removed,
    /// The log is another one than the one that was followed: a backup was restored, a replica was promoted that had not
    /// received everything, or the log was truncated. Begin anew.
    HistoryChanged,
    /// Another connection has joined under the consumer's name.
    Replaced,
    /// The database refuses to read what comes next, or its answer cannot be read; the service's log has the details.
    #[serde(rename = "internal-error")]
    InternalError,
}

/// Why a partition is taken from a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RevokedReason {
    /// The partition goes to another consumer. Acks within a short grace still count.
    Rebalance,
    /// The partition's cursor was set, or deliveries were taken back. The partition is assigned again with a new epoch.
    Reset,
}
