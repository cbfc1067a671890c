//! The service keeps a short history of its own metrics, for whoever looks later.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::database::TestDatabase;
use crate::support::waiting::eventually;

/// The values of a series.
fn values(report: &Value, name: &str, label: Option<(&str, &str)>) -> Option<Vec<Option<f64>>> {
    let has =
        |series: &&Value| series["name"] == name && label.is_none_or(|(key, value)| series["labels"][key] == value);
    let series = report["series"].as_array().unwrap().iter().find(has)?;
    Some(series["values"].as_array().unwrap().iter().map(Value::as_f64).collect())
}

#[tokio::test]
async fn what_was_measured_before_anybody_looked_can_be_read() {
    let database = TestDatabase::migrated().await;
    let app =
        TestApp::with(&database.url, |settings| settings.metrics_history_interval = Duration::from_millis(50)).await;
    let subscription = json!({"source": {"category": "account"}, "mode": "competing"});
    assert_eq!(app.put("/v1/subscriptions/billing", &subscription).await.status, 201);
    let body = json!({"messages": [{"type": "Opened"}, {"type": "Opened"}]});
    assert_eq!(app.post("/v1/streams/account-1/messages", &body).await.status, 201);
    let report = eventually("a sample with the messages", || async {
        // Lags are measured twice a minute unless somebody reads the metrics.
        app.get("/metrics").await;
        let report = app.get("/v1/reports/metrics?subscription=billing").await.json();
        let appended = values(&report, "headwater_messages_appended_total", None).unwrap();
        let lags = values(&report, "headwater_subscription_committed_lag", Some(("subscription", "billing"))).unwrap();
        (appended.last() == Some(&Some(2.0)) && lags.last() == Some(&Some(2.0))).then_some(report)
    })
    .await;
    assert_eq!(report["interval_seconds"], 0.05);
    let times = report["times"].as_array().unwrap();
    assert!(times.windows(2).all(|pair| pair[0].as_str() < pair[1].as_str()), "oldest first");
    for series in report["series"].as_array().unwrap() {
        assert_eq!(series["values"].as_array().unwrap().len(), times.len(), "{}", series["name"]);
    }
    let commits = values(&report, "headwater_commit_seconds", Some(("quantile", "0.99"))).unwrap();
    assert_eq!(commits.iter().flatten().count(), 1, "of the one sample in which something was written");
    let other = app.get("/v1/reports/metrics").await.json();
    assert_eq!(values(&other, "headwater_subscription_committed_lag", None), None);
    app.stop().await;
}

#[tokio::test]
async fn no_history_is_kept_where_the_interval_is_zero() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| settings.metrics_history_interval = Duration::ZERO).await;
    let report = app.get("/v1/reports/metrics").await.json();
    assert_eq!((&report["interval_seconds"], &report["times"]), (&json!(0.0), &json!([])));
    app.stop().await;
}
