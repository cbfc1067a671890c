//! Which messages of a source a reader wants.

use std::sync::Arc;

use super::expression::Expression;
use super::message::Message;
use super::scope::Readable;
use super::time::Timestamp;

/// The most types in one filter.
pub const FILTER_TYPES_MAX: usize = 100;

/// Types, an expression, a span of time, and what the reader may read; what is absent lets everything pass.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Filter {
    /// The message's type must be one of these; empty: any.
    pub types: Arc<[String]>,
    /// The expression must be true for the message.
    pub expression: Option<Arc<Expression>>,
    /// The message's time must be this or later.
    pub from_time: Option<Timestamp>,
    /// The message's time must be before this.
    pub to_time: Option<Timestamp>,
    /// The message's stream must be one of these.
    pub readable: Readable,
}

impl Filter {
    /// Whether a message fits all that is given.
    pub fn passes(&self, message: &Message) -> bool {
        (self.types.is_empty() || self.types.iter().any(|wanted| **wanted == *message.message_type))
            && self.from_time.is_none_or(|from| message.time >= from)
            && self.to_time.is_none_or(|to| message.time < to)
            && self.judge(message)
    }

    /// Whether a message fits what only the service can judge, and not the database.
    pub fn judge(&self, message: &Message) -> bool {
        self.readable.has(&message.stream_name)
            && self.expression.as_ref().is_none_or(|expression| expression.passes(message))
    }

    /// Whether the database can judge all that is given.
    pub fn is_of_columns(&self) -> bool {
        self.expression.is_none() && self.readable.is_all()
    }

    /// Whether every message passes.
    pub fn is_empty(&self) -> bool {
        self.types.is_empty() && self.from_time.is_none() && self.to_time.is_none() && self.is_of_columns()
    }
}
