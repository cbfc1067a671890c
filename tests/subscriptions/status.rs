//! What the status and the metrics say is exact.

use super::*;

#[tokio::test]
async fn lag_is_a_number_for_every_partition() {
    let (_database, app) = filled(8, 40).await;
    app.write("b-1", "T", json!({ "n": 0 })).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "category": "a" }, "partitions": 4, "types": ["T"] })).await;
    app.write("a-1", "Other", json!({ "n": 0 })).await;
    let total = |status: &Value, field: &str| -> i64 {
        status["partitions"].as_array().unwrap().iter().map(|one| one[field].as_i64().unwrap()).sum()
    };
    let status = sub.status().await;
    assert_eq!((total(&status, "committed_lag"), total(&status, "delivered_lag")), (40, 40));
    assert_eq!((&status["committed_lag"], &status["oldest_unacked_age"]), (&json!(40), &Value::Null));
    let some = sub.fetch("w1", 13).await;
    let status = sub.status().await;
    assert_eq!(
        (total(&status, "committed_lag"), total(&status, "delivered_lag"), total(&status, "in_flight")),
        (40, 27, 13)
    );
    assert!(status["oldest_unacked_age"].as_str().unwrap().ends_with('s'));
    sub.acked("w1", &some).await;
    let status = sub.status().await;
    assert_eq!((total(&status, "committed_lag"), total(&status, "delivered_lag")), (27, 27));
    for partition in status["partitions"].as_array().unwrap() {
        assert_eq!(partition["committed_position"], partition["delivered_position"]);
        let own: Vec<Value> = some.iter().filter(|m| m["partition"] == partition["partition"]).cloned().collect();
        if let Some(last) = own.last() {
            assert_eq!(partition["committed_position"], last["position"]);
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn partitions_report_what_is_theirs() {
    let (_database, app) = filled(4, 8).await;
    let definition = json!({ "categories": ["a"], "partitioner": { "kind": "stream", "partitions": 4 } });
    assert_eq!(app.put("/v1/aggregated-streams/x", &definition).await.status, 201);
    app.get("/v1/aggregated-streams/x?min_position=8&wait=20s").await;
    let wish = json!({ "source": { "aggregated_stream": "x" }, "partitions": 16 });
    let sub = Sub::new(&app, "aggregated", wish.clone()).await;
    sub.fetch("w1", 1).await;
    let shown = sub.get("").await;
    assert_eq!(
        shown["definition"]["partitions"],
        Value::Null,
        "it does not say how many it would divide a source into"
    );
    let partitions = shown["status"]["partitions"].as_array().unwrap();
    assert!((1..=4).contains(&partitions.len()), "{shown}");
    assert!(partitions.iter().all(|one| one["consumers"] == json!(["w1"])), "{shown}");
    // What it says can be sent again, and so can what was sent.
    for again in [&shown["definition"], &wish] {
        assert_eq!(app.put(&sub.path(""), again).await.status, 200, "{again}");
    }

    let sub = Sub::new(&app, "competing", json!({ "source": { "category": "a" }, "mode": "competing" })).await;
    sub.fetch("w1", 1).await;
    let mut events = app.follow(&sub.path("/events?consumer=w2")).await;
    events.next("message").await;
    let shown = sub.get("").await;
    assert_eq!(shown["definition"]["partitions"], Value::Null);
    assert_eq!(shown["status"]["partitions"][0]["consumers"], json!(["w1", "w2"]), "{shown}");
    let divided = Sub::new(&app, "divided", json!({ "source": { "category": "a" }, "partitions": 3 })).await;
    assert_eq!(divided.get("").await["definition"]["partitions"], 3);
    app.stop().await;
}

#[tokio::test]
async fn it_waits_until_a_position_is_acked() {
    for mode in ["partitioned", "competing"] {
        let (_database, app) = filled(4, 8).await;
        let sub = Sub::new(&app, "s", json!({ "source": { "category": "a" }, "mode": mode })).await;
        let found = sub.fetch_count("w1", 8).await;
        let early = sub.get("?min_position=8&wait=50ms").await;
        assert_eq!(early["status"]["committed_lag"], 8, "{mode}");
        let (late, ()) = tokio::join!(sub.get("?min_position=8&wait=20s"), sub.acked("w1", &found));
        assert_eq!(late["status"]["committed_lag"], 0, "{mode}");
        app.stop().await;
    }
}

#[tokio::test]
async fn what_is_pending_is_listed_with_who_how_long_and_how_often() {
    let (_database, app) = filled(1, 3).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "stream_name": "a-1" } })).await;
    let found = sub.fetch("w1", 3).await;
    let pending = sub.get("/pending").await;
    let listed = pending["pending"].as_array().unwrap();
    assert_eq!((positions(listed), &pending["next"]), (vec![0, 1, 2], &Value::Null));
    assert_eq!(
        (&listed[0]["consumer"], &listed[0]["delivery_count"], &listed[0]["epoch"]),
        (&json!("w1"), &json!(1), &found[0]["epoch"])
    );
    assert!(listed[0]["idle"].as_str().unwrap().ends_with('s'));
    let first = sub.get("/pending?limit=2&consumer=w1").await;
    assert_eq!(positions(first["pending"].as_array().unwrap()), [0, 1]);
    let rest = sub.get(&format!("/pending?after={}", first["next"].as_str().unwrap())).await;
    assert_eq!(positions(rest["pending"].as_array().unwrap()), [2]);
    assert_eq!(sub.get("/pending?min_idle=1h").await["pending"], json!([]));
    assert_eq!(sub.get("/pending?consumer=w2").await["pending"], json!([]));
    let summary = sub.get("/pending/summary").await;
    assert_eq!(
        (&summary["count"], &summary["consumers"][0]["last"]),
        (&json!(3), &json!({ "partition": 0, "position": 2 }))
    );
    app.stop().await;
}

