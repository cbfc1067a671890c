//! Requests to append messages, and what may come of them.

use uuid::Uuid;

use super::stream_name::StreamName;
use super::time::Timestamp;

/// A message that is to be written.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// Unique in the whole store.
    pub id: Uuid,
    /// The id came from the caller (or from its idempotency key), so a message may have it already.
    pub is_client_supplied_id: bool,
    /// Checked by [`check_type`](super::stream_name::check_type).
    pub message_type: String,
    /// JSON that passed [`json_text::check`](super::json_text::check); the text `null` if none was given. Never SQL's
    /// NULL: clients of Message DB parse what they read.
    pub data: String,
    /// The same; `None` is SQL's NULL, which `write_message` stores too if it is given no metadata.
    pub metadata: Option<String>,
    /// `None`: the time of the transaction.
    pub time: Option<Timestamp>,
}

impl NewMessage {
    /// Roughly what this message costs to send to the database, in bytes.
    pub fn bytes(&self) -> usize {
        64 + self.message_type.len() + self.data.len() + self.metadata.as_ref().map_or(0, String::len)
    }
}

/// Messages for one stream, which are written all or none.
#[derive(Debug, Clone)]
pub struct AppendRequest {
    /// The stream that all messages go to.
    pub stream_name: StreamName,
    /// -1: the stream must be empty; n: its last position must be n; `None`: any.
    pub expected_version: Option<i64>,
    /// The stream must have a message already.
    pub must_exist: bool,
    /// At least one; their ids differ from each other.
    pub messages: Vec<NewMessage>,
}

impl AppendRequest {
    /// Roughly what the request costs to send to the database, in bytes.
    pub fn bytes(&self) -> usize {
        self.messages.iter().map(|message| message.bytes() + self.stream_name.as_str().len()).sum()
    }
}

/// A message that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrittenMessage {
    /// The id that the message was written with.
    pub id: Uuid,
    /// Counts from 0 in its stream.
    pub position: i64,
    /// Counts from 1 over the whole store, with holes.
    pub global_position: i64,
    /// The time that is kept with the message.
    pub time: Timestamp,
}

/// The messages are written, durably.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// The position of the stream's last message of this request.
    pub version: i64,
    /// They were there already: the same request was done before.
    pub duplicate: bool,
    /// In the order of the request.
    pub messages: Vec<WrittenMessage>,
}

/// Why nothing was written. The first three are answers, which the same request gets again; the others may pass.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The stream has another version than the request expects, or no message though it must exist.
    #[error("the stream {stream_name} is at version {current_version}")]
    WrongExpectedVersion {
        /// The stream of the request.
        stream_name: String,
        /// `None` if only `must_exist` was asked for.
        expected_version: Option<i64>,
        /// The position of the stream's last message; -1: it has none.
        current_version: i64,
    },
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
    LaneFull {
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
