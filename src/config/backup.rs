//! Settings of backups of the embedded server.

use std::time::Duration;

use clap::Args;

use super::{lasting, within};

#[derive(Debug, Clone, Args)]
pub struct BackupSettings {
    /// How often `headwater backup` takes a base backup; changes are received all the time (1s to 90d)
    #[arg(long, env = "HEADWATER_BACKUP_INTERVAL", global = true, default_value = "24h", value_parser = lasting("1s", "90d"), value_name = "DURATION")]
    pub backup_interval: Duration,
    /// Base backups that are kept, with the changes since the oldest of them (1 to 1000)
    #[arg(long, env = "HEADWATER_BACKUPS_KEPT", global = true, default_value_t = 7, value_parser = within(1, 1_000), value_name = "COUNT")]
    pub backups_kept: usize,
    /// Bytes of changes that the embedded server keeps for a backup that does not receive them; if there are more, the next
    /// backup begins anew, and says what it lacks (67108864 to 17592186044416)
    #[arg(long, env = "HEADWATER_BACKUP_WAL_BYTES_MAX", global = true, default_value_t = 8 << 30, value_parser = within(64 << 20, 16 << 40), value_name = "BYTES")]
    pub backup_wal_bytes_max: usize,
}
