//! What the product does, without HTTP and SQL.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::domain::setting::SettingInEffect;
use crate::lifecycle::Lifecycle;
use crate::store::Database;
use crate::telemetry::Observer;

pub mod aggregated;
pub mod append;
mod append_for;
pub mod auth;
pub mod back_off;
mod counting;
pub mod credential_limits;
mod detached;
pub mod erase;
mod event_source;
pub mod event_streams;
pub mod follow;
pub mod hints;
pub mod log;
mod long_poll;
pub mod metrics_history;
pub mod open_streams;
mod primary_watch;
pub mod read;
pub mod replicas;
pub mod reports;
pub mod retention;
pub mod storage;
pub mod subscriptions;
pub mod tail;
pub mod transfer;
pub mod trim;

pub use crate::store::StoreError as ServiceError;
pub use crate::store::migrate::FUNCTIONS_VERSION;
use aggregated::AggregatedStreams;
use aggregated::feed::Feeds;
use aggregated::projector::{Projector, ProjectorSettings};
use append::{Append, AppendSettings};
use auth::{CredentialSettings, Credentials};
use credential_limits::{CredentialLimits, PerCredentialSettings};
use erase::Eraser;
use event_streams::EventStreams;
use hints::{HintSettings, Listener, Notifier, SignalTargets, Signals};
use log::latest::LatestBudget;
use metrics_history::MetricsHistory;
use primary_watch::PrimaryWatch;
use read::Reads;
use replicas::{ReplicaDatabase, Replicas};
use reports::Reports;
use retention::Retentions;
use storage::StorageMeter;
use subscriptions::{SubscriptionSettings, Subscriptions};
use tail::{Tail, TailSettings};
use trim::Trimmer;

/// The settings of all agents.
#[derive(Debug, Clone)]
pub struct ServiceSettings {
    pub credentials: CredentialSettings,
    pub append: AppendSettings,
    pub tail: TailSettings,
    pub hints: HintSettings,
    pub projector: ProjectorSettings,
    /// How many bytes of the newest messages are kept for the followers of one aggregated stream.
    pub aggregated_cache_bytes_max: usize,
    /// How many aggregated streams there may be.
    pub aggregated_streams_max: usize,
    /// How many of these one credential may define; 0: no limit.
    pub aggregated_streams_per_credential_max: usize,
    pub per_credential: PerCredentialSettings,
    /// How often it is looked which server is the primary.
    pub primary_interval: Duration,
    pub subscriptions: SubscriptionSettings,
    /// The pause between two passes of a retention over its category.
    pub retention_interval: Duration,
    /// How often a sample of the metrics is kept; zero: never.
    pub metrics_history_interval: Duration,
    /// The settings in effect, to be told.
    pub in_effect: Arc<[SettingInEffect]>,
    /// How many event streams may be open.
    pub followers_max: usize,
    /// Over how long the ends of event streams are spread at most, when the service stops.
    pub closing_time_max: Duration,
    /// Of how many streams all event streams together may have the newest messages still to tell.
    pub latest_of_each_streams_max: usize,
    /// How many bytes of messages one page may have.
    pub page_bytes_max: usize,
}

/// Everything that HTTP uses. Cheap to clone.
#[derive(Clone)]
pub struct Service {
    pub credentials: Credentials,
    pub append: Append,
    pub reads: Reads,
    pub eraser: Eraser,
    pub trimmer: Trimmer,
    pub retentions: Retentions,
    pub aggregated: AggregatedStreams,
    pub reports: Reports,
    pub storage: Arc<StorageMeter>,
    pub subscriptions: Subscriptions,
    pub tail: Tail,
    pub event_streams: EventStreams,
    pub credential_limits: CredentialLimits,
    pub latest: LatestBudget,
    pub health: Health,
    pub metrics_history: MetricsHistory,
    pub settings_in_effect: Arc<[SettingInEffect]>,
    pub observer: Observer,
    pub lifecycle: Lifecycle,
}

