//! Poison: a message that cannot be worked on ends, and holds up no more than it must.

use super::*;

#[tokio::test]
async fn what_was_delivered_too_often_is_parked_with_what_was_said_of_it() {
    for mode in ["partitioned", "competing"] {
        let (_database, app) = filled(1, 3).await;
        let definition =
            json!({ "source": { "stream_name": "a-1" }, "mode": mode, "max_deliveries": 3, "backoff": ["10ms"] });
        let sub = Sub::new(&app, "s", definition).await;
        for count in 1..=3 {
            let found = loop {
                let found = sub.fetch_some("w1", 1).await;
                if numbers(&found) == [0] {
                    break found;
                }
                assert_eq!(mode, "competing", "order is not broken by a retry");
                sub.acked("w1", &found).await;
            };
            assert_eq!(found[0]["delivery_count"], count, "{mode}");
            sub.nacked("w1", &found[0], json!({ "reason": format!("failed {count}") })).await;
        }
        let parked = sub.get("/parked").await;
        let one = &parked["parked"][0];
        assert_eq!(
            (&one["cause"], &one["reason"], &one["last_error"]),
            (&json!("exhausted"), &json!("failed 3"), &json!("failed 3"))
        );
        assert_eq!(
            (&one["deliveries"], &one["message"]["data"]["n"], &parked["next"]),
            (&json!(3), &json!(0), &Value::Null)
        );
        let rest = sub.drain("w1").await;
        assert!(numbers(&rest).iter().all(|n| *n > 0), "{mode}");
        assert_eq!(sub.status().await["committed_lag"], 0);
        app.stop().await;
    }
}

#[tokio::test]
async fn a_message_that_kills_its_consumers_is_parked_and_its_neighbours_are_not() {
    let (_database, app) = filled(1, 5).await;
    let definition = json!({ "source": { "stream_name": "a-1" }, "max_deliveries": 3 });
    let sub = Sub::new(&app, "s", definition).await;
    for count in 1..=3 {
        let mut events = app.follow(&sub.path("/events?consumer=w1")).await;
        let message = events.next("message").await.json();
        assert_eq!((&message["position"], &message["delivery_count"]), (&json!(0), &json!(count)));
        drop(events);
        sub.until("it has left", |status| status["consumers"] == json!([])).await;
    }
    let rest = sub.drain("w2").await;
    assert_eq!(positions(&rest), [1, 2, 3, 4]);
    assert_eq!(sub.get("/parked").await["parked"].as_array().unwrap().len(), 1);
    app.stop().await;
}

#[tokio::test]
async fn a_retry_holds_back_its_own_stream_and_not_the_other_partitions() {
    let (_database, app) = filled(8, 32).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "category": "a" }, "partitions": 4 })).await;
    let all = sub.fetch("w1", 100).await;
    assert_eq!(all.len(), 32);
    let bad = all[0].clone();
    sub.nacked("w1", &bad, json!({ "action": "retry", "delay": "5s" })).await;
    let others: Vec<Value> = all.iter().filter(|message| message["partition"] != bad["partition"]).cloned().collect();
    sub.acked("w1", &others).await;
    // What came after it in its partition has gone back with it.
    let later: Vec<Value> = all.iter().filter(|message| message["partition"] == bad["partition"]).cloned().collect();
    assert_eq!(sub.ack("w1", &later[1..2]).await.json(), counts("acked", 0, 0, 1));
    assert_eq!(sub.fetch("w1", 100).await.len(), 0);
    app.write("a-100", "T", json!({ "n": 32 })).await;
    let again = sub.fetch_some("w1", 100).await;
    if again[0]["partition"] == bad["partition"] {
        assert_eq!(again.len(), 1, "it comes alone");
    }
    let mut rest = Vec::new();
    let mut found = again;
    while rest.len() < later.len() {
        sub.acked("w1", &found).await;
        rest.extend(found.iter().filter(|message| message["partition"] == bad["partition"]).cloned());
        if rest.len() < later.len() {
            found = sub.fetch_some("w1", 100).await;
        }
    }
    rest.truncate(later.len());
    assert_eq!(positions(&rest), positions(&later));
    assert_eq!((&rest[0]["delivery_count"], &rest[1]["delivery_count"]), (&json!(2), &json!(2)));
    app.stop().await;
}

