//! Conditions with a query: between the check and the commit, no matching message appears.

use std::time::Duration;

use futures_util::future::{join, join_all};

use super::*;
use crate::support::app::PATIENCE;
use crate::support::proxy::FaultProxy;

fn guarded(stream: &str, conditions: Value) -> Value {
    json!({ "appends": [to(stream, None)], "conditions": conditions })
}

async fn refused_at(app: &TestApp, condition: Value) -> i64 {
    let answer = appends(app, &guarded("out-1", json!([condition]))).await;
    let problem = answer.problem(409, "condition-failed");
    assert_eq!(problem["condition"], 0);
    problem["position"].as_i64().unwrap()
}

#[tokio::test]
async fn first_match_after_the_position_is_told() {
    let (database, app) = app().await;
    for n in 1..=10 {
        let kind = if n % 2 == 0 { "Even" } else { "Odd" };
        app.write(if n <= 5 { "low-1" } else { "high-1" }, kind, json!({ "n": n })).await;
    }
    let cases = [
        (json!({ "categories": ["low"] }), Some(1)),
        (json!({ "categories": ["low"], "after": 3 }), Some(4)),
        (json!({ "categories": ["high", "low"], "after": 3 }), Some(4)),
        (json!({ "categories": ["low"], "after": 5 }), None),
        (json!({ "categories": ["low", "high"], "types": ["Even"], "after": 4 }), Some(6)),
        (json!({ "categories": ["low", "high"], "types": ["Even"], "after": 10 }), None),
        (json!({ "categories": ["low", "high"], "types": ["Other"] }), None),
        (json!({ "categories": ["high", "low"], "filter": "data.n > 4" }), Some(5)),
        (json!({ "categories": ["high", "low"], "filter": "data.n > 4", "types": ["Even"] }), Some(6)),
        (json!({ "categories": ["high", "low"], "filter": "data.n > 4", "after": 9 }), Some(10)),
        (json!({ "categories": ["high", "low"], "filter": "data.n > 10" }), None),
        (json!({ "categories": ["nothing"] }), None),
    ];
    let mut written_so_far = 10;
    for (condition, expected) in cases {
        match expected {
            Some(position) => assert_eq!(refused_at(&app, condition.clone()).await, position, "{condition}"),
            None => {
                written(&app, &guarded("out-1", json!([condition]))).await;
                written_so_far += 1;
            }
        }
        assert_eq!(count(&database).await, written_so_far);
    }
}

#[tokio::test]
async fn all_conditions_that_fail_are_listed() {
    let (_database, app) = app().await;
    for n in 1..=4 {
        app.write("a-1", "T", json!({ "n": n })).await;
    }
    let conditions = json!([
        { "categories": ["a"], "after": 4 },
        { "categories": ["a"], "filter": "data.n == 3" },
        { "stream_name": "a-1", "version": 3 },
        { "categories": ["b", "a"], "types": ["T"], "after": 1 },
        { "stream_name": "a-1", "version": 2 },
        { "categories": ["a"], "after": 5 },
    ]);
    let mut body = guarded("out-1", conditions);
    let problem = appends(&app, &body).await.problem(409, "condition-failed");
    assert_eq!((&problem["condition"], &problem["position"]), (&json!(1), &json!(3)));
    let expected = [
        json!({ "condition": 1, "position": 3 }),
        json!({ "condition": 3, "position": 2 }),
        json!({ "condition": 4, "stream_name": "a-1", "expected_version": 2, "current_version": 3 }),
        json!({ "condition": 5, "position": 5, "head": 4 }),
    ];
    assert_eq!(failures(&problem), expected);
    body["appends"][0]["expected_version"] = json!(0);
    let problem = appends(&app, &body).await.problem(409, "wrong-expected-version");
    assert_eq!(failures(&problem)[1..], expected);
}

/// A position that the log has not given is of another log: a condition after it would guard nothing.
#[tokio::test]
async fn position_beyond_the_end_is_of_another_history() {
    let (database, app) = app().await;
    app.write("a-1", "T", json!(0)).await;
    for after in [2, i64::MAX] {
        let body = guarded("a-1", json!([{ "categories": ["a"], "after": after }]));
        let problem = appends(&app, &body).await.problem(409, "history-changed");
        assert_eq!((&problem["position"], &problem["head"]), (&json!(after), &json!(1)));
    }
    assert_eq!(count(&database).await, 1);
}

