//! Looks at the backup of the embedded server: how old it is, and whether changes were lost.

use std::time::Duration;

use super::Findings;
use crate::app;
use crate::config::Settings;
use crate::store::Database;

/// So many intervals without a base backup are too many: one of them was missed.
const INTERVALS_MAX: u32 = 2;

pub async fn look(settings: &Settings, database: &Database, findings: &mut Findings) {
    let Some(finished) = app::backed_up_at(settings).await else {
        let advice = "headwater backup --to DIRECTORY, on another disk, makes backups for as long as it runs";
        return findings.note("backup", "none was made with `headwater backup`", Some(advice));
    };
    let state = match database.wal_state().await {
        Ok(state) => state,
        Err(error) => return findings.unknown("backup", error.to_string()),
    };
    let age = Duration::from_micros(u64::try_from(state.time.0 - finished.0).unwrap_or(0));
    let interval = settings.backup.backup_interval;
    let found = format!("the newest base backup was finished {} ago", rounded(age));
    if age > interval * INTERVALS_MAX {
        let found = format!("{found}, and --backup-interval is {}", rounded(interval));
        let advice = "start `headwater backup` again with the same directory, or see in its log why it takes none (a full \
            disk, programs of another version); if it is taken less often on purpose, say so with --backup-interval";
        return findings.wrong("backup", found, advice);
    }
    if state.slot.is_some_and(|slot| slot.received.is_none()) {
        let found = format!("{found}, and changes since then are lost: there were more than --backup-wal-bytes-max");
        let advice = "start `headwater backup` again, which begins anew with a base backup; times in between cannot be \
            restored. Let it run all the time, or raise --backup-wal-bytes-max";
        return findings.wrong("backup", found, advice);
    }
    findings.ok("backup", found);
}

/// In the largest unit of which there are two.
fn rounded(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}