#[tokio::test]
async fn what_is_parked_or_skipped_before_its_turn_does_not_come_again() {
    let (_database, app) = filled(1, 6).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "stream_name": "a-1" } })).await;
    let all = sub.fetch("w1", 6).await;
    sub.nacked("w1", &all[2], json!({ "action": "park", "reason": "bad" })).await;
    sub.nacked("w1", &all[3], json!({ "action": "skip" })).await;
    assert_eq!(sub.status().await["partitions"][0]["committed_position"], -1);
    // The partition goes back to before them.
    let backlog = sub.fetch_with(json!({ "consumer": "w1", "backlog": true })).await;
    assert_eq!(positions(&backlog), [0, 1, 4, 5]);
    sub.acked("w1", &backlog[3..]).await;
    let status = sub.status().await;
    assert_eq!((&status["partitions"][0]["committed_position"], &status["committed_lag"]), (&json!(5), &json!(0)));
    let parked = sub.get("/parked").await;
    assert_eq!((&parked["parked"][0]["position"], &parked["parked"][0]["reason"]), (&json!(2), &json!("bad")));
    assert_eq!(parked["parked"].as_array().unwrap().len(), 1);
    app.stop().await;
}

#[tokio::test]
async fn parked_messages_are_delivered_again_on_wish() {
    for mode in ["partitioned", "competing"] {
        let (_database, app) = filled(1, 5).await;
        let sub = Sub::new(&app, "s", json!({ "source": { "category": "a" }, "mode": mode, "partitions": 1 })).await;
        let all = sub.fetch("w1", 5).await;
        for message in &all[..3] {
            sub.nacked("w1", message, json!({ "action": "park", "reason": "bad" })).await;
        }
        sub.acked("w1", &all[3..]).await;
        assert_eq!(sub.get("/parked?limit=2").await["parked"].as_array().unwrap().len(), 2);
        let next = sub.get("/parked?limit=2").await["next"].as_str().unwrap().to_owned();
        assert_eq!(sub.get(&format!("/parked?after={next}")).await["parked"][0]["position"], all[2]["position"]);
        let some = json!({ "positions": [all[1]["position"]] });
        assert_eq!(sub.post("/parked/replay", &some).await.json(), json!({ "replayed": 1 }));
        let again = sub.fetch_some("w1", 5).await;
        assert_eq!((numbers(&again), &again[0]["delivery_count"]), (vec![1], &json!(1)), "{mode}");
        sub.acked("w1", &again).await;
        let path = format!("/parked/0/{}", all[0]["position"]);
        assert_eq!(app.delete(&sub.path(&path)).await.status, 204);
        app.delete(&sub.path(&path)).await.problem(404, "not-found");
        assert_eq!(sub.post("/parked/replay", &json!({ "all": true })).await.json(), json!({ "replayed": 1 }));
        let again = sub.fetch_some("w1", 5).await;
        assert_eq!(numbers(&again), [2], "{mode}");
        sub.nacked("w1", &again[0], json!({ "action": "park", "reason": "still bad" })).await;
        assert_eq!(sub.get("/parked").await["parked"][0]["reason"], "still bad");
        assert_eq!(sub.status().await["committed_lag"], 0, "{mode}");
        app.stop().await;
    }
}

#[tokio::test]
async fn a_stop_says_why_and_goes_on_when_it_is_told_to() {
    for mode in ["partitioned", "competing"] {
        let (_database, app) = filled(1, 3).await;
        let sub = Sub::new(&app, "s", json!({ "source": { "stream_name": "a-1" }, "mode": mode })).await;
        let found = sub.fetch("w1", 1).await;
        sub.nacked("w1", &found[0], json!({ "action": "stop", "reason": "cannot go on" })).await;
        let status = sub.status().await;
        assert_eq!(status["state"], "stopped");
        let stopped = &status["stopped"];
        assert_eq!(
            (&stopped["reason"], &stopped["position"], &stopped["cause"]),
            (&json!("cannot go on"), &json!(0), &json!("nacked"))
        );
        assert_eq!(sub.fetch("w1", 3).await.len(), 0);
        let resumed = sub.post("/resume", &json!({})).await;
        assert_eq!((resumed.status, &resumed.json()["status"]["state"]), (200, &json!("running")));
        let again = sub.fetch("w1", 3).await;
        assert_eq!((positions(&again)[0], &again[0]["delivery_count"]), (0, &json!(2)), "{mode}");
        app.stop().await;
    }
}

#[tokio::test]
async fn exhaustion_may_stop_or_skip() {
    let (_database, app) = filled(1, 2).await;
    let more = json!({ "source": { "stream_name": "a-1" }, "max_deliveries": 1, "on_exhausted": "stop" });
    let stops = Sub::new(&app, "stops", more.clone()).await;
    let found = stops.fetch("w1", 2).await;
    stops.nacked("w1", &found[0], json!({ "reason": "no" })).await;
    let status = stops.status().await;
    assert_eq!((&status["state"], &status["stopped"]["cause"]), (&json!("stopped"), &json!("exhausted")));
    let mut more = more;
    more["on_exhausted"] = json!("skip");
    let skips = Sub::new(&app, "skips", more).await;
    let found = skips.fetch("w1", 2).await;
    skips.nacked("w1", &found[0], json!({ "reason": "no" })).await;
    skips.acked("w1", &found[1..]).await;
    assert_eq!(skips.status().await["committed_lag"], 0);
    assert_eq!(skips.get("/parked").await["parked"], json!([]));
    app.stop().await;
}

