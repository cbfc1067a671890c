//! Too much at once is refused, and an append that waits for a lock delays no other category.

mod neighbours;

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

use headwater::domain::append::{AppendError, AppendRequest, NewMessage, StreamAppend};
use headwater::domain::scope::Rights;
use headwater::domain::stream_name::StreamName;

use crate::support::app::{Answer, PATIENCE, TestApp};
use crate::support::database::TestDatabase;
use crate::support::sql_writer;
use crate::support::waiting::until;

fn message(data: impl Into<Value>) -> Value {
    json!({ "messages": [{ "type": "T", "data": data.into() }] })
}

async fn count(client: &Client) -> i64 {
    client.query_one("SELECT count(*) FROM message_store.messages", &[]).await.unwrap().get(0)
}

/// Whatever is written waits for as long as this table has a row. No lock: for that of a table a batch waits for a moment
/// only, and its requests go to queues of their categories then, which have room of their own.
const STALL: &str = "CREATE TABLE IF NOT EXISTS public.stall (); \
    CREATE OR REPLACE FUNCTION public.stall() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
    WHILE EXISTS (SELECT FROM public.stall) LOOP PERFORM pg_sleep(0.005); END LOOP; RETURN NULL; END $$; \
    CREATE OR REPLACE TRIGGER stall AFTER INSERT ON message_store.messages \
    FOR EACH STATEMENT EXECUTE FUNCTION public.stall(); INSERT INTO public.stall DEFAULT VALUES";

/// Waits until so many sessions of the service wait for a lock.
async fn until_waiting(client: &Client, sessions: i64) {
    until_at(client, "wait_event_type = 'Lock'", sessions).await;
}

async fn until_at(client: &Client, what: &str, sessions: i64) {
    let waiting = async {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
             AND application_name = 'headwater' AND {what}"
        );
        while client.query_one(&sql, &[]).await.unwrap().get::<_, i64>(0) < sessions {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("sessions of the service: {what}"));
}

/// Begins to write in SQL, and idles.
async fn write_and_idle(database: &TestDatabase, stream: &str, id: Uuid) -> Client {
    let client = database.connect().await;
    client.batch_execute("BEGIN").await.unwrap();
    let sql = "SELECT message_store.write_message($1::uuid::text, $2, 'T', '{}')";
    client.query_one(sql, &[&id, &stream]).await.unwrap();
    client
}

fn assert_overloaded(answer: &Answer) {
    answer.problem(503, "overloaded");
    assert!(answer.headers["retry-after"].to_str().unwrap().parse::<u32>().unwrap() >= 1);
}

/// Stalls the service while it writes a message, sends `sent` more and lets it go on. Asserts that exactly `waiting` of
/// them wait and are written, and that the others are refused meanwhile and not written.
async fn assert_waiting(database: &TestDatabase, app: &TestApp, body: &Value, sent: usize, waiting: usize) {
    let (client, observer) = (database.connect().await, database.connect().await);
    let before = count(&client).await;
    client.batch_execute(STALL).await.unwrap();
    let send = || {
        let request = app.http.post(format!("{}/v1/streams/a-1/messages", app.url)).json(body);
        tokio::spawn(async move { Answer::of(request.send().await.unwrap()).await })
    };
    let first = send();
    until_at(&observer, "wait_event = 'PgSleep'", 1).await;
    let (mut refused, mut waited): (Vec<_>, Vec<_>) = (Vec::new(), (0..sent).map(|_| send()).collect());
    until("those who find no place are answered", PATIENCE, || {
        refused.extend(waited.extract_if(.., |answer| answer.is_finished()));
        refused.len() >= sent - waiting
    })
    .await;
    client.batch_execute("DELETE FROM public.stall").await.unwrap();
    waited.push(first);
    assert_eq!(waited.len(), 1 + waiting);
    for answer in refused {
        assert_overloaded(&answer.await.unwrap());
    }
    for answer in waited {
        let answer = answer.await.unwrap();
        assert_eq!(answer.status, 201, "{}", answer.text);
    }
    assert_eq!(count(&observer).await - before, 1 + waiting as i64);
}

#[tokio::test]
async fn full_queue_refuses_and_what_it_holds_is_written() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| settings.append_queue_max = 4).await;
    for _ in 0..2 {
        assert_waiting(&database, &app, &message(1), 20, 4).await;
    }
    assert_eq!(app.service.append.queued(), 0);
}

#[tokio::test]
async fn queue_is_bounded_in_bytes_too() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| settings.append_queue_bytes_max = 65_536).await;
    for _ in 0..2 {
        // The one that is being written counts: three times twenty thousand fit, and the fourth does not.
        assert_waiting(&database, &app, &message("x".repeat(20_000)), 10, 2).await;
    }
    // One alone may have more.
    assert_eq!(app.append("a-1", &message("x".repeat(70_000))).await.status, 201);
}

