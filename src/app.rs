//! One running service: starts its parts in order, and stops them.

mod announcement;
mod checks;
mod credentials;
mod database;
#[cfg(test)]
mod memory;
mod signals;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

pub use self::checks::{backed_up_at, check_settings, connections_max, data_dir, open_files_max};
pub use self::signals::stop_on_signals;
use crate::backup;
use crate::config::{self, PageCache, Settings};
use crate::domain::browser::Trusted;
use crate::embedded_postgres::{Download, DownloadWhen, EmbeddedPostgres, EmbeddedPostgresError, EmbeddedSettings};
use crate::http::page_cache::PageCaching;
use crate::http::server::{Listening, TlsFiles};
use crate::http::{self, Limits};
use crate::lifecycle::Lifecycle;
use crate::service::aggregated::projector::ProjectorSettings;
use crate::service::append::{AppendSettings, SessionSettings};
use crate::service::credential_limits::PerCredentialSettings;
use crate::service::hints::HintSettings;
use crate::service::subscriptions::SubscriptionSettings;
use crate::service::tail::TailSettings;
use crate::service::{Service, ServiceSettings};
use crate::store::gap_rule::GapRuleError;
use crate::store::migrate::{self, MigrateError, MigrateOptions, MigrationReport, Notice};
use crate::store::{Database, OpenError, PoolerError};
use crate::telemetry::Observer;

pub use database::open_database;

/// A listening session that does not answer for this long is given up.
const LISTENER_TIMEOUT: Duration = Duration::from_secs(1);
/// Open files that are not connections of clients: sessions of agents, the listening socket, refused connections that are
/// told so, files that are read.
const OPEN_FILES_RESERVED: usize = 200;
/// The pause between two attempts to reach a database that is not there yet.
const DATABASE_RETRY: Duration = Duration::from_millis(500);
/// Agents that are still busy this long after they were told to end are not waited for; a line in the log says so.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// Agents of a service that was stopped while it started have nothing to finish, and may hang where the start hung.
const ABANDONED_WAIT_MAX: Duration = Duration::from_secs(1);

