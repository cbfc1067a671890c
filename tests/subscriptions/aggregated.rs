//! Subscriptions to aggregated streams: their partitions and their positions.

use super::*;

async fn aggregate(app: &TestApp, partitions: i64) {
    let expression = format!("data.n % {partitions}");
    let definition = json!({ "categories": ["a"], "partitioner": { "kind": "cel", "expression": expression } });
    let answer = app.put("/v1/aggregated-streams/x", &definition).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
}

#[tokio::test]
async fn positions_are_the_partitions_own() {
    for mode in ["partitioned", "competing"] {
        let (_database, app) = filled(2, 9).await;
        aggregate(&app, 3).await;
        let sub = Sub::new(&app, "s", json!({ "source": { "aggregated_stream": "x" }, "mode": mode })).await;
        let mut found = Vec::new();
        while found.len() < 9 {
            let some = sub.fetch_some("w1", 100).await;
            sub.acked("w1", &some).await;
            found.extend(some);
        }
        for message in &found {
            let n = message["message"]["data"]["n"].as_i64().unwrap();
            assert_eq!((&message["partition"], &message["position"]), (&json!(n % 3), &json!(n / 3)), "{mode}");
        }
        let status = sub.status().await;
        assert_eq!((&status["committed_lag"], status["partitions"].as_array().unwrap().len()), (&json!(0), 3));
        assert_eq!(status["partitions"][2]["committed_position"], 2, "{mode}");
        app.stop().await;
    }
}

#[tokio::test]
async fn live_messages_and_new_partitions_come_too() {
    let (_database, app) = filled(1, 2).await;
    aggregate(&app, 1_000).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "aggregated_stream": "x" } })).await;
    let mut events = app.follow(&sub.path("/events?consumer=w1")).await;
    let mut seen = Vec::new();
    for n in 0..4 {
        if n >= 2 {
            app.write("a-1", "T", json!({ "n": n })).await;
        }
        let message = events.next("message").await.json();
        seen.push((message["partition"].as_i64().unwrap(), message["position"].as_i64().unwrap()));
    }
    assert_eq!(seen, [(0, 0), (1, 0), (2, 0), (3, 0)]);
    app.stop().await;
}

#[tokio::test]
async fn a_deleted_source_is_said() {
    let (_database, app) = filled(1, 1).await;
    aggregate(&app, 1).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "aggregated_stream": "x" } })).await;
    assert_eq!(sub.status().await["state"], "running");
    assert_eq!(app.delete("/v1/aggregated-streams/x").await.status, 204);
    assert_eq!(sub.status().await["state"], "source_deleted");
    sub.post("/fetch", &json!({ "consumer": "w1" })).await.problem(404, "not-found");
    app.stop().await;
}

#[tokio::test]
async fn it_begins_and_seeks_by_partition() {
    let (_database, app) = filled(1, 9).await;
    aggregate(&app, 3).await;
    let done = app.get("/v1/aggregated-streams/x?min_position=9&wait=20s").await.json();
    assert_eq!(done["status"]["projected_position"], 9);
    let end = Sub::new(&app, "end", json!({ "source": { "aggregated_stream": "x" }, "from": "end" })).await;
    assert_eq!(end.fetch("w1", 10).await.len(), 0);
    let later = Sub::new(&app, "later", json!({ "source": { "aggregated_stream": "x" }, "from": 2 })).await;
    let mut found = numbers(&later.drain("w1").await);
    found.sort_unstable();
    assert_eq!(found, [6, 7, 8]);
    assert_eq!(later.post("/seek", &json!({ "to": 1, "partitions": [1] })).await.status, 200);
    assert_eq!(numbers(&later.drain("w1").await), [4, 7]);
    let acked = later.get("?min_position=2&wait=1s").await;
    assert_eq!(acked["status"]["committed_lag"], 0);
    app.stop().await;
}

#[tokio::test]
async fn a_backlog_in_several_partitions_comes_once() {
    let (_database, app) = filled(1, 8).await;
    aggregate(&app, 3).await;
    let done = app.get("/v1/aggregated-streams/x?min_position=8&wait=20s").await.json();
    assert_eq!(done["status"]["projected_position"], 8);
    let sub = Sub::new(&app, "s", json!({ "source": { "aggregated_stream": "x" }, "mode": "competing" })).await;
    sub.fetch_count("w1", 8).await;
    // The last one written is not the last one by partition and position.
    let mut events = app.follow(&sub.path("/events?consumer=w1")).await;
    let blocks = events.blocks_until("caught-up").await;
    let again: Vec<Value> =
        blocks.iter().filter(|block| block.is("message")).map(super::super::support::events::Event::json).collect();
    assert_eq!(numbers(&again), (0..8).collect::<Vec<_>>());
    assert!(again.iter().all(|message| message["delivery_count"] == 2));
    sub.acked("w1", &again).await;
    app.stop().await;
}

