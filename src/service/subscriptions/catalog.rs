//! Definitions of subscriptions, kept in memory: they rarely change, and are not read for every request.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::SubscriptionError;
use crate::domain::delivery::Policy;
use crate::domain::expression::{Expression, ExpressionError};
use crate::domain::filter::Filter;
use crate::domain::keyed::Part;
use crate::domain::selection::Streams;
use crate::domain::source::Source;
use crate::domain::subscription::{Definition, SubscriptionSource};
use crate::service::aggregated::log::AggregatedSource;
use crate::service::aggregated::selected_by;
use crate::service::log::Entry;
use crate::store::subscriptions::StoredSubscription;
use crate::store::{Database, StoreError};

/// A subscription with all that delivering its messages takes.
pub struct Subscription {
    pub id: i64,
    pub name: String,
    pub definition: Definition,
    pub(super) aggregated: Option<AggregatedSource>,
    pub generation: i64,
    /// The aggregated stream that it consumes has been deleted.
    pub is_source_gone: bool,
    /// What that selects, if it consumes one.
    pub(super) selected: Option<Streams>,
    /// The log that it consumes; `None` for an aggregated stream. One without keys is read partition by partition.
    pub(super) log: Option<Source>,
    pub(super) types: Filter,
    pub(super) expression: Option<Arc<Expression>>,
    /// Why nothing can be delivered, if its filter does not compile any more.
    pub(super) unusable: Option<String>,
    pub(super) policy: Policy,
}

impl Subscription {
    /// Whether it consumes a keyed aggregated stream.
    pub(super) fn is_keyed(&self) -> bool {
        self.aggregated.as_ref().is_some_and(|aggregated| aggregated.is_keyed)
    }

    /// The partitions in which it delivers a message: several if that has keys of several.
    pub(super) fn partitions_of(&self, entry: &Entry) -> Vec<i32> {
        match entry.link.as_ref().and_then(|link| link.keys.as_ref()) {
            Some(keys) => self.definition.partitions_of_keys(keys.iter().map(|place| &*place.key)),
            None => vec![self.definition.partition_of(&entry.message)],
        }
    }

    pub fn consumer_timeout(&self) -> Duration {
        Duration::from_millis(self.definition.settings.consumer_timeout_ms.unsigned_abs())
    }

    pub(super) fn of(stored: StoredSubscription) -> Result<Self, StoreError> {
        let definition = read_definition(&stored)?;
        let (expression, unusable) = match definition.expression() {
            Ok(expression) => (expression, None),
            Err(error) => (None, Some(unusable_filter(&error))),
        };
        let source = |id, name: &str, is_keyed| AggregatedSource { id, name: name.into(), is_keyed, part: Part::All };
        let aggregated = match (stored.aggregated_stream_id, stored.keyed_stream_id, &definition.source) {
            (Some(id), _, SubscriptionSource::Aggregated(name)) => Some(source(id, name, false)),
            (_, Some(id), SubscriptionSource::Keyed(name)) => Some(source(id, name, true)),
            _ => None,
        };
        Ok(Self {
            aggregated,
            selected: selected(&stored)?,
            is_source_gone: stored.is_source_gone(),
            log: definition.log(),
            types: definition.types_filter(),
            expression,
            unusable,
            policy: definition.settings.policy(),
            id: stored.id,
            name: stored.name,
            generation: stored.generation,
            definition,
        })
    }
}

pub(super) fn unusable_filter(error: &ExpressionError) -> String {
    format!("the filter cannot be used by this version: it {error}")
}

/// A definition as the database has it. A service wrote the text, so one that cannot be read is a bug.
pub(super) fn read_definition(stored: &StoredSubscription) -> Result<Definition, StoreError> {
    serde_json::from_str(&stored.definition).map_err(|error| {
        StoreError::Bug(format!("the definition of the subscription {} cannot be read: {error}", stored.name))
    })
}

/// What the aggregated stream selects that a subscription consumes; `None`: it consumes none, or that is gone.
pub(super) fn selected(stored: &StoredSubscription) -> Result<Option<Streams>, StoreError> {
    stored.source_definition.as_deref().map(|definition| selected_by(&stored.name, definition)).transpose()
}

/// The definitions that were read, by name.
pub(super) struct Catalog {
    database: Database,
    known: Mutex<HashMap<String, Arc<Subscription>>>,
}

impl Catalog {
    pub fn new(database: Database) -> Self {
        Self { database, known: Mutex::default() }
    }

    /// A subscription as the database has it now.
    pub async fn stored(&self, name: &str) -> Result<(StoredSubscription, Definition), SubscriptionError> {
        let stored = self.database.subscriptions().get(name).await?;
        let stored = stored.ok_or_else(|| SubscriptionError::NotFound { name: name.into() })?;
        let definition = read_definition(&stored)?;
        Ok((stored, definition))
    }

    /// A subscription as it was read last; what is outdated is noticed when messages are delivered.
    pub async fn find(&self, name: &str) -> Result<Arc<Subscription>, SubscriptionError> {
        let known = self.known.lock().get(name).cloned();
        match known {
            Some(subscription) => Ok(subscription),
            None => self.reload(name).await,
        }
    }

    /// Reads a subscription anew.
    pub async fn reload(&self, name: &str) -> Result<Arc<Subscription>, SubscriptionError> {
        let Some(stored) = self.database.subscriptions().get(name).await? else {
            self.known.lock().remove(name);
            return Err(SubscriptionError::NotFound { name: name.into() });
        };
        let subscription = Arc::new(Subscription::of(stored)?);
        self.known.lock().insert(name.into(), subscription.clone());
        Ok(subscription)
    }

    /// A subscription as it was at this generation, or later.
    pub async fn at(&self, name: &str, generation: i64) -> Result<Arc<Subscription>, SubscriptionError> {
        let known = self.known.lock().get(name).filter(|known| known.generation >= generation).cloned();
        match known {
            Some(subscription) => Ok(subscription),
            None => self.reload(name).await,
        }
    }

    /// How the log names a subscription. One that is gone, or cannot be looked up, is named by its id.
    pub async fn name_of(&self, id: i64) -> String {
        let known =
            self.known.lock().values().find(|subscription| subscription.id == id).map(|known| known.name.clone());
        let name = match known {
            Some(name) => Some(name),
            None => self.database.subscriptions().name_of(id).await.ok().flatten(),
        };
        name.unwrap_or_else(|| format!("of id {id}"))
    }

    pub fn forget(&self, id: i64) {
        self.known.lock().retain(|_, subscription| subscription.id != id);
    }

    pub fn forget_all(&self) {
        self.known.lock().clear();
    }
}