#[tokio::test]
async fn the_metrics_know_the_lag_of_each_subscription() {
    let (_database, app) = filled(1, 7).await;
    let sub = Sub::new(&app, "with \"quotes\"", json!({ "source": { "category": "a" }, "mode": "competing" })).await;
    let found = sub.fetch("w1", 3).await;
    sub.acked("w1", &found[..1]).await;
    let label = "{subscription=\"with \\\"quotes\\\"\"}";
    assert_eq!(app.metric("headwater_subscriptions").await, 1.0);
    // They are measured every few seconds, for everybody who reads them.
    let deadline = Instant::now() + PATIENCE;
    let committed_lag = format!("headwater_subscription_committed_lag{label} 6");
    while !app.get("/metrics").await.text.contains(&committed_lag) {
        assert!(Instant::now() < deadline, "{committed_lag}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(app.metric(&format!("headwater_subscription_delivered_lag{label}")).await, 4.0);
    assert_eq!(app.metric(&format!("headwater_subscription_consumers{label}")).await, 1.0);
    assert_eq!(app.metric(&format!("headwater_subscription_lag_exact{label}")).await, 1.0);
    assert_eq!(app.metric("headwater_subscription_deliveries_total").await, 3.0);
    assert_eq!(app.metric("headwater_subscription_acks_total{outcome=\"acked\"}").await, 1.0);
    app.stop().await;
}

#[tokio::test]
async fn consumers_say_how_many_messages_they_have_acked() {
    let (_database, app) = filled(1, 8).await;
    let acked = async |sub: &Sub<'_>| {
        let consumers = sub.get("/consumers").await["consumers"].as_array().unwrap().clone();
        let counts: Vec<(String, i64)> = consumers
            .iter()
            .map(|one| (one["consumer"].as_str().unwrap().to_owned(), one["acked"].as_i64().unwrap()))
            .collect();
        assert_eq!(sub.status().await["consumers"][0]["acked"], consumers[0]["acked"]);
        counts
    };
    let of =
        |counts: &[(&str, i64)]| counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect::<Vec<_>>();

    let sub = Sub::new(&app, "partitioned", json!({ "source": { "stream_name": "a-1" } })).await;
    let found = sub.fetch_count("w1", 6).await;
    assert_eq!(acked(&sub).await, of(&[("w1", 0)]));
    sub.acked("w1", &found[2..3]).await;
    assert_eq!(acked(&sub).await, of(&[("w1", 3)]), "an ack is for all before it, too");
    sub.acked("w1", &found[..3]).await;
    assert_eq!(acked(&sub).await, of(&[("w1", 3)]), "what was acked before is not counted again");
    sub.acked("w1", &[found[5].clone(), found[3].clone()]).await;
    assert_eq!(acked(&sub).await, of(&[("w1", 6)]));

    let sub = Sub::new(&app, "competing", json!({ "source": { "category": "a" }, "mode": "competing" })).await;
    let (one, two) = (sub.fetch_count("w1", 4).await, sub.fetch_count("w2", 4).await);
    sub.acked("w1", &one[1..3]).await;
    sub.acked("w2", &two).await;
    sub.nacked("w1", &one[0], json!({ "action": "park" })).await;
    sub.ack("w1", &one[1..3]).await;
    assert_eq!(acked(&sub).await, of(&[("w1", 2), ("w2", 4)]), "neither what was parked nor what is missing");

    let sub = Sub::new(&app, "auto", json!({ "source": { "category": "a" }, "ack": "auto" })).await;
    sub.fetch_count("w1", 8).await;
    assert_eq!(acked(&sub).await, of(&[("w1", 8)]));
    app.stop().await;
}
