//! What `headwater doctor` asks a database. Nothing here needs the service's schemas to be there.

use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::{Database, Session, StoreError};

/// The longest that one of these statements may take.
const LIMIT: (Duration, &str) = (Duration::from_secs(10), "a look at the database");
/// Transactions that are named at most.
const HOLDERS_MAX: i64 = 20;

/// A server, its settings and its state.
#[derive(Debug, Clone)]
pub struct ServerFacts {
    pub version: String,
    /// 150008 for 15.8.
    pub version_number: i32,
    pub is_in_recovery: bool,
    pub fsync: bool,
    pub full_page_writes: bool,
    pub autovacuum: bool,
    /// As other programs of this role and database find them: the service sets its own.
    pub synchronous_commit: String,
    pub default_transaction_read_only: bool,
    pub connections: i64,
    /// Without those that are kept for superusers.
    pub connections_max: i64,
    /// Seconds since 1970.
    pub clock: f64,
    /// Transactions since the oldest row that VACUUM has not frozen.
    pub frozen_age: i64,
    /// From 0 to 1.
    pub notification_queue_usage: f64,
    /// Empty: replication is asynchronous, if there is any.
    pub synchronous_standby_names: String,
    /// `None`: this role may not know.
    pub synchronous_standbys: Option<i64>,
    /// Segments of WAL are archived, and the last attempt failed.
    pub is_archiving_failing: bool,
    /// Bytes that the hungriest slot without a consumer makes the server keep.
    pub idle_slot_bytes: i64,
}

/// A transaction that has been open for long, and has written to the messages or keeps others from doing so.
#[derive(Debug, Clone)]
pub struct LongTransaction {
    /// `None`: it is prepared.
    pub pid: Option<i32>,
    pub prepared_as: Option<String>,
    /// `None`: this role may not know, as also of the next two.
    pub application_name: Option<String>,
    pub state: Option<String>,
    pub seconds: Option<f64>,
    /// `RowExclusiveLock` is that of writers.
    pub mode: String,
}

/// What numbers the messages.
#[derive(Debug, Clone, Copy)]
pub struct Numbering {
    /// The highest global position in the table.
    pub head: i64,
    /// The last that the sequence has given; `None`: this role may not know.
    pub given: Option<i64>,
}

const FACTS: &str = "SELECT current_setting('server_version'), current_setting('server_version_num')::int, \
    pg_is_in_recovery(), current_setting('fsync')::bool, current_setting('full_page_writes')::bool, \
    current_setting('autovacuum')::bool, \
    (SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit'), \
    (SELECT reset_val::bool FROM pg_settings WHERE name = 'default_transaction_read_only'), \
    (SELECT count(*) FROM pg_stat_activity WHERE backend_type IS NULL OR backend_type = 'client backend'), \
    (current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int)::bigint, \
    extract(epoch FROM clock_timestamp())::float8, \
    (SELECT age(datfrozenxid)::bigint FROM pg_database WHERE datname = current_database()), \
    pg_notification_queue_usage(), \
    current_setting('synchronous_standby_names'), \
    (SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')), \
    pg_has_role('pg_read_all_stats', 'USAGE'), \
    current_setting('archive_mode') <> 'off' AND coalesce((SELECT last_failed_time > \
    coalesce(last_archived_time, '-infinity') FROM pg_stat_archiver), false), \
    coalesce((SELECT max(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() \
    ELSE pg_current_wal_lsn() END, restart_lsn)) FROM pg_replication_slots WHERE NOT active), 0)::bigint";

const LONG_TRANSACTIONS: &str = "SELECT l.pid, x.gid, nullif(a.application_name, ''), \
    CASE WHEN l.pid IS NULL THEN 'prepared' ELSE a.state END, \
    extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, x.prepared))::float8, l.mode \
    FROM pg_locks AS l \
    LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid \
    LEFT JOIN pg_locks AS own ON l.pid IS NULL AND own.pid IS NULL AND own.locktype = 'transactionid' \
    AND own.granted AND own.virtualtransaction = l.virtualtransaction \
    LEFT JOIN pg_prepared_xacts AS x ON x.transaction = own.transactionid \
    WHERE l.locktype = 'relation' AND l.granted AND l.relation = to_regclass('message_store.messages') \
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
    AND l.mode NOT IN ('AccessShareLock', 'RowShareLock', 'ShareUpdateExclusiveLock') \
    AND coalesce(coalesce(a.xact_start, x.prepared) < clock_timestamp() - make_interval(secs => $1), true) \
    ORDER BY 5 DESC NULLS LAST LIMIT $2";

const NUMBERING: &str = "SELECT coalesce(max(global_position), 0), \
    (SELECT CASE WHEN has_sequence_privilege(name, 'SELECT, USAGE') \
    THEN coalesce(pg_sequence_last_value(name::regclass), 0) END \
    FROM pg_get_serial_sequence('message_store.messages', 'global_position') AS name) FROM message_store.messages";

impl Database {
    /// A session of its own for looking around.
    pub async fn inspection_session(&self) -> Result<Session, StoreError> {
        Session::open(self, Some(LIMIT)).await
    }
}

impl Session {
    pub async fn server_facts(&self) -> Result<ServerFacts, StoreError> {
        let rows = self.query_typed(FACTS, &[]).await?;
        let row = one(&rows)?;
        let may_see_standbys: bool = row.try_get(15)?;
        let standbys: i64 = row.try_get(14)?;
        Ok(ServerFacts {
            version: row.try_get(0)?,
            version_number: row.try_get(1)?,
            is_in_recovery: row.try_get(2)?,
            fsync: row.try_get(3)?,
            full_page_writes: row.try_get(4)?,
            autovacuum: row.try_get(5)?,
            synchronous_commit: row.try_get(6)?,
            default_transaction_read_only: row.try_get(7)?,
            connections: row.try_get(8)?,
            connections_max: row.try_get(9)?,
            clock: row.try_get(10)?,
            frozen_age: row.try_get(11)?,
            notification_queue_usage: row.try_get(12)?,
            synchronous_standby_names: row.try_get(13)?,
            synchronous_standbys: may_see_standbys.then_some(standbys),
            is_archiving_failing: row.try_get(16)?,
            idle_slot_bytes: row.try_get(17)?,
        })
    }

    /// Those that are open for longer than this, and prepared ones.
    pub async fn long_transactions(&self, longer_than: Duration) -> Result<Vec<LongTransaction>, StoreError> {
        let seconds = longer_than.as_secs_f64();
        let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
            [(&seconds, Type::FLOAT8), (&HOLDERS_MAX, Type::INT8)];
        let rows = self.query_typed(LONG_TRANSACTIONS, &parameters).await?;
        rows.iter()
            .map(|row| {
                Ok(LongTransaction {
                    pid: row.try_get(0)?,
                    prepared_as: row.try_get(1)?,
                    application_name: row.try_get(2)?,
                    state: row.try_get(3)?,
                    seconds: row.try_get(4)?,
                    mode: row.try_get(5)?,
                })
            })
            .collect()
    }

    /// Only where the messages' table is there.
    pub async fn numbering(&self) -> Result<Numbering, StoreError> {
        let rows = self.query_typed(NUMBERING, &[]).await?;
        let row = one(&rows)?;
        Ok(Numbering { head: row.try_get(0)?, given: row.try_get(1)? })
    }
}

fn one(rows: &[Row]) -> Result<&Row, StoreError> {
    rows.first().ok_or_else(|| StoreError::Bug("a look at the database has no row".into()))
}
