//! The short history of this instance's own metrics over HTTP.

use std::collections::BTreeMap;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::extract::Query;
use super::problem::Problem;
use super::{App, tags};
use crate::service::metrics_history::SERIES;

/// Which subscription's lags are added.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct MetricsQuery {
    /// Name of a subscription whose lags are added, if it is among the first hundred by name
    #[param(example = "billing")]
    subscription: Option<String>,
}

/// What this instance has measured of itself, oldest first.
#[derive(Serialize, ToSchema)]
pub struct MetricsReport {
    /// Seconds from one sample to the next; 0 where no history is kept.
    #[schema(example = 15.0)]
    interval_seconds: f64,
    /// When each sample was taken. At most 1,440 are kept.
    #[schema(value_type = Vec<String>, example = json!(["2026-01-01T12:00:00.000000Z"]))]
    times: Vec<String>,
    series: Vec<MetricSeries>,
}

/// A metric over time.
#[derive(Serialize, ToSchema)]
pub struct MetricSeries {
    /// The name that it has in `/metrics`. Of a histogram there are quantiles of what came since the sample before.
    #[schema(example = "headwater_settled_lag")]
    name: &'static str,
    /// Its labels; `quantile` of a histogram.
    labels: BTreeMap<&'static str, String>,
    /// Its value in each sample; null where there was none.
    values: Vec<Option<f64>>,
}

/// Read a short history of this instance's own metrics
///
/// It is kept in memory, for charts: it begins when the instance starts, and another instance has its own. Counters are totals
/// since the start. How often a sample is kept says the setting `--metrics-history-interval`.
#[utoipa::path(
    get, path = "/v1/reports/metrics", operation_id = "reportMetrics", tag = tags::REPORTS,
    params(MetricsQuery), responses((status = 200, body = MetricsReport)),
)]
pub async fn report_metrics(
    State(app): State<App>,
    Query(query): Query<MetricsQuery>,
) -> Result<axum::Json<MetricsReport>, Problem> {
    let samples = app.metrics_history.samples();
    let labels =
        |labels: &[(&'static str, &str)]| labels.iter().map(|&(name, value)| (name, value.to_owned())).collect();
    let instance = SERIES.iter().enumerate().map(|(at, series)| {
        let mut labels: BTreeMap<_, _> = labels(series.labels);
        if let Some(rank) = series.quantile {
            labels.insert("quantile", rank.to_string());
        }
        MetricSeries { name: series.name, labels, values: samples.iter().map(|sample| sample.values[at]).collect() }
    });
    let mut series: Vec<_> = instance.collect();
    if let Some(subscription) = query.subscription {
        let lags: Vec<_> = samples.iter().map(|sample| sample.lag(&subscription)).collect();
        let labels = labels(&[("subscription", &subscription)]);
        let of = |name, values| MetricSeries { name, labels: BTreeMap::clone(&labels), values };
        let committed = lags.iter().map(|lag| lag.map(|(committed, _)| committed as f64)).collect();
        let delivered = lags.iter().map(|lag| lag.map(|(_, delivered)| delivered as f64)).collect();
        series.push(of("headwater_subscription_committed_lag", committed));
        series.push(of("headwater_subscription_delivered_lag", delivered));
    }
    Ok(axum::Json(MetricsReport {
        interval_seconds: app.metrics_history.interval().as_secs_f64(),
        times: samples.iter().map(|sample| sample.time.to_rfc3339()).collect(),
        series,
    }))
}
