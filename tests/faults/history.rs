//! What every client saw: each request with the moments of its beginning and its answer, and each message as it came.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use uuid::Uuid;

/// Microseconds since the history began.
pub type Moment = u64;

/// From sending a request to its answer, or to the moment at which it was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub began: Moment,
    pub ended: Moment,
}

/// What a client was told of an append of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    Written {
        position: i64,
        global_position: i64,
    },
    /// The stream's version was another one.
    WrongVersion {
        current: i64,
    },
    NotWritten,
    /// No answer, or one that leaves it open.
    Unknown,
}

#[derive(Debug, Clone)]
pub struct Append {
    pub id: Uuid,
    pub stream: String,
    pub expected: Option<i64>,
    pub span: Span,
    pub told: Told,
}

/// A stream's version, as a page of it said.
#[derive(Debug, Clone)]
pub struct Read {
    pub stream: String,
    pub version: i64,
    pub span: Span,
}

/// A message in the log, or as a follower got it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub id: Uuid,
    pub stream: String,
    pub position: i64,
    pub global_position: i64,
}

/// All that one follower got, over all of its connections, each of which went on with the last event's id.
#[derive(Debug, Clone, Default)]
pub struct Follower {
    pub messages: Vec<Message>,
}

/// A delivery of a subscription.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub consumer: String,
    pub partition: i64,
    pub position: i64,
    pub epoch: i64,
    pub message: Message,
    pub at: Moment,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckTold {
    Acked,
    /// Fenced, or there was nothing to ack: nothing was moved.
    Refused,
    Unknown,
}

/// An ack of a partition up to a position.
#[derive(Debug, Clone)]
pub struct Ack {
    pub partition: i64,
    pub position: i64,
    pub epoch: i64,
    pub span: Span,
    pub told: AckTold,
}

/// What the consumers of one partitioned subscription got and did.
#[derive(Debug, Clone, Default)]
pub struct Consumed {
    pub deliveries: Vec<Delivery>,
    pub acks: Vec<Ack>,
}

/// Everything.
#[derive(Debug, Clone, Default)]
pub struct History {
    pub appends: Vec<Append>,
    pub reads: Vec<Read>,
    pub followers: Vec<Follower>,
    /// Acked by requests of their own.
    pub acked: Consumed,
    /// Acked in the append of what was made of each message.
    pub made: Consumed,
    /// The id of each message that was made, in the log, and the id of what it was made of.
    pub made_of: Vec<(Uuid, Uuid)>,
    /// The log at the end, in order of global positions.
    pub log: Vec<Message>,
}

/// Where clients write down what they see. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    began: Instant,
    history: Arc<Mutex<History>>,
}

impl Recorder {
    pub fn new(followers: usize) -> Self {
        let history = History { followers: vec![Follower::default(); followers], ..History::default() };
        Self { began: Instant::now(), history: Arc::new(Mutex::new(history)) }
    }

    pub fn now(&self) -> Moment {
        self.began.elapsed().as_micros() as Moment
    }

    /// From a moment until now.
    pub fn since(&self, began: Moment) -> Span {
        Span { began, ended: self.now() }
    }

    pub fn write(&self, note: impl FnOnce(&mut History)) {
        note(&mut self.history.lock());
    }

    pub fn look<T>(&self, at: impl FnOnce(&History) -> T) -> T {
        at(&self.history.lock())
    }
}
