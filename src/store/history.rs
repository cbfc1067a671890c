//! Reads what the log is recognised by: which messages are at which positions, and on which server.

use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::{Messages, Session, StoreError};
use crate::domain::history::{Ground, Known, Landmark, Seen};

/// One look at what the log is recognised by: `$1` is the checkpoint's position, `$2` the settled one, `$3` that of the
/// message that the last look has shown. The statement never passes over rows that a large transaction has inserted and not
/// committed: it looks for the end of the log only if the sequence has not given the settled position, and for its beginning
/// only once something is settled.
const LOOK: &str = "SELECT pg_is_in_recovery(), k.history, m.id, f.global_position, f.id, n.global_position, n.id, \
    CASE WHEN pg_sequence_last_value(s.oid) >= $2 THEN $2 \
    ELSE coalesce((SELECT max(global_position) FROM message_store.messages), 0) END, \
    CASE WHEN s.oid IS NOT NULL THEN coalesce(pg_sequence_last_value(s.oid), 0) END, \
    pg_relation_filenode(s.oid)::bigint, m.id IS NULL AND EXISTS (SELECT FROM headwater.trimmed_ranges AS t \
    WHERE $1 BETWEEN t.first_global_position AND t.last_global_position) \
    OR l.id IS NULL AND $3 > 0 AND EXISTS (SELECT FROM headwater.trimmed_ranges AS t \
    WHERE $3 BETWEEN t.first_global_position AND t.last_global_position), l.id \
    FROM (SELECT pg_get_serial_sequence('message_store.messages', 'global_position')::regclass AS oid) AS s \
    CROSS JOIN (SELECT coalesce((SELECT history FROM headwater.settled_position), 0) AS history) AS k \
    LEFT JOIN message_store.messages AS m ON m.global_position = $1 \
    LEFT JOIN message_store.messages AS l ON l.global_position = $3 \
    LEFT JOIN LATERAL (SELECT global_position, id FROM message_store.messages WHERE $2 > 0 \
    ORDER BY global_position LIMIT 1) AS f ON true \
    LEFT JOIN LATERAL (SELECT global_position, id FROM message_store.messages WHERE global_position <= $2 \
    ORDER BY global_position DESC LIMIT 1) AS n ON true";

/// Identifies a server. Promotion gives a new timeline, whose number is in the names of its files. A copy of a server has
/// the same identifier and timeline, so the time at which it was started is part of this too.
const SERVER: &str = "SELECT concat_ws('/', (SELECT system_identifier FROM pg_control_system()), \
    substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8), \
    (SELECT oid FROM pg_database WHERE datname = current_database()), \
    extract(epoch FROM pg_postmaster_start_time()))";

const KEPT: &str = "SELECT position, history, message_position, message_id, first_position, first_id, server, \
    sequence_file FROM headwater.settled_position";

const KEEP: &str = "UPDATE headwater.settled_position AS k SET position = $1, message_position = $3, message_id = $4, \
    first_position = $5, first_id = $6, server = $7, sequence_file = $8, updated_at = now() \
    WHERE history = $2 AND (position < $1 OR position = $1 AND k.server IS DISTINCT FROM $7)";

