//! What the tail reads: positions after the settled one, who holds the table's lock, and the checkpoint.

use std::collections::HashSet;
use std::time::Duration;

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use super::read::message_of;
use super::{Database, SESSION_SETTINGS, StoreError};
use crate::domain::message::Message;
use crate::domain::settling::Holder;

/// A connection of its own for the reader of the tail.
pub struct TailLink {
    client: Client,
    connection: tokio::task::AbortHandle,
}

/// A message that is not read yet.
#[derive(Debug, Clone)]
pub struct NewRow {
    pub global_position: i64,
    pub stream_name: String,
    /// As it is stored, which may be packed.
    pub stored_bytes: usize,
}

impl Drop for TailLink {
    /// What was given up goes on arriving otherwise, and takes the line from what is read in its place.
    fn drop(&mut self) {
        self.connection.abort();
    }
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
        let connection = tokio::spawn(async move {
            // Its end shows in every call on the client.
            let _ = connection.await;
        });
        let link = Self { client, connection: connection.abort_handle() };
        database.set_up(link.client.batch_execute(SESSION_SETTINGS)).await?;
        Ok(link)
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

    /// The same with what is to be known of them before they are read whole.
    pub async fn rows_after(&self, after: i64, limit: i64) -> Result<Vec<NewRow>, StoreError> {
        // pg_column_size() says how much is stored, and unpacks nothing.
        let rows = self
            .query(
                "SELECT global_position, stream_name, (pg_column_size(type) + coalesce(pg_column_size(data), 0) \
                 + coalesce(pg_column_size(metadata), 0))::bigint FROM message_store.messages \
                 WHERE global_position > $1 ORDER BY global_position LIMIT $2",
                &[(&after, Type::INT8), (&limit, Type::INT8)],
            )
            .await?;
        let new_row = |row: &Row| {
            let stored_bytes: i64 = row.try_get(2)?;
            Ok(NewRow {
                global_position: row.try_get(0)?,
                stream_name: row.try_get(1)?,
                stored_bytes: stored_bytes as usize,
            })
        };
        rows.iter().map(new_row).collect()
    }

    /// The messages at these positions, in the order in which these are given, up to the first that does not fit into
    /// so many bytes.
    pub async fn messages_at(&self, positions: &[i64], bytes_max: usize) -> Result<Vec<Message>, StoreError> {
        let sql = "SELECT 0::bigint, m.* FROM headwater.messages_at($1, $2) AS m";
        let bytes_max = bytes_max as i64;
        let rows = self.query(sql, &[(&positions, Type::INT8_ARRAY), (&bytes_max, Type::INT8)]).await?;
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

    pub(super) async fn query(
        &self,
        sql: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, StoreError> {
        match tokio::time::timeout(READ_TIMEOUT, self.client.query_typed(sql, parameters)).await {
            Ok(rows) => Ok(rows?),
            Err(_) => Err(StoreError::too_slow("a read of the tail")),
        }
    }
}
