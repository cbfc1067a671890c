//! Appends that ack what has led to them, in one transaction.

use super::Service;
use super::subscriptions::SubscriptionError;
use crate::domain::append::{AppendError, AppendRequest, Appended};

impl Service {
    /// Writes the request's messages and acks what it names, all or none.
    pub async fn append_and_ack(&self, mut request: AppendRequest) -> Result<Appended, AppendError> {
        let acks = &self.subscriptions.acks;
        let Some(ack) = request.ack.as_mut() else { return self.append.append(request).await };
        match acks.find(ack).await {
            // Without it, a request that was done before is still known.
            Ok(()) | Err(SubscriptionError::NotFound { .. }) => {}
            Err(_) => return Err(AppendError::DatabaseUnavailable),
        }
        let ack = ack.clone();
        let appended = self.append.append(request).await;
        match &appended {
            Ok(appended) if !appended.duplicate => acks.committed(&ack, 1, 0),
            Err(AppendError::Fenced { .. }) => acks.committed(&ack, 0, 1),
            _ => {}
        }
        appended
    }
}
