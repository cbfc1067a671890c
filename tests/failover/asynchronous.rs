//! A primary is killed under load while its standby, which replicates asynchronously, is behind: what the standby had not
//! received is lost, nothing else is, and everybody who saw it is told.

mod clients;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use serde_json::{Value, json};

use self::clients::{Acked, At, Seen, World, consume, fetch, follow, open};
use super::{pair, url_of};
use crate::support::app::{PATIENCE, TestApp};
use crate::support::database::temporary_dir;
use crate::support::own_server::OwnServer;
use crate::support::proxy::FaultProxy;
use crate::support::waiting::eventually;
use crate::support::waiting::until_true;

const WRITERS: usize = 4;
/// Bytes a second that the standby gets, where it is to be far behind.
const SLOW: usize = 40_000;
/// PostgreSQL notes positions in its log 32 at a time: fewer than those that are lost are given to no other message.
const MANY: i64 = 120;

const FOLLOWED: [&str; 5] = [
    "/v1/all/events",
    "/v1/categories/writer/events",
    "/v1/events?category=writer&stream_name=other-1",
    "/v1/aggregated-streams/thirds/events",
    "/v1/streams/writer-0/events",
];

const SUBSCRIPTIONS: [(&str, &str); 4] =
    [("fetched", "partitioned"), ("shared", "competing"), ("told", "partitioned"), ("told_shared", "competing")];

async fn define(app: &TestApp) {
    let definition = json!({ "stream_wildcards": ["writer-%"], "max_partition": 2,
        "partitioner": { "kind": "data", "pointer": "/n", "method": "modulo", "partitions": 3 } });
    assert_eq!(app.put("/v1/aggregated-streams/thirds", &definition).await.status, 201);
    for (name, mode) in SUBSCRIPTIONS {
        let definition = json!({ "source": { "category": "writer" }, "mode": mode, "from": "beginning" });
        assert_eq!(app.put(&format!("/v1/subscriptions/{name}"), &definition).await.status, 201);
    }
}

