//! A short history of this instance's own metrics, in memory: what charts show at once, before anybody has watched.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::Health;
use super::subscriptions::{LagOfSubscription, Subscriptions};
use crate::domain::time::Timestamp;

/// Samples that are kept; older ones go. At the default interval these are the last six hours.
pub const SAMPLES_MAX: usize = 1_440;
/// Subscriptions whose lags are kept, the first by name.
pub const SUBSCRIPTIONS_MAX: usize = 100;

/// A series: the metric's name, its labels, and where its value comes from.
#[derive(Debug)]
pub struct Series {
    pub name: &'static str,
    pub labels: &'static [(&'static str, &'static str)],
    /// The rank of a quantile, where the metric is a histogram: of what came since the sample before.
    pub quantile: Option<f64>,
}

const fn plain(name: &'static str, labels: &'static [(&'static str, &'static str)]) -> Series {
    Series { name, labels, quantile: None }
}

const fn quantile(name: &'static str, labels: &'static [(&'static str, &'static str)], rank: f64) -> Series {
    Series { name, labels, quantile: Some(rank) }
}

const APPENDS: &[(&str, &str)] = &[("method", "POST"), ("path", "/v1/streams/{stream_name}/messages")];

/// What is kept of the instance.
pub const SERIES: [Series; 14] = [
    plain("headwater_head_position", &[]),
    plain("headwater_settled_lag", &[]),
    plain("headwater_messages_appended_total", &[]),
    plain("headwater_messages_delivered_total", &[]),
    plain("headwater_messages_projected_total", &[("from", "tail")]),
    plain("headwater_subscription_deliveries_total", &[]),
    plain("headwater_subscription_acks_total", &[("outcome", "acked")]),
    plain("headwater_followers", &[]),
    plain("headwater_append_queue_requests", &[]),
    plain("headwater_pool_connections_in_use", &[]),
    quantile("headwater_http_request_seconds", APPENDS, 0.5),
    quantile("headwater_http_request_seconds", APPENDS, 0.99),
    quantile("headwater_commit_seconds", &[], 0.5),
    quantile("headwater_commit_seconds", &[], 0.99),
];

/// The metrics at one moment.
#[derive(Debug, Clone)]
pub struct Sample {
    pub time: Timestamp,
    /// In the order of [`SERIES`]; `None` where nothing was measured.
    pub values: [Option<f64>; SERIES.len()],
    lags: Vec<SampledLag>,
}

#[derive(Debug, Clone)]
struct SampledLag {
    /// Shared by the samples.
    subscription: Arc<str>,
    committed: i64,
    delivered: i64,
}

impl Sample {
    /// How many messages of a subscription were not acked, and not delivered.
    pub fn lag(&self, subscription: &str) -> Option<(i64, i64)> {
        let lag = self.lags.iter().find(|lag| &*lag.subscription == subscription)?;
        Some((lag.committed, lag.delivered))
    }
}

/// The samples so far. Cheap to clone.
#[derive(Clone)]
pub struct MetricsHistory {
    samples: Arc<Mutex<VecDeque<Sample>>>,
    interval: Duration,
}

impl MetricsHistory {
    /// Without an interval nothing is kept.
    pub fn new(interval: Duration) -> Self {
        Self { samples: Arc::default(), interval }
    }

    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// All samples, the oldest first.
    pub fn samples(&self) -> Vec<Sample> {
        self.samples.lock().iter().cloned().collect()
    }

    /// Runs until the service stops.
    pub(super) async fn run(self, health: Health, subscriptions: Subscriptions, stopping: CancellationToken) {
        if self.interval.is_zero() {
            return stopping.cancelled().await;
        }
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut before = Buckets::default();
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let text = health.metrics();
            let now = buckets(&text);
            let values = SERIES.each_ref().map(|series| match series.quantile {
                None => value(&text, series),
                Some(rank) => quantile_since(before.of(series), now.of(series), rank),
            });
            before = now;
            self.add(Timestamp::now(), values, &subscriptions.lags.last());
        }
    }

    fn add(&self, time: Timestamp, values: [Option<f64>; SERIES.len()], lags: &[LagOfSubscription]) {
        let mut samples = self.samples.lock();
        let known = samples.back().map(|sample| sample.lags.as_slice()).unwrap_or_default();
        let shared = |name: &str| {
            let same = known.iter().find(|lag| &*lag.subscription == name);
            same.map_or_else(|| Arc::from(name), |lag| lag.subscription.clone())
        };
        let lags = lags.iter().take(SUBSCRIPTIONS_MAX).map(|lag| SampledLag {
            subscription: shared(&lag.name),
            committed: lag.committed,
            delivered: lag.delivered,
        });
        let sample = Sample { time, values, lags: lags.collect() };
        if samples.len() == SAMPLES_MAX {
            samples.pop_front();
        }
        samples.push_back(sample);
    }
}

/// Cumulative counts of the histograms, by upper bound, in the order of [`SERIES`].
#[derive(Default)]
struct Buckets(Vec<Vec<(f64, f64)>>);

