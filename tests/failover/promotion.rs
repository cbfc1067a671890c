//! A primary is killed under load and its standby is promoted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{pair, url_of};
use crate::support::app::{PATIENCE, TestApp, TestClient};
use crate::support::database::temporary_dir;
use crate::support::own_server::OwnServer;
use crate::support::waiting::eventually;
use crate::support::waiting::until_true;

const WRITERS: usize = 4;
/// What each writer has written before the primary goes, and after another one is there.
const BEFORE: usize = 50;
const AFTER: usize = 20;

/// Appends one message after the other, each until it is acknowledged; answers their global positions in order.
async fn write(client: TestClient, writer: usize, written: Arc<AtomicBool>, is_over: Arc<AtomicBool>) -> Vec<i64> {
    let mut positions = Vec::new();
    let mut after = 0;
    while after < AFTER {
        let body =
            json!({ "messages": [{ "id": uuid::Uuid::now_v7(), "type": "Noted", "data": { "n": positions.len() } }] });
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = client.append(&format!("writer-{writer}"), &body).await;
            if answer.status == 201 || answer.status == 200 {
                positions.push(answer.json()["messages"][0]["global_position"].as_i64().expect("a position"));
                break;
            }
            // In doubt or not written: the same message is sent again.
            assert_eq!(answer.status, 503, "{}", answer.text);
            assert!(Instant::now() < deadline, "{}", answer.text);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if positions.len() == BEFORE {
            written.store(true, Ordering::SeqCst);
        }
        after += usize::from(is_over.load(Ordering::SeqCst));
    }
    positions
}

pub async fn is_ready(app: &TestApp) -> Option<()> {
    (app.get("/readyz").await.status == 200).then_some(())
}

/// What the log has, in order: writer, and how many it had written before.
async fn stored(server: &OwnServer) -> Vec<(i64, String, i64)> {
    let sql = "SELECT global_position, stream_name, (data ->> 'n')::bigint FROM message_store.messages \
        WHERE message_store.category(stream_name) = 'writer' ORDER BY global_position";
    let rows = server.sql().await.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_with_synchronous_replication() {
    let dir = temporary_dir();
    let (primary, standby) = pair(dir.path()).await;
    let sql = primary.sql().await;
    sql.batch_execute("ALTER SYSTEM SET synchronous_standby_names TO '*'").await.unwrap();
    sql.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    until_true(&sql, "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = 'sync')").await;
    // The standby is named first: it takes no writes yet.
    let app = TestApp::with(&url_of(&standby, &primary), |_| {}).await;
    let mut follower = app.follow("/v1/categories/writer/events?from=beginning").await;
    let is_over = Arc::new(AtomicBool::new(false));
    let (mut writing, mut begun) = (Vec::new(), Vec::new());
    for writer in 0..WRITERS {
        let written = Arc::new(AtomicBool::new(false));
        begun.push(written.clone());
        writing.push(tokio::spawn(write(app.client_without(), writer, written, is_over.clone())));
    }
    eventually("the writers", || async { begun.iter().all(|one| one.load(Ordering::SeqCst)).then_some(()) }).await;
    primary.kill().await;
    let sql = standby.sql().await;
    let promoting = Instant::now();
    until_true(&sql, "SELECT pg_promote()").await;
    let promoted = Instant::now();
    eventually("the new primary", || is_ready(&app)).await;
    eprintln!("promoted in {:?}, ready {:?} after that", promoted - promoting, promoted.elapsed());
    is_over.store(true, Ordering::SeqCst);
    let mut acknowledged = Vec::new();
    for (writer, task) in writing.into_iter().enumerate() {
        let positions = tokio::time::timeout(PATIENCE, task).await.expect("the writers end").unwrap();
        acknowledged
            .extend(positions.into_iter().zip(0i64..).map(|(position, n)| (position, format!("writer-{writer}"), n)));
    }
    acknowledged.sort();
    let stored = stored(&standby).await;
    assert_eq!(stored, acknowledged, "each acknowledged message once, at its position");
    let followed = follower.messages(stored.len()).await;
    let of = |message: &Value| {
        let text = |name: &str| message[name].as_str().unwrap().to_owned();
        (message["global_position"].as_i64().unwrap(), text("stream_name"), message["data"]["n"].as_i64().unwrap())
    };
    assert_eq!(followed.iter().map(of).collect::<Vec<_>>(), stored, "each once, in order");
    assert_eq!(app.metric("headwater_history_changes_total").await, 0.0);
    assert_eq!(app.metric("headwater_primary_changes_total").await, 1.0);
    app.stop().await;
}

/// A host that takes connections and says nothing.
struct BlackHole {
    listener: TcpListener,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_does_not_answer_delays_nobody_and_a_read_only_primary_is_none() {
    let dir = temporary_dir();
    let server = OwnServer::start(dir.path()).await;
    let hole = BlackHole { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() };
    let address = hole.listener.local_addr().unwrap();
    let host = server.url.split_once('@').unwrap().1.split(['/', '?']).next().unwrap().to_owned();
    let url = server.url.replace(&host, &format!("{address},{host}"));
    // Longer than anybody waits here: whoever waits for the first host in vain fails.
    let app = TestApp::with(&url, |settings| settings.database_connect_timeout = PATIENCE * 2).await;
    app.write("account-1", "Opened", json!({})).await;

    let sql = server.sql().await;
    sql.batch_execute("ALTER SYSTEM SET default_transaction_read_only TO on").await.unwrap();
    sql.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let message = json!({ "messages": [{ "type": "Noted", "data": {} }] });
    eventually("a refusal", || async { (app.append("account-1", &message).await.status == 503).then_some(()) }).await;
    app.append("account-1", &message).await.problem(503, "database-unavailable");
    sql.batch_execute("SET default_transaction_read_only TO off").await.unwrap();
    sql.batch_execute("ALTER SYSTEM RESET default_transaction_read_only").await.unwrap();
    sql.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    eventually("the end of it", || async { (app.append("account-1", &message).await.status == 201).then_some(()) })
        .await;
    eventually("readiness", || is_ready(&app)).await;
    app.stop().await;
}
