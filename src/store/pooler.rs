//! Connections through a pooler that hands out the server's connections by transaction (PgBouncer's `pool_mode =
//! transaction`). Nothing that belongs to a session outlasts a transaction there: settings are made, and statements are
//! prepared and forgotten, in each. What needs a session goes to PostgreSQL directly.

use futures_util::TryStreamExt;
use futures_util::future::BoxFuture;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgStatement, Postgres};
use sqlx::{ConnectOptions, Connection, Error, Execute, Executor, Row, SqlStr, raw_sql};
use std::sync::atomic::{AtomicI32, Ordering};

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::plain::Rows;
use super::{Database, Session, StoreError};

/// Why the service does not use a pooler.
#[derive(Debug, thiserror::Error)]
pub enum PoolerError {
    #[error(
        "--database-url leads to {pooled}, and --direct-database-url to {direct}: both have to lead to one database of one \
         server. Correct the pooler's list of databases, or one of the URLs"
    )]
    OtherDatabase { pooled: String, direct: String },
    #[error("whether --database-url and --direct-database-url lead to one database is not known: {0}")]
    Unknown(#[from] StoreError),
}

/// Begins a transaction with [`SESSION_SETTINGS`](super::SESSION_SETTINGS), and says which process executes it.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED NOT DEFERRABLE; SELECT pg_backend_pid()::text; \
    SET LOCAL enable_seqscan = off; SET LOCAL jit = off; SET LOCAL client_min_messages = warning; \
    SET LOCAL message_store.notify = off; SET LOCAL plan_cache_mode = auto; SET LOCAL statement_timeout = 0; \
    SET LOCAL lock_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0; \
    SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'";
/// Ends a transaction, also one that has failed, and leaves no prepared statement to the next client of the connection.
pub(super) const END: &str = "COMMIT; DEALLOCATE ALL";

/// Executes a statement in a transaction of its own. `pid`: the process that executes it, 0 while there is none.
pub(super) fn in_transaction<'a, 'q: 'a, E: Execute<'q, Postgres> + 'q>(
    connection: &'a mut PgConnection,
    query: E,
    pid: &'a AtomicI32,
) -> BoxFuture<'a, Result<Rows, Error>> {
    Box::pin(async move {
        let begun = raw_sql(BEGIN).fetch_all(&mut *connection).await?;
        let process = begun.first().and_then(|row| row.try_get_unchecked::<String, _>(0).ok()?.parse().ok());
        pid.store(process.unwrap_or(0), Ordering::SeqCst);
        let outcome = (&mut *connection).fetch_many(Unnamed(query)).try_collect().await;
        // From here on the process may be another client's.
        pid.store(0, Ordering::SeqCst);
        let end = if outcome.is_ok() { "COMMIT" } else { "ROLLBACK" };
        let ended = raw_sql(end).execute(connection).await;
        let rows = outcome?;
        ended.map(|_| rows)
    })
}

/// A statement that is prepared without a name, for once.
struct Unnamed<E>(E);

impl<'q, E: Execute<'q, Postgres>> Execute<'q, Postgres> for Unnamed<E> {
    fn sql(self) -> SqlStr {
        self.0.sql()
    }

    fn statement(&self) -> Option<&PgStatement> {
        self.0.statement()
    }

    fn take_arguments(&mut self) -> Result<Option<PgArguments>, BoxDynError> {
        self.0.take_arguments()
    }

    fn persistent(&self) -> bool {
        false
    }
}

/// A lock that nobody else takes: a session that sees it is in the same database of the same server. Copies of a server have its
/// identifiers, and a replica has its databases, but none of them has its locks.
const LOCK: &str = "SELECT pg_advisory_lock_shared($1)";
const IS_LOCKED: &str = "SELECT EXISTS (SELECT FROM pg_locks AS l WHERE l.locktype = 'advisory' AND l.objsubid = 1 \
    AND (l.classid::bigint << 32 | l.objid::bigint) = $1 \
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))";
const WHERE: &str = "SELECT format('database %s of the %s that was started at %s', current_database(), \
    CASE WHEN pg_is_in_recovery() THEN 'replica' ELSE 'server' END, \
    to_char(pg_postmaster_start_time() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'))";

impl Database {
    /// Refuses a pooler that leads elsewhere than the direct URL.
    pub async fn check_pooler(&self) -> Result<(), PoolerError> {
        if self.pooler.is_none() {
            return Ok(());
        }
        let key = (Uuid::new_v4().as_u128() as i64) & i64::MAX;
        // It has the lock until it goes.
        let direct = Session::open(self, None).await?;
        direct.query_typed(LOCK, &[(&key, Type::INT8)]).await?;
        let pooled = self.reader().await?;
        let rows = pooled.query_typed(IS_LOCKED, &[(&key, Type::INT8)]).await?;
        if first(&rows)? {
            return Ok(());
        }
        let (pooled, direct) = (pooled.query_typed(WHERE, &[]).await?, direct.query_typed(WHERE, &[]).await?);
        Err(PoolerError::OtherDatabase { pooled: first(&pooled)?, direct: first(&direct)? })
    }
}

fn first<'a, T: tokio_postgres::types::FromSql<'a>>(rows: &'a [tokio_postgres::Row]) -> Result<T, StoreError> {
    let row = rows.first().ok_or_else(|| StoreError::Bug("a look at the pooler showed nothing".into()))?;
    Ok(row.try_get(0)?)
}

/// Whether connections are sessions: what one sets is still set afterwards, although another one has set it meanwhile.
pub(super) async fn are_sessions(options: &PgConnectOptions) -> Result<bool, Error> {
    let (mut one, mut other) = (options.connect().await?, options.connect().await?);
    raw_sql("SELECT set_config('headwater.session', 'one', false)").execute(&mut one).await?;
    raw_sql("SELECT set_config('headwater.session', 'other', false)").execute(&mut other).await?;
    let row = raw_sql("SELECT current_setting('headwater.session', true)").fetch_one(&mut one).await?;
    let said: Option<String> = row.try_get_unchecked(0)?;
    for connection in [one, other] {
        let _ = connection.close().await;
    }
    Ok(said.as_deref() == Some("one"))
}
