//! Processes are killed under load: what was acknowledged is there, once.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;

use crate::support::app::{Answer, PATIENCE};
use crate::support::database::{TestDatabase, connect, temporary_dir};
use crate::support::http_client;
use crate::support::service_process::{ServiceProcess, embedded_url, postmaster};
use crate::support::waiting::{until, until_some};
use crate::support::writers::{Sent, Told, Writers, compare, send};

fn start(database_url: &str) -> ServiceProcess {
    start_with(database_url, &[])
}

fn start_with(database_url: &str, more: &[&str]) -> ServiceProcess {
    ServiceProcess::start(&[&["--listen", "127.0.0.1:0", "--database-url", database_url], more].concat())
}

/// Sends again everything that was not acknowledged: what was written is recognised, the rest is written now.
async fn assert_sent_again_stands_once(url: &str, database: &tokio_postgres::Client, sent: &[Sent]) {
    let standing: HashSet<_> = compare(database, sent).await.into_iter().map(|sent| sent.id).collect();
    let http = http_client();
    let open: Vec<_> = sent.iter().filter(|sent| !matches!(sent.told, Told::Written { .. })).collect();
    for chunk in open.chunks(64) {
        let answers = join_all(chunk.iter().map(|sent| send(&http, url, sent))).await;
        for (sent, answer) in chunk.iter().zip(answers) {
            let answer = answer.expect("the service answers");
            assert_eq!(answer.status, if standing.contains(&sent.id) { 200 } else { 201 }, "{}", answer.text);
        }
    }
    compare(database, sent_as_unknown(sent).as_slice()).await;
    let count = database.query_one("SELECT count(*) FROM message_store.messages", &[]).await.unwrap();
    assert_eq!(count.get::<_, i64>(0), sent.len() as i64);
}

