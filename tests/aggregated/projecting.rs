//! The projector: holes, late commits, messages that it cannot place, pausing, deleting.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::support::database::TestDatabase;
use crate::support::events::Events;
use crate::support::sql_writer;

fn by_number(on_error: Value) -> Value {
    json!({
        "categories": ["n"], "partitioner": { "kind": "cel", "expression": "data.num % 3" }, "max_partition": 2,
        "on_error": on_error
    })
}

const IN_N: &str = "message_store.category(stream_name) = 'n'";

#[tokio::test]
async fn numbers_that_were_rolled_back_leave_no_hole_and_stop_nobody() {
    let database = TestDatabase::migrated().await;
    let (app, sql) = (TestApp::on(&database).await, database.connect().await);
    define(&app, "live", &by_number(json!("stop"))).await;
    until_state(&app, "live", "live").await;
    let mut last = 0;
    for number in 0..30 {
        for _ in 0..number % 3 {
            sql_writer::roll_back_one(&sql).await;
        }
        let data = json!({ "num": number }).to_string();
        last = if number % 2 == 0 {
            sql_writer::write(&sql, "n-1", &data).await
        } else {
            sql_writer::insert(&sql, "n-2", "Inserted", &data).await
        };
    }
    sql_writer::roll_back_one(&sql).await;
    define(&app, "past", &by_number(json!("stop"))).await;
    for name in ["live", "past"] {
        projected(&app, name, last).await;
        holds(&app, &sql, name, IN_N, "(data ->> 'num')::int % 3").await;
    }
    app.stop().await;
}

