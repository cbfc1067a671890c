//! Partitioned: each stream's messages in order, to one consumer at a time.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::*;

/// Each stream's messages come in order, without a gap.
fn assert_streams_in_order(messages: &[Value]) {
    let mut seen: HashMap<&str, i64> = HashMap::new();
    for message in messages {
        let stream = message["message"]["stream_name"].as_str().unwrap();
        let position = message["message"]["position"].as_i64().unwrap();
        let next = seen.entry(stream).or_insert(0);
        assert_eq!(position, *next, "{stream}");
        *next += 1;
    }
}

#[tokio::test]
async fn all_messages_come_once_in_the_order_of_their_streams() {
    let (_database, app) = filled(7, 100).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "category": "a" }, "partitions": 4 })).await;
    let all = sub.drain("w1").await;
    assert_eq!(all.len(), 100);
    assert_streams_in_order(&all);
    assert!(all.iter().all(|message| message["delivery_count"] == 1));
    assert!(all.iter().all(|message| message["position"] == message["message"]["global_position"]));
    let status = sub.status().await;
    assert_eq!((&status["committed_lag"], &status["delivered_lag"]), (&json!(0), &json!(0)));
    write(&app, "a", 7, 10).await;
    assert_eq!(sub.drain("w1").await.len(), 10);
    app.stop().await;
}

#[tokio::test]
async fn an_ack_stands_for_all_before_it_and_moves_forward_only() {
    let (_database, app) = filled(1, 10).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "stream_name": "a-1" } })).await;
    let all = sub.fetch("w1", 10).await;
    assert_eq!(positions(&all), (0..10).collect::<Vec<_>>());
    sub.acked("w1", &all[6..7]).await;
    assert_eq!(sub.status().await["partitions"][0]["committed_position"], 6);
    // One that comes late changes nothing.
    sub.acked("w1", &all[2..3]).await;
    let status = sub.status().await;
    assert_eq!(status["partitions"][0]["committed_position"], 6);
    assert_eq!((&status["committed_lag"], &status["delivered_lag"]), (&json!(3), &json!(0)));
    // Of what was never delivered there is nothing to ack.
    let mut beyond = place(&all[9]);
    beyond["position"] = json!(10);
    let answer = sub.post("/acks", &json!({ "consumer": "w1", "acks": [beyond] })).await;
    assert_eq!((answer.status, answer.json()), (200, counts("acked", 0, 0, 1)));
    app.stop().await;
}

#[tokio::test]
async fn max_in_flight_is_the_consumers_credit() {
    let (_database, app) = filled(5, 50).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "category": "a" }, "max_in_flight": 12 })).await;
    let first = sub.fetch("w1", 100).await;
    assert_eq!(first.len(), 12);
    assert_eq!(sub.fetch("w1", 100).await.len(), 0);
    sub.acked("w1", &first[..1]).await;
    assert!(!sub.fetch("w1", 100).await.is_empty());
    app.stop().await;
}

#[tokio::test]
async fn a_fetch_waits_for_a_message() {
    let (_database, app) = filled(1, 0).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "category": "a" } })).await;
    assert_eq!(sub.fetch("w1", 10).await.len(), 0);
    let (found, ()) = tokio::join!(sub.fetch_some("w1", 10), write(&app, "a", 1, 1));
    assert_eq!(numbers(&found), [0]);
    app.stop().await;
}

#[tokio::test]
async fn a_stream_without_an_id_has_a_partition_too() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    for stream in ["plain", "a-1", "other:kind"] {
        app.write(stream, "T", json!({ "n": 0 })).await;
    }
    let sub = Sub::new(&app, "s", json!({ "source": { "all": true }, "partitions": 1024 })).await;
    let all = sub.drain("w1").await;
    assert_eq!(all.len(), 3);
    let sql = database.connect().await;
    for message in &all {
        let stream = message["message"]["stream_name"].as_str().unwrap();
        let row = sql.query_one("SELECT headwater.subscription_partition($1, 1024)", &[&stream]).await.unwrap();
        assert_eq!(message["partition"], row.get::<_, i64>(0), "{stream}");
    }
    app.stop().await;
}

