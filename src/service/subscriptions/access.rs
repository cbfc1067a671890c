//! Which subscriptions a caller may use: those whose whole source the caller may read, looked at whenever one is used.

use std::sync::Arc;

use super::catalog::{Subscription, selected};
use super::{Common, SubscriptionError};
use crate::domain::scope::Rights;
use crate::domain::selection::Streams;
use crate::domain::subscription::{Definition, SubscriptionSource};
use crate::store::subscriptions::StoredSubscription;

impl Common {
    /// A subscription as it was read last. What it consumes never changes: one that is made anew has another id.
    pub(super) async fn find(&self, name: &str, rights: &Rights) -> Result<Arc<Subscription>, SubscriptionError> {
        let subscription = self.catalog.find(name).await?;
        may_use(&subscription.definition.source, subscription.selected.as_ref(), rights)?;
        Ok(subscription)
    }

    /// The same, read anew.
    pub(super) async fn reload(&self, name: &str, rights: &Rights) -> Result<Arc<Subscription>, SubscriptionError> {
        let subscription = self.catalog.reload(name).await?;
        may_use(&subscription.definition.source, subscription.selected.as_ref(), rights)?;
        Ok(subscription)
    }

    /// The id of a subscription, read from the database: reports and changes must notice that it was deleted.
    pub(super) async fn id(&self, name: &str, rights: &Rights) -> Result<i64, SubscriptionError> {
        Ok(self.reload(name, rights).await?.id)
    }

    /// A subscription as the database has it now.
    pub(super) async fn stored(
        &self,
        name: &str,
        rights: &Rights,
    ) -> Result<(StoredSubscription, Definition), SubscriptionError> {
        let (stored, definition) = self.catalog.stored(name).await?;
        may_use_stored(&stored, &definition, rights)?;
        Ok((stored, definition))
    }
}

/// Refused unless the caller may read all that a subscription consumes, as the database has it.
pub(super) fn may_use_stored(
    stored: &StoredSubscription,
    definition: &Definition,
    rights: &Rights,
) -> Result<(), SubscriptionError> {
    match rights {
        Rights::Everything => Ok(()),
        Rights::Only(_) => may_use(&definition.source, selected(stored)?.as_ref(), rights),
    }
}

/// Refused unless the caller may read all of a source. `selected`: what the aggregated stream selects that it is.
pub(super) fn may_use(
    source: &SubscriptionSource,
    selected: Option<&Streams>,
    rights: &Rights,
) -> Result<(), SubscriptionError> {
    match source {
        SubscriptionSource::Stream(name) => rights.read_stream(name)?,
        SubscriptionSource::Categories(names) => names.iter().try_for_each(|name| rights.read_whole_category(name))?,
        SubscriptionSource::All(_) => rights.read_everything()?,
        SubscriptionSource::Aggregated(_) | SubscriptionSource::Keyed(_) => match selected {
            Some(streams) => rights.read_streams(streams)?,
            // It was deleted, and there may be dead letters of any stream.
            None => rights.read_everything()?,
        },
    }
    Ok(())
}
