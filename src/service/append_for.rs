//! Appends of a caller: what the caller may append, what its conditions may be about, and what a refusal may say.

use super::Service;
use super::append::session::AppendSession;
use super::auth::Caller;
use super::subscriptions::SubscriptionError;
use crate::domain::append::{AppendAck, AppendError, AppendRequest, Appended, Condition};
use crate::domain::scope::{Missing, Rights};
use crate::domain::stream_name::StreamName;
use crate::domain::trace::SpanRef;

impl Service {
    /// Writes the request's messages and acks what it names, all or none.
    pub async fn append_for(&self, caller: &Caller, mut request: AppendRequest) -> Result<Appended, AppendError> {
        let rights = caller.rights();
        may_append(rights, &request)?;
        self.credential_limits.take_append(caller)?;
        let own: Vec<StreamName> = match rights {
            Rights::Everything => Vec::new(),
            Rights::Only(_) => request.streams.iter().map(|stream| stream.stream_name.clone()).collect(),
        };
        let appended = match request.ack.take() {
            Some(ack) => self.append_and_ack(rights, request, ack).await,
            None => self.append.append(request, rights).await,
        };
        appended.map_err(|error| told_to(rights, &own, error))
    }

    /// Begins a session of a caller on a stream.
    /// `trace`: the span in which the caller began it, if the caller records its trace.
    pub fn append_session_for(
        &self,
        caller: &Caller,
        stream_name: StreamName,
        trace: Option<SpanRef>,
    ) -> Result<AppendSession, AppendError> {
        caller.rights().append_to_stream(stream_name.as_str())?;
        self.append.session(stream_name, caller.clone(), self.credential_limits.clone(), trace)
    }

    async fn append_and_ack(
        &self,
        rights: &Rights,
        request: AppendRequest,
        mut ack: AppendAck,
    ) -> Result<Appended, AppendError> {
        let acks = &self.subscriptions.acks;
        match acks.find(&mut ack, rights).await {
            // Without it, a request that was done before is still known.
            Ok(()) | Err(SubscriptionError::NotFound { .. }) => {}
            Err(SubscriptionError::Forbidden(missing)) => return Err(missing.into()),
            Err(_) => return Err(AppendError::DatabaseUnavailable),
        }
        let request = AppendRequest { ack: Some(ack.clone()), ..request };
        let appended = self.append.append(request, rights).await;
        match &appended {
            Ok(appended) if !appended.duplicate => acks.committed(&ack, 1, 0),
            Err(AppendError::Fenced { .. }) => acks.committed(&ack, 0, 1),
            _ => {}
        }
        appended
    }
}

/// Refused unless the caller may append to all of its streams, and read all that its conditions are about. Conditions on
/// keys are looked at once their aggregated streams have been found.
fn may_append(rights: &Rights, request: &AppendRequest) -> Result<(), Missing> {
    if *rights == Rights::Everything {
        return Ok(());
    }
    request.streams.iter().try_for_each(|stream| rights.append_to_stream(stream.stream_name.as_str()))?;
    for condition in &request.conditions {
        match condition {
            Condition::Version { stream_name, .. } => rights.read_stream(stream_name.as_str())?,
            Condition::Query(query) => {
                query.categories.iter().try_for_each(|(category, _)| rights.read_whole_category(category.as_str()))?;
            }
            Condition::Key(_) => {}
        }
    }
    request.ack.as_ref().map_or(Ok(()), |ack| rights.subscribe(&ack.name))
}

/// What a caller is told of a refusal: of streams that it neither writes to nor may read, nothing. `own`: those that it
/// writes to.
pub(super) fn told_to(rights: &Rights, own: &[StreamName], error: AppendError) -> AppendError {
    match error {
        AppendError::MessageIdReused { message_id, stream_name, .. }
            if !own.iter().any(|own| own.as_str() == stream_name) && rights.read_stream(&stream_name).is_err() =>
        {
            AppendError::MessageIdTaken { message_id }
        }
        told => told,
    }
}
