//! Another server in the place of the first: an older copy that was restored, a replica that had not received everything.

use serde_json::{Value, json};
use tempfile::TempDir;

use super::truncating::{SUBSCRIPTIONS, define, fetch};
use super::write_numbers;
use crate::support::app::{Answer, PATIENCE, TestApp};
use crate::support::database::temporary_dir;
use crate::support::events::Events;
use crate::support::own_server::OwnServer;
use crate::support::proxy::{FaultProxy, both};
use crate::support::waiting::{eventually, until_true};

const PATHS: [&str; 5] = [
    "/v1/all/events",
    "/v1/categories/a/events",
    "/v1/streams/a-1/events",
    "/v1/events?stream_name=a-1&category=b",
    "/v1/aggregated-streams/thirds/events",
];
/// What is written before the copy that stays; the last one is not fetched before it.
const KEPT: i64 = 5;
/// The numbers of the messages that only the first server has, and of those that are written in their place.
const LOST_FROM: i64 = 100;
const NEW_FROM: i64 = 200;
/// PostgreSQL notes positions in its log 32 at a time, and a server that recovers goes on after those.
const FEW: i64 = 8;
const MANY: i64 = 60;

fn number(event: &Value) -> i64 {
    let message = if event["message"].is_object() { &event["message"] } else { event };
    message["data"]["n"].as_i64().unwrap()
}

async fn numbers(events: &mut Events, count: usize, path: &str) -> Vec<i64> {
    let messages = tokio::time::timeout(PATIENCE, events.messages(count)).await;
    messages.unwrap_or_else(|_| panic!("{path}: not {count} messages in time")).iter().map(number).collect()
}

/// A service on the first server, and what was seen of it.
struct Stage {
    app: TestApp,
    proxy: FaultProxy,
    /// Before the server that takes over, if the service knows it by another name.
    second: Option<FaultProxy>,
    first: OwnServer,
    followers: Vec<Follower>,
    lost: i64,
    // Last, as the servers are in it.
    dir: TempDir,
}

struct Follower {
    path: &'static str,
    live: Events,
    /// Ids of a message that is in the copy, and of the last one that is not.
    kept: String,
    lost: String,
}

impl Stage {
    async fn begin(lost: i64) -> Self {
        Self::begin_with(lost, false).await
    }

    /// `has_two_hosts`: the service is told of two servers.
    async fn begin_with(lost: i64, has_two_hosts: bool) -> Self {
        let dir = temporary_dir();
        let first = OwnServer::start(&dir.path().join("first")).await;
        let proxy = FaultProxy::before(&first.url).await;
        let (mut url, mut second) = (proxy.url.clone(), None);
        if has_two_hosts {
            let other = FaultProxy::before(&first.url).await;
            other.refuse(true);
            url = both(&other, &proxy);
            second = Some(other);
        }
        let app = TestApp::with(&url, |_| {}).await;
        define(&app).await;
        write_numbers(&app, "a-1", 0..KEPT - 1).await;
        for name in SUBSCRIPTIONS {
            assert_eq!(fetch(&app, name, KEPT as usize - 1).await, [0, 1, 2, 3], "{name}");
        }
        Self { app, proxy, second, first, followers: Vec::new(), lost, dir }
    }

    async fn projected(&self, position: i64) {
        let path = format!("/v1/aggregated-streams/thirds?min_position={position}&wait=10s");
        let status = self.app.get(&path).await.json()["status"].clone();
        assert!(status["projected_position"].as_i64() >= Some(position), "{status}");
    }

    /// Everybody goes on beyond the copy.
    async fn lose(&mut self) {
        for path in PATHS {
            let mut live = self.app.follow(path).await;
            live.next("caught-up").await;
            self.followers.push(Follower { path, live, kept: String::new(), lost: String::new() });
        }
        let lost: Vec<i64> = (LOST_FROM..LOST_FROM + self.lost).collect();
        let positions = write_numbers(&self.app, "a-1", LOST_FROM..LOST_FROM + self.lost).await;
        self.projected(*positions.last().unwrap()).await;
        for follower in &mut self.followers {
            let path = follower.path;
            assert_eq!(numbers(&mut follower.live, lost.len(), path).await, lost, "{path}");
            let separator = if path.contains('?') { '&' } else { '?' };
            let mut later = self.app.follow(&format!("{path}{separator}from=beginning")).await;
            numbers(&mut later, KEPT as usize - 1, path).await;
            follower.kept = later.last_id.clone().unwrap();
            numbers(&mut later, lost.len() + 1, path).await;
            follower.lost = later.last_id.unwrap();
            assert_eq!(Some(&follower.lost), follower.live.last_id.as_ref(), "{path}");
        }
        for name in SUBSCRIPTIONS {
            fetch(&self.app, name, lost.len() + 1).await;
        }
    }

