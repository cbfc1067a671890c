//! What a backup asks of the server: how far the log of changes (WAL) is written, and a slot that keeps what was not
//! received yet.

use tokio_postgres::types::Type;

use super::{Database, StoreError};
use crate::domain::time::Timestamp;

/// The role as which PostgreSQL's programs connect: it may copy the server, and nothing else.
pub const BACKUP_ROLE: &str = "headwater_backup";

/// How far the server is, and how far the backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalState {
    /// By the server's clock, before anything else here was read: all that was acknowledged before is written.
    pub time: Timestamp,
    pub system_identifier: String,
    /// As it begins the names of files: eight hexadecimal digits.
    pub timeline: String,
    /// The place up to which changes are on disk, in bytes.
    pub written: i64,
    /// The size of each file of changes.
    pub file_bytes: i64,
    /// `None`: there is no slot.
    pub slot: Option<SlotState>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotState {
    /// The place up to which changes were received, by whoever was the last to receive some: those after it are kept.
    /// `None`: it is lost, because changes were removed before.
    pub received: Option<i64>,
    /// The place up to which whoever receives at this moment has said to have them on disk.
    pub reported: Option<i64>,
    /// Somebody receives at this moment.
    pub is_active: bool,
}

const STATE: &str = "SELECT (extract(epoch FROM statement_timestamp()) * 1000000)::bigint, \
    (SELECT system_identifier::text FROM pg_control_system()), substr(pg_walfile_name(w.at), 1, 8), \
    pg_wal_lsn_diff(w.at, '0/0')::bigint, s.slot_name IS NOT NULL, coalesce(s.active, false), \
    CASE WHEN s.wal_status <> 'lost' THEN pg_wal_lsn_diff(s.restart_lsn, '0/0')::bigint END, \
    (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size'), \
    pg_wal_lsn_diff(r.flush_lsn, '0/0')::bigint \
    FROM (SELECT pg_current_wal_flush_lsn() AS at) AS w \
    LEFT JOIN pg_replication_slots AS s ON s.slot_name = 'headwater_backup' \
    LEFT JOIN pg_stat_replication AS r ON r.pid = s.active_pid";

const MAKE_ROLE: &str = "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'headwater_backup') THEN \
    CREATE ROLE headwater_backup LOGIN REPLICATION; END IF; END $$";

const DROP_SLOT: &str =
    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = 'headwater_backup'";

/// What is written from now on is kept until it is received, up to `max_slot_wal_keep_size`.
const MAKE_SLOT: &str = "SELECT pg_create_physical_replication_slot('headwater_backup', true)";

/// NULL if there is no such file.
const READ: &str = "SELECT pg_read_binary_file($1, $2, $3, true)";

/// The name of the slot, for PostgreSQL's programs.
pub const BACKUP_SLOT: &str = "headwater_backup";

impl Database {
    pub async fn wal_state(&self) -> Result<WalState, StoreError> {
        let client = self.client().await?;
        let rows = client.query_typed(STATE, &[]).await?;
        let row =
            rows.first().ok_or_else(|| StoreError::Unavailable("the server does not say how far it is".into()))?;
        let has_slot: bool = row.try_get(4)?;
        let slot = SlotState { received: row.try_get(6)?, reported: row.try_get(8)?, is_active: row.try_get(5)? };
        Ok(WalState {
            time: Timestamp(row.try_get(0)?),
            system_identifier: row.try_get(1)?,
            timeline: row.try_get(2)?,
            written: row.try_get(3)?,
            file_bytes: row.try_get(7)?,
            slot: has_slot.then_some(slot),
        })
    }

    /// What the server has of a file of changes, from one place in it; `None` if it has that file no more.
    pub async fn wal_bytes(&self, file: &str, from: i64, length: i64) -> Result<Option<Vec<u8>>, StoreError> {
        let path = format!("pg_wal/{file}");
        let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] =
            [(&path, Type::TEXT), (&from, Type::INT8), (&length, Type::INT8)];
        let rows = self.client().await?.query_typed(READ, &parameters).await?;
        Ok(rows.first().map(|row| row.try_get(0)).transpose()?.flatten())
    }

    /// Makes the role as which backups are made, unless it is there.
    pub async fn make_backup_role(&self) -> Result<(), StoreError> {
        self.client().await?.query_typed(MAKE_ROLE, &[]).await?;
        Ok(())
    }

    /// Makes the slot anew. It is refused while somebody receives by it.
    pub async fn make_backup_slot(&self) -> Result<(), StoreError> {
        let client = self.client().await?;
        client.query_typed(DROP_SLOT, &[]).await?;
        client.query_typed(MAKE_SLOT, &[]).await?;
        Ok(())
    }
}
