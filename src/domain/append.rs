//! Requests to append messages, and what may come of them.

mod condition;
mod error;

use uuid::Uuid;

use super::stream_name::StreamName;
use super::time::Timestamp;
use super::trace::SpanRef;

pub use condition::{Condition, KeyCondition, KeyRefusal, Predicate, QueryCondition, READ_CATEGORIES_MAX};
pub use error::{AppendError, LockHolder, Mismatch};

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

/// Messages for one stream.
#[derive(Debug, Clone)]
pub struct StreamAppend {
    /// The stream that all messages go to.
    pub stream_name: StreamName,
    /// -1: the stream must be empty; n: its last position must be n; `None`: any.
    pub expected_version: Option<i64>,
    /// The stream must have a message already.
    pub must_exist: bool,
    /// At least one.
    pub messages: Vec<NewMessage>,
}

/// Messages for one stream or several, which are written all or none.
#[derive(Debug, Clone)]
pub struct AppendRequest {
    /// At least one, each of another stream. The ids of all messages differ from each other.
    pub streams: Vec<StreamAppend>,
    /// What else must hold.
    pub conditions: Vec<Condition>,
    /// What is acked in the same transaction.
    pub ack: Option<AppendAck>,
    /// Messages that its conditions are about have come each time that they were looked at: this time the locks are held
    /// meanwhile.
    pub holds_locks: bool,
    /// The span in which the caller sent it, if the caller records its trace.
    pub trace: Option<SpanRef>,
}

/// A subscription's progress that is committed with the messages it has led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppendAck {
    /// `None`: there is no such subscription. A request that was done before is answered all the same.
    pub subscription: Option<i64>,
    /// Its name.
    pub name: String,
    /// Whether its consumers hold partitions.
    pub is_partitioned: bool,
    /// The consumer that was given the message.
    pub consumer: String,
    /// The partition of the acked message; 0 if there is only one.
    pub partition: i32,
    /// Partitioned: everything up to here is acked. Competing: this message is.
    pub position: i64,
    /// The epoch of the lease or the delivery.
    pub epoch: i64,
}

impl AppendRequest {
    /// A request for one stream, without conditions.
    pub fn of(stream: StreamAppend) -> Self {
        Self { streams: vec![stream], conditions: Vec::new(), ack: None, holds_locks: false, trace: None }
    }

    /// All messages, stream by stream.
    pub fn messages(&self) -> impl Iterator<Item = &NewMessage> {
        self.streams.iter().flat_map(|stream| &stream.messages)
    }

    /// How many messages there are.
    pub fn message_count(&self) -> usize {
        self.streams.iter().map(|stream| stream.messages.len()).sum()
    }

    /// The categories that the request writes to, with repetitions.
    pub fn written_categories(&self) -> impl Iterator<Item = &str> {
        self.streams.iter().map(|stream| stream.stream_name.category())
    }

    /// The categories that its conditions are about, with repetitions.
    pub fn read_categories(&self) -> impl Iterator<Item = &str> {
        self.conditions.iter().flat_map(Condition::categories)
    }

    /// The category by which the request is known: of the first stream.
    pub fn category(&self) -> &str {
        self.written_categories().next().unwrap_or_default()
    }

    /// The category whose lock the request needs, if it needs one only.
    pub fn only_category(&self) -> Option<&str> {
        let category = self.category();
        let is_only = self.written_categories().chain(self.read_categories()).all(|other| other == category);
        is_only.then_some(category)
    }

    /// Whether the request demands more than versions of the streams that it writes to.
    pub fn is_guarded(&self) -> bool {
        !self.conditions.is_empty() || self.ack.is_some()
    }

    /// Roughly what the request costs to send to the database, in bytes.
    pub fn bytes(&self) -> usize {
        let of_stream = |stream: &StreamAppend| -> usize {
            stream.messages.iter().map(|message| message.bytes() + stream.stream_name.as_str().len()).sum()
        };
        self.streams.iter().map(of_stream).sum::<usize>() + self.conditions.iter().map(Condition::bytes).sum::<usize>()
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
    /// They were there already: the same request was done before.
    pub duplicate: bool,
    /// In the order of the request; at least one.
    pub streams: Vec<StreamAppended>,
}

/// What a request has written to one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamAppended {
    /// The position of the stream's last message of this request.
    pub version: i64,
    /// In the order of the request.
    pub messages: Vec<WrittenMessage>,
}
