//! What must hold for a request beside the versions of the streams that it writes to.

use std::sync::Arc;

use super::super::aggregated_stream::{Aggregation, Placement};
use super::super::filter::Filter;
use super::super::message::Message;
use super::super::stream_name::{Category, StreamName};
use super::AppendError;

/// The most categories that the conditions of one request are about, each counted for every condition.
pub const READ_CATEGORIES_MAX: usize = 100;

/// What must hold for a request, at the moment at which it is written.
#[derive(Debug, Clone)]
pub enum Condition {
    /// A stream is at this version.
    Version {
        /// The stream; the request need not write to it.
        stream_name: StreamName,
        /// -1: it is empty.
        version: i64,
    },
    /// No message matches.
    Query(QueryCondition),
    /// No message has a key: it becomes a query once the aggregated stream has been found.
    Key(KeyCondition),
}

/// That no message of some categories matches a predicate after a position.
#[derive(Debug, Clone)]
pub struct QueryCondition {
    /// At least one, each once, with the global position after which a match may still be: what is before it has been
    /// looked at.
    pub categories: Vec<(Category, i64)>,
    /// A message that passes is a match.
    pub predicate: Predicate,
    /// The position of the first match, if one was found already.
    pub found: Option<i64>,
}

/// Which messages match.
#[derive(Debug, Clone, Default)]
pub struct Predicate {
    /// What a match has to pass.
    pub filter: Filter,
    /// The definition of a keyed aggregated stream, and the key in it that a match has.
    pub key: Option<(Arc<Aggregation>, Arc<str>)>,
}

/// That no message has a key in a keyed aggregated stream after a position.
#[derive(Debug, Clone)]
pub struct KeyCondition {
    /// Its name.
    pub aggregated_stream: Arc<str>,
    /// The key.
    pub key: Arc<str>,
    /// The global position.
    pub after: i64,
    /// Why it cannot be judged. A request that was done before is answered all the same.
    pub refusal: AppendError,
}

/// Why a condition on a key cannot be judged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyRefusal {
    /// There is no such aggregated stream.
    #[error("must exist")]
    NotFound,
    /// Its partitions are not keys.
    #[error("must be a keyed aggregated stream, whose partitioner is `key`")]
    NotKeyed,
    /// Its streams may be in any category, so there are no locks that would keep others from writing.
    #[error(
        "must have its streams in categories that its definition names, because their locks are taken: `categories`, and \
         wildcards that begin with a whole category (`order-%` is in the category order; `order%` and `%` may be in any)"
    )]
    Unbound,
    /// With this one, the conditions of the request are about so many categories.
    #[error("makes {0} categories that conditions are about: at most {READ_CATEGORIES_MAX} may be")]
    Categories(usize),
}

impl Condition {
    /// The categories that the condition is about.
    pub fn categories(&self) -> impl Iterator<Item = &str> {
        let (of_stream, of_query) = match self {
            Self::Version { stream_name, .. } => (Some(stream_name.category()), &[][..]),
            Self::Query(query) => (None, &query.categories[..]),
            Self::Key(_) => (None, &[][..]),
        };
        of_stream.into_iter().chain(of_query.iter().map(|(category, _)| category.as_str()))
    }

    /// Roughly what the condition costs to send to the database, in bytes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Version { stream_name, .. } => 64 + stream_name.as_str().len(),
            Self::Query(query) => {
                let types: usize = query.predicate.filter.types.iter().map(String::len).sum();
                query.categories.iter().map(|(category, _)| 64 + category.as_str().len() + types).sum()
            }
            Self::Key(_) => 64,
        }
    }
}

impl KeyCondition {
    /// As a request has it: nothing is known of the aggregated stream yet. `condition`: its place among the conditions.
    pub fn new(condition: usize, aggregated_stream: &str, key: &str, after: i64) -> Self {
        let aggregated_stream: Arc<str> = aggregated_stream.into();
        let refusal = AppendError::NoKeyCondition {
            condition,
            aggregated_stream: aggregated_stream.clone(),
            refusal: KeyRefusal::NotFound,
        };
        Self { aggregated_stream, key: key.into(), after, refusal }
    }

    /// Why it cannot be judged.
    pub fn refused(&self, condition: usize, refusal: KeyRefusal) -> AppendError {
        AppendError::NoKeyCondition { condition, aggregated_stream: self.aggregated_stream.clone(), refusal }
    }
}

impl Predicate {
    /// Whether a message matches.
    pub fn passes(&self, message: &Message) -> bool {
        self.filter.passes(message)
            && self.key.as_ref().is_none_or(|(aggregation, key)| {
                // One that cannot be placed has no key.
                matches!(aggregation.place(message), Placement::Keys(keys) if keys.contains(key))
            })
    }

    /// Whether a message's type does not tell all.
    pub fn needs_texts(&self) -> bool {
        self.filter.expression.is_some() || self.key.is_some()
    }

    /// The types of which a match is one; `None`: any.
    pub fn types(&self) -> Option<&[String]> {
        (!self.filter.types.is_empty()).then_some(&*self.filter.types)
    }
}