/// The last spans are given up after this time.
const SPANS_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the service could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error(
        "{address} can be reached by others, and --credentials off lets everybody do everything: listen on a loopback \
         address, or require credentials, or add --insecure"
    )]
    NeedsInsecure { address: SocketAddr },
    #[error(
        "--page-cache public would let caches give pages to clients without a credential: it goes with --credentials off only"
    )]
    PublicPages,
    #[error("cannot listen on {address}: {error}. {}", announcement::advice_for(error))]
    Listen { address: SocketAddr, error: std::io::Error },
    #[error(transparent)]
    EmbeddedPostgres(#[from] EmbeddedPostgresError),
    #[error(transparent)]
    Database(#[from] OpenError),
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    #[error("standard output cannot be written to: {0}")]
    Output(std::io::Error),
    #[error(transparent)]
    GapRule(#[from] GapRuleError),
    #[error(transparent)]
    Pooler(#[from] PoolerError),
    #[error("HTTP failed: {0}")]
    Http(std::io::Error),
    #[error("stopped while it started")]
    Stopped,
    #[error("{0}")]
    Failed(String),
}

/// The database in use: a given one, or the embedded server.
pub struct DatabaseInUse {
    url: String,
    embedded: Option<EmbeddedPostgres>,
}

impl DatabaseInUse {
    /// Starts the embedded server, unless a URL is given. [`EmbeddedPostgresError::Stopped`]: it was to stop meanwhile.
    pub async fn start(settings: &Settings, stopping: &CancellationToken) -> Result<Self, AppError> {
        if let Some(url) = settings.given_database() {
            return Ok(Self { url: url.to_owned(), embedded: None });
        }
        let embedded = EmbeddedPostgres::start_unless(&embedded_settings(settings), stopping).await?;
        tracing::info!(data_dir = %embedded.data_dir().display(), "the embedded PostgreSQL is ready");
        Ok(Self { url: embedded.url().to_owned(), embedded: Some(embedded) })
    }

    /// The embedded server that another process runs, if one does; else as [`start`](Self::start). One that is starting is
    /// waited for as any other database is.
    pub async fn join(settings: &Settings, stopping: &CancellationToken) -> Result<Self, AppError> {
        if settings.given_database().is_none() {
            let (embedded, begun) = (embedded_settings(settings), Instant::now());
            while let Some(url) = EmbeddedPostgres::running_url(&embedded).await? {
                if EmbeddedPostgres::accepts_connections(&url).await || begun.elapsed() >= settings.database_wait {
                    return Ok(Self { url, embedded: None });
                }
                if stopping.run_until_cancelled(tokio::time::sleep(DATABASE_RETRY)).await.is_none() {
                    return Err(EmbeddedPostgresError::Stopped.into());
                }
            }
        }
        Self::start(settings, stopping).await
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub async fn stop(self) {
        if let Some(embedded) = self.embedded {
            embedded.stop().await;
        }
    }
}

/// A service that takes requests.
pub struct Running {
    url: String,
    pub service: Service,
    database: Database,
    lifecycle: Lifecycle,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Running {
    /// Starts the service on a database; returns once it is ready for requests.
    pub async fn start(settings: &Settings, database_url: &str, lifecycle: Lifecycle) -> Result<Self, AppError> {
        credentials::check_address(settings)?;
        let jwt = credentials::jwt_settings(settings)?;
        // First of all, so that a port in use is reported before anything else is done.
        let listening = listen(settings).await?;
        let reaching = async {
            migrate_when_reachable(settings, database_url, &lifecycle).await?;
            let database = open_database(settings, database_url)?;
            database::check_pooler(&database, settings, &lifecycle).await?;
            check_gap_rule(&database).await?;
            Ok::<_, AppError>(database)
        };
        let reached = lifecycle.draining().run_until_cancelled(Box::pin(reaching)).await;
        let database =
            reached.unwrap_or_else(|| Err(lifecycle.failure().map_or(AppError::Stopped, AppError::Failed)))?;
        let mut of_service = service_settings(settings);
        of_service.credentials.jwt = jwt;
        let (replicas, observer) = (database::open_replicas(settings)?, Observer::with_spans());
        let service = Service::start(database.clone(), replicas, of_service, lifecycle.clone(), observer);
        let looking = async {
            // The first look at the log: from here on the settled position is known.
            service.tail.refresh().await;
            // And at the keys: before that, none is taken.
            let _ = service.credentials.load().await;
        };
        // Whoever looks may be dead by now, or wait for a lock.
        if lifecycle.draining().run_until_cancelled(looking).await.is_none() {
            let _ = tokio::time::timeout(ABANDONED_WAIT_MAX, lifecycle.stop_agents()).await;
            return Err(lifecycle.failure().map_or(AppError::Stopped, AppError::Failed));
        }
        credentials::warn_of_them(settings, &service);
        let url = listening.url();
        let limits = limits(settings);
        let router = http::router(service.clone(), limits.clone());
        let (draining, drain_timeout) = (lifecycle.draining().clone(), settings.drain_timeout);
        let observer = service.observer.clone();
        let server =
            tokio::spawn(
                async move { listening.serve(router, Arc::new(limits), observer, draining, drain_timeout).await },
            );
        Ok(Self { url, service, database, lifecycle, server })
    }

    /// Measures from now on how old the embedded server's backup is.
    fn watch_backup(&self, embedded: EmbeddedSettings) {
        let (observer, stopping) = (self.service.observer.clone(), self.lifecycle.stopping().clone());
        let watching = backup::watch(embedded, self.database.clone(), observer, stopping);
        self.lifecycle.spawn("backup-watch", watching);
    }

    /// The address that it listens on: `http://127.0.0.1:8080`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Serves until it is told to drain, or fails; then stops everything in order.
    pub async fn finish(self) -> Result<(), AppError> {
        let served = self.server.await;
        self.lifecycle.drain();
        if tokio::time::timeout(STOP_TIMEOUT, self.lifecycle.stop_agents()).await.is_err() {
            tracing::warn!("some agents were still busy when the time to stop was over");
        }
        if tokio::time::timeout(SPANS_TIMEOUT, self.service.observer.flush()).await.is_err() {
            tracing::warn!("the collector took too long for the last spans");
        }
        self.database.close();
        if let Some(reason) = self.lifecycle.failure() {
            return Err(AppError::Failed(reason));
        }
        match served {
            Ok(result) => result.map_err(AppError::Http),
            Err(error) => Err(AppError::Failed(format!("HTTP failed: {error}"))),
        }
    }
}

/// `headwater serve`: from nothing to a clean stop.
pub async fn serve(settings: Settings) -> Result<(), AppError> {
    credentials::check_address(&settings)?;
    let lifecycle = Lifecycle::new();
    let says = "stopping: open requests may end, event streams are asked to connect again";
    stop_on_signals(lifecycle.clone(), says, settings.drain_grace);
    let database = match DatabaseInUse::start(&settings, lifecycle.draining()).await {
        Err(AppError::EmbeddedPostgres(EmbeddedPostgresError::Stopped)) if lifecycle.is_draining() => return Ok(()),
        started => started?,
    };
    if let Some(embedded) = &database.embedded {
        let (failed, lifecycle) = (embedded.failed(), lifecycle.clone());
        tokio::spawn(async move { lifecycle.fail(failed.await.to_string()) });
    }
    let outcome = match Running::start(&settings, database.url(), lifecycle).await {
        Ok(running) => {
            if database.embedded.is_some() {
                running.watch_backup(embedded_settings(&settings));
            }
            let data_dir = database.embedded.as_ref().map(EmbeddedPostgres::data_dir);
            announcement::announce(running.url(), data_dir, running.service.credentials.are_required());
            running.finish().await
        }
        // As was asked.
        Err(AppError::Stopped) => Ok(()),
        Err(error) => Err(error),
    };
    database.stop().await;
    outcome
}

/// Writes to standard output. A reader that is gone (`| head`) is no failure.
pub fn print(text: &str) -> std::io::Result<()> {
    let mut output = std::io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

async fn listen(settings: &Settings) -> Result<Listening, AppError> {
    let address = settings.listen;
    Listening::bind(address, tls_files(settings)).await.map_err(|error| AppError::Listen { address, error })
}

/// `None`: plain HTTP is spoken.
fn tls_files(settings: &Settings) -> Option<TlsFiles> {
    let (Some(certificate), Some(key)) = (&settings.tls_certificate, &settings.tls_key) else { return None };
    let (certificate, key) = (certificate.clone(), key.clone());
    Some(TlsFiles { certificate, key, reload_interval: settings.tls_reload_interval })
}

/// A database that starts at the same time as the service may take a while.
async fn migrate_when_reachable(settings: &Settings, url: &str, lifecycle: &Lifecycle) -> Result<(), AppError> {
    let begun = Instant::now();
    let mut is_reported = false;
    loop {
        match migrate::run(url, &MigrateOptions::default()).await {
            Ok(report) => return take_report(report),
            Err(error)
                if error.is_about_connecting()
                    && begun.elapsed() < settings.database_wait
                    && !lifecycle.is_draining() =>
            {
                if !std::mem::replace(&mut is_reported, true) {
                    tracing::warn!(%error, "waiting for the database");
                }
                tokio::time::sleep(DATABASE_RETRY).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Refuses an engine that breaks the rule. If the rule cannot be tried (a right is missing, or the table is locked), the
/// service starts: whatever needs that right or table will report it.
pub async fn check_gap_rule(database: &Database) -> Result<(), AppError> {
    match database.check_gap_rule().await {
        Err(error @ GapRuleError::Broken { .. }) => Err(error.into()),
        Err(error @ GapRuleError::Unknown(_)) => {
            tracing::warn!(%error, "the start goes on");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Logs what was done and what an operator should know. Missing rights are an error: the service would start, and fail
/// every request.
pub fn take_report(report: MigrationReport) -> Result<(), AppError> {
    for line in report.what_changed() {
        tracing::info!("schema: {line}");
    }
    for notice in report.notices {
        if let Notice::MissingRights { role, grants } = notice {
            return Err(MigrateError::MissingRights { role, grants }.into());
        }
        tracing::warn!("schema: {notice}");
    }
    Ok(())
}

/// Where the embedded server's data is, and with what it runs.
pub fn embedded_settings(settings: &Settings) -> EmbeddedSettings {
    EmbeddedSettings {
        data_dir: settings.data_dir.clone(),
        bin_dir: settings.postgres_bin_dir.clone(),
        download: download_of(settings),
        backup_wal_bytes_max: Some(settings.backup.backup_wal_bytes_max),
    }
}

fn download_of(settings: &Settings) -> Download {
    let settings = &settings.download;
    let when = match settings.postgres_download {
        config::DownloadWhen::Never => DownloadWhen::Never,
        config::DownloadWhen::WhenMissing => DownloadWhen::WhenMissing,
        config::DownloadWhen::Always => DownloadWhen::Always,
    };
    Download { when, url: settings.postgres_download_url.clone(), timeout: settings.postgres_download_timeout }
}

/// The settings of the service's parts.
pub fn service_settings(settings: &Settings) -> ServiceSettings {
    ServiceSettings {
        credentials: credentials::settings_of(settings),
        append: AppendSettings {
            queue_max: settings.append_queue_max,
            queue_bytes_max: settings.append_queue_bytes_max,
            batch_messages_max: settings.append_batch_messages_max,
            batch_bytes_max: settings.append_batch_bytes_max,
            locked_categories_max: settings.append_locked_categories_max,
            condition_messages_max: settings.append_condition_messages_max,
            sessions: SessionSettings {
                max: settings.append_sessions_max,
                messages_max: settings.append_session_messages_max,
                bytes_max: settings.append_session_bytes_max,
            },
            lock_timeout: settings.append_lock_timeout,
            commit_timeout: settings.append_commit_timeout,
            resolve_timeout: settings.append_resolve_timeout,
        },
        tail: TailSettings {
            cache_bytes_max: settings.cache_bytes_max,
            history_cache_bytes_max: settings.history_cache_bytes_max,
            poll_interval: settings.poll_interval,
            held_back_warning: settings.held_back_warning,
            // Half of the pool, so that followers that catch up leave connections for requests.
            catch_up_reads_max: (settings.database_connections_max / 2).max(1),
        },
        hints: HintSettings {
            heartbeat_interval: settings.listener_heartbeat,
            heartbeat_timeout: LISTENER_TIMEOUT,
            notify_interval: settings.notify_interval,
        },
        projector: ProjectorSettings {
            lease: settings.projector_lease,
            catch_ups_max: settings.projector_catch_ups_max,
        },
        aggregated_cache_bytes_max: settings.aggregated_cache_bytes_max,
        aggregated_streams_max: settings.aggregated_streams_max,
        aggregated_streams_per_credential_max: settings.per_credential.aggregated_streams_per_credential_max,
        per_credential: PerCredentialSettings {
            followers_max: settings.per_credential.followers_per_credential_max,
            append_sessions_max: settings.per_credential.append_sessions_per_credential_max,
            appends_per_second_max: settings.per_credential.appends_per_credential_max,
        },
        subscriptions: SubscriptionSettings {
            subscriptions_max: settings.subscriptions_max,
            subscriptions_per_credential_max: settings.per_credential.subscriptions_per_credential_max,
            consumers_max: settings.subscription_consumers_max,
            revoke_grace: settings.subscription_revoke_grace,
            ack_queue_max: settings.ack_queue_max,
            poll_interval: settings.poll_interval,
        },
        primary_interval: settings.database_watch_interval,
        retention_interval: settings.retention_interval,
        metrics_history_interval: settings.metrics_history_interval,
        in_effect: settings.in_effect.clone().into(),
        followers_max: settings.followers_max,
        // The other half is for the last of them, and for requests that were open.
        closing_time_max: settings.drain_timeout / 2,
        latest_of_each_streams_max: settings.latest_of_each_streams_max,
        page_bytes_max: settings.page_bytes_max,
    }
}

/// The limits of requests.
pub fn limits(settings: &Settings) -> Limits {
    Limits {
        body_bytes_max: settings.body_bytes_max,
        message_bytes_max: settings.message_bytes_max,
        page_bytes_max: settings.page_bytes_max,
        messages_per_append_max: settings.messages_per_append_max,
        bodies_bytes_max: settings.bodies_bytes_max,
        headers_max: settings.headers_max,
        header_bytes_max: settings.header_bytes_max,
        url_bytes_max: settings.url_bytes_max,
        request_timeout: settings.request_timeout,
        write_timeout: settings.write_timeout,
        connections_max: connections_max(settings),
        connections_per_address_max: settings.connections_per_address_max,
        // A request may wait for its turn, for a lock, for the commit, and for a look-up of what became of it.
        append_timeout: settings.append_lock_timeout * 3
            + settings.append_commit_timeout
            + settings.append_resolve_timeout,
        wait_max: settings.wait_max,
        heartbeat: settings.heartbeat,
        page_caching: PageCaching {
            is_public: settings.page_cache == PageCache::Public,
            max_age: settings.page_max_age,
            stale_while_revalidate: settings.page_stale_while_revalidate,
        },
        trusted: Trusted {
            origins: settings.cors_origin.clone(),
            hosts: settings.allowed_host.clone(),
            speaks_tls: settings.tls_certificate.is_some(),
        },
    }
}
