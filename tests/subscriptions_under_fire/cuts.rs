//! Connections that break in the middle of an ack, a database that is killed, and consumers that do not read.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::support::app::TestApp;
use crate::support::database::{TestDatabase, temporary_dir};
use crate::support::proxy::FaultProxy;
use crate::support::service_process::ServiceProcess;
use crate::support::waiting::until_some;
use crate::support::writers::Writers;

async fn committed_lag(sql: &tokio_postgres::Client, name: &str) -> i64 {
    let pending = "SELECT (SELECT count(*) FROM headwater.subscription_deliveries AS d WHERE d.subscription_id = s.id) \
        + (SELECT coalesce(sum(cardinality(p.unacked_positions)), 0) FROM headwater.subscription_partitions AS p \
           WHERE p.subscription_id = s.id) \
        FROM headwater.subscriptions AS s WHERE s.name = $1";
    sql.query_one(&format!("SELECT ({pending})::bigint"), &[&name]).await.unwrap().get(0)
}

/// Its commit arrives, and the answer does not: the ack is not said to be done, and sent again it does no harm.
#[tokio::test]
async fn an_ack_whose_answer_is_lost_is_not_said_to_be_done() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    write(&sql, "a", 1, 4).await;
    for mode in ["partitioned", "competing"] {
        let proxy = FaultProxy::before(&database.url).await;
        let app = TestApp::with(&proxy.url, |_| {}).await;
        let definition = json!({ "source": { "stream_name": "a-1" }, "mode": mode });
        let group = Group::new(&app.url, mode, definition).await;
        let messages = group.fetch("w", 4).await;
        assert_eq!(committed_lag(&sql, mode).await, 4);
        // By its statement: an agent may be at the connection that rests, and then it takes another one.
        proxy.lose_answers_of("subscription_ack_", 1);
        group.ack("w", &messages).await.problem(503, "database-unavailable");
        assert_eq!(proxy.lost_answers(), 1, "{mode}");
        assert_eq!(committed_lag(&sql, mode).await, 0, "{mode}: it has arrived");
        let again = until_answered(&group, "w", &messages).await;
        assert_eq!(again["fenced"], 0, "{mode}: {again}");
        assert_eq!(again["acked"].as_i64().unwrap() + again["missing"].as_i64().unwrap(), 4, "{mode}: {again}");
        assert_eq!(committed_lag(&sql, mode).await, 0);
        assert!(group.fetch("w", 4).await.is_empty(), "{mode}");
        app.stop().await;
    }
}

/// Nothing of it arrives: it is not said to be done, and nothing is.
#[tokio::test]
async fn an_ack_that_does_not_arrive_is_not_said_to_be_done() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    write(&sql, "a", 1, 4).await;
    for mode in ["partitioned", "competing"] {
        let proxy = FaultProxy::before(&database.url).await;
        let app = TestApp::with(&proxy.url, |_| {}).await;
        let definition = json!({ "source": { "stream_name": "a-1" }, "mode": mode });
        let group = Group::new(&app.url, mode, definition).await;
        let messages = group.fetch("w", 4).await;
        // Whoever connects now hears nothing either: an agent may be at the connection that rests.
        proxy.black_hole(true);
        let acking = tokio::spawn({
            let (group, messages) = (group.clone(), messages.clone());
            async move { group.ack("w", &messages).await }
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!acking.is_finished());
        proxy.refuse(true);
        // What was open is cut.
        proxy.black_hole(false);
        acking.await.unwrap().problem(503, "database-unavailable");
        assert_eq!(committed_lag(&sql, mode).await, 4, "{mode}");
        group.ack("w", &messages).await.problem(503, "database-unavailable");
        proxy.restore();
        assert_eq!(until_answered(&group, "w", &messages).await["acked"], 4, "{mode}");
        app.stop().await;
    }
}

