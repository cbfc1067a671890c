//! The tail's statements: positions after the settled one, the holders of the table's lock, and whether rows are on disk.

use std::collections::HashSet;
use std::time::Duration;

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::read::message_of;
use super::{Database, Session, StoreError};
use crate::domain::message::Message;
use crate::domain::settling::Holder;

/// New rows, and the state of the sequence and of the server's log in the same snapshot.
#[derive(Debug)]
pub struct Look {
    pub rows: Vec<NewRow>,
    /// To be passed to [`Session::until_flushed`] before any of the rows is shown.
    pub unflushed: Option<Unflushed>,
    /// The highest position that the sequence has given, if that is known. A row beyond it was numbered by hand.
    pub given: Option<i64>,
    /// How many positions a session takes from the sequence at once, if that is known.
    pub cached: Option<i64>,
    /// Whether everything was looked at, to the end of the log.
    pub is_to_the_end: bool,
}

/// A place in the server's own log that is not on disk yet.
#[derive(Debug, Clone, Copy)]
pub struct Unflushed(i64);

/// A message whose text is not read yet.
#[derive(Debug, Clone)]
pub struct NewRow {
    pub global_position: i64,
    pub id: Uuid,
    pub stream_name: String,
    /// Its size in the table, where it may be compressed.
    pub stored_bytes: usize,
}

/// How many positions one look passes over. Rows that a large transaction has inserted and not committed are invisible,
/// but have to be passed over one by one.
const LOOK_POSITIONS_MAX: i64 = 20_000;
/// A read of the tail that takes longer is given up, with its connection.
const LIMIT: (Duration, &str) = (Duration::from_secs(5), "a read of the tail");

/// The relation lock that every INSERT into the table takes before it draws its number.
const HOLDERS: &str = "SELECT virtualtransaction, pid FROM pg_catalog.pg_locks WHERE locktype = 'relation' \
    AND mode = 'RowExclusiveLock' AND granted AND relation = 'message_store.messages'::regclass \
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// Subqueries that are evaluated once, after the snapshot was taken, so that their answers hold for all rows in it.
///
/// The place up to which the server's log has to be on disk before the rows may be shown; NULL: it is there already, as it
/// is when all commits are synchronous and none is under way.
const UNFLUSHED: &str = "(SELECT CASE WHEN pg_is_in_recovery() \
    OR pg_current_wal_flush_lsn() >= pg_current_wal_insert_lsn() THEN NULL \
    ELSE pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint END)";
/// The highest number that the sequence has given; NULL if that cannot be known.
const GIVEN: &str = "(SELECT CASE WHEN has_sequence_privilege(name, 'SELECT, USAGE') \
    THEN coalesce(pg_sequence_last_value(name::regclass), 0) END \
    FROM pg_get_serial_sequence('message_store.messages', 'global_position') AS name)";
/// How many numbers a session takes from the sequence at once.
const CACHED: &str = "(SELECT seqcache FROM pg_catalog.pg_sequence WHERE seqrelid \
    = pg_get_serial_sequence('message_store.messages', 'global_position')::regclass)";
/// The pauses between looks whether something is on disk: a synchronous commit of another session brings it there within
/// them.
const FLUSH_POLLS: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(1), Duration::from_millis(3), Duration::from_millis(6)];

impl Database {
    /// A session of its own for the reader of the tail, and the count of [turns](Self::server_turns) that it was opened at.
    pub async fn tail_session(&self) -> Result<(Session, u64), StoreError> {
        // Found first: a server that is found while this connects would count as one that may be another.
        self.finder.server().await?;
        let turns = self.server_turns();
        Ok((Session::open(self, Some(LIMIT)).await?, turns))
    }
}

/// The statements of the tail's reader.
impl Session {
    /// The rows after a position, in order, as one snapshot shows them; `named`: with streams and sizes. Up to a position,
    /// or as many as one look passes over.
    pub async fn look_after(
        &self,
        after: i64,
        up_to: Option<i64>,
        limit: i64,
        named: bool,
    ) -> Result<Look, StoreError> {
        // pg_column_size() says how much is stored, and unpacks nothing.
        let row = if named {
            "stream_name, (pg_column_size(type) + coalesce(pg_column_size(data), 0) \
             + coalesce(pg_column_size(metadata), 0))::bigint"
        } else {
            "''::text, 0::bigint"
        };
        let sql = format!(
            "SELECT global_position, id, {row}, {UNFLUSHED}, {GIVEN}, {CACHED} FROM message_store.messages \
             WHERE global_position > $1 AND global_position <= coalesce($3, \
             (SELECT CASE WHEN {GIVEN} > $4 THEN $4 END), 9223372036854775807) ORDER BY global_position LIMIT $2"
        );
        let far = after.saturating_add(LOOK_POSITIONS_MAX);
        let found = self
            .query_typed(&sql, &[(&after, Type::INT8), (&limit, Type::INT8), (&up_to, Type::INT8), (&far, Type::INT8)])
            .await?;
        let (unflushed, given, cached) = match found.first() {
            Some(row) => (row.try_get::<_, Option<i64>>(4)?, row.try_get(5)?, row.try_get(6)?),
            None => (None, None, None),
        };
        let mut rows = Vec::with_capacity(found.len());
        for row in &found {
            let stored_bytes: i64 = row.try_get(3)?;
            rows.push(NewRow {
                global_position: row.try_get(0)?,
                id: row.try_get(1)?,
                stream_name: row.try_get(2)?,
                stored_bytes: stored_bytes as usize,
            });
        }
        let is_to_the_end = up_to.is_none() && given.is_none_or(|given| given <= far);
        Ok(Look { rows, unflushed: unflushed.map(Unflushed), given, cached, is_to_the_end })
    }

