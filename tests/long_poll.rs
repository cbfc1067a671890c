//! Long polls: an empty page waits for a message, at most as long as it was asked to.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::app::{Answer, PATIENCE, TestApp};
use crate::support::database::{TestDatabase, temporary_dir};
use crate::support::own_server::OwnServer;
use crate::support::sql_writer;
use crate::support::waiting::eventually;

const LOGS: [&str; 3] = ["/v1/streams/a-1/messages", "/v1/categories/a/messages", "/v1/all/messages"];

/// A request that is under way.
fn polling(app: &TestApp, path: &str) -> tokio::task::JoinHandle<Answer> {
    let request = app.http.get(format!("{}{path}", app.url));
    tokio::spawn(async move { Answer::of(request.send().await.unwrap()).await })
}

/// Polls that have begun to wait, since the service began.
async fn have_waited(app: &TestApp) -> f64 {
    app.metric("headwater_follower_reads_total{from=\"cache\"}").await
}

/// Waits until so many polls wait for messages. `before`: how many had waited before the first of them was sent.
async fn all_wait(app: &TestApp, polls: &[tokio::task::JoinHandle<Answer>], before: f64) {
    let all = before + polls.len() as f64;
    eventually("all to wait", || async { (have_waited(app).await >= all).then_some(()) }).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(polls.iter().all(|poll| !poll.is_finished()), "an empty page waits");
}

