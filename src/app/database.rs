//! How the settings say to reach the database, its replicas and a pooler before it.

use std::time::Instant;

use super::DATABASE_RETRY;
use crate::config::Settings;
use crate::domain::database_url;
use crate::lifecycle::Lifecycle;
use crate::service::replicas::ReplicaDatabase;
use crate::store::{Database, DatabaseSettings, OpenError, PoolerError};

/// Connects nowhere yet.
pub(super) fn open_replicas(settings: &Settings) -> Result<Vec<ReplicaDatabase>, OpenError> {
    let urls = settings.replica_url.as_deref().map(database_url::of_each_host).unwrap_or_default();
    // As many as may read history at once, and one that looks how far it has replayed.
    let connections_max = settings.database_connections_max / 2 + 1;
    let open = |(name, url): (String, String)| {
        let database = Database::open(DatabaseSettings { connections_max, ..database_settings(settings, &url) })?;
        Ok(ReplicaDatabase { name, database })
    };
    urls.into_iter().map(open).collect()
}

/// Connects nowhere yet.
pub fn open_database(settings: &Settings, url: &str) -> Result<Database, OpenError> {
    let pooler_url = settings.direct_database_url.as_ref().and(settings.database_url.clone());
    Database::open(DatabaseSettings { pooler_url, ..database_settings(settings, url) })
}

/// Refuses a pooler that leads to another database than the direct URL. One that starts at the same time may take a while.
pub(super) async fn check_pooler(
    database: &Database,
    settings: &Settings,
    lifecycle: &Lifecycle,
) -> Result<(), PoolerError> {
    let begun = Instant::now();
    let mut is_reported = false;
    loop {
        match database.check_pooler().await {
            Err(PoolerError::Unknown(error))
                if error.is_unavailable() && begun.elapsed() < settings.database_wait && !lifecycle.is_draining() =>
            {
                if !std::mem::replace(&mut is_reported, true) {
                    tracing::warn!(%error, "waiting for the pooler");
                }
                tokio::time::sleep(DATABASE_RETRY).await;
            }
            checked => return checked,
        }
    }
}

fn database_settings(settings: &Settings, url: &str) -> DatabaseSettings {
    DatabaseSettings {
        url: url.to_owned(),
        pooler_url: None,
        connections_max: settings.database_connections_max,
        connect_timeout: settings.database_connect_timeout,
        silence_timeout: settings.database_silence_timeout,
    }
}