/// What a server has, in order.
async fn stored(server: &OwnServer) -> Vec<At> {
    let sql = "SELECT global_position, id FROM message_store.messages ORDER BY global_position";
    let rows = server.sql().await.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

async fn stored_in(server: &OwnServer, stream_name: &str) -> Vec<At> {
    let sql = "SELECT global_position, id FROM message_store.messages WHERE stream_name = $1 ORDER BY global_position";
    let rows = server.sql().await.query(sql, &[&stream_name]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// How the standby comes to be behind.
#[derive(Clone, Copy, PartialEq)]
enum Behind {
    /// It receives slowly, and lacks many.
    Slow,
    /// It stops receiving a moment before.
    Cut,
}

async fn failover(behind: Behind) {
    let dir = temporary_dir();
    let (primary, standby) = pair(dir.path()).await;
    let wire = FaultProxy::before(&primary.url).await;
    let sql = standby.sql().await;
    let address = wire.url.split_once('@').unwrap().1.split('/').next().unwrap().to_owned();
    let (host, port) = address.split_once(':').unwrap();
    let conninfo = format!("ALTER SYSTEM SET primary_conninfo TO 'host={host} port={port} user=headwater'");
    sql.batch_execute(&conninfo).await.unwrap();
    sql.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    eventually("the standby follows through the proxy", || async {
        wire.links_that_sent("START_REPLICATION").first().map(drop)
    })
    .await;

    // The standby is named first: it takes no writes yet.
    let url = url_of(&standby, &primary);
    let apps = [TestApp::with(&url, |_| {}).await, TestApp::with(&url, |_| {}).await];
    define(&apps[0]).await;
    apps[0].write("writer-0", "Noted", json!({ "n": 0 })).await;
    until_true(&sql, "SELECT to_regclass('message_store.messages') IS NOT NULL").await;
    until_true(&sql, "SELECT count(*) = 1 FROM message_store.messages").await;
    let world = Arc::new(World::default());
    let mut followers = Vec::new();
    for app in &apps {
        for path in FOLLOWED {
            followers.push(tokio::spawn(follow(app.client_without(), path, world.clone())));
        }
    }
    let acked: BTreeMap<&str, Acked> = SUBSCRIPTIONS.iter().map(|(name, _)| (*name, Acked::default())).collect();
    let fetching = ["fetched", "shared"]
        .map(|name| tokio::spawn(fetch(apps[0].client_without(), name, acked[name].clone(), world.clone())));
    let consuming = ["told", "told_shared"]
        .map(|name| tokio::spawn(consume(apps[1].client_without(), name, acked[name].clone(), world.clone())));
    let writing: Vec<_> = (0..WRITERS)
        .map(|writer| tokio::spawn(world.clone().write(apps[writer % 2].client_without(), writer)))
        .collect();

    let count = "SELECT count(*) FROM message_store.messages";
    let replayed = async || sql.query_one(count, &[]).await.unwrap().get::<_, i64>(0);
    eventually("the followers", || async {
        (world.have_begun.load(Ordering::SeqCst) == 2 * FOLLOWED.len()).then_some(())
    })
    .await;
    eventually("the load", || async { (world.acknowledged() > 50 && replayed().await > 30).then_some(()) }).await;
    // Of what it lacks, some may be on its way.
    let (lacks, loses) = match behind {
        Behind::Slow => {
            wire.slow_down(SLOW);
            (MANY, 32)
        }
        Behind::Cut => {
            wire.black_hole(true);
            (1, 0)
        }
    };
    // A message of each writer may have left the machine by now; what is acknowledged after those has not.
    let at_cut = world.acknowledged();
    eventually("the standby to be behind", || async {
        let is_cut_off = world.acknowledged() > at_cut + WRITERS as i64;
        (is_cut_off && world.acknowledged() - replayed().await >= lacks).then_some(())
    })
    .await;
    let acknowledged = world.acknowledged.lock().clone();
    // Nothing more leaves the machine.
    wire.black_hole(true);
    primary.kill().await;
    wire.refuse(true);
    wire.cut_all();
    until_true(&sql, "SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)").await;
    until_true(&sql, "SELECT pg_last_wal_receive_lsn() <= pg_last_wal_replay_lsn()").await;
    // All that there is of the old log. What PostgreSQL has lost is what is not in it.
    let kept = stored(&standby).await;
    until_true(&sql, "SELECT pg_promote()").await;
    let promoted = Instant::now();
    for app in &apps {
        eventually("the new primary", || async { (app.get("/readyz").await.status == 200).then_some(()) }).await;
    }
    let ready = promoted.elapsed();
    world.is_promoted.store(true, Ordering::SeqCst);
    let mut written = Vec::new();
    for task in writing {
        written.extend(tokio::time::timeout(PATIENCE, task).await.expect("the writers end").unwrap());
    }
    let body = json!({ "messages": [{ "type": "End", "data": { "n": 0 } }] });
    assert_eq!(apps[0].append("writer-0", &body).await.status, 201);

    let standing = stored(&standby).await;
    let in_stream = stored_in(&standby, "writer-0").await;
    let is_kept: BTreeSet<At> = kept.iter().copied().collect();
    let lost: Vec<At> = acknowledged.iter().copied().filter(|message| !is_kept.contains(message)).collect();
    assert!(lost.len() > loses, "the standby was not behind: {} are lost", lost.len());
    assert_eq!(standing[..kept.len()], kept, "what the standby had is the beginning of the log");
    let stands: BTreeSet<At> = standing.iter().copied().collect();
    let gone: BTreeSet<At> = written.iter().copied().filter(|message| !stands.contains(message)).collect();
    assert!(lost.iter().all(|message| gone.contains(message)));
    eprintln!(
        "{} acknowledged before, {} of them lost, {} kept, {} at the end; ready {ready:?} after the promotion",
        acknowledged.len(),
        lost.len(),
        kept.len(),
        standing.len()
    );
    all_are_told(&apps, followers, &standing, &in_stream).await;
    subscriptions_go_on(&apps[0], &acked, &standing).await;
    world.is_over.store(true, Ordering::SeqCst);
    // What is over is noticed with the next event.
    apps[0].write("writer-0", "Noted", json!({ "n": 0 })).await;
    for task in fetching {
        tokio::time::timeout(PATIENCE, task).await.expect("it ends").unwrap();
    }
    for task in consuming {
        let told = tokio::time::timeout(PATIENCE, task).await.expect("it ends").unwrap();
        assert_eq!(told, ["history-changed"], "consumers are told once");
    }
    for app in apps {
        assert_eq!(app.metric("headwater_history_changes_total").await, 1.0);
        assert_eq!(app.metric("headwater_primary_changes_total").await, 1.0);
        assert!(app.get("/readyz").await.json()["history_changed"]["since"].is_string());
        app.stop().await;
    }
}

/// Each follower was told, and has the log as it is in the end; each cursor of a lost message is refused, no other is.
async fn all_are_told(
    apps: &[TestApp; 2],
    followers: Vec<tokio::task::JoinHandle<Seen>>,
    standing: &[At],
    in_stream: &[At],
) {
    let stands: BTreeSet<At> = standing.iter().copied().collect();
    let mut lost_cursors = 0;
    for (number, task) in followers.into_iter().enumerate() {
        let seen = tokio::time::timeout(PATIENCE, task).await.expect("a follower comes to the end").unwrap();
        let path = seen.path;
        let expected = if path.starts_with("/v1/streams/") { in_stream } else { standing };
        assert_eq!(seen.whole, expected, "{path}: each once, in order");
        let (last, _) = seen.before.last().unwrap();
        assert_eq!(seen.is_refused, !stands.contains(last), "{path}: it came back with {last:?}");
        let app = &apps[(number + 1) % 2];
        for (message, cursor) in seen.before.iter().rev().take(40) {
            let answer = open(app, path, Some(cursor)).await;
            match (stands.contains(message), answer) {
                (true, Ok(_)) => {}
                (false, Err(answer)) => {
                    answer.problem(409, "history-changed");
                    lost_cursors += 1;
                }
                (true, Err(answer)) => panic!("{path}: {cursor} of a kept message is refused: {answer:?}"),
                (false, Ok(_)) => panic!("{path}: {cursor} of the lost message {message:?} is taken"),
            }
        }
    }
    assert!(lost_cursors > 0, "nobody has seen what was lost");
    eprintln!("{lost_cursors} cursors of lost messages are refused");
    projection_goes_on(&apps[0], standing.len()).await;
}

/// The aggregated stream has the log that is there; if it says that it has to be projected anew, after that.
async fn projection_goes_on(app: &TestApp, count: usize) {
    let path = "/v1/aggregated-streams/thirds";
    let status = app.get(path).await.json()["status"].clone();
    if status["error"] != Value::Null {
        assert!(status["error"]["reason"].as_str().unwrap().starts_with("history-changed"), "{status}");
        eprintln!("the projection has stopped: {}", status["error"]);
        assert_eq!(app.post(&format!("{path}/rebuild"), &json!({})).await.status, 202);
    }
    eventually("all to be projected", || async {
        let status = app.get(path).await.json()["status"].clone();
        let partitions = status["partitions"].as_array().cloned().unwrap_or_default();
        let counted: i64 = partitions.iter().map(|one| one["message_count"].as_i64().unwrap()).sum();
        (counted == count as i64 && status["error"] == Value::Null).then_some(())
    })
    .await;
}

/// Every message of the log that is there was given to a consumer, which has acked it.
async fn subscriptions_go_on(app: &TestApp, acked: &BTreeMap<&str, Acked>, standing: &[At]) {
    let expected: BTreeSet<At> = standing.iter().copied().collect();
    for (name, acked) in acked {
        let path = format!("/v1/subscriptions/{name}");
        eventually("a subscription to deliver all", || async {
            let status = app.get(&path).await.json()["status"].clone();
            if status["state"] == "stopped" {
                // It had delivered what was lost to the new primary, a moment before that was noticed.
                assert_eq!(status["stopped"]["cause"], "history_changed", "{name}: {status}");
                eprintln!("{name} has stopped: {}", status["stopped"]);
                let sought = app.post(&format!("{path}/seek"), &json!({ "to": "beginning" })).await;
                assert_eq!(sought.status, 200, "{name}: {}", sought.text);
                assert_eq!(app.post(&format!("{path}/resume"), &json!({})).await.status, 200);
                return None;
            }
            (status["committed_lag"] == 0).then_some(())
        })
        .await;
        let acked: BTreeSet<At> = acked.lock().iter().copied().collect();
        let missing: Vec<_> = expected.difference(&acked).collect();
        assert!(missing.is_empty(), "{name}: {missing:?} were not acked by whom they were given to");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_slow_standby_lacks_is_lost_and_everybody_is_told() {
    failover(Behind::Slow).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_little_that_a_standby_lacks_is_lost_and_everybody_is_told() {
    failover(Behind::Cut).await;
}