async fn answered(poll: tokio::task::JoinHandle<Answer>) -> Value {
    let answer = tokio::time::timeout(PATIENCE, poll).await.expect("the poll is answered").unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

fn global_positions(page: &Value) -> Vec<i64> {
    page["messages"].as_array().unwrap().iter().map(|message| message["global_position"].as_i64().unwrap()).collect()
}

/// A request without a wait would have been given up long before.
#[tokio::test]
async fn a_poll_may_wait_as_long_as_it_asked_to_by_head_too() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| settings.request_timeout = Duration::from_millis(200)).await;
    for path in LOGS {
        for method in [reqwest::Method::GET, reqwest::Method::HEAD] {
            let request = app.http.request(method.clone(), format!("{}{path}?from=9&wait=1s", app.url));
            assert_eq!(request.send().await.unwrap().status(), 200, "{method} {path}");
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn a_poll_is_answered_as_soon_as_a_message_comes() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let app = TestApp::with(&database.url, |settings| settings.poll_interval = Duration::from_secs(30)).await;
    while app.metric("headwater_listener_up").await != 1.0 {
        tokio::task::yield_now().await;
    }
    let mut next = [0, 0, 0];
    for round in 0..4 {
        let before = have_waited(&app).await;
        let polls: Vec<_> =
            LOGS.iter().zip(next).map(|(path, next)| polling(&app, &format!("{path}?from={next}&wait=30s"))).collect();
        all_wait(&app, &polls, before).await;
        app.write("other-1", "Written", json!({})).await;
        let written = Instant::now();
        let position = match round % 2 {
            0 => app.write("a-1", "Written", json!({})).await,
            _ => sql_writer::write(&sql, "a-1", "{}").await,
        };
        for (number, poll) in polls.into_iter().enumerate() {
            let mut page = answered(poll).await;
            if number == 2 && global_positions(&page) != [position - 1, position] {
                // All messages: the other one came first, and answered it.
                assert_eq!(global_positions(&page), [position - 1]);
                page = answered(polling(&app, &format!("{}?from={}&wait=30s", LOGS[2], page["next"]))).await;
            }
            assert_eq!(global_positions(&page).last(), Some(&position));
            assert_eq!(page["at_end"], true);
            next[number] = page["next"].as_i64().unwrap();
            assert_eq!(next[number], if number == 0 { round + 1 } else { position + 1 });
        }
        assert!(written.elapsed() < Duration::from_secs(2), "{:?}", written.elapsed());
    }
    app.stop().await;
}

#[tokio::test]
async fn many_who_wait_for_the_same_cost_no_read() {
    let directory = temporary_dir();
    let server = OwnServer::start_counting(&directory.path().join("data")).await;
    let app = TestApp::with(&server.url, |settings| settings.wait_max = Duration::from_secs(60)).await;
    app.write("a-1", "Written", json!({})).await;
    let paths = ["/v1/streams/a-1/messages?from=1", "/v1/categories/a/messages?from=2", "/v1/all/messages?from=2"];
    let waited = have_waited(&app).await;
    let polls: Vec<_> = (0..60)
        .map(|number| {
            let filter = ["", "&types=Written", "&filter=data.n%20%3D%3D%201"][number / 3 % 3];
            polling(&app, &format!("{}{filter}&wait=60s", paths[number % 3]))
        })
        .collect();
    let sql = server.sql().await;
    let pages = "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements WHERE query LIKE '%m.type = ANY ($1)%'";
    let reads = async || sql.query_one(pages, &[]).await.unwrap().get::<_, i64>(0);
    eventually("all have read", async || (reads().await >= 60).then_some(())).await;
    all_wait(&app, &polls, waited).await;
    let before = reads().await;
    let position = app.write("a-1", "Written", json!({ "n": 1 })).await;
    for poll in polls {
        let page = answered(poll).await;
        assert_eq!(global_positions(&page), [position]);
        assert_eq!(page["at_end"], true);
    }
    assert_eq!(reads().await, before);
    drop(sql);
    app.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn a_poll_that_waited_in_vain_is_empty_and_says_where_to_go_on() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let at = app.write("a-1", "Written", json!({})).await;
    for (path, from) in LOGS.into_iter().zip([1, at + 1, at + 1]) {
        let asked = Instant::now();
        let page = answered(polling(&app, &format!("{path}?from={from}&wait=300ms"))).await;
        assert!(asked.elapsed() >= Duration::from_millis(300));
        assert_eq!(page["messages"], json!([]));
        assert_eq!((page["next"].as_i64(), page["at_end"].as_bool()), (Some(from), Some(true)), "{path}");
    }
    // What is there is answered at once, without waiting.
    for path in LOGS {
        let page = tokio::time::timeout(PATIENCE, polling(&app, &format!("{path}?wait=60s"))).await.unwrap();
        assert_eq!(page.unwrap().json()["messages"].as_array().unwrap().len(), 1);
    }
    app.get("/v1/all/messages?wait=1h").await.problem(422, "invalid");
    app.get("/v1/all/messages?wait=long").await.problem(400, "malformed-request");
    app.stop().await;
}

#[tokio::test]
async fn a_poll_waits_for_what_its_filter_lets_pass() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    for (filter, wanted) in [("types=Wanted", 1_000), ("filter=data.n%20%3E%3D%202000", 2_000)] {
        let before = have_waited(&app).await;
        let polls: Vec<_> = LOGS
            .iter()
            .map(|path| polling(&app, &format!("{}?{filter}&wait=30s", path.replace("a-1", &filter[..5]))))
            .collect();
        let stream = &filter[..5];
        for n in 0..3 {
            app.write("a-1", "Other", json!({ "n": n })).await;
            app.write(stream, "Other", json!({ "n": n })).await;
        }
        all_wait(&app, &polls, before).await;
        let in_stream = app.write(stream, "Wanted", json!({ "n": wanted })).await;
        let in_category = app.write("a-1", "Wanted", json!({ "n": wanted })).await;
        let mut expected = [in_stream, in_category, in_stream].into_iter();
        for poll in polls {
            let page = answered(poll).await;
            let found = global_positions(&page);
            assert!(found.starts_with(&[expected.next().unwrap()]), "{page}");
            assert!(page["messages"].as_array().unwrap().iter().all(|message| message["type"] == "Wanted"), "{page}");
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn pages_of_all_messages_never_step_over_a_late_commit() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let app = TestApp::on(&database).await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..6 {
        let client = database.connect().await;
        writers.spawn(async move {
            for n in 0..40 {
                client.batch_execute("BEGIN").await.unwrap();
                sql_writer::insert(&client, &format!("w{writer}-1"), "Raw", "{}").await;
                tokio::time::sleep(Duration::from_millis(n * 7 % 5)).await;
                client.batch_execute(if n % 6 == 5 { "ROLLBACK" } else { "COMMIT" }).await.unwrap();
            }
        });
    }
    let mut seen = Vec::new();
    let mut next = 0;
    let mut is_over = false;
    loop {
        let page = answered(polling(&app, &format!("/v1/all/messages?from={next}&wait=100ms&limit=7"))).await;
        seen.extend(global_positions(&page));
        next = page["next"].as_i64().unwrap();
        if is_over && global_positions(&page).is_empty() {
            break;
        }
        while let Some(writer) = writers.try_join_next() {
            writer.unwrap();
        }
        is_over = writers.is_empty();
    }
    assert_eq!(seen, sql_writer::standing(&sql, "true").await);
    app.stop().await;
}

#[tokio::test]
async fn stopping_answers_those_who_wait() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let before = have_waited(&app).await;
    let polls: Vec<_> = LOGS.iter().map(|path| polling(&app, &format!("{path}?wait=60s"))).collect();
    all_wait(&app, &polls, before).await;
    app.drain();
    for poll in polls {
        let page = answered(poll).await;
        assert_eq!((page["messages"].clone(), page["at_end"].as_bool()), (json!([]), Some(true)));
    }
    app.stop().await;
}