impl Service {
    /// Builds the service and starts its agents, in the order in which they need each other.
    pub fn start(
        database: Database,
        replicas: Vec<ReplicaDatabase>,
        settings: ServiceSettings,
        lifecycle: Lifecycle,
        observer: Observer,
    ) -> Self {
        let signals = Signals::default();
        let replicas = Replicas::new(replicas, observer.clone());
        let replica_interval = settings.tail.poll_interval;
        let (tail, reader) =
            Tail::new(database.clone(), replicas.clone(), signals.clone(), settings.tail, observer.clone());
        let (append, committer) = Append::new(
            database.clone(),
            tail.clone(),
            settings.append,
            lifecycle.draining().clone(),
            observer.clone(),
        );
        let feeds = Feeds::new(settings.aggregated_cache_bytes_max);
        let (projector, projecting) = Projector::new(
            database.clone(),
            tail.clone(),
            feeds.clone(),
            signals.clone(),
            settings.projector,
            observer.clone(),
        );
        let reads = Reads::new(database.clone(), tail.clone(), lifecycle.draining().clone(), settings.page_bytes_max);
        let aggregated = AggregatedStreams::new(
            database.clone(),
            tail.clone(),
            feeds.clone(),
            projecting.clone(),
            lifecycle.draining().clone(),
            observer.clone(),
            aggregated::Bounds {
                aggregated_streams_max: settings.aggregated_streams_max,
                aggregated_streams_per_credential_max: settings.aggregated_streams_per_credential_max,
                page_bytes_max: settings.page_bytes_max,
            },
        );
        let subscriptions = Subscriptions::start(
            database.clone(),
            tail.clone(),
            aggregated.clone(),
            reads.clone(),
            settings.subscriptions,
            &lifecycle,
            observer.clone(),
        );
        let credentials = Credentials::new(database.clone(), settings.credentials, observer.clone());
        let targets = SignalTargets {
            credentials: credentials.clone(),
            tail: tail.clone(),
            feeds: feeds.clone(),
            projector: projecting.clone(),
            subscriptions: subscriptions.clone(),
        };
        let listener = Listener::new(database.clone(), targets, settings.hints.clone(), observer.clone());
        let notifier = Notifier { database: database.clone(), signals, settings: settings.hints };
        let credential_limits = CredentialLimits::new(settings.per_credential);
        let event_streams = EventStreams::new(
            settings.followers_max,
            credential_limits.clone(),
            tail.clone(),
            lifecycle.draining().clone(),
            observer.clone(),
        );
        let service = Self {
            credentials: credentials.clone(),
            append: append.clone(),
            reads,
            retentions: Retentions::new(database.clone(), tail.clone(), observer.clone(), settings.retention_interval),
            trimmer: Trimmer::new(database.clone(), tail.clone(), observer.clone()),
            eraser: Eraser::new(database.clone(), tail.clone(), observer.clone()),
            subscriptions,
            aggregated,
            reports: Reports::new(database.clone(), tail.clone()),
            storage: Arc::new(StorageMeter::new(database.clone())),
            event_streams,
            credential_limits,
            latest: LatestBudget::new(settings.latest_of_each_streams_max),
            health: Health {
                database: database.clone(),
                append,
                listener: listener.is_live(),
                projector: projecting.is_alive(),
                tail: tail.clone(),
                observer: observer.clone(),
            },
            metrics_history: MetricsHistory::new(settings.metrics_history_interval),
            settings_in_effect: settings.in_effect,
            tail,
            observer,
            lifecycle: lifecycle.clone(),
        };
        let stopping = lifecycle.stopping();
        lifecycle.spawn("credentials", credentials.clone().run(stopping.clone()));
        lifecycle.spawn("JWKS", credentials.clone().fetch_keys(stopping.clone()));
        lifecycle.spawn("credentials' ends", credentials.expire(stopping.clone()));
        lifecycle.spawn("metrics", service.observer.clone().keep_up(stopping.clone()));
        lifecycle.spawn("tail", reader.run(stopping.clone()));
        let watch = PrimaryWatch {
            database: database.clone(),
            interval: settings.primary_interval,
            observer: service.observer.clone(),
        };
        lifecycle.spawn("primary", watch.run(stopping.clone()));
        let looking = replicas.run(database.clone(), service.tail.clone(), replica_interval, stopping.clone());
        lifecycle.spawn("replicas", looking);
        lifecycle.spawn("listener", listener.run(stopping.clone()));
        lifecycle.spawn("notifier", notifier.run(stopping.clone()));
        lifecycle.spawn("projector", projector.run(stopping.clone()));
        let (tail, observer) = (service.tail.clone(), service.observer.clone());
        lifecycle.spawn("aggregated feeds", feeds.run(database, tail, observer, stopping.clone()));
        lifecycle.spawn("heartbeats", service.event_streams.heartbeats().run(stopping.clone()));
        let closing = service.event_streams.clone().close_in_steps(settings.closing_time_max, stopping.clone());
        lifecycle.spawn("event streams' ends", closing);
        lifecycle.spawn("retention", service.retentions.clone().run(stopping.clone()));
        let (history, health) = (service.metrics_history.clone(), service.health.clone());
        lifecycle.spawn("metrics", history.run(health, service.subscriptions.clone(), stopping.clone()));
        lifecycle.spawn("committer", committer.run(stopping.clone()));
        service
    }
}

/// Whether the service can do its work.
#[derive(Clone)]
pub struct Health {
    database: Database,
    append: Append,
    listener: Arc<AtomicBool>,
    projector: Arc<AtomicBool>,
    tail: Tail,
    observer: Observer,
}

/// What a check of the service's health found.
#[derive(Debug, Clone, Copy)]
pub struct Readiness {
    pub database: bool,
    pub migrations: bool,
    pub listener: bool,
    pub projector: bool,
    pub tail: bool,
}

/// The longest that this check waits for the database.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);

impl Health {
    pub async fn readiness(&self) -> Readiness {
        let looking = tokio::time::timeout(HEALTH_TIMEOUT, self.database.has_schema());
        let schema = looking.await.ok().and_then(Result::ok);
        Readiness {
            database: schema.is_some(),
            migrations: schema == Some(true),
            listener: self.listener.load(Ordering::SeqCst),
            projector: self.projector.load(Ordering::SeqCst),
            tail: self.tail.is_reading(),
        }
    }

    /// The metrics in Prometheus' text format.
    pub fn metrics(&self) -> String {
        self.observer.measure_pools(self.database.pool_use(), (self.append.queued(), self.append.open_sessions()));
        self.observer.render()
    }
}

impl Readiness {
    pub fn is_ready(self) -> bool {
        self.database && self.migrations && self.listener && self.projector && self.tail
    }
}

#[cfg(test)]
#[path = "../../tests/support/seeds.rs"]
mod seeds;
