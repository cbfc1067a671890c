//! The log lines for observations.

use crate::domain::observation::{FailureKind, Observation};

/// Writes the line of an observation, if it has one: what went well has none.
pub(super) fn log(observation: &Observation) {
    match observation {
        Observation::BatchFailed { requests, error } => tracing::warn!(requests, %error, "a batch of appends failed"),
        Observation::AppendsLocked { requests, category, holders } => tracing::warn!(
            requests,
            %category,
            ?holders,
            "appends waited too long for a lock that another transaction holds; nothing of them was written"
        ),
        Observation::CategoryQueueFailed { category, reason } => {
            tracing::error!(%category, %reason, "the queue of a locked category panicked; the next append to the category opens another");
        }
        Observation::CommitResolved { written, not_written } => {
            tracing::warn!(written, not_written, "a commit whose answer was lost has been looked up");
        }
        Observation::StoreFailed { by, kind, error, is_news: true } => match kind {
            FailureKind::Outage => tracing::warn!(by, %error, "the database is away"),
            FailureKind::Refused => tracing::error!(by, %error, "the database refused a statement of the service"),
            FailureKind::Bug => {
                tracing::error!(by, %error, "an answer of the database cannot be read: a bug of the service");
            }
        },
        Observation::DatabaseFound { by } => tracing::info!(by, "the database is back"),
        Observation::JwksFetched { keys } => tracing::debug!(keys, "the keys of the JWKS URL were fetched"),
        Observation::JwksFailed { error, is_news: true } => {
            tracing::warn!(%error, "the keys of the JWKS URL cannot be fetched; those that are known go on");
        }
        Observation::PrimaryChanged { name } => tracing::warn!(name, "another server is the primary from now on"),
        Observation::OtherPrimary { used, other: Some(other) } => tracing::error!(
            used,
            other,
            "another server takes writes too: what is written there is lost to this log. Stop it"
        ),
        Observation::OtherPrimary { used, other: None } => {
            tracing::info!(used, "no other server takes writes any more");
        }
        Observation::ReplicaSeen { name, used: true, reason, is_news: true, .. } => {
            tracing::info!(name, reason, "a replica is read from");
        }
        Observation::ReplicaSeen { name, used: false, reason, is_news: true, .. } => {
            tracing::warn!(name, reason, "a replica is not read from: the primary is, in its place");
        }
        Observation::ListenerUp => tracing::debug!("listening for signals"),
        Observation::ListenerDown { error } => tracing::warn!(%error, "the listening connection was lost"),
        Observation::TailReads { reads: false } => {
            tracing::warn!("the end of the log cannot be read; nothing new reaches those who follow");
        }
        Observation::TailReads { reads: true } => tracing::info!("the end of the log is read"),
        Observation::SequenceCaches { numbers: 1 } => {
            tracing::info!("the sequence of message_store.messages has CACHE 1");
        }
        Observation::SequenceCaches { numbers } => tracing::error!(
            numbers,
            "the sequence of message_store.messages gives several positions to a session at once, so that followers miss \
             messages; ALTER SEQUENCE message_store.messages_global_position_seq CACHE 1, \
             and reconnect the programs that write in SQL"
        ),
        Observation::PositionsAhead { at: Some(at), given } => tracing::warn!(
            at,
            given,
            "a message has a global position that its sequence has not given; it is delivered once the sequence has: \
             SELECT setval(pg_get_serial_sequence('message_store.messages', 'global_position'), \
             max(global_position)) FROM message_store.messages"
        ),
        Observation::PositionsAhead { at: None, .. } => tracing::info!("no global position is ahead of its sequence"),
        Observation::WrittenBehind { messages, first, settled } => tracing::error!(
            messages,
            first,
            settled,
            "messages were written at global positions that followers have passed already: inserted with a \
             position of their own, or changed; pages have them, followers, aggregated streams and subscriptions that \
             are past them do not"
        ),
        Observation::Retained { category, messages } => {
            tracing::info!(%category, messages, "the oldest messages of a category were trimmed, as its retention says");
        }
        Observation::Erased { id, global_position } => {
            tracing::info!(%id, global_position, "the data of a message was erased");
        }
        Observation::HeldBack { seconds, at, pids, warn: true } => tracing::warn!(
            seconds,
            at,
            ?pids,
            "an open transaction that has written to message_store.messages keeps later messages from being delivered; \
             end these sessions, or wait"
        ),
        Observation::Released { seconds, warned: true } => {
            tracing::info!(seconds, "the open transaction has ended; messages are delivered again");
        }
        Observation::ProjectorLeads { leads: true, epoch } => tracing::info!(epoch, "this instance projects now"),
        Observation::ProjectorLeads { leads: false, .. } => tracing::info!("this instance does not project any more"),
        Observation::ProjectionStopped { name, reason } => {
            tracing::warn!(%name, %reason, "an aggregated stream has stopped at a message that it cannot place");
        }
        Observation::SubscriptionStopped { subscription, reason } => {
            tracing::warn!(%subscription, %reason, "a subscription has stopped");
        }
        Observation::DeliveriesTakenBack { subscription, consumer } => {
            tracing::info!(%subscription, %consumer, "the database's answer was lost; what it may have delivered comes again");
        }
        Observation::LeaseExpired { subscription, consumer } => {
            tracing::info!(%subscription, %consumer, "a consumer's lease ran out; what it had goes to the others");
        }
        Observation::HistoryChanged { reason, is_anew, settled, head } => tracing::warn!(
            reason,
            is_anew,
            settled,
            head,
            "the log is another one than the one that was read: followers get history-changed and have to begin anew"
        ),
        Observation::ConnectionRefused { setting, address } => {
            tracing::warn!(setting, %address, "connections are refused: as many are open as may be");
        }
        Observation::BodyRefused => tracing::warn!(
            setting = "--bodies-bytes-max",
            "requests are refused: the bodies of others take all the memory that they may"
        ),
        Observation::Panicked { message } => tracing::error!(%message, "a request panicked"),
        // 503 is no fault of the service, and comes by the thousand: metrics count it, and its cause has a line of its own.
        Observation::RequestAnswered { method, path, status, took } if *status >= 500 && *status != 503 => {
            tracing::warn!(method, path, status, took_ms = took.as_millis() as u64, "a request failed");
        }
        _ => {}
    }
}