    async fn resume(&self, path: &str, id: &str) -> Answer {
        let request =
            self.app.http.get(format!("{}{path}", self.app.url)).header("last-event-id", id).timeout(PATIENCE);
        Answer::of(request.send().await.unwrap()).await
    }

    /// The other server has the place of the first.
    async fn goes_on(mut self) {
        for follower in &mut self.followers {
            let path = follower.path;
            let closing = tokio::time::timeout(PATIENCE, follower.live.next("closing")).await;
            let closing = closing.unwrap_or_else(|_| panic!("{path} is not told"));
            assert_eq!(closing.json(), json!({ "reason": "history-changed" }), "{path}");
        }
        for Follower { path, lost, .. } in &self.followers {
            self.resume(path, lost).await.problem(409, "history-changed");
        }
        let positions = write_numbers(&self.app, "a-1", NEW_FROM..NEW_FROM + self.lost + 3).await;
        self.is_the_new_log(&positions).await;
        assert!(self.app.get("/readyz").await.json()["history_changed"]["since"].is_string());
        assert_eq!(self.app.metric("headwater_history_changes_total").await, 1.0);
        self.app.stop().await;
    }

    /// The log has grown past the old place, and everybody gets what is in it.
    async fn is_the_new_log(&self, positions: &[i64]) {
        let new: Vec<i64> = (NEW_FROM..NEW_FROM + self.lost + 3).collect();
        for Follower { path, kept, lost, .. } in &self.followers {
            // Given to another message, or passed over as the server recovered.
            self.resume(path, lost).await.problem(409, "history-changed");
            let mut events = Events::resume(&format!("{}{path}", self.app.url), kept).await;
            assert_eq!(numbers(&mut events, new.len() + 1, path).await, [&[KEPT - 1], &new[..]].concat(), "{path}");
        }
        self.projected(*positions.last().unwrap()).await;
        let status = self.app.get("/v1/aggregated-streams/thirds").await.json()["status"].clone();
        let partitions = status["partitions"].as_array().unwrap().clone();
        let counted: i64 = partitions.iter().map(|one| one["message_count"].as_i64().unwrap()).sum();
        assert_eq!((counted, &status["error"]), (KEPT + new.len() as i64, &Value::Null), "{status}");
        for name in SUBSCRIPTIONS {
            let expected = [&[KEPT - 1], &new[..]].concat();
            assert_eq!(fetch(&self.app, name, expected.len()).await, expected, "{name}");
        }
    }
}

/// What was written after a backup is lost when it is restored.
async fn restored(lost: i64, is_written_to_meanwhile: bool) {
    let mut stage = Stage::begin(lost).await;
    let copy = stage.dir.path().join("copy");
    if is_written_to_meanwhile {
        let sql = stage.first.sql().await;
        let copying = stage.first.begin_copy(&copy, &["--max-rate", "8M"]);
        let under_way =
            "SELECT EXISTS (SELECT FROM pg_stat_progress_basebackup WHERE phase = 'streaming database files')";
        until_true(&sql, under_way).await;
        write_numbers(&stage.app, "a-1", KEPT - 1..KEPT).await;
        assert!(sql.query_one(under_way, &[]).await.unwrap().get::<_, bool>(0), "the copy was faster");
        tokio::task::spawn_blocking(move || copying.end()).await.unwrap();
    } else {
        write_numbers(&stage.app, "a-1", KEPT - 1..KEPT).await;
        stage.projected(KEPT).await;
        stage.first.copy(&copy, &[]).await;
    }
    stage.lose().await;
    let restored = OwnServer::start(&copy).await;
    stage.proxy.lead_to(&restored.url);
    let first = std::mem::replace(&mut stage.first, restored);
    first.stop().await;
    stage.goes_on().await;
}