#[tokio::test]
async fn the_end_is_the_end_of_the_log_not_of_what_is_projected_yet() {
    let (_database, app) = filled(2, 9).await;
    aggregate(&app, 3).await;
    let subscribe = |n: usize| {
        let definition = json!({ "source": { "aggregated_stream": "x" }, "from": "end" });
        (format!("s{n}"), definition)
    };
    for n in 0..10 {
        let old: Vec<_> = (0..50).map(|n| json!({ "type": "Old", "data": { "n": n } })).collect();
        assert_eq!(app.append("a-1", &json!({ "messages": old })).await.status, 201);
        let (name, definition) = subscribe(n);
        let sub = Sub::new(&app, &name, definition).await;
        app.write("a-1", "New", json!({ "n": 1 })).await;
        let found = sub.fetch_some("w1", 100).await;
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0]["message"]["type"], "New");
    }
    app.stop().await;
}

/// Nobody waits for what cannot come.
#[tokio::test]
async fn who_consumes_a_deleted_source_is_told() {
    for mode in ["partitioned", "competing"] {
        let (_database, app) = filled(1, 3).await;
        let other = TestApp::on(&_database).await;
        aggregate(&app, 3).await;
        let sub = Sub::new(&app, "s", json!({ "source": { "aggregated_stream": "x" }, "mode": mode })).await;
        let mut events = app.follow(&sub.path("/events?consumer=w1")).await;
        let mut elsewhere = other.follow(&sub.path("/events?consumer=w2")).await;
        events.next("caught-up").await;
        elsewhere.next("caught-up").await;
        assert_eq!(app.delete("/v1/aggregated-streams/x").await.status, 204);
        for stream in [&mut events, &mut elsewhere] {
            assert_eq!(stream.next("closing").await.json()["reason"], "deleted", "{mode}");
        }
        assert_eq!(sub.status().await["state"], "source_deleted");
        let refused = sub.post("/fetch", &json!({ "consumer": "w1" })).await.problem(404, "not-found");
        assert!(refused["detail"].as_str().unwrap().starts_with("Aggregated stream"), "{refused}");
        app.get(&sub.path("/events?consumer=w1")).await.problem(404, "not-found");
        app.stop().await;
        other.stop().await;
    }
}

#[tokio::test]
async fn their_reads_take_turns_and_leave_connections_for_others() {
    const SUBSCRIPTIONS: usize = 12;
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| settings.database_connections_max = 8).await;
    write(&app, "a", 2, 6).await;
    aggregate(&app, 2).await;
    app.get("/v1/aggregated-streams/x?min_position=6&wait=20s").await;
    for n in 0..SUBSCRIPTIONS {
        Sub::new(&app, &format!("s{n}"), json!({ "source": { "aggregated_stream": "x" } })).await;
    }
    // A reader of a partition is now stopped in the middle of it.
    let mut holder = database.connect().await;
    let lock = holder.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE headwater.aggregated_messages IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let fetches = (0..SUBSCRIPTIONS).map(|n| {
        let sub = Sub { app: &app, name: format!("s{n}") };
        // Without what it was given before, which would be looked up in the same table.
        let wish = json!({ "consumer": "w", "limit": 10, "wait": "20s", "backlog": false });
        async move { sub.fetch_with(wish).await.len() }
    });
    let others = async {
        let sql = database.connect().await;
        let waiting =
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'headwater.aggregated_messages'::regclass";
        let deadline = Instant::now() + PATIENCE;
        while sql.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) < 4 {
            assert!(Instant::now() < deadline, "the reads did not begin");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // More of them than there are connections want to read, and this is answered all the same.
        for _ in 0..20 {
            assert_eq!(app.get("/v1/streams/a-1/messages").await.status, 200);
        }
        lock.rollback().await.unwrap();
    };
    let (found, ()) = tokio::join!(futures_util::future::join_all(fetches), others);
    assert_eq!(found, [6; SUBSCRIPTIONS]);
    app.stop().await;
}
