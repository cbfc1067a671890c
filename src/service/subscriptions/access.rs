//! Which subscriptions a caller may use: those whose whole source the caller may read, looked at whenever one is used.

use std::sync::Arc;

use super::catalog::Subscription;
use super::{Common, SubscriptionError};
use crate::domain::scope::Rights;
use crate::domain::subscription::{Definition, SubscriptionSource};
use crate::store::subscriptions::StoredSubscription;

impl Common {
    /// A subscription as it was read last. What it consumes never changes: one that is made anew has another id.
    pub(super) async fn find(&self, name: &str, rights: &Rights) -> Result<Arc<Subscription>, SubscriptionError> {
        let subscription = self.catalog.find(name).await?;
        self.may_use_known(&subscription, rights).await?;
        Ok(subscription)
    }

    /// The same, read anew.
    pub(super) async fn reload(&self, name: &str, rights: &Rights) -> Result<Arc<Subscription>, SubscriptionError> {
        let subscription = self.catalog.reload(name).await?;
        self.may_use_known(&subscription, rights).await?;
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
        self.may_use(&definition.source, stored.source_id(), rights).await?;
        Ok((stored, definition))
    }

    /// Refused unless the caller may read all of a source. `aggregated_stream`: the id of the one that it is.
    pub(super) async fn may_use(
        &self,
        source: &SubscriptionSource,
        aggregated_stream: Option<i64>,
        rights: &Rights,
    ) -> Result<(), SubscriptionError> {
        if *rights == Rights::Everything {
            return Ok(());
        }
        match source {
            SubscriptionSource::Stream(name) => rights.read_stream(name)?,
            SubscriptionSource::Categories(names) => {
                names.iter().try_for_each(|name| rights.read_whole_category(name))?;
            }
            SubscriptionSource::All(_) => rights.read_everything()?,
            SubscriptionSource::Aggregated(_) | SubscriptionSource::Keyed(_) => {
                let selection = match aggregated_stream {
                    Some(id) => self.aggregated.selection(id).await?,
                    None => None,
                };
                match selection {
                    Some(streams) => rights.read_streams(&streams)?,
                    // It was deleted, and there may be dead letters of any stream.
                    None => rights.read_everything()?,
                }
            }
        }
        Ok(())
    }

    async fn may_use_known(&self, subscription: &Subscription, rights: &Rights) -> Result<(), SubscriptionError> {
        let aggregated_stream = subscription.aggregated.as_ref().map(|aggregated| aggregated.id);
        self.may_use(&subscription.definition.source, aggregated_stream, rights).await
    }
}