/// A filter that was good when it was given, by another version: without it, everything would be delivered.
#[tokio::test]
async fn a_filter_that_does_not_compile_any_more_stops_its_subscription() {
    for mode in ["partitioned", "competing"] {
        let (database, app) = filled(1, 4).await;
        let definition = json!({ "source": { "stream_name": "a-1" }, "mode": mode, "filter": "data.n > 2" });
        let sub = Sub::new(&app, "s", definition.clone()).await;
        let looked_at = Sub::new(&app, "looked-at", definition).await;
        let sql = database.connect().await;
        let change = "UPDATE headwater.subscriptions SET generation = generation + 1, \
            definition = jsonb_set(definition, '{filter}', to_jsonb($1::text))";
        sql.execute(change, &[&"formerly(data.n) > 2"]).await.unwrap();
        let mut events = app.follow(&sub.path("/events?consumer=w2&heartbeat=1s")).await;
        let blocks = events.blocks_until("heartbeat").await;
        assert!(!blocks.iter().any(|block| block.is("message")), "{mode}: {blocks:?}");
        assert_eq!(sub.fetch("w1", 10).await.len(), 0, "{mode}");
        for sub in [&sub, &looked_at] {
            let status = sub.status().await;
            assert_eq!(
                (&status["state"], &status["stopped"]["cause"]),
                (&json!("stopped"), &json!("filter")),
                "{mode}"
            );
            let reason = status["stopped"]["reason"].as_str().unwrap();
            assert!(reason.contains("formerly"), "{reason}");
            assert_eq!(status["stopped"]["position"], Value::Null);
        }
        // It is not mended by going on.
        assert_eq!(sub.post("/resume", &json!({})).await.status, 200);
        assert_eq!(sub.fetch("w1", 10).await.len(), 0, "{mode}");
        assert_eq!(sub.status().await["state"], "stopped");
        // It is, by a version that knows it.
        sql.execute(change, &[&"data.n > 2"]).await.unwrap();
        assert_eq!(sub.post("/resume", &json!({})).await.status, 200);
        assert_eq!(events.next("message").await.json()["message"]["data"]["n"], 3, "{mode}");
        app.stop().await;
    }
}

#[tokio::test]
async fn what_has_stopped_and_is_paused_before_it_is_resumed_is_tried_again_too() {
    let (database, app) = filled(1, 2).await;
    let definition = json!({ "source": { "stream_name": "a-1" }, "max_deliveries": 1, "on_exhausted": "stop" });
    let sub = Sub::new(&app, "s", definition).await;
    assert_eq!(positions(&sub.fetch("w1", 1).await), [0]);
    let sql = database.connect().await;
    let end = "UPDATE headwater.subscription_partitions SET ack_due_at = clock_timestamp()";
    sql.batch_execute(end).await.unwrap();
    assert_eq!(sub.fetch("w1", 1).await.len(), 0);
    let stopped = sub.status().await;
    assert_eq!((&stopped["state"], &stopped["stopped"]["position"]), (&json!("stopped"), &json!(0)));
    let paused = sub.post("/pause", &json!({})).await.json();
    assert_eq!((&paused["status"]["state"], &paused["status"]["stopped"]), (&json!("paused"), &Value::Null));
    assert_eq!(sub.post("/resume", &json!({})).await.json()["status"]["state"], "running");
    let again = sub.fetch("w1", 1).await;
    assert_eq!((positions(&again), &again[0]["delivery_count"]), (vec![0], &json!(1)));
    assert_eq!(sub.status().await["state"], "running");
    app.stop().await;
}

/// Nacks that wait at the same moment share a statement.
#[tokio::test]
async fn a_nack_that_is_refused_by_the_database_fails_no_other() {
    const EACH: usize = 40;
    let (database, app) = filled(1, EACH).await;
    let definition = json!({ "source": { "category": "a" }, "mode": "competing" });
    let (good, bad) = (Sub::new(&app, "good", definition.clone()).await, Sub::new(&app, "bad", definition).await);
    let found = (good.fetch("w1", EACH).await, bad.fetch("w1", EACH).await);
    assert_eq!((found.0.len(), found.1.len()), (EACH, EACH));
    let sql = database.connect().await;
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
        IF NEW.subscription_id = (SELECT id FROM headwater.subscriptions WHERE name = 'bad') THEN \
        RAISE EXCEPTION 'refused'; END IF; RETURN NEW; END $$; \
        CREATE TRIGGER refuse BEFORE INSERT ON headwater.subscription_parked FOR EACH ROW EXECUTE FUNCTION refuse()";
    sql.batch_execute(refuse).await.unwrap();
    let park = async |sub: &Sub<'_>, message: &Value| sub.nack("w1", message, json!({ "action": "park" })).await.status;
    let nacks = found.0.iter().zip(&found.1).map(async |(one, two)| tokio::join!(park(&good, one), park(&bad, two)));
    let statuses = futures_util::future::join_all(nacks).await;
    assert_eq!(statuses, [(200, 500); EACH]);
    app.stop().await;
}