#[tokio::test]
async fn long_history_is_looked_at_up_to_a_limit() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| settings.append_condition_messages_max = 5_000).await;
    let client = database.connect().await;
    let sql = "INSERT INTO message_store.messages (stream_name, position, type, data) \
        SELECT 'a-1', n, CASE WHEN n = 4500 THEN 'Rare' ELSE 'T' END, jsonb_build_object('n', n) \
        FROM generate_series(0, $1 - 1) AS s (n)";
    client.execute(sql, &[&4_990_i32]).await.unwrap();
    for condition in [
        json!({ "categories": ["a"], "types": ["Rare"] }),
        json!({ "categories": ["a"], "filter": "data.n == 4500" }),
        json!({ "categories": ["a"], "types": ["Rare"], "filter": "data.n > 0" }),
    ] {
        assert_eq!(refused_at(&app, condition).await, 4_501);
    }
    for condition in [
        json!({ "categories": ["a"], "types": ["Never"] }),
        json!({ "categories": ["a"], "filter": "data.n == -1" }),
        json!({ "categories": ["a"], "types": ["Never"], "filter": "true" }),
    ] {
        written(&app, &guarded("out-1", json!([condition]))).await;
    }
    let sql = "INSERT INTO message_store.messages (stream_name, position, type, data) \
        SELECT 'a-2', n, 'T', jsonb_build_object('n', n) FROM generate_series(0, 20000) AS s (n)";
    client.execute(sql, &[]).await.unwrap();
    for condition in [
        json!({ "categories": ["a"], "types": ["Never"], "after": 1 }),
        json!({ "categories": ["a"], "filter": "data.n == -1", "after": 1 }),
    ] {
        let problem = appends(&app, &guarded("out-1", json!([condition]))).await.problem(422, "invalid");
        assert_eq!(problem["errors"][0]["field"], "conditions[0]");
    }
}

/// A look ends where it has read so many bytes, and the next one goes on from there.
#[tokio::test]
async fn large_messages_count_once_towards_the_limit() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| settings.append_condition_messages_max = 160).await;
    let client = database.connect().await;
    // Several looks of 4 MB; every other message is of a type that is not read.
    let sql = "INSERT INTO message_store.messages (stream_name, position, type, data) \
        SELECT 'a-1', n, CASE n % 2 WHEN 0 THEN 'T' ELSE 'Other' END, \
        jsonb_build_object('n', n, 'text', repeat('x', 200000)) FROM generate_series(0, 149) AS s (n)";
    client.execute(sql, &[]).await.unwrap();
    for condition in [
        json!({ "categories": ["a"], "filter": "data.n == -1" }),
        json!({ "categories": ["a"], "types": ["T"], "filter": "data.n == -1" }),
    ] {
        written(&app, &guarded("out-1", json!([condition]))).await;
    }
    // What the types pass over counts too.
    let condition = json!({ "categories": ["a"], "types": ["T"], "filter": "data.n == -1" });
    let sql = "INSERT INTO message_store.messages (stream_name, position, type, data) \
        SELECT 'a-2', n, 'Other', 'null' FROM generate_series(0, 1000) AS s (n)";
    client.execute(sql, &[]).await.unwrap();
    let problem = appends(&app, &guarded("out-1", json!([condition]))).await.problem(422, "invalid");
    assert_eq!(problem["errors"][0]["field"], "conditions[0]");
}

