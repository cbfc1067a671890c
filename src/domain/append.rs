//! What is asked to be appended, and what may come of it.

use uuid::Uuid;

use super::stream_name::StreamName;
use super::time::Timestamp;

/// A message that is to be written.
#[derive(Debug, Clone)]
pub struct NewMessage {
    pub id: Uuid,
    /// The id came from the caller (or from its idempotency key), so it may stand already.
    pub is_client_supplied_id: bool,
    pub message_type: String,
    /// JSON that passed [`json_text::check`](super::json_text::check); `null` where none was given. Never SQL's NULL:
    /// clients of Message DB parse what they read.
    pub data: String,
    /// The same; `None` is SQL's NULL, as where `write_message` is given none.
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

/// All messages of a request stand in one stream afterwards, or none.
#[derive(Debug, Clone)]
pub struct AppendRequest {
    pub stream_name: StreamName,
    /// -1: the stream must be empty; n: its last position must be n; `None`: any.
    pub expected_version: Option<i64>,
    /// The stream must have a message already.
    pub must_exist: bool,
    /// At least one; their ids differ from each other.
    pub messages: Vec<NewMessage>,
}

impl AppendRequest {
    pub fn bytes(&self) -> usize {
        self.messages.iter().map(|message| message.bytes() + self.stream_name.as_str().len()).sum()
    }
}

/// Where a message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrittenMessage {
    pub id: Uuid,
    pub position: i64,
    pub global_position: i64,
    pub time: Timestamp,
}

/// The messages stand, durably.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// The position of the stream's last message of this request.
    pub version: i64,
    /// They stood already: the same request was done before.
    pub duplicate: bool,
    pub messages: Vec<WrittenMessage>,
}

/// Why nothing was written. The first three are answers, the others may pass.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    #[error("the stream {stream_name} is at version {current_version}")]
    WrongExpectedVersion {
        stream_name: String,
        /// `None` where only `must_exist` was asked for.
        expected_version: Option<i64>,
        current_version: i64,
    },
    #[error("the message id {message_id} is already used at position {position} of the stream {stream_name}")]
    MessageIdReused { message_id: Uuid, stream_name: String, position: i64 },
    #[error("the database refuses the messages: {message}")]
    Refused { message: String },
    #[error("the append queue is full")]
    Overloaded,
    /// It waited for as long as it may. `holders` are those who had the lock at the end, as far as that can be seen.
    #[error(
        "the append waited too long for a lock on category {category} or on the table, held by {}; \
         nothing was written",
        names_of(holders)
    )]
    Locked { category: String, holders: Vec<LockHolder> },
    #[error(
        "too many appends are waiting for the lock on category {category}, which another transaction holds; nothing was written"
    )]
    LaneFull { category: String },
    #[error("the append was rolled back repeatedly because of other transactions ({reason}); nothing was written")]
    Contended { reason: String },
    #[error("the service failed before it sent the append to the database; nothing was written")]
    Failed,
    #[error("the database is unavailable; nothing was written")]
    DatabaseUnavailable,
    #[error("the database refuses writes until its operator has removed the cause; nothing was written")]
    WriteRefused,
    /// The database or the service was lost while the messages were being written.
    #[error("whether the messages were written is unknown; send them again with the same ids")]
    OutcomeUnknown { message_ids: Vec<Uuid> },
    #[error("the service is shutting down; nothing was written")]
    Draining,
}

/// Who holds a lock that an append waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockHolder {
    /// PostgreSQL's process of an open session.
    Process(i32),
    /// A transaction that was prepared under this name, and neither committed nor rolled back.
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
