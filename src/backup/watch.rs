//! How old the backup of the embedded server is, for the metrics.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::domain::observation::Observation;
use crate::domain::time::Timestamp;
use crate::embedded_postgres::{EmbeddedPostgres, EmbeddedSettings};
use crate::store::Database;
use crate::telemetry::Observer;

const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Looks now and then, until the service stops. Without a backup, and without the server, there is nothing to say.
pub async fn watch(settings: EmbeddedSettings, database: Database, observer: Observer, stopping: CancellationToken) {
    while !stopping.is_cancelled() {
        let noted = EmbeddedPostgres::noted_backup(&settings).await;
        if let Some(finished) = noted.as_deref().and_then(Timestamp::parse_rfc3339) {
            let looking = tokio::time::timeout(LOOK_INTERVAL, database.wal_state());
            if let Ok(Ok(state)) = looking.await {
                let age = Duration::from_micros(u64::try_from(state.time.0 - finished.0).unwrap_or(0));
                let received = state.slot.and_then(|slot| slot.received);
                let wal_behind_bytes = received.map(|received| (state.written - received).max(0));
                observer.record(Observation::BackupMeasured { age, wal_behind_bytes });
            }
        }
        stopping.run_until_cancelled(tokio::time::sleep(LOOK_INTERVAL)).await;
    }
}
