//! `headwater.append_batch`: many requests in one call and one transaction.

mod answer;
mod columns;
mod holding_locks;
mod in_doubt;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::error::ends_session;
use super::outcome::Outcome;
use super::{Database, Session, StoreError, source_text};
use crate::domain::append::{AppendError, AppendRequest, Appended};
use crate::domain::message::Message;
use columns::Columns;

const APPEND_BATCH: &str = "SELECT * FROM headwater.append_batch(\
    $1::text[], $2::int[], $3::int[], $4::bigint[], $5::boolean[], $6::int[], $7::int[], $8::int[], $9::text[], \
    $10::uuid[], $11::text[], $12::text[], $13::text[], $14::timestamp[], $15::boolean[], $16::uuid[], $17::text[], \
    $18::text[], $19::text[], $20::text[]::jsonb[])";

/// A session of its own for appends, with what is needed to find out what became of its last commits.
pub struct BatchSession {
    session: Session,
    append_batch: Statement,
    backend: Backend,
}

/// Drives the connection of a session.
pub type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One server process, told apart from a later one with the same pid.
#[derive(Debug, Clone)]
pub struct Backend {
    pid: i32,
    /// `None` where the session may not see its own start: it has taken a role that is no member of the role that
    /// logged in. We cannot end such a session, and what it did is not known before it is gone.
    started_at_micros: Option<i64>,
}

#[cfg(test)]
impl Backend {
    pub fn of(pid: i32) -> Self {
        Self { pid, started_at_micros: None }
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }
}

/// What became of one request of a batch.
#[derive(Debug)]
pub enum Answer {
    Done(Result<Appended, AppendError>),
    /// Another transaction holds the lock of this category, or (of the request's own) of what it acks; nothing was done.
    Locked {
        category: String,
    },
    /// Its conditions cannot be judged before the messages that they are about have been looked at; nothing was done.
    LookFirst,
}

/// A batch that went through.
#[derive(Debug, Default)]
pub struct BatchAnswer {
    /// One for each request, in order.
    pub answers: Vec<Answer>,
    pub written: Written,
}

/// The messages that a batch has written.
#[derive(Debug, Default)]
pub struct Written {
    /// Of all of them, in order: the global position and the id.
    pub positions: Vec<(i64, Uuid)>,
    /// Those that were wanted, in order.
    pub messages: Vec<Arc<Message>>,
}

/// A batch that did not go through, and what that means for it.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// It was rolled back because of what another transaction did (a message id was taken meanwhile, a deadlock):
    /// the same batch may be sent again.
    #[error("rolled back: {0}")]
    SendAgain(String),
    /// It was rolled back because of something in it.
    #[error("{0}")]
    Refused(String),
    /// It was not begun, or was rolled back because the server cannot write, or does not let us.
    #[error("nothing was written: {0}")]
    NotWritten(StoreError),
    /// Waiting for a category's lock took too long; it was rolled back.
    #[error("a category's lock is held by another transaction")]
    LockTimeout,
    /// The connection was lost before the answer came.
    #[error("the connection was lost: {0}")]
    InDoubt(String),
}

impl BatchSession {
    /// Connects. The task that waits for the session has to poll the connection.
    pub async fn open(database: &Database, lock_timeout: Duration) -> Result<(Self, Driver), StoreError> {
        let (session, (backend, append_batch), connection) =
            Session::open_undriven(database, async |session| set_up(session, lock_timeout).await).await?;
        let server = session.leads_to();
        let driver = async move {
            tokio::select! {
                // Its end shows as an error of everything that waits for an answer.
                _ = connection => {}
                () = server.left() => {}
            }
        };
        Ok((Self { session, append_batch, backend }, Box::pin(driver)))
    }

    /// Whether the connection has ended, as far as it has been polled.
    pub fn is_closed(&self) -> bool {
        self.session.is_closed()
    }

    pub fn backend(&self) -> Backend {
        self.backend.clone()
    }

    /// Writes the requests in one transaction. `wanted` says for each message whether it is to come back as it is stored.
    /// Locks of the awaited categories are waited for; a request that needs another one that is held is answered so.
    pub async fn append_batch(
        &self,
        requests: &[&AppendRequest],
        wanted: Option<&[bool]>,
        awaited: &[&str],
    ) -> Result<BatchAnswer, BatchError> {
        match requests {
            [request] if request.holds_locks => self.append_holding_locks(request, wanted, awaited).await,
            _ => self.call(requests, wanted, awaited).await,
        }
    }

    async fn call(
        &self,
        requests: &[&AppendRequest],
        wanted: Option<&[bool]>,
        awaited: &[&str],
    ) -> Result<BatchAnswer, BatchError> {
        let columns = Columns::of(requests);
        let awaited = (!awaited.is_empty()).then_some(awaited);
        let parameters: [&(dyn ToSql + Sync); 20] = [
            &columns.streams,
            &columns.part_requests,
            &columns.part_streams,
            &columns.expected_versions,
            &columns.must_exist,
            &columns.message_counts,
            &columns.message_parts,
            &columns.message_offsets,
            &columns.message_streams,
            &columns.ids,
            &columns.types,
            &columns.datas,
            &columns.metadatas,
            &columns.times,
            &wanted,
            &columns.ids_to_check,
            &columns.written_categories,
            &columns.read_categories,
            &awaited,
            &columns.guards,
        ];
        let writing = self.session.client.query_one(&self.append_batch, &parameters);
        let row = writing.await.map_err(|error| judge(&error))?;
        answer::read(&row, requests, wanted).map_err(|error| BatchError::InDoubt(source_text(&error)))
    }
}

async fn set_up(session: &Session, lock_timeout: Duration) -> Result<(Backend, Statement), StoreError> {
    // One plan for batches of all sizes: made anew for each, plans would be a quarter of what a batch of 32 costs.
    let settings = format!("SET lock_timeout = {}; SET plan_cache_mode = force_generic_plan", lock_timeout.as_millis());
    session.batch(&settings).await?;
    let row = session
        .query_one(
            "SELECT pg_backend_pid(), (extract(epoch FROM backend_start) * 1000000)::bigint \
             FROM pg_stat_activity WHERE pid = pg_backend_pid()",
            &[],
        )
        .await?;
    let backend = Backend { pid: row.try_get(0)?, started_at_micros: row.try_get(1)? };
    Ok((backend, session.prepare_cached(APPEND_BATCH).await?))
}

fn judge(error: &tokio_postgres::Error) -> BatchError {
    let Some(db) = error.as_db_error() else { return BatchError::InDoubt(source_text(error)) };
    let text = db.message().to_owned();
    match db.code().code() {
        // Another transaction took a message id, or stood in the way.
        "23505" | "40001" | "40P01" => BatchError::SendAgain(text),
        "55P03" => BatchError::LockTimeout,
        // A session that is ended may be ended between its commit and its answer, and a pooler that has lost its server
        // says so in an error of its own.
        code if ends_session(code) => BatchError::InDoubt(text),
        // The messages themselves are the matter: a data exception, a violated constraint, a limit exceeded, or a trigger
        // that does not take them.
        code if ["22", "23", "54", "P0"].iter().any(|class| code.starts_with(class)) => BatchError::Refused(text),
        // No room, no primary, no right, no function: rolled back, and nothing that the caller could change.
        code => BatchError::NotWritten(StoreError::answered(code, &text)),
    }
}
