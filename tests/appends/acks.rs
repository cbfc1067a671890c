//! An ack in the transaction that writes what the acked message has led to.

use std::time::Duration;

use futures_util::future::join_all;
use headwater::domain::observation::Observation;
use uuid::Uuid;

use super::*;
use crate::subscriptions::Sub;
use crate::support::proxy::FaultProxy;
use crate::support::sql_writer;

const APPEND: &str = "headwater.append_batch";

/// The request of a consumer that has processed a message.
fn output(sub: &Sub<'_>, consumer: &str, message: &Value, id: Uuid) -> Value {
    json!({
        "appends": [{ "stream_name": "out-1", "messages": [{ "type": "Output", "id": id }] }],
        "ack": { "subscription": sub.name, "consumer": consumer, "partition": message["partition"],
            "position": message["position"], "epoch": message["epoch"] },
    })
}

async fn filled(messages: usize) -> (TestDatabase, TestApp) {
    let (database, app) = app().await;
    for n in 0..messages {
        app.write("in-1", "Input", json!(n)).await;
    }
    (database, app)
}

const SOURCE: &str = "in-1";

#[tokio::test]
async fn output_and_ack_are_committed_together() {
    let (_database, app) = filled(3).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "stream_name": SOURCE } })).await;
    let given = sub.fetch("w", 3).await;
    let answer = written(&app, &output(&sub, "w", &given[1], Uuid::new_v4())).await;
    assert_eq!(answer["appends"][0]["version"], 0);
    assert_eq!(sub.status().await["partitions"][0]["committed_position"], 1);
    // What does not hold keeps both from being done.
    let mut body = output(&sub, "w", &given[2], Uuid::new_v4());
    body["appends"][0]["expected_version"] = json!(7);
    appends(&app, &body).await.problem(409, "wrong-expected-version");
    body["appends"][0]["expected_version"] = json!(0);
    body["conditions"] = json!([{ "categories": ["in"] }]);
    appends(&app, &body).await.problem(409, "condition-failed");
    assert_eq!(sub.status().await["partitions"][0]["committed_position"], 1);
    body["conditions"] = json!([{ "categories": ["in"], "filter": "data == 3" }]);
    written(&app, &body).await;
    assert_eq!(sub.status().await["partitions"][0]["committed_position"], 2);
}

#[tokio::test]
async fn fenced_ack_writes_nothing() {
    let (database, app) = filled(2).await;
    for (name, definition) in [
        ("partitioned", json!({ "source": { "stream_name": SOURCE } })),
        ("competing", json!({ "source": { "stream_name": SOURCE }, "mode": "competing" })),
    ] {
        let before = count(&database).await;
        let sub = Sub::new(&app, name, definition).await;
        let old = sub.fetch("w1", 1).await.remove(0);
        assert_eq!(app.delete(&sub.path("/consumers/w1")).await.status, 204);
        let new = sub.fetch("w2", 1).await.remove(0);
        assert_eq!(new["position"], old["position"]);
        let problem = appends(&app, &output(&sub, "w1", &old, Uuid::new_v4())).await.problem(409, "fenced");
        assert_eq!((&problem["epoch"], &problem["current_epoch"]), (&old["epoch"], &new["epoch"]), "{name}");
        assert_eq!(count(&database).await, before);
        written(&app, &output(&sub, "w2", &new, Uuid::new_v4())).await;
        assert_eq!(count(&database).await, before + 1);
    }
}

/// Else a program that has lost its answer, and makes new ids, would write its output twice.
#[tokio::test]
async fn what_was_acked_before_is_not_acked_for_another_output() {
    let (database, app) = filled(2).await;
    for (name, definition) in [
        ("partitioned", json!({ "source": { "stream_name": SOURCE } })),
        ("competing", json!({ "source": { "stream_name": SOURCE }, "mode": "competing" })),
        ("auto", json!({ "source": { "stream_name": SOURCE }, "ack": "auto" })),
    ] {
        let sub = Sub::new(&app, name, definition).await;
        let given = sub.fetch("w", 1).await.remove(0);
        if name != "auto" {
            sub.acked("w", std::slice::from_ref(&given)).await;
        }
        let before = count(&database).await;
        appends(&app, &output(&sub, "w", &given, Uuid::new_v4())).await.problem(409, "fenced");
        let mut never = given.clone();
        never["position"] = json!(1_000_000);
        appends(&app, &output(&sub, "w", &never, Uuid::new_v4())).await.problem(409, "fenced");
        assert_eq!(count(&database).await, before, "{name}");
    }
}

#[tokio::test]
async fn same_request_gets_its_first_result_whatever_has_become_of_what_it_acked() {
    let (database, app) = filled(2).await;
    for mode in ["partitioned", "competing"] {
        let sub = Sub::new(&app, mode, json!({ "source": { "stream_name": SOURCE }, "mode": mode })).await;
        let given = sub.fetch("w", 1).await.remove(0);
        let mut body = output(&sub, "w", &given, Uuid::new_v4());
        body["appends"][0]["stream_name"] = json!(format!("{mode}-1"));
        let mut first = written(&app, &body).await;
        first["duplicate"] = json!(true);
        let again = async || {
            let answer = appends(&app, &body).await;
            assert_eq!((answer.status, answer.json()), (200, first.clone()), "{mode}");
        };
        again().await;
        assert_eq!(app.delete(&sub.path("/consumers/w")).await.status, 204);
        drop(sub.fetch("other", 2).await);
        again().await;
        assert_eq!(app.delete(&sub.path("")).await.status, 204);
        again().await;
        body["appends"][0]["messages"][0]["id"] = json!(Uuid::new_v4());
        appends(&app, &body).await.problem(404, "not-found");
    }
    assert_eq!(count(&database).await, 4);
}

