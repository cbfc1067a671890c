//! All streams or none, each under its own version.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use uuid::Uuid;

use super::*;
use crate::support::app::PATIENCE;
use crate::support::service_process::ServiceProcess;

/// So long a batch waits for a table that somebody has locked; after that each of its requests goes its own way.
const TABLE_LOCK_WAIT: Duration = Duration::from_millis(190);

#[tokio::test]
async fn several_streams_are_written_in_one_transaction_and_answered_in_their_order() {
    let (database, app) = app().await;
    app.write("b-1", "T", json!(0)).await;
    let mut events = app.follow("/v1/all/events?from=2").await;
    let id = Uuid::new_v4();
    let body = json!({ "appends": [
        { "stream_name": "b-1", "expected_version": 0, "messages": [{ "type": "B", "id": id, "data": 1 }, { "type": "C" }] },
        { "stream_name": "a-1", "expected_version": -1, "messages": [{ "type": "A", "metadata": { "m": 1 } }] },
        { "stream_name": "b", "messages": [{ "type": "D" }] },
    ] });
    let document = written(&app, &body).await;
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&document), ["duplicate", "appends"]);
    let told = document["appends"].as_array().unwrap();
    assert_eq!(keys(&told[0]), ["stream_name", "version", "messages"]);
    let places: Vec<_> = told.iter().map(|one| (one["stream_name"].clone(), one["version"].clone())).collect();
    assert_eq!(places, [(json!("b-1"), json!(2)), (json!("a-1"), json!(0)), (json!("b"), json!(0))]);
    assert_eq!(told[0]["messages"][0]["id"], id.to_string());
    // They follow each other in the log, as the answer says, and are followed at once.
    let followed = events.messages(4).await;
    let flat = told.iter().flat_map(|one| one["messages"].as_array().unwrap());
    for ((told, followed), global_position) in flat.zip(&followed).zip(2..) {
        assert_eq!(told["global_position"], global_position);
        for key in ["id", "position", "global_position", "time"] {
            assert_eq!(told[key], followed[key]);
        }
    }
    let client = database.connect().await;
    let sql = "SELECT count(DISTINCT xmin::text) FROM message_store.messages WHERE global_position > 1";
    assert_eq!(client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 1);
}

#[tokio::test]
async fn one_wrong_version_refuses_all_streams_and_all_wrong_ones_are_listed() {
    let (database, app) = app().await;
    app.write("a-1", "T", json!(0)).await;
    app.write("b-1", "T", json!(0)).await;
    let must_exist = json!({ "stream_name": "d-1", "must_exist": true, "messages": [{ "type": "T" }] });
    let body = json!({
        "appends": [to("a-1", 0), to("b-1", 7), to("c-1", None), must_exist],
        "conditions": [{ "stream_name": "a-1", "version": 0 }, { "stream_name": "e-1", "version": 3 }],
    });
    let problem = appends(&app, &body).await.problem(409, "wrong-expected-version");
    let facts = (&problem["stream_name"], &problem["expected_version"], &problem["current_version"]);
    assert_eq!(facts, (&json!("b-1"), &json!(7), &json!(0)));
    assert_eq!(
        failures(&problem),
        [
            json!({ "append": 1, "stream_name": "b-1", "expected_version": 7, "current_version": 0 }),
            json!({ "append": 3, "stream_name": "d-1", "current_version": -1 }),
            json!({ "condition": 1, "stream_name": "e-1", "expected_version": 3, "current_version": -1 }),
        ]
    );
    assert_eq!(count(&database).await, 2);
    // An append to one stream is answered as ever.
    let plain = app.append("b-1", &json!({ "expected_version": 7, "messages": [{ "type": "T" }] })).await;
    assert!(plain.problem(409, "wrong-expected-version").get("failures").is_none());
}

#[tokio::test]
async fn conditions_on_streams_name_any_stream_as_it_is_before_the_append() {
    let (database, app) = app().await;
    app.write("customer-7", "T", json!(0)).await;
    let with = |conditions: Value| json!({ "appends": [to("order-1", None)], "conditions": conditions });
    let body = with(json!([{ "stream_name": "customer-7", "version": 1 }, { "stream_name": "order-1", "version": 5 }]));
    let problem = appends(&app, &body).await.problem(409, "condition-failed");
    let facts =
        (&problem["condition"], &problem["stream_name"], &problem["expected_version"], &problem["current_version"]);
    assert_eq!(facts, (&json!(0), &json!("customer-7"), &json!(1), &json!(0)));
    assert_eq!(failures(&problem).len(), 2);
    assert_eq!(count(&database).await, 1);
    let body =
        with(json!([{ "stream_name": "customer-7", "version": 0 }, { "stream_name": "order-1", "version": -1 }]));
    written(&app, &body).await;
    appends(&app, &body).await.problem(409, "condition-failed");
    assert_eq!(count(&database).await, 2);
}

