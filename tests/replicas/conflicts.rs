//! Replicas that replay late, and one that cancels what is read because it has to replay.

use std::time::Duration;

use serde_json::json;

use super::{FIRST, Stage, number, numbers};
use crate::support::app::{PATIENCE, TestApp};
use crate::support::database::temporary_dir;
use crate::support::own_server::OwnServer;
use crate::support::proxy::FaultProxy;
use crate::support::waiting::eventually;

/// How late the two replicas replay: commits that are older only.
const DELAYS: [&str; 2] = ["3s", "6s"];
/// The pages of a follower that reads from the slow line: a few of half a megabyte each.
const LARGE: i64 = 150;
const LARGE_BYTES: usize = 20_000;
/// A page of half a megabyte takes longer than a second on this line, and less than it may.
const LINE: usize = 350_000;

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_replay_late_are_read_as_far_as_they_are() {
    let dir = temporary_dir();
    let stage = Stage::begin(dir.path()).await;
    stage.write(0..FIRST).await;
    for (replica, delay) in DELAYS.iter().enumerate() {
        stage.until_readable(replica, FIRST).await;
        let sql = stage.replicas[replica].sql().await;
        let setting = format!("ALTER SYSTEM SET recovery_min_apply_delay TO '{delay}'");
        sql.batch_execute(&setting).await.unwrap();
        sql.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    }
    // What is there is read while more is written, and what is written comes at once; neither replica is ever up to date.
    let (mut written, mut behind) = (FIRST, [0, 0]);
    for _ in 0..4 {
        stage.write(written..written + 60).await;
        written += 60;
        let before = [stage.reads(0).await, stage.reads(1).await];
        stage.everywhere(&numbers(written)).await;
        for (replica, rounds) in behind.iter_mut().enumerate() {
            let position = stage.metric("headwater_replica_position", replica, "").await;
            *rounds += i32::from(position < written as f64 && stage.reads(replica).await > before[replica]);
        }
    }
    assert!(behind.iter().all(|rounds| *rounds > 0), "both were read while they were behind: {behind:?}");
    // An erasure that they have not replayed is seen by whoever was told of it.
    let page = stage.app.get("/v1/all/messages?from=7&limit=1").await.json();
    let (id, erased) = (page["messages"][0]["id"].as_str().unwrap(), number(&page["messages"][0]));
    assert_eq!(stage.app.delete(&format!("/v1/messages/{id}")).await.status, 200);
    let mut events = stage.app.follow("/v1/all/events?from=beginning").await;
    let followed: Vec<i64> = events.messages(written as usize).await.iter().map(number).collect();
    let expected: Vec<i64> = (0..written).map(|n| if n == erased { -1 } else { n }).collect();
    assert_eq!(followed, expected);
    // Followers that come one after the other have no pages in common: each is read for.
    drop(events);
    // Once nothing more is written they come to the end, each in its time, and are read up to there: a page of a replica
    // that has the messages, and not the erasure yet, is not taken.
    for replica in 0..2 {
        stage.until_readable(replica, written).await;
        let before = stage.reads(replica).await;
        eventually("a replica that is read up to the end", || async {
            let mut events = stage.app.follow("/v1/all/events?from=beginning").await;
            let followed: Vec<i64> = events.messages(written as usize).await.iter().map(number).collect();
            assert_eq!(followed, expected);
            (stage.reads(replica).await > before).then_some(())
        })
        .await;
    }
    eprintln!("rounds in which a replica was behind and was read: {behind:?}");
    stage.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_a_replica_cancels_goes_on_at_the_primary() {
    let dir = temporary_dir();
    let primary = OwnServer::start(&dir.path().join("primary")).await;
    let copy = dir.path().join("replica");
    primary.copy(&copy, &["--write-recovery-conf"]).await;
    let replica = OwnServer::start(&copy).await;
    let on_replica = replica.sql().await;
    // What is replayed waits for nobody who reads.
    on_replica.batch_execute("ALTER SYSTEM SET max_standby_streaming_delay TO 0").await.unwrap();
    on_replica.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let line = FaultProxy::before(&replica.url).await;
    let app = TestApp::with(&primary.url, |settings| settings.replica_url = Some(line.url.clone())).await;
    let name = host_of(&line);
    let metric = async |metric: &str, more: &str| app.metric(&format!("{metric}{{replica=\"{name}\"{more}}}")).await;
    let text = "x".repeat(LARGE_BYTES);
    for n in 0..LARGE {
        app.write(&format!("a-{}", n % 2), "Noted", json!({ "n": n, "text": text })).await;
    }
    let is_readable = async || (metric("headwater_replica_position", "").await >= LARGE as f64).then_some(());
    eventually("the replica", is_readable).await;
    let sql = primary.sql().await;
    sql.batch_execute("CREATE TABLE churn (n integer); INSERT INTO churn VALUES (0)").await.unwrap();

    // A page that is being sent holds a snapshot; rows that it could see are cleaned up meanwhile.
    line.slow_down(LINE);
    let follows = async {
        for path in ["/v1/all/events", "/v1/categories/a/events", "/v1/all/events"] {
            let mut events = app.follow(&format!("{path}?from=beginning")).await;
            let followed = tokio::time::timeout(PATIENCE * 3, events.messages(LARGE as usize)).await;
            let followed: Vec<i64> = followed.expect("all in time").iter().map(number).collect();
            assert_eq!(followed, numbers(LARGE), "{path}: each once, in order");
            events.next("caught-up").await;
        }
    };
    let cleans_up = async {
        loop {
            sql.batch_execute("UPDATE churn SET n = n + 1").await.unwrap();
            sql.batch_execute("VACUUM churn").await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        () = follows => {}
        () = cleans_up => unreachable!(),
    }
    let conflicts = eventually("a conflict", || async {
        let sql = "SELECT sum(confl_snapshot)::bigint FROM pg_stat_database_conflicts";
        // The test's own statement may be in the way, too.
        let row = on_replica.query_one(sql, &[]).await.ok()?;
        Some(row.get::<_, i64>(0)).filter(|conflicts| *conflicts > 0)
    })
    .await;
    let at_primary = metric("headwater_replica_reads_total", ",from=\"primary\"").await;
    assert!(at_primary > 0.0, "pages were read from the primary after all");

    // It is no dead replica: it is read again.
    line.slow_down(0);
    eventually("the replica is used again", || async {
        (metric("headwater_replica_used", "").await == 1.0).then_some(())
    })
    .await;
    eventually("the replica gives pages again", || async {
        let before = metric("headwater_replica_reads_total", ",from=\"replica\"").await;
        let mut events = app.follow("/v1/all/events?from=beginning").await;
        let followed: Vec<i64> = events.messages(LARGE as usize).await.iter().map(number).collect();
        assert_eq!(followed, numbers(LARGE));
        (metric("headwater_replica_reads_total", ",from=\"replica\"").await > before).then_some(())
    })
    .await;
    eprintln!("{conflicts} statements were cancelled, {at_primary} pages were read from the primary after all");
    app.stop().await;
    drop((on_replica, replica));
}

fn host_of(line: &FaultProxy) -> String {
    line.url.split_once('@').unwrap().1.split('/').next().unwrap().to_owned()
}