impl Buckets {
    fn of(&self, series: &Series) -> &[(f64, f64)] {
        let at = SERIES.iter().position(|one| std::ptr::eq(one, series) || is_same(one, series));
        at.and_then(|at| self.0.get(at)).map(Vec::as_slice).unwrap_or_default()
    }
}

fn is_same(one: &Series, other: &Series) -> bool {
    one.name == other.name && one.labels == other.labels
}

/// The lines of a metric in Prometheus' text form that have these labels: what is in braces, and the value.
fn lines<'a>(text: &'a str, name: &'a str, series: &'a Series) -> impl Iterator<Item = (&'a str, f64)> {
    text.lines().filter_map(move |line| {
        let rest = line.strip_prefix(name)?;
        let (labels, number) = match rest.strip_prefix('{') {
            Some(rest) => rest.rsplit_once("} ")?,
            None => ("", rest.strip_prefix(' ')?),
        };
        let has = |(label, value): &(&str, &str)| labels.contains(&format!("{label}=\"{value}\""));
        series.labels.iter().all(has).then(|| number.parse().ok())?.map(|number| (labels, number))
    })
}

fn value(text: &str, series: &Series) -> Option<f64> {
    lines(text, series.name, series).map(|(_, number)| number).reduce(|sum, number| sum + number)
}

fn buckets(text: &str) -> Buckets {
    let of = |series: &Series| {
        let name = format!("{}_bucket", series.name);
        let bound = |labels: &str| match labels.split_once("le=\"")?.1.split_once('"')?.0 {
            "+Inf" => Some(f64::INFINITY),
            bound => bound.parse().ok(),
        };
        lines(text, &name, series).filter_map(|(labels, count)| Some((bound(labels)?, count))).collect()
    };
    Buckets(SERIES.iter().map(|series| if series.quantile.is_some() { of(series) } else { Vec::new() }).collect())
}

/// The quantile of what came between two readings of a histogram; none if nothing did.
fn quantile_since(before: &[(f64, f64)], now: &[(f64, f64)], rank: f64) -> Option<f64> {
    let came = |at: usize| now[at].1 - before.get(at).map_or(0.0, |(_, count)| *count);
    let total = came(now.len().checked_sub(1)?);
    let wanted = rank * total;
    let at = (0..now.len()).find(|&at| total > 0.0 && came(at) >= wanted)?;
    let (low, below) = if at == 0 { (0.0, 0.0) } else { (now[at - 1].0, came(at - 1)) };
    let high = now[at].0;
    let share = (wanted - below) / (came(at) - below).max(1.0);
    Some(if high.is_infinite() { low } else { low + (high - low) * share })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# TYPE headwater_commit_seconds histogram\n\
        headwater_commit_seconds_bucket{le=\"0.01\"} 50\nheadwater_commit_seconds_bucket{le=\"0.1\"} 100\n\
        headwater_commit_seconds_bucket{le=\"+Inf\"} 100\nheadwater_commit_seconds_count 100\n\
        headwater_subscription_acks_total{outcome=\"acked\"} 7\nheadwater_subscription_acks_total{outcome=\"fenced\"} 2\n\
        headwater_followers 3\nheadwater_followers_refused_total 9\n";

    #[test]
    fn values_and_quantiles_are_read_from_the_metrics() {
        assert_eq!(value(TEXT, &plain("headwater_followers", &[])), Some(3.0));
        assert_eq!(value(TEXT, &SERIES[6]), Some(7.0));
        assert_eq!(value(TEXT, &plain("headwater_head_position", &[])), None);
        let now = buckets(TEXT);
        let commit = now.of(&SERIES[12]);
        assert_eq!(quantile_since(&[], commit, 0.5), Some(0.01));
        assert!((quantile_since(&[], commit, 0.75).unwrap() - 0.055).abs() < 1e-9);
        assert_eq!(quantile_since(commit, commit, 0.5), None, "nothing came since");
        assert_eq!(quantile_since(&[], &[], 0.5), None);
    }

    #[test]
    fn the_oldest_sample_goes_and_names_are_shared() {
        let history = MetricsHistory::new(Duration::from_secs(1));
        let lag = LagOfSubscription {
            name: "billing".into(),
            committed: 5,
            delivered: 2,
            is_exact: true,
            oldest_unacked_ms: 0,
            consumers: 0,
        };
        for n in 0..SAMPLES_MAX + 3 {
            history.add(Timestamp(n as i64), [Some(n as f64); SERIES.len()], std::slice::from_ref(&lag));
        }
        let samples = history.samples();
        assert_eq!((samples.len(), samples[0].values[0]), (SAMPLES_MAX, Some(3.0)));
        assert_eq!(samples[0].lag("billing"), Some((5, 2)));
        assert_eq!(samples[0].lag("other"), None);
        assert!(Arc::ptr_eq(&samples[0].lags[0].subscription, &samples[9].lags[0].subscription));
    }
}