/// Sends it until the database is there again.
async fn until_answered(group: &Group, consumer: &str, messages: &[Value]) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = group.ack(consumer, messages).await;
        if answer.status == 200 {
            return answer.json();
        }
        answer.problem(503, "database-unavailable");
        assert!(Instant::now() < deadline, "the database does not come back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Connections are cut again and again while everybody works: all is acked, and what was acked does not come again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_again_and_again_nothing_is_lost() {
    let database = TestDatabase::migrated().await;
    let proxy = FaultProxy::before(&database.url).await;
    let app = TestApp::with(&proxy.url, |_| {}).await;
    write(&database.connect().await, "a", 7, 400).await;
    let mut groups = Vec::new();
    for mode in ["partitioned", "competing"] {
        let definition = json!({
            "source": { "category": "a" }, "mode": mode, "partitions": 4, "ack_timeout": "500ms", "backoff": ["0s"],
            "max_deliveries": 1000
        });
        groups.push(Group::new(&app.url, mode, definition).await);
    }
    let ends = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = groups.iter().map(|group| tokio::spawn(work(group.clone(), 400, ends.clone()))).collect();
    for _ in 0..25 {
        tokio::time::sleep(Duration::from_millis(60)).await;
        proxy.cut_all();
    }
    let finishing = futures_util::future::join_all(workers);
    // 400 acks each, one after the other.
    let all = tokio::time::timeout(4 * PATIENCE, finishing).await;
    ends.store(true, Ordering::SeqCst);
    for (group, seen) in groups.iter().zip(all.expect("all come to the end")) {
        assert_eq!(seen.unwrap().len(), 400, "{}", group.name);
        group.until_all_is_acked().await;
        assert_eq!(group.get("/parked").await["parked"], json!([]), "{}", group.name);
    }
    app.stop().await;
}

/// Fetches and acks until so many different messages were acked; whoever gets no answer asks again.
async fn work(group: Group, wanted: usize, ends: Arc<AtomicBool>) -> BTreeSet<i64> {
    let mut seen = BTreeSet::new();
    let mut done = BTreeSet::new();
    while done.len() < wanted && !ends.load(Ordering::SeqCst) {
        let consumer = "w";
        let fetch = json!({ "consumer": consumer, "limit": 7, "wait": "100ms" });
        let Some((200, answer)) = group.try_post("/fetch", &fetch).await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        for message in answer["messages"].as_array().unwrap() {
            let position = message["message"]["global_position"].as_i64().unwrap();
            seen.insert(position);
            let body = json!({ "consumer": consumer, "acks": [place(message)] });
            loop {
                match group.try_post("/acks", &body).await {
                    // Done, or done by the one whose answer was lost; fenced: it comes again, perhaps.
                    Some((200, _)) => {
                        done.insert(position);
                        break;
                    }
                    Some((409, _)) => break,
                    _ => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        }
        if group.status_or_none().await.is_some_and(|status| status["committed_lag"] == 0) {
            return seen;
        }
    }
    seen
}

impl Group {
    async fn status_or_none(&self) -> Option<Value> {
        let answer = self.http.get(self.path("")).send().await.ok()?;
        (answer.status() == 200).then_some(())?;
        Some(answer.json::<Value>().await.ok()?["status"].clone())
    }
}

/// kill -9 of PostgreSQL while messages are written, delivered and acked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_postgres_loses_no_message_and_no_ack() {
    let dir = temporary_dir();
    let data = dir.path().join("data");
    let service = ServiceProcess::start(&["--listen", "127.0.0.1:0", "--data-dir", data.to_str().unwrap()]);
    let mut groups = Vec::new();
    for mode in ["partitioned", "competing"] {
        let definition = json!({
            "source": { "category": "load" }, "mode": mode, "partitions": 4, "ack_timeout": "1s", "backoff": ["0s"],
            "max_deliveries": 1000
        });
        groups.push(Group::new(&service.url, mode, definition).await);
    }
    let ends = Arc::new(AtomicBool::new(false));
    let writers = Writers::start(&service.url, "load", 3);
    let workers: Vec<_> = groups.iter().map(|group| tokio::spawn(follow(group.clone(), ends.clone()))).collect();
    for _ in 0..2 {
        writers.progress(100).await;
        let killed = postmaster(&data).expect("PostgreSQL runs");
        // SAFETY: the service would have to start another one, after this one is gone, for the id to be another's.
        assert_eq!(unsafe { libc::kill(killed, libc::SIGKILL) }, 0);
        until_some("another one runs", PATIENCE, || postmaster(&data).filter(|pid| *pid != killed)).await;
        writers.progress(50).await;
    }
    let sent = writers.stop().await;
    let written = sent.iter().filter(|sent| matches!(sent.told, crate::support::writers::Told::Written { .. })).count();
    for group in &groups {
        let status = group.until_all_is_acked().await;
        assert_eq!(group.get("/parked").await["parked"], json!([]), "{status}");
    }
    ends.store(true, Ordering::SeqCst);
    for (group, worker) in groups.iter().zip(workers) {
        let (seen, complaints) = worker.await.unwrap();
        assert!(complaints.is_empty(), "{}: {complaints:#?}", group.name);
        assert!(seen.len() >= written, "{}: {} of {written}", group.name, seen.len());
    }
    assert!(service.stop().success());
}

/// An event stream, whose messages are acked one by one; what was acked for sure must not come under a later epoch.
async fn follow(group: Group, ends: Arc<AtomicBool>) -> (BTreeSet<i64>, Vec<String>) {
    let mut seen = BTreeSet::new();
    let mut acked = std::collections::BTreeMap::new();
    let mut complaints = Vec::new();
    while !ends.load(Ordering::SeqCst) {
        let Ok(answer) = group.http.get(group.path("/events?consumer=w&max_in_flight=20")).send().await else { break };
        if answer.status() != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        }
        let mut events = Events::of(answer).await;
        while !ends.load(Ordering::SeqCst) {
            let next = tokio::time::timeout(Duration::from_millis(200), events.next_block(PATIENCE)).await;
            let Ok(next) = next else { continue };
            let Some(event) = next else { break };
            if !event.is("message") {
                continue;
            }
            let message = event.json();
            let position = message["message"]["global_position"].as_i64().unwrap();
            let epoch = message["epoch"].as_i64().unwrap();
            if let Some(before) = acked.get(&position).filter(|before| **before < epoch) {
                complaints.push(format!("{position} was acked under {before} and came under {epoch}"));
            }
            seen.insert(position);
            let body = json!({ "consumer": "w", "acks": [place(&message)] });
            if let Some((200, answer)) = group.try_post("/acks", &body).await
                && answer["acked"] == 1
            {
                acked.insert(position, epoch);
            }
        }
    }
    (seen, complaints)
}