#[tokio::test]
async fn filters_leave_out_and_the_lag_knows() {
    let (_database, app) = filled(3, 30).await;
    app.write("a-1", "U", json!({ "n": 30 })).await;
    let definition = json!({ "source": { "category": "a" }, "types": ["T"], "filter": "data.n % 2 == 0" });
    let sub = Sub::new(&app, "s", definition).await;
    let all = sub.drain("w1").await;
    let mut numbers = numbers(&all);
    numbers.sort_unstable();
    assert_eq!(numbers, (0..30).filter(|n| n % 2 == 0).collect::<Vec<_>>());
    let status = sub.status().await;
    assert_eq!((&status["committed_lag"], &status["delivered_lag"]), (&json!(0), &json!(0)));
    app.stop().await;
}

#[tokio::test]
async fn what_is_not_acked_in_time_is_delivered_again() {
    let (_database, app) = filled(1, 5).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "stream_name": "a-1" }, "ack_timeout": "300ms" })).await;
    let first = sub.fetch("w1", 5).await;
    sub.acked("w1", &first[..2]).await;
    // The first that was not acked comes alone: it may be what is the matter.
    let again = sub.fetch_some("w1", 5).await;
    assert_eq!((positions(&again), &again[0]["delivery_count"]), (vec![2], &json!(2)));
    sub.acked("w1", &again).await;
    let rest = sub.fetch_some("w1", 5).await;
    assert_eq!(positions(&rest), [3, 4]);
    sub.acked("w1", &rest).await;
    app.stop().await;
}

#[tokio::test]
async fn the_backlog_comes_first_unless_only_what_is_new_is_asked_for() {
    let (_database, app) = filled(1, 6).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "stream_name": "a-1" } })).await;
    let first = sub.fetch("w1", 3).await;
    sub.acked("w1", &first[..1]).await;
    let backlog = sub.fetch_with(json!({ "consumer": "w1", "limit": 2, "backlog": true })).await;
    assert_eq!(positions(&backlog), [1, 2]);
    assert_eq!(backlog[0]["delivery_count"], 2);
    assert_eq!(positions(&sub.fetch("w1", 10).await), [3, 4, 5]);
    app.stop().await;
}

#[tokio::test]
async fn auto_acks_as_it_delivers() {
    let (_database, app) = filled(3, 30).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "category": "a" }, "ack": "auto", "max_in_flight": 5 })).await;
    assert_eq!(sub.fetch("w1", 30).await.len(), 30);
    let status = sub.status().await;
    assert_eq!((&status["committed_lag"], &status["oldest_unacked_age"]), (&json!(0), &Value::Null));
    app.stop().await;
}

/// One time is kept for a partition: to ack a message before the one that was extended takes nothing of that.
#[tokio::test]
async fn more_time_for_a_message_outlasts_the_acks_of_those_before_it() {
    let (_database, app) = filled(1, 2).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "stream_name": "a-1" }, "ack_timeout": "2s" })).await;
    let both = sub.fetch("w1", 2).await;
    let extension = json!({ "consumer": "w1", "extensions": [place(&both[1])], "ack_timeout": "20m" });
    assert_eq!(sub.post("/extensions", &extension).await.json(), counts("extended", 1, 0, 0));
    sub.acked("w1", &both[..1]).await;
    let again = sub.fetch_with(json!({ "consumer": "w1", "wait": "3s", "backlog": false })).await;
    assert_eq!(positions(&again), [0; 0]);
    sub.acked("w1", &both[1..]).await;
    app.stop().await;
}

#[tokio::test]
async fn the_time_to_ack_a_message_begins_when_the_one_before_it_ends() {
    for end in ["ack", "park", "skip"] {
        let (database, app) = filled(1, 2).await;
        let sub = Sub::new(&app, "s", json!({ "source": { "stream_name": "a-1" }, "ack_timeout": "10m" })).await;
        let both = sub.fetch("w1", 2).await;
        let sql = database.connect().await;
        let nearly =
            "UPDATE headwater.subscription_partitions SET ack_due_at = clock_timestamp() + interval '1 minute'";
        sql.batch_execute(nearly).await.unwrap();
        match end {
            "ack" => sub.acked("w1", &both[..1]).await,
            _ => sub.nacked("w1", &both[0], json!({ "action": end })).await,
        }
        let left = "SELECT ack_due_at > clock_timestamp() + interval '9 minutes' FROM headwater.subscription_partitions \
            WHERE cardinality(unacked_positions) = 1";
        assert!(sql.query_one(left, &[]).await.unwrap().get::<_, bool>(0), "{end}");
        sub.acked("w1", &both[1..]).await;
        app.stop().await;
    }
}