/// Everybody wants the same name, over HTTP on two instances and in SQL; exactly one gets it.
#[tokio::test]
async fn of_racers_for_a_unique_name_exactly_one_wins() {
    let (database, app) = app().await;
    let other = TestApp::on(&database).await;
    for (round, by_filter) in [true, false].into_iter().cycle().take(12).enumerate() {
        let name = format!("name{round}");
        let http = |n: usize| {
            let app = [&app, &other][n % 2];
            let condition = match by_filter {
                true => {
                    json!({ "categories": ["user"], "types": ["Registered"], "filter": format!("data.name == '{name}'") })
                }
                false => json!({ "categories": ["user"], "types": [format!("Registered {name}")] }),
            };
            let kind = if by_filter { "Registered".to_owned() } else { format!("Registered {name}") };
            let message = json!({ "type": kind, "data": { "name": name } });
            let body = json!({
                "appends": [{ "stream_name": format!("user-{round}-{n}"), "expected_version": -1, "messages": [message] },
                    to(&format!("audit-{n}"), None)],
                "conditions": [condition],
            });
            async move {
                let answer = appends(app, &body).await;
                if answer.status != 201 {
                    answer.problem(409, "condition-failed");
                }
                answer.status == 201
            }
        };
        let sql = async |n: usize| {
            // As a program with the same rule does: under the category's lock.
            let client = database.connect().await;
            let kind = if by_filter { "Registered".to_owned() } else { format!("Registered {name}") };
            client.batch_execute("BEGIN").await.unwrap();
            client.query_one("SELECT message_store.acquire_lock('user-1')", &[]).await.unwrap();
            let sql = "SELECT count(*) FROM message_store.messages WHERE type = $1 AND data ->> 'name' = $2";
            let taken: i64 = client.query_one(sql, &[&kind, &name]).await.unwrap().get(0);
            if taken == 0 {
                let sql = "SELECT message_store.write_message(gen_random_uuid()::varchar, $1, $2, jsonb_build_object('name', $3::text))";
                client.query_one(sql, &[&format!("user-{round}-sql{n}"), &kind, &name]).await.unwrap();
            }
            client.batch_execute("COMMIT").await.unwrap();
            taken == 0
        };
        let racing = join(join_all((0..12).map(http)), join_all((0..4).map(sql)));
        let (over_http, in_sql) = tokio::time::timeout(PATIENCE, racing).await.unwrap();
        let won = over_http.iter().chain(&in_sql).filter(|won| **won).count();
        assert_eq!(won, 1, "round {round}: {over_http:?} {in_sql:?}");
    }
    let client = database.connect().await;
    let sql = "SELECT count(*) FROM message_store.messages WHERE type LIKE 'Registered%'";
    assert_eq!(client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 12);
}

/// Writers in SQL write without a rule of their own; appends with a condition on what they write never pass over one.
#[tokio::test]
async fn no_matching_message_of_an_sql_writer_is_passed_over() {
    let (database, app) = app().await;
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let attempts = std::sync::atomic::AtomicUsize::new(0);
    let writer = async |n: i32| {
        let client = database.connect().await;
        let mut seen = 0;
        while !is_over.load(std::sync::atomic::Ordering::SeqCst) {
            // As fast as the machine goes, and no faster: else nobody ever decides in time.
            if attempts.load(std::sync::atomic::Ordering::SeqCst) < seen + 10 {
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            }
            seen += 10;
            let sql = "SELECT message_store.write_message(gen_random_uuid()::varchar, $1, 'Seen', '{\"n\": 1}')";
            client.query_one(sql, &[&format!("in-{n}")]).await.unwrap();
        }
    };
    let guard = async |n: usize| {
        let (mut after, mut done) = (0, 0);
        while done < 15 {
            let query = match n % 2 {
                0 => json!({ "categories": ["in"], "types": ["Seen"], "after": after }),
                _ => json!({ "categories": ["in"], "filter": "data.n == 1", "after": after }),
            };
            let message = json!({ "type": "Decided", "data": { "after": after } });
            let body = json!({
                "appends": [{ "stream_name": format!("out-{n}"), "messages": [message] }], "conditions": [query]
            });
            let answer = appends(&app, &body).await;
            attempts.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            if answer.status == 201 {
                done += 1;
            }
            let page = app.get(&format!("/v1/categories/in/messages?limit=1000&from={}", after + 1)).await.json();
            let messages = page["messages"].as_array().unwrap();
            if let Some(last) = messages.last() {
                after = last["global_position"].as_i64().unwrap();
            }
        }
    };
    let guards = async {
        join_all((0..6).map(guard)).await;
        is_over.store(true, std::sync::atomic::Ordering::SeqCst);
    };
    tokio::time::timeout(2 * PATIENCE, join(guards, join_all((0..2).map(writer)))).await.unwrap();
    let client = database.connect().await;
    // Of a decision after a position, no message that it was about lies between the two.
    let sql = "SELECT count(*) FROM message_store.messages AS d JOIN message_store.messages AS s \
        ON s.type = 'Seen' AND s.global_position > (d.data ->> 'after')::bigint AND s.global_position < d.global_position \
        WHERE d.type = 'Decided'";
    assert_eq!(client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 0);
}