/// The same messages with only what was acknowledged: the others were written since.
fn sent_as_unknown(sent: &[Sent]) -> Vec<Sent> {
    let told = |sent: &Sent| if sent.told == Told::NotWritten { Told::Nothing } else { sent.told };
    sent.iter().map(|sent| Sent { told: told(sent), ..sent.clone() }).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_service_loses_and_repeats_nothing_that_it_acknowledged() {
    let database = TestDatabase::migrated().await;
    let mut service = start(&database.url);
    let writers = Writers::start(&service.url, "load", 12);
    for round in 0..4 {
        writers.progress(150).await;
        tokio::time::sleep(Duration::from_micros(fastrand::u64(..5_000))).await;
        service.kill();
        service = start(&database.url);
        writers.go_to(&service.url);
        writers.progress(30).await;
        println!("round {round}: {} written, {} without a good answer", writers.written(), writers.refused());
    }
    let sent = writers.stop().await;
    assert!(sent.iter().any(|sent| sent.told == Told::Nothing), "nobody was hit");
    assert_sent_again_stands_once(&service.url, &database.connect().await, &sent).await;
    assert!(service.stop().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_postgres_leaves_the_service_up_and_nothing_acknowledged_is_lost() {
    let dir = temporary_dir();
    let data = dir.path().join("data");
    let mut service = ServiceProcess::start(&["--listen", "127.0.0.1:0", "--data-dir", data.to_str().unwrap()]);
    let http = http_client();
    let writers = Writers::start(&service.url, "load", 12);
    for round in 0..3 {
        writers.progress(150).await;
        tokio::time::sleep(Duration::from_micros(fastrand::u64(..5_000))).await;
        let first = postmaster(&data).expect("PostgreSQL runs");
        // SAFETY: the service would have to start another one, after this one is gone, for the id to be another's.
        assert_eq!(unsafe { libc::kill(first, libc::SIGKILL) }, 0);
        let mut told = false;
        let again = until_some("another PostgreSQL runs", PATIENCE, || postmaster(&data).filter(|pid| *pid != first));
        let asking = async {
            loop {
                let request = http.post(format!("{}/v1/streams/probe-1/messages", service.url));
                let body = json!({ "messages": [{ "type": "" }] });
                // Its rule is broken, so that it tells only whether the service itself is up.
                let answer = Answer::of(request.json(&body).send().await.expect("the service stays up")).await;
                answer.problem(422, "invalid");
                let ready = Answer::of(http.get(format!("{}/readyz", service.url)).send().await.unwrap()).await;
                if ready.status != 200 {
                    ready.problem(503, "database-unavailable");
                    assert!(ready.headers.contains_key("retry-after"));
                    told = true;
                } else if told {
                    break;
                }
            }
        };
        let (again, ()) = tokio::join!(again, async {
            tokio::time::timeout(PATIENCE, asking).await.expect("it was away, and it is ready again");
        });
        assert_ne!(again, first);
        writers.progress(50).await;
        println!("round {round}: {} written, {} without a good answer", writers.written(), writers.refused());
    }
    assert!(service.is_running());
    let sent = writers.stop().await;
    assert!(sent.iter().all(|sent| sent.told != Told::Nothing), "the service finds out what became of each");
    assert!(sent.iter().any(|sent| sent.told == Told::NotWritten), "nobody was hit");
    let url = embedded_url(&data);
    assert_sent_again_stands_once(&service.url, &connect(&url).await, &sent).await;
    assert!(service.stop().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asked_to_stop_under_load_it_answers_what_it_took_and_ends_cleanly() {
    let database = TestDatabase::migrated().await;
    let mut service = start(&database.url);
    let writers = Writers::start(&service.url, "load", 12);
    for _ in 0..2 {
        writers.progress(150).await;
        let before = writers.refused();
        // Each of the twelve gets an answer from a service that stops: `draining`, or its connection is refused.
        let stopped = tokio::task::spawn_blocking(move || service.stop());
        until("every writer is turned away", PATIENCE, || writers.refused() >= before + 12).await;
        let status = tokio::time::timeout(PATIENCE, stopped).await.expect("it ends").unwrap();
        assert_eq!(status.code(), Some(0));
        service = start(&database.url);
        writers.go_to(&service.url);
        writers.progress(30).await;
    }
    let sent = writers.stop().await;
    assert_sent_again_stands_once(&service.url, &database.connect().await, &sent).await;
    assert!(service.stop().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_it_drains_what_waits_is_answered_and_a_second_signal_ends_at_once() {
    let database = TestDatabase::migrated().await;
    let client = database.connect().await;
    let observer = database.connect().await;
    for is_second_signal in [false, true] {
        // Longer than the test may take on a busy machine: what waits is to wait for the lock, not for these.
        let patient = ["--append-lock-timeout", "60s", "--drain-timeout", "60s"];
        let mut service = start_with(&database.url, &patient);
        let http = http_client();
        let url = format!("{}/v1/streams/held-1/messages", service.url);
        client.batch_execute("BEGIN; SELECT message_store.acquire_lock('held-1')").await.unwrap();
        let request = http.post(&url).json(&json!({ "messages": [{ "type": "T" }] }));
        let waiting = tokio::spawn(request.send());
        let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() \
            AND application_name = 'headwater' AND wait_event_type = 'Lock')";
        while !observer.query_one(waits, &[]).await.unwrap().get::<_, bool>(0) {
            assert!(!waiting.is_finished());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        service.signal(libc::SIGTERM);
        // New connections are refused soon; what comes before is told.
        let turned_away = async {
            loop {
                match http_client().post(&url).json(&json!({ "messages": [{ "type": "T" }] })).send().await {
                    Err(error) if error.is_connect() => return,
                    Ok(answer) if answer.status() == 503 => drop(Answer::of(answer).await.problem(503, "draining")),
                    Ok(answer) => panic!("{:?}", answer.text().await),
                    Err(_) => {}
                }
            }
        };
        tokio::select! {
            () = turned_away => {}
            () = tokio::time::sleep(PATIENCE) => panic!("it goes on taking connections"),
        }
        assert!(service.is_running(), "it waits for what was taken");
        assert!(!waiting.is_finished(), "answered while its category is locked: {:?}", waiting.await);
        if is_second_signal {
            let status = tokio::task::spawn_blocking(move || service.stop());
            let status = tokio::time::timeout(Duration::from_secs(3), status).await.expect("it ends at once").unwrap();
            assert_eq!(status.code(), Some(1));
            assert!(waiting.await.unwrap().is_err());
            client.batch_execute("COMMIT").await.unwrap();
        } else {
            client.batch_execute("COMMIT").await.unwrap();
            assert_eq!(waiting.await.unwrap().unwrap().status(), 201);
            let status = tokio::task::spawn_blocking(move || service.wait()).await.unwrap();
            assert_eq!(status.code(), Some(0));
            let count = "SELECT count(*) FROM message_store.messages";
            assert_eq!(observer.query_one(count, &[]).await.unwrap().get::<_, i64>(0), 1);
        }
    }
}