#[tokio::test]
async fn writer_that_idles_holds_up_its_own_category_only() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let observer = database.connect().await;
    let writers = [
        write_and_idle(&database, "held-1", Uuid::new_v4()).await,
        write_and_idle(&database, "kept-1", Uuid::new_v4()).await,
    ];
    let bodies: Vec<Value> = (0..20).map(message).collect();
    let mut held = Box::pin(join_all(
        bodies.iter().enumerate().map(|(n, body)| app.append(if n % 2 == 0 { "held-1" } else { "kept-2" }, body)),
    ));
    assert!(held.as_mut().now_or_never().is_none());
    // Others are answered while those wait.
    let others = async {
        until_waiting(&observer, 2).await;
        for body in bodies.iter().take(10) {
            let streams: Vec<String> = (0..10).map(|n| format!("free{n}-1")).collect();
            for answer in join_all(streams.iter().map(|stream| app.append(stream, body))).await {
                assert_eq!(answer.status, 201, "{}", answer.text);
            }
        }
    };
    tokio::select! {
        biased;
        _ = &mut held => panic!("they were written in spite of the lock"),
        () = others => {}
    }
    for writer in writers {
        writer.batch_execute("COMMIT").await.unwrap();
    }
    for (n, answer) in held.await.into_iter().enumerate() {
        assert_eq!(answer.status, 201, "{n}: {}", answer.text);
    }
    let first = app.get("/v1/streams/held-1/messages").await.json();
    assert_eq!((&first["version"], first["messages"].as_array().unwrap().len()), (&json!(10), 11));
}

#[tokio::test]
async fn who_waits_too_long_for_a_category_is_told_and_nothing_of_it_is_written() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| settings.append_lock_timeout = Duration::from_millis(300)).await;
    let writer = write_and_idle(&database, "held-1", Uuid::new_v4()).await;
    let body = message(1);
    for answer in join_all((0..5).map(|_| app.append("held-2", &body))).await {
        assert_overloaded(&answer);
        let problem = answer.json();
        let pid = sql_writer::pid(&writer).await;
        assert_eq!((&problem["category"], &problem["holder_pids"]), (&json!("held"), &json!([pid])), "{problem}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("category held") && detail.contains(&format!("process {pid}")), "{detail}");
    }
    assert_eq!(app.append("free-1", &body).await.status, 201);
    writer.batch_execute("COMMIT").await.unwrap();
    assert_eq!(app.append("held-2", &body).await.json()["version"], 0);
    assert_eq!(count(&writer).await, 3);
}

#[tokio::test]
async fn who_waits_too_long_for_a_prepared_transaction_or_for_the_table_is_told_who_holds_it() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| settings.append_lock_timeout = Duration::from_millis(300)).await;
    let client = database.connect().await;
    let body = message(1);
    let name = format!("held-{}", Uuid::new_v4());
    let prepare = format!("BEGIN; SELECT message_store.acquire_lock('held-1'); PREPARE TRANSACTION '{name}'");
    client.batch_execute(&prepare).await.unwrap();
    let answer = app.append("held-2", &body).await;
    // First of all: it would keep the database from being dropped.
    client.batch_execute(&format!("ROLLBACK PREPARED '{name}'")).await.unwrap();
    let problem = answer.problem(503, "overloaded");
    assert_eq!((&problem["category"], &problem["holder_pids"]), (&json!("held"), &json!([])), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains(&format!("prepared transaction {name}")), "{problem}");

    client.batch_execute("BEGIN; LOCK TABLE message_store.messages IN SHARE MODE").await.unwrap();
    let problem = app.append("free-1", &body).await.problem(503, "overloaded");
    assert_eq!(problem["holder_pids"], json!([sql_writer::pid(&client).await]), "{problem}");
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(app.append("free-1", &body).await.status, 201);
}

#[tokio::test]
async fn writer_that_idles_with_an_id_holds_up_only_who_asks_for_that_id() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| settings.append_lock_timeout = Duration::from_secs(3)).await;
    let observer = database.connect().await;
    let id = Uuid::new_v4();
    let writer = write_and_idle(&database, "held-1", id).await;
    let same = json!({ "messages": [{ "type": "T", "id": id }] });
    let mut same = Box::pin(app.append("other-1", &same));
    let others = async {
        until_waiting(&observer, 1).await;
        let body = message(1);
        for round in 0..3 {
            for answer in join_all((0..10).map(|_| app.append("free-1", &body))).await {
                assert_eq!(answer.status, 201, "{round}: {}", answer.text);
            }
        }
    };
    tokio::select! {
        biased;
        answer = &mut same => panic!("answered before the others: {}", answer.text),
        () = others => {}
    }
    writer.batch_execute("COMMIT").await.unwrap();
    let problem = same.await.problem(409, "message-id-reused");
    assert_eq!(problem["stream_name"], "held-1");
    assert_eq!(count(&writer).await, 31);
}

