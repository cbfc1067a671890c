//! The dashboard and the alert rules.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use headwater::domain::observation::Observation;
use serde_json::{Value, json};

use super::{recipe, root, run, said};
use crate::support::app::TestApp;
use crate::support::database::TestDatabase;

/// A selector of an expression: the metric, and the labels and values that it asks for.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Selector {
    metric: String,
    labels: Vec<(String, String)>,
}

/// The selectors in an expression of Prometheus.
fn selectors(expression: &str) -> Vec<Selector> {
    let mut found = Vec::new();
    let is_name = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let mut rest = expression;
    while let Some(at) = rest.find("headwater_") {
        rest = &rest[at..];
        let length = rest.find(|character| !is_name(character)).unwrap_or(rest.len());
        let (metric, after) = rest.split_at(length);
        let labels = after.strip_prefix('{').and_then(|labels| labels.split_once('}')).map_or("", |(labels, _)| labels);
        let labels = labels.split(',').filter(|label| !label.is_empty()).map(|label| {
            let (name, value) = label.split_once('=').expect("a label has a value");
            (name.trim().to_owned(), value.trim_matches(['~', '"']).to_owned())
        });
        found.push(Selector { metric: metric.to_owned(), labels: labels.collect() });
        rest = after;
    }
    found
}

fn strings(value: &Value, key: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if name == key => found.push(text.clone()),
                    value => strings(value, key, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| strings(value, key, found)),
        _ => {}
    }
}

fn all_selectors() -> BTreeSet<Selector> {
    let dashboard: Value = serde_json::from_str(&recipe("grafana-dashboard.json")).unwrap();
    let rules: Value = serde_yaml_ng::from_str(&recipe("prometheus-alerts.yaml")).unwrap();
    let mut expressions = Vec::new();
    strings(&dashboard, "expr", &mut expressions);
    let of_dashboard = expressions.len();
    strings(&rules, "expr", &mut expressions);
    assert!(of_dashboard > 30 && expressions.len() > of_dashboard + 15, "{expressions:?}");
    expressions.iter().flat_map(|expression| selectors(expression)).collect()
}

/// A service on which everything has happened once that makes a metric.
async fn service_with_traffic(database: &TestDatabase) -> TestApp {
    let app = TestApp::on(database).await;
    let mut events = app.follow("/v1/all/events").await;
    events.next("caught-up").await;
    app.write("a-1", "T", json!({})).await;
    events.messages(1).await;
    let source = json!({ "source": { "stream_name": "a-1" }, "from": "beginning" });
    assert_eq!(app.put("/v1/subscriptions/s", &source).await.status, 201);
    assert_eq!(app.post("/v1/subscriptions/s/fetch", &json!({ "consumer": "w1" })).await.status, 200);
    assert_eq!(app.put("/v1/categories/a/retention", &json!({ "max_count": 5 })).await.status, 200);
    // As the embedded server's backup is measured.
    app.service.observer.record(Observation::BackupMeasured { age: Duration::ZERO, wal_behind_bytes: Some(0) });
    app
}

#[tokio::test]
async fn every_metric_of_the_dashboard_and_the_alerts_exists() {
    let database = TestDatabase::migrated().await;
    let app = service_with_traffic(&database).await;
    let text = app.get("/metrics").await.text;
    for Selector { metric, labels } in all_selectors() {
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| line.strip_prefix(&metric).is_some_and(|rest| rest.starts_with(['{', ' '])))
            .collect();
        assert!(!lines.is_empty(), "there is no metric {metric}");
        // `job` and `instance` are Prometheus' own.
        for (name, values) in labels.iter().filter(|(name, _)| !["job", "instance"].contains(&name.as_str())) {
            for value in values.split('|') {
                let label = format!("{name}=\"{value}\"");
                assert!(lines.iter().any(|line| line.contains(&label)), "{metric} has no {label}");
            }
        }
    }
}

#[test]
fn selectors_are_found_in_expressions() {
    let found = selectors(r#"rate(headwater_a_total{kind=~"x|y",job="j"}[5m]) / headwater_b > 1"#);
    let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let labels = vec![label("kind", "x|y"), label("job", "j")];
    let expected = [
        Selector { metric: "headwater_a_total".into(), labels },
        Selector { metric: "headwater_b".into(), labels: Vec::new() },
    ];
    assert_eq!(found, expected);
}

#[test]
fn prometheus_takes_the_alert_rules() {
    let rules = root().join("operations/prometheus-alerts.yaml");
    let checked = run("prometheus", Command::new("promtool").args(["check", "rules"]).arg(rules));
    assert!(checked.status.success(), "{}", said(&checked));
}

/// What Grafana needs of a dashboard that is imported.
#[test]
fn the_dashboard_has_its_shape() {
    let dashboard: Value = serde_json::from_str(&recipe("grafana-dashboard.json")).unwrap();
    assert!(dashboard["schemaVersion"].is_u64() && dashboard["id"].is_null());
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        let place = &panel["gridPos"];
        assert!(place["x"].as_u64().unwrap() + place["w"].as_u64().unwrap() <= 24, "{panel}");
        if panel["type"] == "row" {
            continue;
        }
        assert!(panel["description"].as_str().is_some_and(|text| !text.is_empty()), "{panel}");
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"]["uid"], "${source}");
            assert!(target["expr"].is_string() && target["refId"].is_string(), "{target}");
        }
    }
}