/// What the reader of the tail recognises the log by.
impl Session {
    /// What the log is recognised by, as one snapshot shows it. `server`: as [`server`](Self::server) answered on this
    /// connection.
    pub async fn look_at_history(&self, known: &Known, settled: i64, server: Option<&str>) -> Result<Seen, StoreError> {
        let [checkpoint, looked] = [known.checkpoint, known.looked].map(|mark| mark.map_or(0, |mark| mark.position));
        let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] =
            [(&checkpoint, Type::INT8), (&settled, Type::INT8), (&looked, Type::INT8)];
        let rows = self.query_typed(LOOK, &parameters).await?;
        let row = rows.first().ok_or_else(|| StoreError::Unavailable("a look at the log showed nothing".into()))?;
        if row.try_get(0)? {
            return Err(StoreError::Unavailable("the server is a replica".into()));
        }
        Ok(Seen {
            number: row.try_get(1)?,
            at_checkpoint: row.try_get(2)?,
            at_looked: row.try_get(11)?,
            is_trimmed: row.try_get(10)?,
            first: landmark(row, 3)?,
            newest: landmark(row, 5)?,
            head: row.try_get(7)?,
            given: row.try_get(8)?,
            ground: Ground { server: server.map(str::to_owned), sequence_file: row.try_get(9)? },
        })
    }

    /// Which server this is; `None`: the server does not tell.
    pub async fn server(&self) -> Result<Option<String>, StoreError> {
        match self.query_typed(SERVER, &[]).await {
            Ok(rows) => rows.first().map_or(Ok(None), |row| Ok(row.try_get(0)?)),
            Err(error) if error.is_unavailable() => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// The checkpoint: a position that was settled once, and what its log is recognised by.
    pub async fn kept_checkpoint(&self) -> Result<(i64, Known), StoreError> {
        let rows = self.query_typed(KEPT, &[]).await?;
        let Some(row) = rows.first() else { return Ok((0, Known::default())) };
        let known = Known {
            number: row.try_get(1)?,
            checkpoint: landmark(row, 2)?,
            looked: None,
            first: landmark(row, 4)?,
            ground: Ground { server: row.try_get(6)?, sequence_file: row.try_get(7)? },
        };
        Ok((row.try_get(0)?, known))
    }

    /// Writes a checkpoint for the next start. A crash may lose it without harm, so the commit does not wait for the disk.
    pub async fn keep_checkpoint(&self, settled: i64, known: &Known) -> Result<(), StoreError> {
        let (checkpoint, first) = (known.checkpoint, known.first);
        let sql = format!(
            "WITH s AS (SELECT set_config('synchronous_commit', 'off', true)) {KEEP} AND EXISTS (SELECT FROM s)"
        );
        let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 8] = [
            (&settled, Type::INT8),
            (&known.number, Type::INT8),
            (&checkpoint.map(|mark| mark.position), Type::INT8),
            (&checkpoint.map(|mark| mark.id), Type::UUID),
            (&first.map(|mark| mark.position), Type::INT8),
            (&first.map(|mark| mark.id), Type::UUID),
            (&known.ground.server, Type::TEXT),
            (&known.ground.sequence_file, Type::INT8),
        ];
        self.query_typed(&sql, &parameters).await?;
        Ok(())
    }

    /// Resets what is kept by positions, because the log is another one. Answers the number of the new history.
    pub async fn begin_history(&self, known: i64, is_anew: bool) -> Result<i64, StoreError> {
        let sql = "SELECT headwater.begin_history($1, $2)";
        let rows = self.query_typed(sql, &[(&known, Type::INT8), (&is_anew, Type::BOOL)]).await?;
        rows.first().map_or(Ok(known), |row| Ok(row.try_get(0)?))
    }
}

fn landmark(row: &Row, at: usize) -> Result<Option<Landmark>, StoreError> {
    let (position, id): (Option<i64>, Option<Uuid>) = (row.try_get(at)?, row.try_get(at + 1)?);
    Ok(position.zip(id).map(|(position, id)| Landmark { position, id }))
}

impl Messages<'_> {
    /// The id of the message at a global position.
    pub async fn id_at(self, global_position: i64) -> Result<Option<Uuid>, StoreError> {
        let id =
            sqlx::query_scalar!("SELECT id FROM message_store.messages WHERE global_position = $1", global_position);
        Ok(id.fetch_optional(self.0).await?)
    }

    /// The id of the message at a position of a stream.
    pub async fn id_in_stream(self, stream_name: &str, position: i64) -> Result<Option<Uuid>, StoreError> {
        let id = sqlx::query_scalar!(
            "SELECT id FROM message_store.messages WHERE stream_name = $1 AND position = $2",
            stream_name,
            position
        );
        Ok(id.fetch_optional(self.0).await?)
    }
}