    /// The highest position that the sequence has given, if that is farther after `after` than one look passes over.
    pub async fn given_far_after(&self, after: i64) -> Result<Option<i64>, StoreError> {
        let rows = self.query_typed(&format!("SELECT {GIVEN}"), &[]).await?;
        let given: Option<i64> = rows.first().map_or(Ok(None), |row| row.try_get(0))?;
        Ok(given.filter(|given| *given > after.saturating_add(LOOK_POSITIONS_MAX)))
    }

    /// The messages at these positions, in the order in which these are given, up to the first that does not fit into
    /// `bytes_max`.
    pub async fn messages_at(&self, positions: &[i64], bytes_max: usize) -> Result<Vec<Message>, StoreError> {
        let sql = "SELECT 0::bigint, m.* FROM headwater.messages_at($1, $2) AS m WHERE m.id IS NOT NULL";
        let bytes_max = bytes_max as i64;
        let rows = self.query_typed(sql, &[(&positions, Type::INT8_ARRAY), (&bytes_max, Type::INT8)]).await?;
        rows.iter().map(message_of).collect()
    }

    /// The highest global position that is visible, 0 if there is none. Rows beyond what the sequence has given do not
    /// count: they were numbered by hand, and the numbers before them are still to be given.
    pub async fn head(&self) -> Result<i64, StoreError> {
        let sql = format!(
            "SELECT least(coalesce(max(global_position), 0), {GIVEN}), {UNFLUSHED} FROM message_store.messages"
        );
        let rows = self.query_typed(&sql, &[]).await?;
        let Some(row) = rows.first() else { return Ok(0) };
        self.until_flushed(row.try_get::<_, Option<i64>>(1)?.map(Unflushed)).await?;
        Ok(row.try_get(0)?)
    }

    /// Waits until everything up to now is on disk, also the state of the sequence.
    pub async fn until_all_flushed(&self) -> Result<(), StoreError> {
        let rows = self.query_typed(&format!("SELECT {UNFLUSHED}"), &[]).await?;
        let unflushed: Option<i64> = rows.first().map_or(Ok(None), |row| row.try_get(0))?;
        self.until_flushed(unflushed.map(Unflushed)).await
    }

    /// Waits until the rows that were seen are on disk. Rows that a crash can take must not be shown, because their
    /// positions are then given again.
    pub async fn until_flushed(&self, unflushed: Option<Unflushed>) -> Result<(), StoreError> {
        let Some(Unflushed(up_to)) = unflushed else { return Ok(()) };
        for pause in FLUSH_POLLS {
            tokio::time::sleep(pause).await;
            let flushed = "SELECT pg_is_in_recovery() OR pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0') >= $1";
            let rows = self.query_typed(flushed, &[(&up_to, Type::INT8)]).await?;
            if rows.first().map_or(Ok(false), |row| row.try_get(0))? {
                return Ok(());
            }
        }
        // No other commit has brought it to disk, so a commit of our own does.
        let commit = "BEGIN; SET LOCAL synchronous_commit = local; \
            SELECT pg_logical_emit_message(true, 'headwater', ''); COMMIT";
        self.batch(commit).await
    }

    /// The transactions that may still fill a hole.
    pub async fn holders(&self) -> Result<HashSet<Holder>, StoreError> {
        Ok(self.holder_rows().await?.into_iter().collect())
    }

    /// The holders in the rows that the server shows, which may repeat.
    pub(super) async fn holder_rows(&self) -> Result<Vec<Holder>, StoreError> {
        let rows = self.query_typed(HOLDERS, &[]).await?;
        rows.iter().map(|row| Ok(Holder { virtual_transaction: row.try_get(0)?, pid: row.try_get(1)? })).collect()
    }
}