/// A consumer reads on for up to a second by what it was told is parked, and passes over that.
#[tokio::test]
async fn what_is_replayed_while_a_consumer_reads_by_what_it_knew_before_comes_all_the_same() {
    let (database, app) = filled(1, 11).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "stream_name": "a-1" } })).await;
    let all = sub.fetch("w1", 11).await;
    sub.acked("w1", &all[4..5]).await;
    sub.nacked("w1", &all[7], json!({ "action": "park" })).await;
    sub.nacked("w1", &all[5], json!({ "action": "retry", "delay": "0s" })).await;
    let sql = database.connect().await;
    let sync = "SELECT epoch, rewind_generation, read_up_to, done_positions FROM headwater.subscription_sync(\
        (SELECT id FROM headwater.subscriptions), 'w1', gen_random_uuid(), 1000)";
    let known = sql.query_one(sync, &[]).await.unwrap();
    assert_eq!((known.get::<_, i64>(2), known.get::<_, Vec<i64>>(3)), (4, vec![7]));
    assert_eq!(sub.post("/parked/replay", &json!({ "all": true })).await.json(), json!({ "replayed": 1 }));
    let deliver = "SELECT cardinality(counts) FROM headwater.subscription_deliver(\
        (SELECT id FROM headwater.subscriptions), 'w1', (SELECT coalesce(max(history), 0) FROM headwater.settled_position), \
        ARRAY[0], ARRAY[$1::bigint], ARRAY[$2::bigint], ARRAY[4::bigint], ARRAY[10::bigint], ARRAY[5], \
        ARRAY[5, 6, 8, 9, 10]::bigint[], ARRAY[$3::bigint], ARRAY[$4::text::uuid], false)";
    let last = &all[10]["message"];
    let (last_position, last_id) = (last["global_position"].as_i64().unwrap(), last["id"].as_str().unwrap());
    let (epoch, generation) = (known.get::<_, i64>(0), known.get::<_, i64>(1));
    let delivered = sql.query_one(deliver, &[&epoch, &generation, &last_position, &last_id]).await.unwrap();
    assert_eq!(delivered.get::<_, i32>(0), 5);
    let replayed = sub.fetch_some("w1", 10).await;
    assert_eq!((positions(&replayed), &replayed[0]["delivery_count"]), (vec![7], &json!(1)));
    sub.acked("w1", &all[10..]).await;
    assert_eq!(sub.status().await["committed_lag"], 1, "the ack of those around it is none of the replayed one");
    sub.acked("w1", &replayed).await;
    let status = sub.status().await;
    assert_eq!((&status["committed_lag"], &status["delivered_lag"]), (&json!(0), &json!(0)));
    assert_eq!(sub.fetch("w1", 10).await.len(), 0);
    app.stop().await;
}

#[tokio::test]
async fn what_has_stopped_without_a_failure_before_is_tried_as_often_as_any_other() {
    let (_database, app) = filled(1, 2).await;
    let definition = json!({
        "source": { "stream_name": "a-1" }, "max_deliveries": 2, "backoff": ["0s"], "on_exhausted": "stop"
    });
    let sub = Sub::new(&app, "s", definition).await;
    let both = sub.fetch("w1", 2).await;
    sub.nacked("w1", &both[0], json!({})).await;
    // The second one was delivered behind it, and is delivered again.
    let first = sub.fetch_some("w1", 2).await;
    assert_eq!(positions(&first), [0]);
    sub.acked("w1", &first).await;
    let second = sub.fetch_some("w1", 2).await;
    assert_eq!((positions(&second), &second[0]["delivery_count"]), (vec![1], &json!(2)));
    sub.nacked("w1", &second[0], json!({})).await;
    assert_eq!(sub.status().await["stopped"]["position"], 1);
    assert_eq!(sub.post("/resume", &json!({})).await.status, 200);
    let again = sub.fetch_some("w1", 2).await;
    assert_eq!((positions(&again), &again[0]["delivery_count"]), (vec![1], &json!(1)));
    sub.nacked("w1", &again[0], json!({})).await;
    assert_eq!(sub.status().await["state"], "running");
    sub.acked("w1", &sub.fetch_some("w1", 2).await).await;
    app.stop().await;
}
