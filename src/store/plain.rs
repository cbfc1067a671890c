//! Plain statements: queries of sqlx that are checked when this is compiled, as in `query!(…).fetch_one(database)`.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt, TryFutureExt, TryStreamExt};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{
    PgArgumentBuffer, PgConnection, PgHasArrayType, PgQueryResult, PgRow, PgStatement, PgTypeInfo, PgValueRef, Postgres,
};
use sqlx::types::chrono::NaiveDateTime;
use sqlx::{Connection, Decode, Describe, Either, Encode, Error, Execute, Executor, SqlStr};
use tokio_postgres::types::Type;

use super::session::{CANCEL_AGAIN, CANCEL_TIMEOUT};
use super::{Database, SESSION_SETTINGS, Server, StoreError, in_time, pooler, source_text};
use crate::domain::time::Timestamp;

/// A connection that was idle for this long is checked before it is lent: sqlx notices its end only when it is used.
const IDLE_TRUSTED: Duration = Duration::from_millis(500);

/// A connection of sqlx. The task that waits for a statement drives the connection.
pub(super) struct Plain {
    pub connection: PgConnection,
    /// The process that executes its statements; through a pooler, 0 while it executes none.
    pid: AtomicI32,
    is_pooled: bool,
    server: Arc<Server>,
    idle_since: Instant,
}

impl Plain {
    pub async fn open(database: &Database) -> Result<Self, StoreError> {
        let (server, is_pooled) = (database.pooler().server().await?, database.pooler.is_some());
        // On the heap: it is large, seldom needed, and would be in the future of whoever may need a connection.
        let opening = Box::pin(async {
            let connecting = PgConnection::connect_with(&server.way.plain).await;
            // Whatever the server says to new connections: it serves none.
            let mut connection = connecting.map_err(|error| StoreError::Unavailable(source_text(&error)))?;
            let mut pid = 0;
            if !is_pooled {
                sqlx::raw_sql(SESSION_SETTINGS).execute(&mut connection).await?;
                pid = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut connection).await?;
            }
            let (pid, server) = (AtomicI32::new(pid), server.clone());
            Ok::<_, StoreError>(Self { connection, pid, is_pooled, server, idle_since: Instant::now() })
        });
        let opened = in_time(database.settings().connect_timeout, "connecting", opening).await;
        opened.inspect_err(|_| server.doubt())
    }

    /// Whether the connection can be lent: it was in use a moment ago, or answers.
    pub async fn is_alive(&mut self, within: Duration) -> bool {
        if self.server.is_left() {
            return false;
        }
        let is_fresh = self.idle_since.elapsed() < IDLE_TRUSTED;
        is_fresh || matches!(tokio::time::timeout(within, self.connection.ping()).await, Ok(Ok(())))
    }

    pub fn rests(&mut self) {
        self.idle_since = Instant::now();
    }

    /// Has PostgreSQL end a statement whose caller is gone. The connection is closed: a cancellation that comes late would
    /// hit its next statement.
    pub async fn cancel(mut self, database: &Database) {
        let ending = async {
            let (pid, Ok(other)) = (self.pid.load(Ordering::SeqCst), database.control().await) else { return };
            if pid == 0 {
                return;
            }
            // The ping is answered once the statement before it has ended.
            let mut ended = pin!(self.connection.ping());
            loop {
                // PostgreSQL forgets a cancellation that comes before the statement has begun.
                let _ = other.query_typed("SELECT pg_cancel_backend($1)", &[(&pid, Type::INT4)]).await;
                if tokio::time::timeout(CANCEL_AGAIN, ended.as_mut()).await.is_ok() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(CANCEL_TIMEOUT, ending).await;
    }

    /// The server that it leads to.
    pub fn leads_to(&self) -> &Server {
        &self.server
    }

    /// Executes something. sqlx has no time limit for a silent peer, so after a while another session asks PostgreSQL
    /// whether the statement is still being executed.
    async fn watched<'a, T>(
        &'a mut self,
        database: &Database,
        work: impl FnOnce(&'a mut PgConnection, &'a AtomicI32) -> BoxFuture<'a, Result<T, Error>>,
    ) -> Result<T, Error> {
        let silence_timeout = database.settings().silence_timeout;
        let mut working = work(&mut self.connection, &self.pid);
        let mut is_over = false;
        loop {
            let waiting = tokio::time::timeout(silence_timeout, &mut working);
            let waited = tokio::select! {
                biased;
                waited = waiting => waited,
                () = self.server.left() => return Err(Error::Configuration(Server::left_error().into())),
            };
            match waited {
                Ok(outcome) => return outcome,
                // The answer has had time to arrive.
                Err(_) if is_over => return Err(Error::Io(std::io::ErrorKind::TimedOut.into())),
                Err(_) => is_over = !is_at_work(database, self.pid.load(Ordering::SeqCst)).await,
            }
        }
    }
}

