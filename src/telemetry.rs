//! The one place that makes metrics and log lines of observations.

mod backup;
mod lines;
pub mod logging;
mod recent;
mod servers;
mod spans;
mod upkeep;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use parking_lot::RwLock;
use tokio::sync::broadcast;

use crate::domain::observation::{FailureKind, Observation, Stalled};
use lines::log;
pub use spans::OpenSpan;

/// How many observations a slow watcher may lag behind.
const WATCHED_MAX: usize = 4_096;
/// Upper bounds of the buckets for durations, in seconds.
const SECONDS: [f64; 14] = [0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Upper bounds of the buckets for counts.
const COUNTS: [f64; 10] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0];

/// Takes in observations. Cheap to clone.
#[derive(Clone)]
pub struct Observer {
    inner: Arc<Inner>,
}

struct Inner {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    watchers: broadcast::Sender<Observation>,
    metrics: Metrics,
    /// The metrics of requests so far: by route, then method and status, all of which are few.
    requests: RwLock<HashMap<String, Answered>>,
    recent: recent::RecentLines,
    spans: Option<spans::SpanExporter>,
}

/// The metrics of one route, by method and status.
type Answered = HashMap<(&'static str, u16), (Counter, Histogram)>;

/// The metrics that are kept at hand, because they are counted often.
struct Metrics {
    messages_appended: Counter,
    appends_written: Counter,
    appends_duplicate: Counter,
    appends_conflict: Counter,
    appends_overloaded: Counter,
    appends_locked: Counter,
    batches_failed: Counter,
    batch_messages: Histogram,
    batch_requests: Histogram,
    commit_seconds: Histogram,
    commits_resolved_written: Counter,
    commits_resolved_not_written: Counter,
    followers: Gauge,
    followers_refused: Counter,
    fell_behind: Counter,
    delivered: Counter,
    cache_hits: Counter,
    cache_misses: Counter,
    cache_bytes: Gauge,
    cache_messages: Gauge,
    settled: Gauge,
    head: Gauge,
    settled_lag: Gauge,
    held_back_seconds: Gauge,
    tail_up: Gauge,
    sequence_cache: Gauge,
    positions_ahead: Gauge,
    written_behind: Counter,
    erased: Counter,
    trimmed: Counter,
    listener_up: Gauge,
    listener_lost: Counter,
    database_lost: Counter,
    /// By kind, in the order of [`FailureKind::ALL`].
    store_errors: [Counter; 3],
    projector_leads: Gauge,
    projected_live: Counter,
    projected_past: Counter,
    projections_stopped: Counter,
    history_changes: Counter,
    panics: Counter,
    connections: Gauge,
    connections_refused: Counter,
    bodies_refused: Counter,
    /// By what was given up, in the order of [`Stalled::ALL`].
    stalled: [Counter; 3],
    subscription_delivered: Counter,
    subscription_acked: Counter,
    subscription_fenced: Counter,
    leases_expired: Counter,
    deliveries_taken_back: Counter,
    ack_requests: Histogram,
    ack_commit_seconds: Histogram,
    pool_in_use: Gauge,
    pool_open: Gauge,
    pool_waiting: Gauge,
    pool_max: Gauge,
    append_queue: Gauge,
    append_sessions: Gauge,
}

static METADATA: Metadata<'static> = Metadata::new("headwater", Level::INFO, None);

impl Default for Observer {
    fn default() -> Self {
        Self::new()
    }
}

impl Observer {
    pub fn new() -> Self {
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)
            .and_then(|builder| builder.set_buckets_for_metric(Matcher::Prefix("headwater_batch_".into()), &COUNTS))
            .unwrap_or_else(|_| PrometheusBuilder::new()); // refused only if the list of buckets were empty
        let recorder = builder.build_recorder();
        let metrics = Metrics::register(&recorder);
        describe(&recorder);
        let handle = recorder.handle();
        Self {
            inner: Arc::new(Inner {
                recorder,
                handle,
                watchers: broadcast::Sender::new(WATCHED_MAX),
                metrics,
                requests: RwLock::default(),
                recent: recent::RecentLines::default(),
                spans: None,
            }),
        }
    }

    /// All observations from now on, for tests that wait on facts.
    pub fn watch(&self) -> broadcast::Receiver<Observation> {
        self.inner.watchers.subscribe()
    }

    /// The metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        self.inner.handle.run_upkeep();
        self.inner.handle.render()
    }

    /// Sets the metrics that are measured only when they are read. `appends`: requests that wait, and open sessions.
    pub fn measure_pools(&self, pools: crate::store::PoolUse, appends: (usize, usize)) {
        let metrics = &self.inner.metrics;
        metrics.pool_in_use.set(pools.in_use as f64);
        metrics.pool_open.set(pools.open as f64);
        metrics.pool_waiting.set(pools.waiting as f64);
        metrics.pool_max.set(pools.max as f64);
        let (queued, sessions) = appends;
        metrics.append_queue.set(queued as f64);
        metrics.append_sessions.set(sessions as f64);
    }

    pub fn record(&self, observation: Observation) {
        self.count(&observation);
        if self.inner.recent.is_worth_a_line(&observation) {
            log(&observation);
        }
        if self.inner.watchers.receiver_count() > 0 {
            let _ = self.inner.watchers.send(observation);
        }
    }

    fn count(&self, observation: &Observation) {
        let metrics = &self.inner.metrics;
        match observation {
            Observation::BatchCommitted { requests, messages, took } => {
                metrics.messages_appended.increment(*messages as u64);
                metrics.batch_requests.record(*requests as f64);
                metrics.batch_messages.record(*messages as f64);
                metrics.commit_seconds.record(took.as_secs_f64());
            }
            Observation::BatchFailed { .. } => metrics.batches_failed.increment(1),
            Observation::AppendsAnswered { appended, duplicates, conflicts } => {
                metrics.appends_written.increment(*appended as u64);
                metrics.appends_duplicate.increment(*duplicates as u64);
                metrics.appends_conflict.increment(*conflicts as u64);
            }
            Observation::AppendOverloaded => metrics.appends_overloaded.increment(1),
            Observation::AppendsLocked { requests, .. } => metrics.appends_locked.increment(*requests as u64),
            Observation::CategoryQueueFailed { .. } => metrics.panics.increment(1),
            Observation::CommitResolved { written, not_written } => {
                metrics.commits_resolved_written.increment(*written as u64);
                metrics.commits_resolved_not_written.increment(*not_written as u64);
            }
            Observation::StoreFailed { kind, is_news, .. } => {
                metrics.store_errors[*kind as usize].increment(1);
                metrics.database_lost.increment(u64::from(*is_news && *kind == FailureKind::Outage));
            }
            Observation::DatabaseFound { .. } | Observation::Retained { .. } => {}
            Observation::JwksFetched { .. } | Observation::JwksFailed { .. } => {}
            Observation::PrimaryChanged { .. } | Observation::OtherPrimary { .. } => self.count_server(observation),
            Observation::ReplicaSeen { .. } | Observation::ReplicaRead { .. } => self.count_server(observation),
            Observation::ListenerUp => metrics.listener_up.set(1.0),
            Observation::ListenerDown { .. } => {
                metrics.listener_up.set(0.0);
                metrics.listener_lost.increment(1);
            }
            Observation::Settled { settled, head } => {
                metrics.settled.set(*settled as f64);
                metrics.head.set(*head as f64);
                metrics.settled_lag.set((head - settled).max(0) as f64);
            }
            Observation::TailReads { reads } => metrics.tail_up.set(f64::from(*reads)),
            Observation::SequenceCaches { numbers } => metrics.sequence_cache.set(*numbers as f64),
            Observation::PositionsAhead { at, .. } => metrics.positions_ahead.set(f64::from(at.is_some())),
            Observation::WrittenBehind { messages, .. } => metrics.written_behind.increment(*messages as u64),
            Observation::Erased { .. } => metrics.erased.increment(1),
            Observation::Trimmed { messages } => metrics.trimmed.increment(messages.unsigned_abs()),
            Observation::HeldBack { seconds, .. } => metrics.held_back_seconds.set(*seconds),
            Observation::Released { .. } => metrics.held_back_seconds.set(0.0),
            Observation::BackupMeasured { age, wal_behind_bytes } => self.measure_backup(*age, *wal_behind_bytes),
            Observation::HistoryChanged { .. } => metrics.history_changes.increment(1),
            Observation::FollowerJoined => metrics.followers.increment(1.0),
            Observation::FollowerLeft => metrics.followers.decrement(1.0),
            Observation::FollowerRefused => metrics.followers_refused.increment(1),
            Observation::FellBehind => metrics.fell_behind.increment(1),
            Observation::Delivered { messages } => metrics.delivered.increment(*messages as u64),
            Observation::CacheRead { hit: true } => metrics.cache_hits.increment(1),
            Observation::CacheRead { hit: false } => metrics.cache_misses.increment(1),
            Observation::CacheSize { bytes, messages } => {
                metrics.cache_bytes.set(*bytes as f64);
                metrics.cache_messages.set(*messages as f64);
            }
            Observation::ProjectorLeads { leads, .. } => metrics.projector_leads.set(f64::from(*leads)),
            Observation::Projected { messages, live: true } => metrics.projected_live.increment(*messages as u64),
            Observation::Projected { messages, live: false } => metrics.projected_past.increment(*messages as u64),
            Observation::ProjectionStopped { .. } => metrics.projections_stopped.increment(1),
            Observation::RequestAnswered { method, path, status, took } => {
                self.count_request(method, path, *status, *took);
            }
            Observation::ConsumerJoined | Observation::ConsumerLeft => {}
            Observation::SubscriptionStopped { .. } => {}
            Observation::LeaseExpired { .. } => metrics.leases_expired.increment(1),
            Observation::DeliveriesTakenBack { .. } => metrics.deliveries_taken_back.increment(1),
            Observation::SubscriptionDelivered { messages } => {
                metrics.subscription_delivered.increment(*messages as u64);
            }
            Observation::DeliveriesAcked { acked, fenced } => {
                metrics.subscription_acked.increment(*acked as u64);
                metrics.subscription_fenced.increment(*fenced as u64);
            }
            Observation::AcksCommitted { requests, took } => {
                metrics.ack_requests.record(*requests as f64);
                metrics.ack_commit_seconds.record(took.as_secs_f64());
            }
            Observation::ConnectionOpened => metrics.connections.increment(1.0),
            Observation::ConnectionClosed => metrics.connections.decrement(1.0),
            Observation::ConnectionRefused { .. } => metrics.connections_refused.increment(1),
            Observation::BodyRefused => metrics.bodies_refused.increment(1),
            Observation::ClientStalled { what } => metrics.stalled[*what as usize].increment(1),
            Observation::Panicked { .. } => metrics.panics.increment(1),
        }
    }

    fn count_request(&self, method: &'static str, path: &str, status: u16, took: Duration) {
        let known = self.inner.requests.read();
        if let Some((answered, seconds)) = known.get(path).and_then(|answers| answers.get(&(method, status))) {
            answered.increment(1);
            seconds.record(took.as_secs_f64());
            return;
        }
        drop(known);
        let labels = || vec![Label::new("method", method), Label::new("path", path.to_owned())];
        let mut with_status = labels();
        with_status.push(Label::new("status", status.to_string()));
        let recorder = &self.inner.recorder;
        let answered =
            recorder.register_counter(&Key::from_parts("headwater_http_requests_total", with_status), &METADATA);
        let seconds =
            recorder.register_histogram(&Key::from_parts("headwater_http_request_seconds", labels()), &METADATA);
        answered.increment(1);
        seconds.record(took.as_secs_f64());
        let mut known = self.inner.requests.write();
        known.entry(path.to_owned()).or_default().insert((method, status), (answered, seconds));
    }
}