#[tokio::test]
async fn what_is_committed_late_is_waited_for_and_not_skipped() {
    let database = TestDatabase::migrated().await;
    let (app, sql) = (TestApp::on(&database).await, database.connect().await);
    define(&app, "live", &by_number(json!("stop"))).await;
    until_state(&app, "live", "live").await;
    for (round, ending) in ["COMMIT", "ROLLBACK"].into_iter().enumerate() {
        let before = app.write("n-1", "T", json!({ "num": 0 })).await;
        let late = database.connect().await;
        late.batch_execute("BEGIN").await.unwrap();
        let held = sql_writer::insert(&late, "n-9", "Late", r#"{"num": 0}"#).await;
        let after = app.write("n-1", "T", json!({ "num": 0 })).await;
        // Defined while the number is open, so that catching up meets it too.
        let past = format!("past{round}");
        define(&app, &past, &by_number(json!("stop"))).await;
        for name in ["live", &past] {
            projected(&app, name, before).await;
            let answer = app.get(&format!("{}?min_position={held}&wait=300ms", path_of(name))).await.json();
            assert!(answer["status"]["projected_position"].as_i64().unwrap() < held, "{answer}");
            assert_eq!(partition(&app, name, 0).await.last().unwrap().1, before);
        }
        late.batch_execute(ending).await.unwrap();
        for name in ["live", &past] {
            projected(&app, name, after).await;
            holds(&app, &sql, name, IN_N, "(data ->> 'num')::int % 3").await;
        }
    }
    app.stop().await;
}

/// What is left to a follower of what was read so far and of what comes.
async fn positions_from(events: &mut Events, last: i64) -> Vec<i64> {
    let mut seen = Vec::new();
    while seen.last() != Some(&last) {
        seen.push(link_of(&events.next("message").await.json()).2);
    }
    seen
}

#[tokio::test]
async fn a_live_stream_that_stops_says_why_and_its_followers_miss_nothing_when_it_goes_on() {
    let database = TestDatabase::migrated().await;
    let (app, sql) = (TestApp::on(&database).await, database.connect().await);
    define(&app, "numbers", &by_number(json!("stop"))).await;
    define(&app, "beside", &of_categories(&["n", "other"])).await;
    until_state(&app, "numbers", "live").await;
    until_state(&app, "beside", "live").await;
    let mut events = app.follow(&format!("{}/events?from=beginning&heartbeat=1s", path_of("numbers"))).await;
    events.next("caught-up").await;
    let first = app.write("n-1", "T", json!({ "num": 4 })).await;
    assert_eq!(positions_from(&mut events, first).await, [first]);
    // The odd one in the middle of one append, so that one round has what is before it and after it.
    let data = [json!({ "num": 5 }), json!({ "num": "five" }), json!({ "num": 6 })];
    let messages: Vec<Value> = data.iter().map(|data| json!({ "type": "T", "data": data })).collect();
    let answer = app.append("n-2", &json!({ "messages": messages })).await.json();
    let written: Vec<i64> =
        answer["messages"].as_array().unwrap().iter().map(|m| m["global_position"].as_i64().unwrap()).collect();
    let status = until_state(&app, "numbers", "stopped").await;
    let error = &status["error"];
    assert_eq!(error["global_position"], written[1], "{status}");
    assert_eq!(error["stream_name"], "n-2");
    assert_eq!(error["message_id"], answer["messages"][1]["id"]);
    assert!(error["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{status}");
    assert_eq!(status["projected_position"], written[1] - 1);
    let last = app.write("n-3", "T", json!({ "num": 7 })).await;
    // Who shares the projector with it goes on.
    projected(&app, "beside", last).await;
    assert_eq!(positions_from(&mut events, written[0]).await, [written[0]]);
    let beat = events.next("heartbeat").await;
    assert!(beat.place().unwrap().parse::<i64>().unwrap() < written[1], "{beat:?} is past where it stopped");
    // Resumed as it is, it stops again.
    order(&app, "numbers", "resume").await;
    until_state(&app, "numbers", "stopped").await;
    let change = "UPDATE message_store.messages SET data = '{\"num\": 8}' WHERE global_position = $1";
    sql.execute(change, &[&written[1]]).await.unwrap();
    order(&app, "numbers", "resume").await;
    let status = projected(&app, "numbers", last).await;
    assert_eq!((&status["error"], &status["skipped"]), (&Value::Null, &json!(0)));
    assert_eq!(positions_from(&mut events, last).await, [written[1], written[2], last]);
    holds(&app, &sql, "numbers", IN_N, "(data ->> 'num')::int % 3").await;
    until_state(&app, "numbers", "live").await;
    app.stop().await;
}

#[tokio::test]
async fn an_odd_message_in_history_stops_is_skipped_or_is_put_elsewhere() {
    let database = TestDatabase::migrated().await;
    let (app, sql) = (TestApp::on(&database).await, database.connect().await);
    let odd = "CASE WHEN n % 10 = 7 THEN '{\"num\": -1}' ELSE json_build_object('num', n)::text END";
    let last = write_many(&sql, 40, "'n-' || n % 4", "'T'", odd).await;
    for (name, on_error) in [("stop", json!("stop")), ("skip", json!("skip")), ("stale", json!({ "partition": 1 }))] {
        define(&app, name, &by_number(on_error)).await;
    }
    let good = "data ->> 'num' <> '-1'";
    let status = until_state(&app, "stop", "stopped").await;
    let first_odd = sql_writer::standing(&sql, "data ->> 'num' = '-1'").await[0];
    assert_eq!(status["error"]["global_position"], first_odd);
    assert_eq!(status["error"]["reason"], "the partition -1 is not from 0 to 2");
    holds(&app, &sql, "stop", &format!("global_position < {first_odd}"), "(data ->> 'num')::int % 3").await;
    let status = projected(&app, "skip", last).await;
    assert_eq!((&status["skipped"], &status["substituted"]), (&json!(4), &json!(0)));
    holds(&app, &sql, "skip", good, "(data ->> 'num')::int % 3").await;
    let status = projected(&app, "stale", last).await;
    assert_eq!((&status["skipped"], &status["substituted"]), (&json!(0), &json!(4)));
    let or_one = format!("CASE WHEN {good} THEN (data ->> 'num')::int % 3 ELSE 1 END");
    holds(&app, &sql, "stale", "true", &or_one).await;
    // Live, they count on.
    until_state(&app, "skip", "live").await;
    until_state(&app, "stale", "live").await;
    let last = app.write("n-1", "T", json!({ "num": -1 })).await;
    assert_eq!(projected(&app, "skip", last).await["skipped"], 5);
    assert_eq!(projected(&app, "stale", last).await["substituted"], 5);
    holds(&app, &sql, "stale", "true", &or_one).await;
    sql.batch_execute("UPDATE message_store.messages SET data = '{\"num\": 3}' WHERE data ->> 'num' = '-1'")
        .await
        .unwrap();
    order(&app, "stop", "resume").await;
    projected(&app, "stop", last).await;
    holds(&app, &sql, "stop", "true", "(data ->> 'num')::int % 3").await;
    app.stop().await;
}

#[tokio::test]
async fn nothing_is_projected_after_a_pause_is_answered() {
    let database = TestDatabase::migrated().await;
    let (app, sql) = (TestApp::on(&database).await, database.connect().await);
    define(&app, "numbers", &by_number(json!("stop"))).await;
    define(&app, "beside", &by_number(json!("stop"))).await;
    until_state(&app, "numbers", "live").await;
    until_state(&app, "beside", "live").await;
    let mut last = 0;
    for round in 0..10 {
        for number in 0..3 {
            last = app.write("n-1", "T", json!({ "num": number })).await;
        }
        // Nobody waits for the projector to have got there.
        let paused = order(&app, "numbers", "pause").await;
        let held = links(&sql, "numbers").await;
        assert_eq!(paused["state"], "paused");
        counters_agree(&paused, &held);
        for number in 0..3 {
            last = app.write("n-2", "T", json!({ "num": number })).await;
        }
        projected(&app, "beside", last).await;
        assert_eq!(links(&sql, "numbers").await, held, "round {round}");
        assert_eq!(order(&app, "numbers", "pause").await["state"], "paused", "twice is as once");
        order(&app, "numbers", "resume").await;
        if round % 2 == 0 {
            projected(&app, "numbers", last).await;
        }
    }
    projected(&app, "numbers", last).await;
    holds(&app, &sql, "numbers", IN_N, "(data ->> 'num')::int % 3").await;
    app.stop().await;
}

#[tokio::test]
async fn a_paused_stream_does_not_go_live_though_it_had_arrived() {
    let database = TestDatabase::migrated().await;
    let (app, sql) = (TestApp::on(&database).await, database.connect().await);
    define(&app, "numbers", &of_categories(&["n"])).await;
    until_state(&app, "numbers", "live").await;
    app.stop().await;
    // As a projector asks that had caught up at the moment of the pause, and knows of both.
    sql.batch_execute("SELECT headwater.aggregated_stream_pause('numbers')").await.unwrap();
    let text = "SELECT headwater.projection_go_live(r.epoch, r.generation, p.id, r.live_position), p.is_live \
        FROM headwater.projector AS r, headwater.projections AS p";
    assert_eq!(sql.query_one(text, &[]).await.unwrap().get::<_, String>(0), "stale");
    assert!(!sql.query_one(text, &[]).await.unwrap().get::<_, bool>(1));
}

#[tokio::test]
async fn who_waits_for_a_position_of_a_paused_stream_asks_the_database_seldom() {
    let database = TestDatabase::migrated().await;
    let (app, sql) = (TestApp::on(&database).await, database.connect().await);
    define(&app, "numbers", &of_categories(&["n"])).await;
    until_state(&app, "numbers", "live").await;
    let mut events = app.follow(&format!("{}/events", path_of("numbers"))).await;
    events.next("caught-up").await;
    // Progress without a message is known in memory before it is kept, so the pause holds it a little before that.
    let mut ahead = None;
    for _ in 0..50 {
        let last = app.write("other-1", "T", json!({})).await;
        let status = order(&app, "numbers", "pause").await;
        if status["projected_position"].as_i64().unwrap() < last {
            ahead = Some(last);
            break;
        }
        order(&app, "numbers", "resume").await;
        until_state(&app, "numbers", "live").await;
    }
    let ahead = ahead.expect("a pause that comes before progress is kept");
    let before = transactions(&sql).await;
    let answer = app.get(&format!("{}?min_position={ahead}&wait=3s", path_of("numbers"))).await.json();
    assert_eq!(answer["status"]["state"], "paused", "{answer}");
    let asked = transactions(&sql).await - before;
    assert!(asked < 1_000, "{asked} transactions in three seconds");
    app.stop().await;
}

/// How many there were in the database by now.
async fn transactions(sql: &Client) -> i64 {
    sql.batch_execute("SELECT pg_stat_clear_snapshot()").await.unwrap();
    let count = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()";
    sql.query_one(count, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn who_follows_a_paused_stream_asks_the_database_seldom_after_an_erasure_beyond_it() {
    let database = TestDatabase::migrated().await;
    let (app, sql) = (TestApp::on(&database).await, database.connect().await);
    define(&app, "numbers", &of_categories(&["n"])).await;
    app.write("n-1", "T", json!({})).await;
    until_state(&app, "numbers", "live").await;
    let mut events = app.follow(&format!("{}/events", path_of("numbers"))).await;
    events.next("caught-up").await;
    order(&app, "numbers", "pause").await;
    let answer = app.append("n-1", &json!({ "messages": [{ "type": "T", "data": {} }] })).await.json();
    let id = answer["messages"][0]["id"].as_str().unwrap();
    assert_eq!(call(&app, Method::DELETE, &format!("/v1/messages/{id}"), None).await.status, 200);
    let before = transactions(&sql).await;
    // The time that is measured.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let asked = transactions(&sql).await - before;
    assert!(asked < 300, "{asked} transactions in three seconds");
    order(&app, "numbers", "resume").await;
    let message = events.next("message").await.json();
    assert!(message["message"]["data"].is_null(), "{message}");
    app.stop().await;
}

#[tokio::test]
async fn deleting_tells_followers_and_the_name_can_be_used_again() {
    let database = TestDatabase::migrated().await;
    let (app, other) = (TestApp::on(&database).await, TestApp::on(&database).await);
    let sql = database.connect().await;
    define(&app, "numbers", &by_number(json!("stop"))).await;
    let last = write_many(&sql, 300, "'n-' || n % 4", "'T'", "json_build_object('num', n)").await;
    projected(&app, "numbers", last).await;
    let path = format!("{}/events?from=beginning", path_of("numbers"));
    let mut followers = vec![app.follow(&path).await, other.follow(&path).await];
    followers.push(app.follow("/v1/events?category=other&aggregated_stream=numbers").await);
    followers.push(other.follow("/v1/events?category=other&aggregated_stream=numbers").await);
    for events in &mut followers {
        events.next("caught-up").await;
    }
    delete(&app, "numbers").await;
    for events in &mut followers {
        assert_eq!(events.next("closing").await.json(), json!({ "reason": "deleted" }));
        assert!(events.next_block(PATIENCE).await.is_none(), "and ends");
    }
    for method in [Method::GET, Method::DELETE] {
        call(&app, method, &path_of("numbers"), None).await.problem(404, "not-found");
    }
    for path in ["/partitions/0/messages", "/positions?global_position=1", "/events"] {
        app.get(&format!("{}{path}", path_of("numbers"))).await.problem(404, "not-found");
    }
    // Another definition under the same name: nothing of the old one shows.
    define(&app, "numbers", &of_categories(&["n"])).await;
    projected(&app, "numbers", last).await;
    holds(&app, &sql, "numbers", IN_N, "0").await;
    let rows = "SELECT (SELECT count(*) FROM headwater.aggregated_messages), \
        (SELECT count(*) FROM headwater.aggregated_partitions), (SELECT count(*) FROM headwater.projections)";
    let deadline = Instant::now() + PATIENCE;
    loop {
        let row = sql.query_one(rows, &[]).await.unwrap();
        if (row.get::<_, i64>(0), row.get::<_, i64>(1), row.get::<_, i64>(2)) == (300, 1, 1) {
            break;
        }
        assert!(Instant::now() < deadline, "rows of the deleted stream are still there: {row:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    other.stop().await;
    app.stop().await;
}

#[tokio::test]
async fn a_definition_in_words_of_a_newer_version_loses_no_message_while_an_older_one_projects() {
    let database = TestDatabase::migrated().await;
    let (app, sql) = (TestApp::on(&database).await, database.connect().await);
    define(&app, "newer", &of_categories(&["n"])).await;
    define(&app, "beside", &of_categories(&["n"])).await;
    app.write("n-1", "T", json!({})).await;
    until_state(&app, "newer", "live").await;
    until_state(&app, "beside", "live").await;
    // The instance that has it live in words that this one does not know.
    let reword = |kind: &str| {
        format!(
            "UPDATE headwater.aggregated_streams SET definition = jsonb_set(definition, '{{partitioner,kind}}', \
             '\"{kind}\"') WHERE name = 'newer'; UPDATE headwater.projector SET generation = generation + 1"
        )
    };
    sql.batch_execute(&reword("astrological")).await.unwrap();
    let last = write_many(&sql, 20, "'n-2'", "'T'", "'{}'").await;
    projected(&app, "beside", last).await;
    sql.batch_execute(&reword("constant")).await.unwrap();
    let last = app.write("n-1", "T", json!({})).await;
    projected(&app, "newer", last).await;
    holds(&app, &sql, "newer", IN_N, "0").await;
    app.stop().await;
}
