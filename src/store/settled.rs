//! What the tail reads: positions after the settled one, who holds the table's lock, and the checkpoint.

use std::collections::HashSet;
use std::time::Duration;

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use super::read::{COLUMNS, message_of};
use super::{Database, SESSION_SETTINGS, StoreError};
use crate::domain::message::Message;
use crate::domain::settling::Holder;

/// A connection of its own for the reader of the tail.
pub struct TailLink {
    client: Client,
}

/// A read of the tail that takes longer is given up, with its connection.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// The relation lock that every INSERT into the table takes before it draws its number.
const HOLDERS: &str = "SELECT virtualtransaction, pid FROM pg_locks WHERE locktype = 'relation' \
    AND mode = 'RowExclusiveLock' AND granted AND relation = 'message_store.messages'::regclass \
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

impl TailLink {
    pub async fn open(database: &Database) -> Result<Self, StoreError> {
        let (client, connection) = database.connect().await?;
        tokio::spawn(async move {
            // Its end shows in every call on the client.
            let _ = connection.await;
        });
        database.set_up(client.batch_execute(SESSION_SETTINGS)).await?;
        Ok(Self { client })
    }

    /// The positions after a position, in order, as one snapshot shows them.
    pub async fn positions_after(&self, after: i64, limit: i64) -> Result<Vec<i64>, StoreError> {
        let rows = self
            .query(
                "SELECT global_position FROM message_store.messages WHERE global_position > $1 \
                 ORDER BY global_position LIMIT $2",
                &[(&after, Type::INT8), (&limit, Type::INT8)],
            )
            .await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// The same with the names of their streams.
    pub async fn names_after(&self, after: i64, limit: i64) -> Result<Vec<(i64, String)>, StoreError> {
        let rows = self
            .query(
                "SELECT global_position, stream_name FROM message_store.messages WHERE global_position > $1 \
                 ORDER BY global_position LIMIT $2",
                &[(&after, Type::INT8), (&limit, Type::INT8)],
            )
            .await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }

    /// The same with everything in them.
    pub async fn messages_after(&self, after: i64, limit: i64) -> Result<Vec<Message>, StoreError> {
        let sql = format!(
            "SELECT 0::bigint, {COLUMNS} FROM message_store.messages AS m WHERE m.global_position > $1 \
             ORDER BY m.global_position LIMIT $2"
        );
        let rows = self.query(&sql, &[(&after, Type::INT8), (&limit, Type::INT8)]).await?;
        rows.iter().map(message_of).collect()
    }

    /// The messages at these positions, in order.
    pub async fn messages_at(&self, positions: &[i64]) -> Result<Vec<Message>, StoreError> {
        let sql = format!(
            "SELECT 0::bigint, {COLUMNS} FROM message_store.messages AS m WHERE m.global_position = ANY ($1) \
             ORDER BY m.global_position"
        );
        let rows = self.query(&sql, &[(&positions, Type::INT8_ARRAY)]).await?;
        rows.iter().map(message_of).collect()
    }

    /// The highest global position that is visible, 0 if there is none.
    pub async fn head(&self) -> Result<i64, StoreError> {
        let rows = self.query("SELECT coalesce(max(global_position), 0) FROM message_store.messages", &[]).await?;
        rows.first().map_or(Ok(0), |row| Ok(row.try_get(0)?))
    }

    /// Who may still fill a hole.
    pub async fn holders(&self) -> Result<HashSet<Holder>, StoreError> {
        let rows = self.query(HOLDERS, &[]).await?;
        rows.iter().map(|row| Ok(Holder { virtual_transaction: row.try_get(0)?, pid: row.try_get(1)? })).collect()
    }

    async fn query(&self, sql: &str, parameters: &[(&(dyn ToSql + Sync), Type)]) -> Result<Vec<Row>, StoreError> {
        match tokio::time::timeout(READ_TIMEOUT, self.client.query_typed(sql, parameters)).await {
            Ok(rows) => Ok(rows?),
            Err(_) => Err(StoreError::too_slow("a read of the tail")),
        }
    }

    /// A position that was settled once, from any instance: a place to begin.
    pub async fn checkpoint(&self) -> Result<i64, StoreError> {
        let rows = self.query("SELECT position FROM headwater.settled_position", &[]).await?;
        rows.first().map_or(Ok(0), |row| Ok(row.try_get(0)?))
    }

    /// Keeps a settled position for the next start. It may be lost in a crash, so its commit waits for no disk.
    pub async fn keep_checkpoint(&self, settled: i64) -> Result<(), StoreError> {
        let statements = format!(
            "BEGIN; SET LOCAL synchronous_commit = off; \
                 INSERT INTO headwater.settled_position (position) VALUES ({settled}) \
                 ON CONFLICT (only_row) DO UPDATE SET position = excluded.position, updated_at = now() \
                 WHERE settled_position.position < excluded.position; COMMIT"
        );
        match tokio::time::timeout(READ_TIMEOUT, self.client.batch_execute(&statements)).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(StoreError::too_slow("keeping the settled position")),
        }
    }
}