impl Metrics {
    fn register(recorder: &PrometheusRecorder) -> Self {
        let counter = |name: &'static str| recorder.register_counter(&Key::from_static_name(name), &METADATA);
        let labelled = |name: &'static str, label: &'static str, value: &'static str| {
            recorder.register_counter(&Key::from_parts(name, vec![Label::new(label, value)]), &METADATA)
        };
        let gauge = |name: &'static str| recorder.register_gauge(&Key::from_static_name(name), &METADATA);
        let histogram = |name: &'static str| recorder.register_histogram(&Key::from_static_name(name), &METADATA);
        Self {
            messages_appended: counter("headwater_messages_appended_total"),
            appends_written: labelled("headwater_appends_total", "outcome", "written"),
            appends_duplicate: labelled("headwater_appends_total", "outcome", "duplicate"),
            appends_conflict: labelled("headwater_appends_total", "outcome", "conflict"),
            appends_overloaded: labelled("headwater_appends_total", "outcome", "overloaded"),
            appends_locked: labelled("headwater_appends_total", "outcome", "locked"),
            batches_failed: counter("headwater_batches_failed_total"),
            batch_messages: histogram("headwater_batch_messages"),
            batch_requests: histogram("headwater_batch_requests"),
            commit_seconds: histogram("headwater_commit_seconds"),
            commits_resolved_written: labelled("headwater_commits_resolved_total", "outcome", "written"),
            commits_resolved_not_written: labelled("headwater_commits_resolved_total", "outcome", "not_written"),
            followers: gauge("headwater_followers"),
            followers_refused: counter("headwater_followers_refused_total"),
            fell_behind: counter("headwater_followers_fell_behind_total"),
            delivered: counter("headwater_messages_delivered_total"),
            cache_hits: labelled("headwater_follower_reads_total", "from", "cache"),
            cache_misses: labelled("headwater_follower_reads_total", "from", "database"),
            cache_bytes: gauge("headwater_cache_bytes"),
            cache_messages: gauge("headwater_cache_messages"),
            settled: gauge("headwater_settled_position"),
            head: gauge("headwater_head_position"),
            settled_lag: gauge("headwater_settled_lag"),
            held_back_seconds: gauge("headwater_settled_held_back_age"),
            tail_up: gauge("headwater_tail_up"),
            sequence_cache: gauge("headwater_sequence_cache"),
            positions_ahead: gauge("headwater_positions_ahead"),
            written_behind: counter("headwater_written_behind_total"),
            erased: counter("headwater_messages_erased_total"),
            trimmed: counter("headwater_messages_trimmed_total"),
            listener_up: gauge("headwater_listener_up"),
            listener_lost: counter("headwater_listener_lost_total"),
            database_lost: counter("headwater_database_lost_total"),
            store_errors: FailureKind::ALL.map(|kind| labelled("headwater_store_errors_total", "kind", kind.name())),
            projector_leads: gauge("headwater_projector_leads"),
            projected_live: labelled("headwater_messages_projected_total", "from", "tail"),
            projected_past: labelled("headwater_messages_projected_total", "from", "history"),
            projections_stopped: counter("headwater_projections_stopped_total"),
            history_changes: counter("headwater_history_changes_total"),
            panics: counter("headwater_panics_total"),
            connections: gauge("headwater_connections"),
            connections_refused: counter("headwater_connections_refused_total"),
            bodies_refused: counter("headwater_bodies_refused_total"),
            stalled: Stalled::ALL.map(|what| labelled("headwater_clients_stalled_total", "gave_up", what.name())),
            subscription_delivered: counter("headwater_subscription_deliveries_total"),
            subscription_acked: labelled("headwater_subscription_acks_total", "outcome", "acked"),
            subscription_fenced: labelled("headwater_subscription_acks_total", "outcome", "fenced"),
            leases_expired: counter("headwater_subscription_leases_expired_total"),
            deliveries_taken_back: counter("headwater_subscription_deliveries_taken_back_total"),
            ack_requests: histogram("headwater_batch_acks"),
            ack_commit_seconds: histogram("headwater_ack_commit_seconds"),
            pool_in_use: gauge("headwater_pool_connections_in_use"),
            pool_open: gauge("headwater_pool_connections_open"),
            pool_waiting: gauge("headwater_pool_waiting"),
            pool_max: gauge("headwater_pool_connections_max"),
            append_queue: gauge("headwater_append_queue_requests"),
            append_sessions: gauge("headwater_append_sessions"),
        }
    }
}