fn postmaster(data: &Path) -> Option<libc::pid_t> {
    std::fs::read_to_string(data.join("pgdata/postmaster.pid")).ok()?.lines().next()?.parse().ok()
}

/// A client that does not read has its credit, and nothing more is taken for it.
#[tokio::test]
async fn nothing_queues_for_a_consumer_that_does_not_read() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let sql = database.connect().await;
    for _ in 0..20 {
        write(&sql, "a", 7, 100).await;
    }
    for mode in ["partitioned", "competing"] {
        let definition = json!({ "source": { "category": "a" }, "mode": mode, "max_in_flight": 50, "partitions": 4 });
        let group = Group::new(&app.url, mode, definition).await;
        let mut slow = group.events("slow&max_in_flight=10").await;
        let mut messages = slow.messages(10).await;
        let more = tokio::time::timeout(Duration::from_millis(300), slow.next("message")).await;
        assert!(more.is_err(), "{mode}: {:?}", more.map(|event| event.json()));
        let summary = group.get("/pending/summary").await;
        assert_eq!(committed_lag(&sql, mode).await, 10, "{mode}: {summary}");
        // One more place, one more message.
        for _ in 0..30 {
            group.acked("slow", &messages[..1]).await;
            messages.remove(0);
            messages.push(slow.next("message").await.json());
            assert!(committed_lag(&sql, mode).await <= 10, "{mode}");
        }
        group.acked("slow", &messages).await;
        // A fetch has the subscription's own credit, whatever it asks for.
        drop(slow);
        group.until("it has left", |status| status["consumers"] == json!([])).await;
        let mut flying = 0;
        for _ in 0..5 {
            flying += group.fetch("fast", 1000).await.len();
        }
        // What was on its way to the one that left comes alone first, in partitioned mode.
        assert!(flying <= 50 && (mode == "partitioned" || flying == 50), "{mode}: {flying}");
    }
    app.stop().await;
}
