//! The projector is killed, its answers are lost, the log begins anew: each key has its messages, once and in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fastrand::Rng;

use super::*;
use crate::support::database::connect;
use crate::support::events::Events;
use crate::support::http_client;
use crate::support::proxy::FaultProxy;
use crate::support::service_process::ServiceProcess;
use crate::support::sql_writer;

/// The messages of the log with their keys, which these tests write as arrays of texts.
async fn written(sql: &Client) -> Vec<(i64, Vec<String>)> {
    let text = "SELECT global_position, ARRAY(SELECT jsonb_array_elements_text(data -> 'sku')) \
        FROM message_store.messages WHERE message_store.category(stream_name) = 'order' ORDER BY global_position";
    let rows = sql.query(text, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

async fn write(url: String, number: u64, ends: Arc<AtomicBool>) {
    let client = connect(&url).await;
    let mut rng = Rng::with_seed(number);
    while !ends.load(Ordering::SeqCst) {
        client.batch_execute("BEGIN").await.unwrap();
        for _ in 0..rng.u8(1..5) {
            let keys: Vec<String> = (0..rng.u8(0..4)).map(|_| format!("k{}", rng.u8(..60))).collect();
            let data = json!({ "sku": keys }).to_string();
            sql_writer::insert(&client, &format!("order-{number}"), "Ordered", &data).await;
        }
        // Transactions that last, and commit out of order.
        tokio::time::sleep(Duration::from_millis(rng.u64(1..12))).await;
        client.batch_execute(if rng.u8(..6) == 0 { "ROLLBACK" } else { "COMMIT" }).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_projector_is_killed_under_load() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let arguments = ["--database-url", &database.url, "--listen", "127.0.0.1:0", "--projector-lease", "1s"];
    let mut service = ServiceProcess::start(&arguments);
    let answer = http_client().put(format!("{}{}", service.url, path_of("skus"))).json(&by_sku()).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    let ends = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> =
        (0..4).map(|number| tokio::spawn(write(database.url.clone(), number, ends.clone()))).collect();
    let mut seen: Vec<Link> = Vec::new();
    for round in 0..6 {
        let path = format!("{}{}/events?key=k7&key=k33&from=beginning", service.url, path_of("skus"));
        let last = seen.last().map(|link| link.2);
        let mut events = match last {
            Some(last) => Events::resume(&path, &last.to_string()).await,
            None => Events::open(&path, &[]).await,
        };
        let enough = seen.len() + 10;
        while seen.len() < enough {
            seen.push(link_of(&events.next("message").await.json()));
        }
        if round % 2 == 1 {
            let answer =
                http_client().post(format!("{}{}/rebuild", service.url, path_of("skus"))).send().await.unwrap();
            assert_eq!(answer.status(), 200);
        }
        service.kill();
        service = ServiceProcess::start(&arguments);
    }
    ends.store(true, Ordering::SeqCst);
    for writer in writers {
        writer.await.unwrap();
    }
    service.kill();
    let app = TestApp::with(&database.url, |settings| settings.projector_lease = Duration::from_secs(1)).await;
    let last = sql_writer::insert(&sql, "order-end", "End", r#"{"sku": ["end"]}"#).await;
    projected(&app, "skus", last).await;
    until(&app, "skus", "is not being rebuilt", |status| status["rebuild"].is_null()).await;
    let messages = written(&sql).await;
    is_index_of(&app, &sql, "skus", &messages).await;
    let index = model(&messages);
    let mut expected: Vec<Link> = Vec::new();
    for (key, other) in [("k7", "k33"), ("k33", "k7")] {
        let others: Vec<Link> = index[other].clone();
        // A message with both is told with the lower partition.
        let is_told = |link: &&Link| others.iter().all(|one| one.2 != link.2 || one.0 > link.0);
        expected.extend(index[key].iter().filter(is_told));
    }
    let expected = in_global_order(expected);
    assert!(seen == expected[..seen.len()], "{}", difference(&seen, &expected));
    app.stop().await;
}

#[tokio::test]
async fn a_round_whose_answer_is_lost_is_written_once() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let proxy = FaultProxy::before(&database.url).await;
    let app = TestApp::with(&proxy.url, |settings| settings.projector_lease = Duration::from_secs(1)).await;
    let keys = "json_build_object('sku', json_build_array('k' || n % 37, 'k' || n % 5, 'n' || n))";
    // History, of which each second round is written without the projector being told.
    write_many(&sql, 3_000, "'order-' || n % 3", "'T'", keys).await;
    proxy.lose_answers_of("headwater.project_past", 3);
    define(&app, "skus", &by_sku()).await;
    until_state(&app, "skus", "live").await;
    assert_eq!(proxy.answers_to_lose(), 0, "{} were lost", proxy.lost_answers());
    let path = format!("{}/events?key=k3&from=end", path_of("skus"));
    let mut events = app.follow(&path).await;
    events.next("caught-up").await;
    let before = written(&sql).await.len();
    let mut told = Vec::new();
    for round in 0..3 {
        proxy.lose_answers_of("headwater.project_live", 1);
        for number in 0..20 {
            let sku = json!(["k3", format!("live{round}"), format!("l{number}")]);
            told.push(app.write("order-9", "T", json!({ "sku": sku })).await);
        }
        projected(&app, "skus", told[told.len() - 1]).await;
        assert_eq!(proxy.answers_to_lose(), 0);
    }
    let messages = written(&sql).await;
    assert_eq!(messages.len(), before + told.len());
    is_index_of(&app, &sql, "skus", &messages).await;
    let index = model(&messages);
    let expected: Vec<Link> = index["k3"].iter().copied().filter(|link| told.contains(&link.2)).collect();
    let found: Vec<Link> = events.messages(expected.len()).await.iter().map(link_of).collect();
    assert_eq!(found, expected);
    app.stop().await;
}

#[tokio::test]
async fn an_index_begins_again_where_the_log_does() {
    let database = TestDatabase::migrated().await;
    let (app, other) = (TestApp::on(&database).await, TestApp::on(&database).await);
    let sql = database.connect().await;
    define(&app, "skus", &by_sku()).await;
    for round in 0..3 {
        sql.batch_execute("TRUNCATE message_store.messages RESTART IDENTITY").await.unwrap();
        let mut last = 0;
        for number in 0..6 {
            let key = format!("{}{round}", ["a", "b"][number % 2]);
            let app = if number % 2 == 0 { &app } else { &other };
            last = app.write("order-1", "Ordered", json!({ "sku": [key, "always"] })).await;
        }
        for app in [&app, &other] {
            let messages = written(&sql).await;
            let deadline = Instant::now() + PATIENCE;
            while messages_of(app, "skus", "always").await.len() != messages.len() {
                assert!(Instant::now() < deadline, "{}", status(app, "skus").await);
                tokio::time::sleep(POLL).await;
            }
            projected(app, "skus", last).await;
            is_index_of(app, &sql, "skus", &messages).await;
            assert_eq!(messages_of(app, "skus", "a7").await, []);
        }
    }
    other.stop().await;
    app.stop().await;
}

#[tokio::test]
async fn pause_resume_and_delete_are_as_without_keys() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let sql = database.connect().await;
    define(&app, "skus", &by_sku()).await;
    let first = app.write("order-1", "T", json!({ "sku": ["a"] })).await;
    projected(&app, "skus", first).await;
    order(&app, "skus", "pause").await;
    let second = app.write("order-1", "T", json!({ "sku": ["b", "a"] })).await;
    let third = app.write("order-1", "T", json!({ "sku": ["c"] })).await;
    assert_eq!(messages_of(&app, "skus", "a").await, [(0, 0, first)]);
    order(&app, "skus", "resume").await;
    projected(&app, "skus", third).await;
    is_index_of(&app, &sql, "skus", &written(&sql).await).await;
    assert_eq!(messages_of(&app, "skus", "a").await, [(0, 0, first), (0, 1, second)]);
    let mut events = app.follow(&format!("{}/events?key=a&from=beginning", path_of("skus"))).await;
    assert_eq!(events.messages(2).await.len(), 2);
    delete(&app, "skus").await;
    assert_eq!(events.next("closing").await.json()["reason"], "deleted");
    let rows = "SELECT (SELECT count(*) FROM headwater.aggregated_keys) + (SELECT count(*) FROM \
        headwater.aggregated_messages) + (SELECT count(*) FROM headwater.projections)";
    let deadline = Instant::now() + PATIENCE;
    while sql.query_one(rows, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(POLL).await;
    }
    // Under the same name there may be another one.
    define(&app, "skus", &of_categories(&["order"])).await;
    app.stop().await;
}
