//! Why an append was refused.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

use super::super::scope::Missing;
use super::{AppendAck, KeyRefusal};

/// One thing that a request demands and that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// A stream has another version than is expected where the request writes to it, or no message though it must exist.
    Version {
        /// Place among the request's streams, from 0.
        append: usize,
        /// The stream.
        stream_name: String,
        /// `None` if only `must_exist` was asked for.
        expected_version: Option<i64>,
        /// The position of the stream's last message; -1: it has none.
        current_version: i64,
    },
    /// A stream has another version than a condition says.
    Condition {
        /// Place among the request's conditions, from 0.
        condition: usize,
        /// The stream.
        stream_name: String,
        /// What the condition says.
        expected_version: i64,
        /// The position of the stream's last message; -1: it has none.
        current_version: i64,
    },
    /// A message matches that must not be there.
    Match {
        /// Place among the request's conditions, from 0.
        condition: usize,
        /// The global position of the first match.
        position: i64,
    },
    /// A condition begins after a position that the log does not have.
    BeyondEnd {
        /// Place among the request's conditions, from 0.
        condition: usize,
        /// The position.
        after: i64,
        /// The end of the log.
        head: i64,
    },
}

/// Why nothing was written. The first ones are answers, which the same request gets again; the others may pass.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Something that the request demands does not hold.
    #[error("{}", sentence_of(mismatches))]
    Mismatch {
        /// All of it, streams before conditions; at least one.
        mismatches: Vec<Mismatch>,
    },
    /// Nothing would be acked: the lease or the delivery has been lost, or the message was acked before.
    #[error("{}", sentence_of_fence(ack, *current_epoch))]
    Fenced {
        /// What should have been acked.
        ack: AppendAck,
        /// The epoch now; `None`: there is no such delivery.
        current_epoch: Option<i64>,
    },
    /// What should be acked does not exist.
    #[error("subscription {name} not found")]
    NoSubscription {
        /// The name of the subscription.
        name: String,
    },
    /// A condition on a key cannot be judged.
    #[error("conditions[{condition}], of the aggregated stream {aggregated_stream}, cannot be judged: it {refusal}")]
    NoKeyCondition {
        /// Place among the request's conditions, from 0.
        condition: usize,
        /// The name that the condition has.
        aggregated_stream: Arc<str>,
        /// Why.
        refusal: KeyRefusal,
    },
    /// A condition is about more messages than may be read for it.
    #[error("a condition is about more messages after its position than are read for it ({max})")]
    ConditionTooWide {
        /// Place among the request's conditions, from 0.
        condition: usize,
        /// How many are read.
        max: usize,
    },
    /// Messages that conditions are about kept coming.
    #[error("messages that a condition is about kept coming while they were looked at; nothing was written")]
    ConditionContended,
    /// An id of the request is that of another message, or only some of the request's messages are there.
    #[error("the message id {message_id} is already used at position {position} of the stream {stream_name}")]
    MessageIdReused {
        /// The id in question.
        message_id: Uuid,
        /// The stream of the message that has the id.
        stream_name: String,
        /// Its position in that stream.
        position: i64,
    },
    /// The same, and the caller may not know of the other message.
    #[error("the message id {message_id} is already used")]
    MessageIdTaken {
        /// The id in question.
        message_id: Uuid,
    },
    /// The caller may not append to one of the streams, or not read what a condition is about.
    #[error(transparent)]
    Forbidden(#[from] Missing),
    /// The caller's credential has appended as often in this second as it may.
    #[error("the limit of {max} appends in a second of one credential is reached; nothing was written")]
    TooFast {
        /// The limit.
        max: usize,
    },
    /// PostgreSQL cannot store what was sent.
    #[error("the database refuses the messages: {message}")]
    Refused {
        /// What PostgreSQL says.
        message: String,
    },
    /// As many requests wait as may.
    #[error("the append queue is full")]
    Overloaded,
    /// As many append sessions are open as may be.
    #[error("the limit of {max} open append sessions is reached")]
    TooManySessions {
        /// The limit.
        max: usize,
    },
    /// As many append sessions of the caller's credential are open as may be.
    #[error("the limit of {max} open append sessions of one credential is reached")]
    TooManySessionsOfCredential {
        /// The limit.
        max: usize,
    },
    /// The request waited for a lock for as long as it may.
    #[error(
        "the append waited too long for a lock on category {category} or on the table, held by {}; \
         nothing was written",
        names_of(holders)
    )]
    Locked {
        /// The category of the request's stream.
        category: String,
        /// The transactions that had the lock at the end, as far as that can be seen.
        holders: Vec<LockHolder>,
    },
    /// As many requests as may wait for the lock of this category.
    #[error(
        "too many appends are waiting for the lock on category {category}, which another transaction holds; nothing was written"
    )]
    CategoryQueueFull {
        /// The category of the request's stream.
        category: String,
    },
    /// PostgreSQL rolled the request back again and again, for a deadlock or the like.
    #[error("the append was rolled back repeatedly because of other transactions ({reason}); nothing was written")]
    Contended {
        /// What PostgreSQL said last.
        reason: String,
    },
    /// A fault of the service.
    #[error("the service failed before it sent the append to the database; nothing was written")]
    Failed,
    /// The database cannot be reached.
    #[error("the database is unavailable; nothing was written")]
    DatabaseUnavailable,
    /// The database is read only, or its disk is full.
    #[error("the database refuses writes until its operator has removed the cause; nothing was written")]
    WriteRefused,
    /// The database or the service was lost while the messages were being written.
    #[error("whether the messages were written is unknown; send them again with the same ids")]
    OutcomeUnknown {
        /// The ids of the request's messages.
        message_ids: Vec<Uuid>,
    },
    /// The service takes no new requests.
    #[error("the service is shutting down; nothing was written")]
    Draining,
}