#[tokio::test]
async fn instances_that_write_in_the_same_many_categories_refuse_nobody() {
    let database = TestDatabase::migrated().await;
    let apps = [TestApp::on(&database).await, TestApp::on(&database).await];
    let body = message(1);
    let writers = (0..80).map(|n| {
        let (app, body) = (&apps[n % 2], &body);
        async move {
            for round in 0..10 {
                let answer = app.append(&format!("c{}-{round}", n / 2), body).await;
                assert_eq!(answer.status, 201, "{}", answer.text);
            }
        }
    });
    join_all(writers).await;
    assert_eq!(count(&database.connect().await).await, 800);
}

#[tokio::test]
async fn too_large_requests_are_told_the_limit_and_change_nothing() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| {
        settings.messages_per_append_max = 3;
        settings.message_bytes_max = 1_000;
        settings.body_bytes_max = 3_000;
    })
    .await;
    let many = |count: usize| json!({ "messages": vec![json!({ "type": "T" }); count] });
    for count in [0, 4] {
        let problem = app.append("a-1", &many(count)).await.problem(422, "invalid");
        assert_eq!(problem["errors"][0]["field"], "messages");
        assert!(problem["errors"][0]["message"].as_str().unwrap().contains('3'), "{problem}");
    }
    let half = |bytes: usize| Value::from("x".repeat(bytes - 2));
    let sized = |bytes: usize| json!({ "messages": [{ "type": "T" }, { "type": "T", "data": half(500), "metadata": half(bytes - 500) }] });
    let problem = app.append("a-1", &sized(1_001)).await.problem(413, "message-too-large");
    assert_eq!(problem["limit"], 1_000);
    assert!(problem["detail"].as_str().unwrap().contains("messages[1]"), "{problem}");
    let padded = |bytes: usize| {
        let text = many(1).to_string();
        format!("{text}{}", " ".repeat(bytes - text.len()))
    };
    let path = "/v1/streams/a-1/messages";
    assert_eq!(app.post_text(path, padded(3_001)).await.problem(413, "body-too-large")["limit"], 3_000);
    // Without a length in front.
    let parts = futures_util::stream::iter(vec![Ok::<_, std::io::Error>(padded(1_600)), Ok(" ".repeat(1_600))]);
    let request = app.http.post(format!("{}{path}", app.url)).header("content-type", "application/json");
    let response = request.body(reqwest::Body::wrap_stream(parts)).send().await.unwrap();
    assert_eq!(Answer::of(response).await.problem(413, "body-too-large")["limit"], 3_000);
    assert_eq!(count(&database.connect().await).await, 0);

    assert_eq!(app.append("a-1", &many(3)).await.status, 201);
    assert_eq!(app.append("a-1", &sized(1_000)).await.status, 201);
    assert_eq!(app.post_text(path, padded(3_000)).await.status, 201);
}

#[tokio::test]
async fn append_that_the_service_leaves_unanswered_while_it_is_written_is_not_said_to_be_not_written() {
    let database = TestDatabase::migrated().await;
    let (client, observer) = (database.connect().await, database.connect().await);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let url = database.url.clone();
    let starting = runtime.spawn(async move { TestApp::with(&url, |_| {}).await.service.append.clone() });
    let append = starting.await.unwrap();
    client.batch_execute("BEGIN; SELECT message_store.acquire_lock('held-1')").await.unwrap();
    let id = Uuid::new_v4();
    let request = AppendRequest::of(StreamAppend {
        stream_name: StreamName::parse("held-1").unwrap(),
        expected_version: None,
        must_exist: false,
        messages: vec![NewMessage {
            id,
            is_client_supplied_id: true,
            message_type: "T".into(),
            data: "{}".into(),
            metadata: None,
            time: None,
        }],
    });
    let appending = tokio::spawn(async move { append.append(request, &Rights::Everything).await });
    until_waiting(&observer, 1).await;
    // As at a stop whose time is over: everything that runs is dropped where it is.
    runtime.shutdown_background();
    assert_eq!(appending.await.unwrap(), Err(AppendError::OutcomeUnknown { message_ids: vec![id] }));
    client.batch_execute("COMMIT").await.unwrap();
    // PostgreSQL does not notice that its client is gone while it waits for a lock.
    let sql = "SELECT count(*) = 1 FROM message_store.messages WHERE stream_name = 'held-1'";
    let standing = async {
        while !observer.query_one(sql, &[]).await.unwrap().get::<_, bool>(0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, standing).await.expect("it is written after all");
}
