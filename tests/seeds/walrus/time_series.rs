//! `db.time_series`: streams that are read by time.

use serde_json::json;

use super::service;
use crate::subscriptions::{Sub, numbers};

/// `db.time_series('demo-ts', ['s1', 's2'])`: times in place of ids.
#[tokio::test]
async fn a_time_series_is_read_and_set_by_time() {
    let (_database, app) = service().await;
    let day = |day: i64| format!("2018-01-{day:02}T00:00:00Z");
    for (stream, days) in [("ts-1", 10), ("ts-2", 5)] {
        for n in 1..=days {
            let message = json!({ "type": "Day", "data": { "n": n }, "time": day(n) });
            assert_eq!(app.append(stream, &json!({ "messages": [message] })).await.status, 201);
        }
    }
    // `ts.s1[datetime(2018, 1, 2)::3]`
    let slice = app.get(&format!("/v1/streams/ts-1/messages?from_time={}&limit=3", day(2))).await.json();
    let days: Vec<_> = slice["messages"].as_array().unwrap().iter().map(|m| m["time"].as_str().unwrap()).collect();
    assert_eq!(days, [2, 3, 4].map(|n| format!("2018-01-{n:02}T00:00:00.000000Z")));
    // `ts.read(count=2)` is a flat list of messages of both streams.
    let s1 = Sub::new(&app, "demo-ts:1", json!({ "source": { "stream_name": "ts-1" }, "mode": "competing" })).await;
    let s2 = Sub::new(&app, "demo-ts:2", json!({ "source": { "stream_name": "ts-2" }, "mode": "competing" })).await;
    let mut both = s1.fetch("c", 2).await;
    both.extend(s2.fetch("c", 2).await);
    both.sort_by_key(|delivery| delivery["message"]["time"].as_str().unwrap().to_owned());
    let both: Vec<_> = both
        .iter()
        .map(|d| (d["message"]["stream_name"].as_str().unwrap(), d["message"]["data"]["n"].as_i64().unwrap()))
        .collect();
    assert_eq!(both, [("ts-1", 1), ("ts-2", 1), ("ts-1", 2), ("ts-2", 2)]);
    // `for msgts_seq in ts.s1.pending(): ts.s1.ack(msgts_seq)`
    let listed = s1.get("/pending").await["pending"].as_array().unwrap().clone();
    s1.acked("c", &listed).await;
    // `ts.s1.set_id(datetime(2018, 1, 1))`: there after that time, here from it on.
    assert_eq!(s1.post("/seek", &json!({ "to": day(2) })).await.status, 200);
    assert_eq!(numbers(&s1.fetch("c", 2).await), [2, 3]);
    app.stop().await;
}

/// A time series goes on live from a date, and both its streams come on one connection, in the order in which they were
/// written.
#[tokio::test]
async fn a_time_series_is_followed_from_a_date() {
    let (_database, app) = service().await;
    for n in 1..=10 {
        for (stream, days) in [("ts-1", 10), ("ts-2", 5)] {
            if n <= days {
                let message = json!({ "type": "Day", "data": { "n": n }, "time": format!("2018-01-{n:02}T00:00:00Z") });
                assert_eq!(app.append(stream, &json!({ "messages": [message] })).await.status, 201);
            }
        }
    }
    let path = "/v1/events?stream_name=ts-1&stream_name=ts-2";
    let mut events = app.follow(&format!("{path}&from=2018-01-04T00:00:00Z&to_time=2018-01-07T00:00:00Z")).await;
    let found = events.messages(5).await;
    let found: Vec<_> =
        found.iter().map(|m| (m["stream_name"].as_str().unwrap(), m["data"]["n"].as_i64().unwrap())).collect();
    assert_eq!(found, [("ts-1", 4), ("ts-2", 4), ("ts-1", 5), ("ts-2", 5), ("ts-1", 6)]);
    app.stop().await;
}