fn describe(recorder: &PrometheusRecorder) {
    backup::describe(recorder);
    servers::describe(recorder);
    for (name, text) in [
        ("headwater_messages_appended_total", "Messages written."),
        ("headwater_appends_total", "Append requests by outcome."),
        ("headwater_batches_failed_total", "Transactions of appends that failed."),
        ("headwater_commits_resolved_total", "Append requests whose commit's answer was lost, by what was found."),
        ("headwater_followers_refused_total", "Followers refused because there were too many."),
        ("headwater_followers_fell_behind_total", "Times a follower had to read from the database again."),
        ("headwater_messages_delivered_total", "Messages sent to followers."),
        ("headwater_follower_reads_total", "Times a follower caught up in the cache or read a page of the database."),
        ("headwater_listener_lost_total", "Times the listening connection was lost."),
        ("headwater_database_lost_total", "Times an agent lost the database."),
        ("headwater_store_errors_total", "Statements that failed: the database is away, refused, or was misread."),
        ("headwater_messages_projected_total", "Places given to messages in aggregated streams."),
        ("headwater_projections_stopped_total", "Times a projection stopped at a message that it could not place."),
        ("headwater_subscription_deliveries_total", "Messages handed to consumers of subscriptions."),
        ("headwater_subscription_acks_total", "Acks by outcome."),
        ("headwater_subscription_leases_expired_total", "Consumers whose leases ran out."),
        (
            "headwater_history_changes_total",
            "Times the log was found to be another one: a backup restored, a replica promoted, a table truncated.",
        ),
        (
            "headwater_written_behind_total",
            "Messages inserted by hand, or changed, at positions that followers had passed already.",
        ),
        ("headwater_messages_erased_total", "Requests on this instance that erased a message."),
        ("headwater_messages_trimmed_total", "Messages that this instance trimmed, on request or by a retention."),
        ("headwater_connections_refused_total", "Connections refused because as many were open as may be."),
        ("headwater_bodies_refused_total", "Requests refused because other bodies took all the memory they may."),
        ("headwater_clients_stalled_total", "Times a client took or sent nothing for too long, by what was given up."),
        ("headwater_panics_total", "Requests, and queues of locked categories, that panicked."),
        ("headwater_subscription_deliveries_taken_back_total", "Lost answers whose deliveries were taken back."),
        ("headwater_http_requests_total", "Requests answered, by method, path and status."),
    ] {
        recorder.describe_counter(name.into(), None, text.into());
    }
    for (name, text) in [
        ("headwater_followers", "Followers connected now."),
        ("headwater_connections", "Connections that are open."),
        ("headwater_cache_bytes", "Bytes of messages kept for followers who keep up."),
        ("headwater_cache_messages", "Messages kept for followers who keep up."),
        ("headwater_settled_position", "Global position up to which nothing can appear any more."),
        ("headwater_head_position", "Highest global position seen."),
        ("headwater_settled_lag", "Head less settled position, in positions."),
        (
            "headwater_settled_held_back_age",
            "Seconds for which a writer's open transaction has kept the settled position back; 0 if none does.",
        ),
        ("headwater_projector_leads", "1 while this instance projects the aggregated streams."),
        ("headwater_tail_up", "1 while the end of the log can be read; otherwise nothing new reaches followers."),
        (
            "headwater_sequence_cache",
            "Positions that a session takes from the sequence at once, if more than 1 was seen: messages may be missed.",
        ),
        (
            "headwater_positions_ahead",
            "1 while a message waits that was numbered by hand, beyond what the sequence has given.",
        ),
        ("headwater_listener_up", "1 while the listening connection is up."),
        ("headwater_pool_connections_in_use", "Database connections in use."),
        ("headwater_pool_connections_open", "Database connections open in the pools."),
        ("headwater_pool_waiting", "Tasks that wait for a connection."),
        ("headwater_pool_connections_max", "Database connections that the pools may open."),
        ("headwater_append_queue_requests", "Append requests that wait to be written."),
        ("headwater_append_sessions", "Append sessions that are open."),
    ] {
        recorder.describe_gauge(name.into(), None, text.into());
    }
    for (name, text) in [
        ("headwater_batch_messages", "Messages in one transaction of appends."),
        ("headwater_batch_requests", "Requests in one transaction of appends."),
        ("headwater_batch_acks", "Requests in one commit of acks."),
        ("headwater_ack_commit_seconds", "Time of one commit of acks."),
        ("headwater_commit_seconds", "Time of one transaction of appends."),
        ("headwater_http_request_seconds", "Time until a response began."),
    ] {
        recorder.describe_histogram(name.into(), None, text.into());
    }
}
