//! Dynamic consistency boundaries by key, as textbooks have them: rules that span streams hold, whoever races.

use futures_util::future::{join, join_all};

use super::*;
use crate::aggregated::{define, order, path_of};
use crate::support::app::{PATIENCE, encode};

const LOOKS_MAX: usize = 500;

fn by(category: &str, pointer: &str) -> Value {
    json!({ "categories": [category], "partitioner": { "kind": "key", "of": "data", "pointer": pointer } })
}

/// The messages of a key, and the last global position that was read.
async fn read(app: &TestApp, name: &str, key: &str) -> (Vec<Value>, i64) {
    let page = app.get(&format!("{}/keys/{}/messages?limit=1000", path_of(name), encode(key))).await;
    assert_eq!(page.status, 200, "{}", page.text);
    let page = page.json();
    let messages: Vec<Value> = page["messages"].as_array().unwrap().iter().map(|one| one["message"].clone()).collect();
    let last = messages.last().map_or(0, |last| last["global_position"].as_i64().unwrap());
    (messages, last)
}

/// Reads, decides and appends, until nobody was faster. `None`: the rule says no.
async fn decide(
    app: &TestApp,
    boundaries: &[(&str, &str)],
    decision: impl Fn(&[usize]) -> Option<Value>,
) -> Option<i64> {
    for _ in 0..LOOKS_MAX {
        let (mut counts, mut conditions) = (Vec::new(), Vec::new());
        for (name, key) in boundaries {
            let (messages, after) = read(app, name, key).await;
            counts.push(messages.len());
            conditions.push(json!({ "aggregated_stream": name, "key": key, "after": after }));
        }
        let append = decision(&counts)?;
        let answer = appends(app, &json!({ "appends": [append], "conditions": conditions })).await;
        if answer.status == 201 {
            return answer.json()["appends"][0]["messages"][0]["global_position"].as_i64();
        }
        // What came in between may not be projected yet.
        let problem = answer.problem(409, "condition-failed");
        let name = boundaries[problem["condition"].as_u64().unwrap() as usize].0;
        let path = format!("{}?min_position={}&wait=20s", path_of(name), problem["position"]);
        assert_eq!(app.get(&path).await.status, 200);
    }
    panic!("{LOOKS_MAX} looks were in vain")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn courses_and_students_have_their_limits() {
    const STUDENTS_MAX: usize = 3;
    const COURSES_MAX: usize = 2;
    let (database, app) = app().await;
    let other = TestApp::on(&database).await;
    for name in ["courses", "students"] {
        define(&app, name, &by("enrolment", &format!("/{}", &name[..name.len() - 1]))).await;
    }
    // 16 racers, each with every course in an order of its own.
    let racer = async |n: usize| {
        let app = [&app, &other][n % 2];
        for turn in 0..4 {
            let (course, student) = (format!("c{}", (n + turn) % 4), format!("s{}", n % 8));
            let boundaries = [("courses", &*course), ("students", &*student)];
            decide(app, &boundaries, |counts| {
                let has_room = counts[0] < STUDENTS_MAX && counts[1] < COURSES_MAX;
                let message = json!({ "type": "Enrolled", "data": { "course": course, "student": student } });
                has_room.then(|| json!({ "stream_name": format!("enrolment-{n}"), "messages": [message] }))
            })
            .await;
        }
    };
    tokio::time::timeout(4 * PATIENCE, join_all((0..16).map(racer))).await.unwrap();
    let sql = database.connect().await;
    let most = async |field: &str| -> i64 {
        let text = "SELECT max(n) FROM (SELECT count(*) AS n FROM message_store.messages WHERE type = 'Enrolled' \
            GROUP BY data ->> $1) AS s";
        sql.query_one(text, &[&field]).await.unwrap().get(0)
    };
    assert_eq!(most("course").await, STUDENTS_MAX as i64);
    assert_eq!(most("student").await, COURSES_MAX as i64);
    // Nobody was turned away for whom there was room in a course and in the own list: 4 courses of 3.
    assert_eq!(count(&database).await, 12);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invoice_numbers_have_no_gap() {
    let (database, app) = app().await;
    define(&app, "invoices", &by("invoice", "/series")).await;
    let racer = async |n: usize| {
        for turn in 0..5 {
            let position = decide(&app, &[("invoices", "2026")], |counts| {
                let message = json!({ "type": "Issued", "data": { "series": "2026", "number": counts[0] + 1 } });
                Some(
                    json!({ "stream_name": format!("invoice-{n}.{turn}"), "expected_version": -1, "messages": [message] }),
                )
            });
            assert!(position.await.is_some(), "an invoice is always issued");
        }
    };
    tokio::time::timeout(4 * PATIENCE, join_all((0..8).map(racer))).await.unwrap();
    let (messages, _) = {
        let last = count(&database).await;
        app.get(&format!("{}?min_position={last}&wait=20s", path_of("invoices"))).await;
        read(&app, "invoices", "2026").await
    };
    let numbers: Vec<_> = messages.iter().map(|message| message["data"]["number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=40).collect::<Vec<_>>());
}

/// Everybody wants the same name, over HTTP on two instances and in SQL, while the aggregated stream is paused, resumed and
/// rebuilt; exactly one gets it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_racers_for_a_unique_name_exactly_one_wins() {
    let (database, app) = app().await;
    let other = TestApp::on(&database).await;
    define(&app, "names", &by("user", "/name")).await;
    for round in 0..12 {
        let name = format!("name{round}");
        match round % 4 {
            1 => drop(order(&app, "names", "pause").await),
            2 => drop(order(&other, "names", "resume").await),
            3 => drop(order(&app, "names", "rebuild").await),
            _ => {}
        }
        let http = |n: usize| {
            let app = [&app, &other][n % 2];
            let message = json!({ "type": "Registered", "data": { "name": [name, format!("also{n}")] } });
            let body = json!({
                "appends": [{ "stream_name": format!("user-{round}-{n}"), "expected_version": -1, "messages": [message] },
                    to(&format!("audit-{n}"), None)],
                "conditions": [{ "aggregated_stream": "names", "key": name }],
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
            client.batch_execute("BEGIN").await.unwrap();
            client.query_one("SELECT message_store.acquire_lock('user-1')", &[]).await.unwrap();
            let sql = "SELECT count(*) FROM message_store.messages WHERE data -> 'name' ? $1";
            let taken: i64 = client.query_one(sql, &[&name]).await.unwrap().get(0);
            if taken == 0 {
                let sql = "SELECT message_store.write_message(gen_random_uuid()::varchar, $1, 'Registered', \
                    jsonb_build_object('name', jsonb_build_array($2::text)))";
                client.query_one(sql, &[&format!("user-{round}-sql{n}"), &name]).await.unwrap();
            }
            client.batch_execute("COMMIT").await.unwrap();
            taken == 0
        };
        let racing = join(join_all((0..12).map(http)), join_all((0..4).map(sql)));
        let (over_http, in_sql) = tokio::time::timeout(PATIENCE, racing).await.unwrap();
        let won = over_http.iter().chain(&in_sql).filter(|won| **won).count();
        assert_eq!(won, 1, "round {round}: {over_http:?} {in_sql:?}");
    }
}