#[tokio::test]
async fn of_racing_appends_to_two_streams_exactly_one_wins_and_neighbours_are_untouched() {
    let (database, app) = app().await;
    let other = TestApp::on(&database).await;
    for round in 0..10_i64 {
        // In either order of streams, over two instances, among appends to one of them and to others.
        let sends = (0..30).map(|n| {
            let app = if n % 3 == 0 { &other } else { &app };
            async move {
                if n % 5 == 4 {
                    let plain = json!({ "messages": [{ "type": "T" }] });
                    return (false, app.append(&format!("plain-{}", n % 2), &plain).await);
                }
                let mut streams = vec![to("left-1", round - 1), to("right-1", round - 1)];
                streams.rotate_left(n % 2);
                (true, appends(app, &json!({ "appends": streams })).await)
            }
        });
        let mut won = 0;
        for (is_racer, answer) in join_all(sends).await {
            match (is_racer, answer.status) {
                (true, 201) => won += 1,
                (true, _) => assert_eq!(failures(&answer.problem(409, "wrong-expected-version")).len(), 2),
                (false, status) => assert_eq!(status, 201, "{}", answer.text),
            }
        }
        assert_eq!(won, 1, "round {round}");
    }
    assert_eq!(count(&database).await, 10 * (2 + 6));
}

#[tokio::test]
async fn appends_of_one_batch_count_in_their_order() {
    let (database, app) = app().await;
    let (client, observer) = (database.connect().await, database.connect().await);
    // From here on the service has a session.
    app.write("open-1", "T", json!(0)).await;
    for round in 0.. {
        assert!(round < 20, "no round was quick enough");
        let before = count(&database).await;
        client.batch_execute("BEGIN; LOCK message_store.messages IN SHARE MODE").await.unwrap();
        // They wait for the table, and go in one transaction when it is free.
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|category| format!("{category}{round}-1"));
        let first = json!({ "appends": [to(&a, -1), to(&b, -1)] });
        let second = json!({ "appends": [to(&b, 0), to(&c, -1)], "conditions": [{ "stream_name": &a, "version": 0 }] });
        let third = json!({ "appends": [to(&c, -1), to(&d, -1)] });
        let begun = Instant::now();
        let releasing = async {
            let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() \
                AND application_name = 'headwater' AND wait_event_type = 'Lock')";
            while begun.elapsed() < TABLE_LOCK_WAIT {
                let waits = observer.query_one(waits, &[]).await.unwrap().get::<_, bool>(0);
                if waits && app.metric("headwater_append_queue_requests").await == 2.0 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            client.batch_execute("COMMIT").await.unwrap();
            begun.elapsed()
        };
        let in_order = join_all([&first, &second, &third].map(|body| appends(&app, body)));
        let (answers, took) = tokio::join!(in_order, releasing);
        if took < TABLE_LOCK_WAIT {
            let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
            assert_eq!(statuses, [201, 201, 409], "{answers:?}");
            assert_eq!(count(&database).await, before + 4);
            break;
        }
    }
}

#[tokio::test]
async fn killed_in_the_middle_all_streams_of_a_request_are_there_or_none() {
    let database = TestDatabase::migrated().await;
    let client = database.connect().await;
    let arguments = ["--database-url", &database.url, "--listen", "127.0.0.1:0"];
    for round in 0..3 {
        let service = ServiceProcess::start(&arguments);
        let url = service.url.clone();
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let url = url.clone();
                tokio::spawn(async move {
                    let http = crate::support::http_client();
                    let mut acknowledged = 0_i64;
                    for number in 0.. {
                        let of = |side: &str| {
                            json!({ "stream_name": format!("{side}-{round}-{writer}"), "messages": [
                                { "type": "T", "data": number }, { "type": "T", "data": number }
                            ] })
                        };
                        let body = json!({ "appends": [of("left"), of("right")] });
                        match http.post(format!("{url}/v1/appends")).json(&body).send().await {
                            Ok(answer) if answer.status() == 201 => acknowledged += 1,
                            _ => break,
                        }
                    }
                    acknowledged
                })
            })
            .collect();
        let sql = "SELECT count(*) >= $1 FROM message_store.messages";
        let waiting = async {
            while !client.query_one(sql, &[&(600_i64 * (round + 1))]).await.unwrap().get::<_, bool>(0) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap();
        service.kill();
        for (writer, told) in join_all(writers).await.into_iter().enumerate() {
            let sql = "SELECT count(*) FILTER (WHERE stream_name = $1), count(*) FILTER (WHERE stream_name = $2) \
                FROM message_store.messages";
            let names = ["left", "right"].map(|side| format!("{side}-{round}-{writer}"));
            let row = client.query_one(sql, &[&names[0], &names[1]]).await.unwrap();
            let (left, right): (i64, i64) = (row.get(0), row.get(1));
            let told = 2 * told.unwrap();
            assert_eq!(left, right);
            assert!(left == told || left == told + 2, "{told} were acknowledged, {left} are there");
        }
    }
}
