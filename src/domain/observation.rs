//! All that is noteworthy, as facts. One place makes metrics and log lines of it (`telemetry`).

use std::time::Duration;

use super::append::LockHolder;

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Observation {
    BatchCommitted {
        requests: usize,
        messages: usize,
        took: Duration,
    },
    BatchFailed {
        requests: usize,
        error: String,
    },
    /// Requests of a batch answered, by what came of them.
    AppendsAnswered {
        appended: usize,
        duplicates: usize,
        conflicts: usize,
    },
    AppendOverloaded,
    /// Requests that waited too long for a lock of another transaction.
    AppendsLocked {
        requests: usize,
        category: String,
        holders: Vec<LockHolder>,
    },
    /// A lane of appends panicked. Those that waited in it have been told.
    LaneFailed {
        category: String,
        reason: String,
    },
    /// A commit's answer was lost and has been looked up by message ids.
    CommitResolved {
        written: usize,
        not_written: usize,
    },
    /// The database did not do as it was asked. `is_news`: it is the first time since this one was answered.
    StoreFailed {
        by: String,
        kind: FailureKind,
        error: String,
        is_news: bool,
    },
    /// It is there again for one who had lost it.
    DatabaseFound {
        by: &'static str,
    },
    ListenerUp,
    ListenerDown {
        error: String,
    },
    Settled {
        settled: i64,
        head: i64,
    },
    /// The end of the log can be read, or cannot: then nothing new reaches those who follow.
    TailReads {
        reads: bool,
    },
    /// Sessions take so many positions from the sequence at once, and write them in any order.
    SequenceCaches {
        numbers: i64,
    },
    /// A row was numbered by hand, beyond what the sequence has given; or (`None`) there is no such row any more.
    PositionsAhead {
        at: Option<i64>,
        given: i64,
    },
    /// Messages were inserted at positions of their own, or changed, where everybody who follows has been already.
    WrittenBehind {
        messages: i64,
        first: i64,
        settled: i64,
    },
    /// A writer's open transaction keeps the settled position back.
    HeldBack {
        seconds: f64,
        at: i64,
        pids: Vec<i32>,
        warn: bool,
    },
    /// Nothing keeps it back any more.
    Released {
        seconds: f64,
        warned: bool,
    },
    /// Another log stands where this one stood: readers begin again at its end.
    HistoryChanged {
        reason: &'static str,
        is_anew: bool,
        settled: i64,
        head: i64,
    },
    FollowerJoined,
    FollowerLeft,
    FollowerRefused,
    FellBehind,
    Delivered {
        messages: usize,
    },
    CacheRead {
        hit: bool,
    },
    CacheSize {
        bytes: usize,
        messages: usize,
    },
    /// This instance projects, or does not any more.
    ProjectorLeads {
        leads: bool,
        epoch: i64,
    },
    /// Links written by a round, of the live projections or of one that catches up.
    Projected {
        messages: usize,
        live: bool,
    },
    /// A projection cannot go on.
    ProjectionStopped {
        name: String,
        reason: String,
    },
    /// A subscription cannot go on.
    SubscriptionStopped {
        subscription: i64,
        reason: String,
    },
    /// A consumer of a subscription has come; leases of these that run out are expired.
    ConsumerJoined {
        subscription: i64,
        consumer: String,
    },
    ConsumerLeft {
        subscription: i64,
        consumer: String,
    },
    LeaseExpired {
        subscription: i64,
        consumer: String,
    },
    /// An answer of the database was lost: what it may have handed to a consumer was taken back.
    DeliveriesTakenBack {
        subscription: i64,
        consumer: String,
    },
    /// Messages handed to consumers of subscriptions.
    SubscriptionDelivered {
        messages: usize,
    },
    DeliveriesAcked {
        acked: usize,
        fenced: usize,
    },
    AcksCommitted {
        requests: usize,
        took: Duration,
    },
    RequestAnswered {
        method: &'static str,
        path: String,
        status: u16,
        took: Duration,
    },
    Panicked {
        message: String,
    },
}

/// How the database failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// It is away, and may come back by itself.
    Outage,
    /// It answered no.
    Refused,
    /// Its answer cannot be read, or what it was asked had not the right form: a fault of the service.
    Bug,
}

impl FailureKind {
    pub const ALL: [FailureKind; 3] = [FailureKind::Outage, FailureKind::Refused, FailureKind::Bug];

    pub fn name(self) -> &'static str {
        match self {
            FailureKind::Outage => "outage",
            FailureKind::Refused => "refused",
            FailureKind::Bug => "bug",
        }
    }
}