/// A transaction that holds a lock for which an append waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockHolder {
    /// PostgreSQL's process of an open session.
    Process(i32),
    /// A transaction that was prepared under this name and not finished since.
    Prepared(String),
}

fn names_of(holders: &[LockHolder]) -> String {
    if holders.is_empty() {
        return "another transaction".into();
    }
    let names = holders.iter().map(|holder| match holder {
        LockHolder::Process(pid) => format!("PostgreSQL's process {pid}"),
        LockHolder::Prepared(name) => format!("the prepared transaction {name}"),
    });
    names.collect::<Vec<_>>().join(" and ")
}

fn sentence_of(mismatches: &[Mismatch]) -> String {
    mismatches.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn sentence_of_fence(ack: &AppendAck, current_epoch: Option<i64>) -> String {
    let AppendAck { partition, position, epoch, .. } = ack;
    match current_epoch {
        Some(current) => format!(
            "the lease or delivery in partition {partition} has been lost: its epoch is {current} now, not {epoch}; \
             nothing was written"
        ),
        None => format!(
            "position {position} of partition {partition} was acked before, or is not delivered to this consumer; \
             nothing was written"
        ),
    }
}

impl Mismatch {
    /// Place among the request's conditions, of one that does not hold.
    pub fn condition(&self) -> Option<usize> {
        match self {
            Self::Version { .. } => None,
            Self::Condition { condition, .. } | Self::Match { condition, .. } | Self::BeyondEnd { condition, .. } => {
                Some(*condition)
            }
        }
    }

    /// Takes in what is known of the same condition in another category: the first match counts.
    pub fn merge(&mut self, other: Self) {
        match (&mut *self, &other) {
            (Self::Match { position, .. }, Self::Match { position: found, .. }) => *position = (*position).min(*found),
            (Self::Match { .. }, Self::BeyondEnd { .. }) => *self = other,
            _ => {}
        }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version { stream_name, current_version, .. } => {
                write!(formatter, "the stream {stream_name} is at version {current_version}")
            }
            Self::Condition { condition, stream_name, expected_version, current_version } => write!(
                formatter,
                "conditions[{condition}] does not hold: the stream {stream_name} is at version {current_version}, \
                 not {expected_version}"
            ),
            Self::Match { condition, position } => {
                write!(formatter, "conditions[{condition}] does not hold: the message at position {position} matches")
            }
            Self::BeyondEnd { condition, after, head } => {
                write!(formatter, "conditions[{condition}] begins after position {after}, and the log ends at {head}")
            }
        }
    }
}