#[tokio::test]
async fn a_restored_copy_goes_on_as_the_log_that_it_is() {
    restored(FEW, false).await;
}

#[tokio::test]
async fn a_restored_copy_whose_sequence_is_ahead_goes_on_as_the_log_that_it_is() {
    restored(MANY, true).await;
}

/// Its sequence skips positions as it recovers, so nothing that was settled is given out again.
#[tokio::test]
async fn a_restored_copy_that_lacks_little_is_noticed() {
    restored(FEW, true).await;
}

/// What a replica had not received yet is lost when it takes over.
async fn promoted(lost: i64, has_two_hosts: bool) {
    let mut stage = Stage::begin_with(lost, has_two_hosts).await;
    let copy = stage.dir.path().join("replica");
    stage.first.copy(&copy, &["--write-recovery-conf"]).await;
    let replica = OwnServer::start(&copy).await;
    write_numbers(&stage.app, "a-1", KEPT - 1..KEPT).await;
    stage.projected(KEPT).await;
    let (primary_sql, sql) = (stage.first.sql().await, replica.sql().await);
    let flushed = primary_sql.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await.unwrap();
    let received = format!("SELECT pg_last_wal_replay_lsn() >= '{}'", flushed.get::<_, String>(0));
    until_true(&sql, &received).await;
    sql.batch_execute("ALTER SYSTEM SET primary_conninfo TO ''").await.unwrap();
    sql.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    until_true(&primary_sql, "SELECT NOT EXISTS (SELECT FROM pg_stat_replication)").await;
    stage.lose().await;
    // It is found before it takes writes.
    match &stage.second {
        Some(second) => {
            second.lead_to(&replica.url);
            second.refuse(false);
        }
        None => stage.proxy.lead_to(&replica.url),
    }
    let primary = std::mem::replace(&mut stage.first, replica);
    primary.kill().await;
    until_true(&sql, "SELECT pg_promote()").await;
    stage.goes_on().await;
}

#[tokio::test]
async fn a_promoted_replica_goes_on_as_the_log_that_it_has() {
    promoted(MANY, false).await;
}

#[tokio::test]
async fn a_promoted_replica_that_lacks_little_goes_on_as_the_log_that_it_has() {
    promoted(FEW, false).await;
}

#[tokio::test]
async fn a_promoted_replica_that_is_another_host_of_the_url_goes_on_as_the_log_that_it_has() {
    promoted(MANY, true).await;
}

/// What is settled last is what the log is recognised by, from then on: a server that lacks it and has passed over its
/// position shows everything that was known before.
#[tokio::test(flavor = "multi_thread")]
async fn a_loss_of_what_was_settled_a_moment_ago_is_noticed() {
    let dir = temporary_dir();
    let server = OwnServer::start(&dir.path().join("data")).await;
    let proxy = FaultProxy::before(&server.url).await;
    let app = TestApp::with(&proxy.url, |_| {}).await;
    write_numbers(&app, "a-1", 0..3).await;
    let mut live = app.follow("/v1/all/events?from=beginning").await;
    assert_eq!(numbers(&mut live, 3, "all").await, [0, 1, 2]);
    live.next("caught-up").await;
    // The reader has seen where the messages of another program are, and does not come to read them.
    proxy.silence_when_sent(Some("headwater.messages_at("));
    let sql = server.sql().await;
    let write = "SELECT message_store.write_message(gen_random_uuid()::varchar, 'b-1', 'Written', '{\"n\": 9}')";
    sql.batch_execute(write).await.unwrap();
    eventually("the reader to read the message", || async {
        proxy.links().iter().any(|link| link.is_silent()).then_some(())
    })
    .await;
    sql.batch_execute("DELETE FROM message_store.messages WHERE stream_name = 'b-1'").await.unwrap();
    drop(sql);
    server.stop().await;
    proxy.silence_when_sent(None);
    let server = OwnServer::start(&dir.path().join("data")).await;
    proxy.lead_to(&server.url);
    let closing = tokio::time::timeout(PATIENCE, live.next("closing")).await.expect("the follower is told");
    assert_eq!(closing.json(), json!({ "reason": "history-changed" }));
    assert_eq!(app.metric("headwater_history_changes_total").await, 1.0);
    app.stop().await;
}
