//! The lags of subscriptions in Prometheus' text format, as they were measured last.

use std::fmt::Write;

use crate::http::App;
use crate::service::subscriptions::LagOfSubscription;

/// A metric of every measured subscription: name, help text, and how to get its value.
type Gauge = (&'static str, &'static str, fn(&LagOfSubscription) -> f64);

const GAUGES: [Gauge; 5] = [
    ("headwater_subscription_committed_lag", "Messages of the source that were not acked.", |lag| lag.committed as f64),
    ("headwater_subscription_delivered_lag", "Messages of the source that were not delivered.", |lag| {
        lag.delivered as f64
    }),
    (
        "headwater_subscription_lag_exact",
        "1, or 0 while the lags are lower bounds, because the rest is still being counted.",
        |lag| f64::from(u8::from(lag.is_exact)),
    ),
    ("headwater_subscription_oldest_unacked_age", "Seconds for which the oldest delivery has not been acked.", |lag| {
        lag.oldest_unacked_ms as f64 / 1_000.0
    }),
    ("headwater_subscription_consumers", "Consumers of a subscription.", |lag| lag.consumers as f64),
];

/// The lags as lines; empty while the database is away.
pub async fn metrics(app: &App) -> String {
    let Ok((count, lags)) = app.subscriptions.lags.measure().await else { return String::new() };
    let mut text =
        String::from("# HELP headwater_subscriptions Subscriptions.\n# TYPE headwater_subscriptions gauge\n");
    // Writing to a String cannot fail.
    let _ = writeln!(text, "headwater_subscriptions {count}");
    for (name, help, value) in GAUGES {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for lag in &lags {
            let _ = writeln!(text, "{name}{{subscription=\"{}\"}} {}", escaped(&lag.name), value(lag));
        }
    }
    text
}

/// Escapes a label's value.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
