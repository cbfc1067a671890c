//! Seeking, pausing and resuming.

use super::*;

#[tokio::test]
async fn a_seek_goes_anywhere_and_fences_what_was_out() {
    for mode in ["partitioned", "competing"] {
        let (_database, app) = filled(1, 6).await;
        let sub = Sub::new(&app, "s", json!({ "source": { "stream_name": "a-1" }, "mode": mode })).await;
        let all = sub.fetch("w1", 6).await;
        sub.acked("w1", &all[..2]).await;
        let plan = sub.post("/seek", &json!({ "to": 4, "dry_run": true })).await.json();
        let expected = json!({ "dry_run": true, "partitions": [{ "partition": 0, "from_position": plan["partitions"][0]["from_position"], "to_position": 3 }] });
        assert_eq!(plan, expected);
        assert_eq!(sub.status().await["committed_lag"], 4, "{mode}: nothing was done");
        assert_eq!(sub.post("/seek", &json!({ "to": "4" })).await.status, 200);
        let answer = sub.ack("w1", &all[5..]).await;
        match mode {
            "partitioned" => drop(answer.problem(409, "fenced")),
            _ => assert_eq!(answer.json(), counts("acked", 0, 0, 1)),
        }
        assert_eq!(numbers(&sub.drain("w1").await), [4, 5], "{mode}");
        sub.post("/seek", &json!({ "to": "beginning" })).await;
        assert_eq!(numbers(&sub.drain("w1").await), [0, 1, 2, 3, 4, 5], "{mode}");
        sub.post("/seek", &json!({ "to": all[3]["message"]["time"] })).await;
        assert_eq!(numbers(&sub.drain("w1").await), [3, 4, 5], "{mode}");
        sub.post("/seek", &json!({ "to": "beginning" })).await;
        sub.post("/seek", &json!({ "to": "end" })).await;
        assert_eq!(sub.drain("w1").await.len(), 0, "{mode}");
        assert_eq!(sub.status().await["committed_lag"], 0);
        app.stop().await;
    }
}

#[tokio::test]
async fn one_partition_alone_may_be_sought() {
    let (_database, app) = filled(8, 16).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "category": "a" }, "partitions": 2 })).await;
    let mut events = app.follow(&sub.path("/events?consumer=w1")).await;
    let mut all = Vec::new();
    while all.len() < 16 {
        all.push(events.next("message").await.json());
    }
    sub.acked("w1", &all).await;
    assert_eq!(sub.post("/seek", &json!({ "to": "beginning", "partitions": [1] })).await.status, 200);
    let mut expected = all.iter().filter(|message| message["partition"] == 1).cloned().collect::<Vec<_>>();
    assert_eq!(events.next("revoked").await.json(), json!({ "partition": 1, "reason": "reset" }));
    let assigned = events.next("assigned").await.json();
    assert_eq!(assigned, json!({ "partition": 1, "epoch": 2, "position": 0 }));
    for message in &mut expected {
        message["epoch"] = json!(2);
        assert_eq!(events.next("message").await.json(), *message);
    }
    app.stop().await;
}

#[tokio::test]
async fn a_paused_subscription_delivers_nothing_and_takes_acks() {
    let (_database, app) = filled(1, 4).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "stream_name": "a-1" } })).await;
    let found = sub.fetch("w1", 2).await;
    let paused = sub.post("/pause", &json!({})).await;
    assert_eq!((paused.status, &paused.json()["status"]["state"]), (200, &json!("paused")));
    sub.acked("w1", &found).await;
    assert_eq!(sub.fetch("w1", 2).await.len(), 0);
    let (rest, resumed) = tokio::join!(sub.fetch_some("w1", 10), async {
        // It is waiting by now, or will see it when it comes.
        sub.until("the consumer waits", |status| status["consumers"][0]["consumer"] == "w1").await;
        sub.post("/resume", &json!({})).await
    });
    assert_eq!((positions(&rest), resumed.status), (vec![2, 3], 200));
    app.stop().await;
}

/// Partitions of an aggregated stream that no consumer has seen yet are behind, and are sought, as all others.
#[tokio::test]
async fn partitions_that_no_consumer_has_seen_are_sought_too() {
    for mode in ["partitioned", "competing"] {
        let (_database, app) = filled(1, 0).await;
        let definition = json!({ "categories": ["a"], "partitioner": { "kind": "cel", "expression": "data.n % 3" } });
        assert_eq!(app.put("/v1/aggregated-streams/x", &definition).await.status, 201);
        let source = json!({ "aggregated_stream": "x" });
        let sub = Sub::new(&app, "s", json!({ "source": source, "mode": mode, "from": 1000 })).await;
        let later = Sub::new(&app, "later", json!({ "source": source, "mode": mode })).await;
        write(&app, "a", 1, 6).await;
        app.get("/v1/aggregated-streams/x?min_position=6&wait=20s").await;
        let status = later.status().await;
        assert_eq!((&status["committed_lag"], &status["delivered_lag"]), (&json!(6), &json!(6)), "{mode}: {status}");
        let sought = later.post("/seek", &json!({ "to": "end" })).await.json();
        assert_eq!(sought["partitions"].as_array().unwrap().len(), 3, "{mode}: {sought}");
        assert_eq!(later.drain("w1").await.len(), 0, "{mode}");
        // Where partitions begin that appear after a seek.
        let sought = sub.post("/seek", &json!({ "to": "beginning", "partitions": [0] })).await.json();
        assert_eq!(sought["partitions"], json!([{ "partition": 0, "from_position": 999, "to_position": -1 }]));
        assert_eq!(numbers(&sub.drain("w1").await), [0, 3], "{mode}");
        assert_eq!(sub.post("/seek", &json!({ "to": "beginning" })).await.status, 200);
        assert_eq!(sub.drain("w1").await.len(), 6, "{mode}");
        app.stop().await;
    }
}

#[tokio::test]
async fn partitions_that_appear_after_a_seek_begin_where_that_led() {
    let (_database, app) = filled(1, 1).await;
    let definition = json!({ "categories": ["a"], "partitioner": { "kind": "cel", "expression": "data.n" } });
    assert_eq!(app.put("/v1/aggregated-streams/x", &definition).await.status, 201);
    let sub = Sub::new(&app, "s", json!({ "source": { "aggregated_stream": "x" }, "from": 1000 })).await;
    assert_eq!(sub.post("/seek", &json!({ "to": "beginning" })).await.status, 200);
    app.write("a-1", "T", json!({ "n": 1 })).await;
    let mut found = Vec::new();
    while found.len() < 2 {
        let some = sub.fetch_some("w1", 10).await;
        sub.acked("w1", &some).await;
        found.extend(numbers(&some));
    }
    assert_eq!(found, [0, 1]);
    app.stop().await;
}