/// Writers in SQL leave no moment in which nothing comes.
#[tokio::test]
async fn expression_is_judged_however_fast_its_category_grows() {
    let (database, app) = app().await;
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let writer = async |n: i32| {
        let client = database.connect().await;
        let sql = "SELECT message_store.write_message(gen_random_uuid()::varchar, $1, 'Busy', '{\"n\": 1}')";
        let statement = client.prepare(sql).await.unwrap();
        let stream = format!("busy-{n}");
        let mut count = 0;
        while !is_over.load(std::sync::atomic::Ordering::SeqCst) {
            client.query_one(&statement, &[&stream]).await.unwrap();
            count += 1;
        }
        count
    };
    let guards = async {
        let one = async |n: usize| {
            for _ in 0..5 {
                let conditions = json!([{ "categories": ["busy"], "filter": "data.n == 2" }]);
                written(&app, &guarded(&format!("busy-http{n}"), conditions.clone())).await;
                written(&app, &guarded(&format!("calm-{n}"), conditions)).await;
            }
        };
        join_all((0..4).map(one)).await;
        is_over.store(true, std::sync::atomic::Ordering::SeqCst);
    };
    let (_, counts) = tokio::time::timeout(2 * PATIENCE, join(guards, join_all((0..3).map(writer)))).await.unwrap();
    assert!(counts.iter().sum::<i32>() > 0);
    app.write("busy-1", "Busy", json!({ "n": 2 })).await;
    let conditions = json!([{ "categories": ["busy"], "filter": "data.n == 2" }]);
    appends(&app, &guarded("busy-2", conditions)).await.problem(409, "condition-failed");
}

/// The look at what has come is a transaction of several statements then, and the answer of its COMMIT is lost.
#[tokio::test]
async fn commit_of_a_look_that_holds_the_locks_is_found_out_when_its_answer_is_lost() {
    let database = TestDatabase::migrated().await;
    let proxy = FaultProxy::before(&database.url).await;
    let app = TestApp::with(&proxy.url, |settings| settings.append_commit_timeout = Duration::from_secs(5)).await;
    app.write("busy-0", "Busy", json!({ "n": 1 })).await;
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let writer = async |n: i32| {
        let client = database.connect().await;
        let sql = "SELECT message_store.write_message(gen_random_uuid()::varchar, $1, 'Busy', '{\"n\": 1}')";
        let statement = client.prepare(sql).await.unwrap();
        let stream = format!("busy-{n}");
        while !is_over.load(std::sync::atomic::Ordering::SeqCst) {
            client.query_one(&statement, &[&stream]).await.unwrap();
        }
    };
    let guards = async {
        proxy.lose_answers_of("COMMIT", 2);
        let mut written_to = 0;
        while proxy.lost_answers() < 2 {
            let mut body = guarded("calm-1", json!([{ "categories": ["busy"], "filter": "data.n == 2" }]));
            body["appends"][0]["messages"][0]["id"] = json!(uuid::Uuid::new_v4());
            let mut first = written(&app, &body).await;
            written_to += 1;
            first["duplicate"] = json!(true);
            let again = appends(&app, &body).await;
            assert_eq!((again.status, again.json()), (200, first));
        }
        is_over.store(true, std::sync::atomic::Ordering::SeqCst);
        assert_eq!(app.get("/v1/streams/calm-1").await.json()["message_count"], written_to);
    };
    tokio::time::timeout(4 * PATIENCE, join(guards, join_all((1..4).map(writer)))).await.unwrap();
    app.stop().await;
}