/// Whether PostgreSQL executes a statement of this session. If the statement has ended or never arrived, the session is
/// idle.
async fn is_at_work(database: &Database, pid: i32) -> bool {
    let Ok(other) = database.control().await else { return false };
    let sql = "SELECT FROM pg_stat_activity WHERE pid = $1 AND state IS DISTINCT FROM 'idle'";
    let found = other.query_typed(sql, &[(&pid, Type::INT4)]).await;
    found.is_ok_and(|rows| !rows.is_empty())
}

pub(super) type Rows = Vec<Either<PgQueryResult, PgRow>>;

impl Database {
    async fn rows<'q, E: Execute<'q, Postgres> + 'q>(&self, query: E) -> Result<Rows, Error> {
        let mut lent = self.lend_plain().await?;
        let plain = lent.plain()?;
        let is_pooled = plain.is_pooled;
        let working = plain.watched(self, |connection, pid| match is_pooled {
            true => pooler::in_transaction(connection, query, pid),
            false => connection.fetch_many(query).try_collect().boxed(),
        });
        let outcome = working.await;
        lent.done(outcome)
    }
}

/// Rows are collected before they are given out: large results are read by
/// [`Session::query_bounded`](super::Session::query_bounded) instead.
impl<'c> Executor<'c> for &'c Database {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        self.rows(query).map_ok(|rows| stream::iter(rows.into_iter().map(Ok))).try_flatten_stream().boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let rows = self.rows(query);
        async { Ok(rows.await?.into_iter().find_map(Either::right)) }.boxed()
    }

    fn prepare_with<'e>(self, sql: SqlStr, types: &'e [PgTypeInfo]) -> BoxFuture<'e, Result<PgStatement, Error>>
    where
        'c: 'e,
    {
        async move {
            let mut lent = self.lend_plain().await?;
            let outcome = lent.plain()?.watched(self, |connection, _| connection.prepare_with(sql, types)).await;
            lent.done(outcome)
        }
        .boxed()
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, Error>>
    where
        'c: 'e,
    {
        async move {
            let mut lent = self.lend_plain().await?;
            let outcome = lent.plain()?.watched(self, |connection, _| connection.describe(sql)).await;
            lent.done(outcome)
        }
        .boxed()
    }
}

impl sqlx::Type<Postgres> for Timestamp {
    fn type_info() -> PgTypeInfo {
        <NaiveDateTime as sqlx::Type<Postgres>>::type_info()
    }
}

impl PgHasArrayType for Timestamp {
    fn array_type_info() -> PgTypeInfo {
        <NaiveDateTime as PgHasArrayType>::array_type_info()
    }
}

impl<'r> Decode<'r, Postgres> for Timestamp {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        Ok(Timestamp::from_postgres(i64::from_be_bytes(value.as_bytes()?.try_into()?)))
    }
}

impl Encode<'_, Postgres> for Timestamp {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&self.to_postgres().to_be_bytes());
        Ok(IsNull::No)
    }
}