#[tokio::test]
async fn replayed_message_is_acked_with_its_output_once() {
    let (_database, app) = filled(3).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "stream_name": SOURCE } })).await;
    let given = sub.fetch("w", 1).await.remove(0);
    assert_eq!(sub.nack("w", &given, json!({ "action": "park" })).await.status, 200);
    let rest = sub.fetch_some("w", 2).await;
    sub.acked("w", &rest).await;
    assert_eq!(sub.post("/parked/replay", &json!({ "all": true })).await.status, 200);
    let again = sub.fetch_some("w", 1).await.remove(0);
    assert_eq!(again["position"], given["position"]);
    written(&app, &output(&sub, "w", &again, Uuid::new_v4())).await;
    appends(&app, &output(&sub, "w", &again, Uuid::new_v4())).await.problem(409, "fenced");
}

#[tokio::test]
async fn ack_gives_its_consumer_credit_at_once() {
    let (_database, app) = filled(4).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "stream_name": SOURCE } })).await;
    let mut events = app.follow(&sub.path("/events?consumer=w&max_in_flight=1")).await;
    for n in 0..4 {
        let message = events.next("message").await.json();
        assert_eq!(message["position"], n);
        written(&app, &output(&sub, "w", &message, Uuid::new_v4())).await;
    }
}

#[tokio::test]
async fn partition_that_another_transaction_holds_keeps_nobody_else_waiting() {
    let (database, app) = filled(1).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "stream_name": SOURCE } })).await;
    let given = sub.fetch("w", 1).await.remove(0);
    let client = database.connect().await;
    client.batch_execute("BEGIN; SELECT FROM headwater.subscription_partitions FOR UPDATE").await.unwrap();
    let body = output(&sub, "w", &given, Uuid::new_v4());
    let others = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        for n in 0..20 {
            app.write(&format!("else-{n}"), "T", json!(0)).await;
        }
        client.batch_execute("COMMIT").await.unwrap();
    };
    let (answer, ()) = tokio::join!(appends(&app, &body), others);
    assert_eq!(answer.status, 201, "{}", answer.text);
}

#[tokio::test]
async fn answer_that_is_lost_after_the_commit_of_an_ack_is_found_out() {
    let database = TestDatabase::migrated().await;
    let proxy = FaultProxy::before(&database.url).await;
    let app = TestApp::with(&proxy.url, |_| {}).await;
    for n in 0..3 {
        app.write("in-1", "Input", json!(n)).await;
    }
    let sub = Sub::new(&app, "s", json!({ "source": { "stream_name": SOURCE } })).await;
    for round in 0..3_usize {
        let given = sub.fetch("w", 1).await.remove(0);
        let body = output(&sub, "w", &given, Uuid::new_v4());
        proxy.lose_answers_of(APPEND, 1);
        let mut first = written(&app, &body).await;
        assert_eq!(proxy.lost_answers(), round + 1);
        assert_eq!(sub.status().await["partitions"][0]["committed_position"], round);
        first["duplicate"] = json!(true);
        let answer = appends(&app, &body).await;
        assert_eq!((answer.status, answer.json()), (200, first));
    }
    assert_eq!(count(&database).await, 6);
}

/// What acks goes to the database alone, and waits no longer for that.
#[tokio::test]
async fn acks_that_wait_for_one_category_do_not_wait_for_each_other() {
    const ACKS: usize = 8;
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| settings.append_lock_timeout = Duration::from_secs(2)).await;
    for n in 0..ACKS {
        app.write("in-1", "Input", json!(n)).await;
    }
    let sub = Sub::new(&app, "s", json!({ "source": { "stream_name": SOURCE }, "mode": "competing" })).await;
    let given = sub.fetch("w", ACKS).await;
    assert_eq!(given.len(), ACKS);
    let client = database.connect().await;
    client.batch_execute("BEGIN; SELECT message_store.acquire_lock('out-1')").await.unwrap();
    let pid = sql_writer::pid(&client).await;
    let mut watcher = app.service.observer.watch();
    let bodies: Vec<Value> = given.iter().map(|message| output(&sub, "w", message, Uuid::new_v4())).collect();
    for answer in join_all(bodies.iter().map(|body| appends(&app, body))).await {
        assert_eq!(answer.problem(503, "overloaded")["holder_pids"], json!([pid]));
    }
    // The first has waited for all that came with it; one more may have come a moment too late to have waited as long.
    let mut waits = 0;
    while let Ok(observation) = watcher.try_recv() {
        waits += usize::from(matches!(observation, Observation::BatchFailed { .. }));
    }
    assert!((1..=3).contains(&waits), "{waits} waited one after the other");
    client.batch_execute("COMMIT").await.unwrap();
    written(&app, &bodies[0]).await;
}
