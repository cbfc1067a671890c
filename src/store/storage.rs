//! How much the store takes on disk, table by table, at a cost that does not depend on how many messages there are: sizes
//! are those of files, rows are PostgreSQL's own estimate.

use super::{Reports, StoreError};
use crate::domain::time::Timestamp;

/// A table and what belongs to it.
#[derive(Debug, Clone)]
pub struct TableSize {
    /// With its schema.
    pub name: String,
    /// Without indexes; with what is stored out of line.
    pub bytes: i64,
    pub index_bytes: i64,
    /// What PostgreSQL expects of the table at its present size; nothing is counted.
    pub rows_estimated: i64,
}

/// The database and the ends of the log.
#[derive(Debug, Clone)]
pub struct DatabaseSize {
    pub bytes: i64,
    /// As the server names it: `15.8 (Debian 15.8-0+deb12u1)`.
    pub server_version: String,
    /// Of the message with the lowest global position.
    pub first_time: Option<Timestamp>,
    /// Of the one with the highest.
    pub last_time: Option<Timestamp>,
}

impl Reports<'_> {
    /// The tables of both schemas, by name. Looks at the size of each file (one for each GB), and reads no row of them.
    pub async fn table_sizes(self) -> Result<Vec<TableSize>, StoreError> {
        let tables = sqlx::query_as!(
            TableSize,
            r#"SELECT n.nspname || '.' || c.relname AS "name!", coalesce(pg_table_size(c.oid), 0) AS "bytes!",
               coalesce(pg_indexes_size(c.oid), 0) AS "index_bytes!",
               CASE WHEN c.relpages > 0 AND c.reltuples >= 0
               THEN c.reltuples / c.relpages * (pg_relation_size(c.oid) / current_setting('block_size')::bigint)
               ELSE pg_stat_get_live_tuples(c.oid) END::bigint AS "rows_estimated!"
               FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
               WHERE c.relkind = 'r' AND n.nspname IN ('message_store', 'headwater') ORDER BY 1"#
        );
        Ok(tables.fetch_all(self.0).await?)
    }

    /// Looks at the size of each file of the database, and reads two messages.
    pub async fn database_size(self) -> Result<DatabaseSize, StoreError> {
        let size = sqlx::query_as!(
            DatabaseSize,
            r#"SELECT pg_database_size(current_database()) AS "bytes!", current_setting('server_version') AS "server_version!",
               (SELECT time FROM message_store.messages ORDER BY global_position LIMIT 1) AS "first_time: Timestamp",
               (SELECT time FROM message_store.messages ORDER BY global_position DESC LIMIT 1) AS "last_time: Timestamp""#
        );
        Ok(size.fetch_one(self.0).await?)
    }
}
