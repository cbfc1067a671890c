//! Everything that is worth a metric or a log line, as facts. `telemetry` makes both of them.

use std::net::IpAddr;
use std::time::Duration;

use super::append::LockHolder;

/// Something that happened. `by` names the agent or request, durations are those of the whole step.
#[derive(Debug, Clone)]
pub enum Observation {
    /// A group commit was answered by the database.
    BatchCommitted {
        /// How many requests shared it.
        requests: usize,
        /// How many messages it wrote.
        messages: usize,
        /// From sending the statement to its answer.
        took: Duration,
    },
    /// A group commit was not done.
    BatchFailed {
        /// How many requests shared it.
        requests: usize,
        /// What the database said, or how it was lost.
        error: String,
    },
    /// Requests of a batch were answered.
    AppendsAnswered {
        /// Requests whose messages were written.
        appended: usize,
        /// Requests whose messages had been written before.
        duplicates: usize,
        /// Requests with a wrong expected version, or an id that was used already.
        conflicts: usize,
    },
    /// A request found the append queue full.
    AppendOverloaded,
    /// Requests waited too long for a lock of another transaction.
    AppendsLocked {
        /// How many.
        requests: usize,
        /// The category whose lock they waited for.
        category: String,
        /// The transactions that held the lock at the end.
        holders: Vec<LockHolder>,
    },
    /// The task of a locked category's queue panicked. The requests that waited in it were answered.
    CategoryQueueFailed {
        /// Whose queue it is.
        category: String,
        /// The message of the panic.
        reason: String,
    },
    /// A commit's answer was lost, and its message ids were looked up.
    CommitResolved {
        /// Requests that turned out to be written.
        written: usize,
        /// Requests that turned out not to be.
        not_written: usize,
    },
    /// The database did not do as it was asked.
    StoreFailed {
        /// The agent, or the kind of readers, that asked it.
        by: String,
        /// How it failed.
        kind: FailureKind,
        /// What the database said, or how it was lost.
        error: String,
        /// It is the first time since this one was last answered.
        is_news: bool,
    },
    /// The database answers one again that had lost it.
    DatabaseFound {
        /// The agent, or the kind of readers, that asked it.
        by: &'static str,
    },
    /// It was looked how old the backup of the embedded server is.
    BackupMeasured {
        /// Since the newest base backup.
        age: Duration,
        /// Changes that were not received yet. `None`: some were removed before they were.
        wal_behind_bytes: Option<i64>,
    },
    /// Connections lead to another server from now on, because it is the primary.
    PrimaryChanged {
        /// The server.
        name: String,
    },
    /// Several servers take writes, or not any more.
    OtherPrimary {
        /// The one in use.
        used: String,
        /// One of the others; `None`: there is no other any more.
        other: Option<String>,
    },
    /// It was looked how far a replica has replayed.
    ReplicaSeen {
        /// The replica.
        name: String,
        /// Whether it is read from.
        used: bool,
        /// Why, or why not.
        reason: String,
        /// The position up to which it may be read.
        up_to: i64,
        /// This has changed.
        is_news: bool,
    },
    /// A page was asked of a replica.
    ReplicaRead {
        /// The replica.
        name: String,
        /// Otherwise it was read from the primary after all.
        is_used: bool,
    },
    /// The connection that listens for signals is there.
    ListenerUp,
    /// The connection that listens for signals was lost.
    ListenerDown {
        /// How.
        error: String,
    },
    /// The settled position, or the end of the log, has moved.
    Settled {
        /// The position up to which nothing can appear any more.
        settled: i64,
        /// The highest position of a message.
        head: i64,
    },
    /// The tail can read the end of the log, or cannot: then followers get nothing new.
    TailReads {
        /// Whether it can.
        reads: bool,
    },
    /// Sessions take several positions from the sequence at once, and write them in any order.
    SequenceCaches {
        /// How many at once.
        numbers: i64,
    },
    /// A row was numbered by hand, beyond what the sequence has given.
    PositionsAhead {
        /// Its position; `None`: there is no such row any more.
        at: Option<i64>,
        /// The last position that the sequence gave.
        given: i64,
    },
    /// Messages were inserted at positions of their own, or changed, that followers have passed already.
    WrittenBehind {
        /// How many.
        messages: i64,
        /// The lowest of their positions.
        first: i64,
        /// The settled position then.
        settled: i64,
    },
    /// The data of a message was erased.
    Erased {
        /// The message's id.
        id: uuid::Uuid,
        /// Its place.
        global_position: i64,
    },
    /// A retention has come to what stays of its category.
    Retained {
        /// The category.
        category: String,
        /// How many messages went in its last step.
        messages: i64,
    },
    /// A step of a trim, or of a retention, has deleted messages.
    Trimmed {
        /// How many.
        messages: i64,
    },
    /// A writer's open transaction keeps the settled position back.
    HeldBack {
        /// For how long.
        seconds: f64,
        /// The settled position.
        at: i64,
        /// The processes of PostgreSQL that may still fill a hole after it.
        pids: Vec<i32>,
        /// It has taken so long that it is worth a warning.
        warn: bool,
    },
    /// Nothing keeps the settled position back any more.
    Released {
        /// For how long it was kept back.
        seconds: f64,
        /// Whether there was a warning.
        warned: bool,
    },
    /// The keys of the JWKS URL were fetched.
    JwksFetched {
        /// How many of them can be used.
        keys: usize,
    },
    /// They were not; those that there were go on.
    JwksFailed {
        /// Why.
        error: String,
        /// The fetch before was done.
        is_news: bool,
    },
    /// The log is another one than it was: readers begin again at its end.
    HistoryChanged {
        /// The name of a [`Reason`](super::history::Reason).
        reason: &'static str,
        /// Nothing of the former log is left.
        is_anew: bool,
        /// The settled position of the former log.
        settled: i64,
        /// The highest position of a message in the new one.
        head: i64,
    },
    /// A follower has joined the tail.
    FollowerJoined,
    /// A follower has left the tail.
    FollowerLeft,
    /// A follower was refused, because there are as many as may be.
    FollowerRefused,
    /// A follower reads from the database, because its place is not in memory any more.
    FellBehind,
    /// Messages were handed to connections of followers.
    Delivered {
        /// How many.
        messages: usize,
    },
    /// A place was looked for in memory.
    CacheRead {
        /// Whether it was there.
        hit: bool,
    },
    /// What is kept in memory of the log.
    CacheSize {
        /// Its size.
        bytes: usize,
        /// How many messages.
        messages: usize,
    },
    /// This instance has begun to project, or has ceased to.
    ProjectorLeads {
        /// Whether it projects.
        leads: bool,
        /// The epoch of its lease.
        epoch: i64,
    },
    /// A round has written links.
    Projected {
        /// How many.
        messages: usize,
        /// Of the live projections; otherwise of one that catches up.
        live: bool,
    },
    /// A projection cannot go on.
    ProjectionStopped {
        /// The aggregated stream.
        name: String,
        /// Why.
        reason: String,
    },
    /// A subscription cannot go on.
    SubscriptionStopped {
        /// The subscription.
        subscription: String,
        /// Why.
        reason: String,
    },
    /// A consumer has joined a subscription.
    ConsumerJoined,
    /// A consumer's connection has ended.
    ConsumerLeft,
    /// A consumer's lease has run out.
    LeaseExpired {
        /// The subscription.
        subscription: String,
        /// The consumer.
        consumer: String,
    },
    /// An answer of the database was lost: what it may have delivered was taken back.
    DeliveriesTakenBack {
        /// The subscription.
        subscription: String,
        /// The consumer that may have been meant to have it.
        consumer: String,
    },
    /// A round of a consumer has delivered messages.
    SubscriptionDelivered {
        /// How many.
        messages: usize,
    },
    /// A request with acks was answered.
    DeliveriesAcked {
        /// Entries that counted.
        acked: usize,
        /// Entries under a lease or delivery that was lost.
        fenced: usize,
    },
    /// Acks of requests that waited together were committed.
    AcksCommitted {
        /// How many requests.
        requests: usize,
        /// How long that took.
        took: Duration,
    },
    /// A request was answered.
    RequestAnswered {
        /// `GET`, `POST` …
        method: &'static str,
        /// The route, as in the OpenAPI document.
        path: String,
        /// The status of the answer.
        status: u16,
        /// From its headers to those of the answer.
        took: Duration,
    },
    /// A connection was accepted.
    ConnectionOpened,
    /// It has ended.
    ConnectionClosed,
    /// A connection was refused: as many are open as may be.
    ConnectionRefused {
        /// The setting that says how many.
        setting: &'static str,
        /// Where it came from; of IPv6 the first half.
        address: IpAddr,
    },
    /// There was no memory for the body of a request or an answer.
    BodyRefused,
    /// A client took or sent nothing for too long, and was not waited for any more.
    ClientStalled {
        /// What was given up.
        what: Stalled,
    },
    /// A task has panicked.
    Panicked {
        /// The message of the panic.
        message: String,
    },
}

/// What is given up where a client does not do its part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stalled {
    /// A connection on which something waits to be written.
    Connection,
    /// An answer.
    Answer,
    /// A request whose body comes too slowly.
    Request,
}

impl Stalled {
    /// Each of them, for the metrics.
    pub const ALL: [Stalled; 3] = [Stalled::Connection, Stalled::Answer, Stalled::Request];

    /// The name in the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Stalled::Connection => "connection",
            Stalled::Answer => "answer",
            Stalled::Request => "request",
        }
    }
}

/// How the database failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The database is away, and may come back by itself.
    Outage,
    /// The database refused.
    Refused,
    /// The answer cannot be read, or the request had not the right form: a fault of the service.
    Bug,
}

impl FailureKind {
    /// Every kind, for the metrics.
    pub const ALL: [FailureKind; 3] = [FailureKind::Outage, FailureKind::Refused, FailureKind::Bug];

    /// The name in the metrics and in the log.
    pub fn name(self) -> &'static str {
        match self {
            FailureKind::Outage => "outage",
            FailureKind::Refused => "refused",
            FailureKind::Bug => "bug",
        }
    }
}
