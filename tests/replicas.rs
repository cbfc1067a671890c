//! History is read from replicas as far as each has replayed it, and from nowhere else what it must not show.

mod conflicts;

use std::path::Path;

use serde_json::{Value, json};

use crate::support::app::{PATIENCE, TestApp};
use crate::support::database::temporary_dir;
use crate::support::own_server::OwnServer;
use crate::support::waiting::{eventually, until_true};

const FIRST: i64 = 300;
const SECOND: i64 = 120;

/// A primary, two replicas, and a service that knows all of them.
struct Stage {
    app: TestApp,
    primary: OwnServer,
    replicas: Vec<OwnServer>,
}

impl Stage {
    async fn begin(dir: &Path) -> Self {
        let primary = OwnServer::start(&dir.join("primary")).await;
        let mut replicas = Vec::new();
        for name in ["one", "two"] {
            let copy = dir.join(name);
            primary.copy(&copy, &["--write-recovery-conf"]).await;
            replicas.push(OwnServer::start(&copy).await);
        }
        let hosts = replicas.iter().map(host).collect::<Vec<_>>().join(",");
        let url = primary.url.replace(&host(&primary), &hosts);
        let app = TestApp::with(&primary.url, |settings| settings.replica_url = Some(url)).await;
        Self { app, primary, replicas }
    }

    /// Messages of two streams of a category, in turns.
    async fn write(&self, numbers: std::ops::Range<i64>) {
        for n in numbers {
            self.app.write(&format!("a-{}", n % 2), "Noted", json!({ "n": n })).await;
        }
    }

    async fn metric(&self, name: &str, replica: usize, more: &str) -> f64 {
        let replica = host(&self.replicas[replica]).replace("%2F", "/");
        let name = format!("{name}{{replica=\"{replica}\"{more}}}");
        let text = self.app.get("/metrics").await.text;
        let line = text.lines().find(|line| line.starts_with(&name));
        line.map_or(-1.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    async fn until_readable(&self, replica: usize, position: i64) {
        eventually("a replica that may be read", || async {
            (self.metric("headwater_replica_position", replica, "").await >= position as f64).then_some(())
        })
        .await;
    }

    /// Pages that a replica gave.
    async fn reads(&self, replica: usize) -> f64 {
        self.metric("headwater_replica_reads_total", replica, ",from=\"replica\"").await.max(0.0)
    }

    /// Everything that followers of the log, the category and both streams get from the beginning.
    async fn everywhere(&self, numbers: &[i64]) {
        for path in ["/v1/all/events", "/v1/categories/a/events", "/v1/events?category=a&stream_name=b-1"] {
            let separator = if path.contains('?') { '&' } else { '?' };
            let mut events = self.app.follow(&format!("{path}{separator}from=beginning")).await;
            let followed = tokio::time::timeout(PATIENCE, events.messages(numbers.len())).await;
            let followed = followed.unwrap_or_else(|_| panic!("{path}: not all in time"));
            assert_eq!(followed.iter().map(number).collect::<Vec<_>>(), numbers, "{path}");
            events.next("caught-up").await;
        }
        for stream in 0..2 {
            let expected: Vec<i64> = numbers.iter().copied().filter(|n| n % 2 == stream).collect();
            let mut events = self.app.follow(&format!("/v1/streams/a-{stream}/events?from=beginning")).await;
            let followed = tokio::time::timeout(PATIENCE, events.messages(expected.len())).await.expect("all in time");
            assert_eq!(followed.iter().map(number).collect::<Vec<_>>(), expected, "a-{stream}");
            events.next("caught-up").await;
        }
        let mut paged = Vec::new();
        let mut from = 1;
        loop {
            let page = self.app.get(&format!("/v1/all/messages?from={from}&limit=50")).await.json();
            paged.extend(page["messages"].as_array().unwrap().iter().map(number));
            if page["at_end"] == true {
                break;
            }
            from = page["next"].as_i64().unwrap_or_else(|| panic!("{page}"));
        }
        assert_eq!(paged, numbers, "pages of all");
    }
}

fn host(server: &OwnServer) -> String {
    server.url.split_once('@').unwrap().1.split(['/', '?']).next().unwrap().to_owned()
}

fn number(message: &Value) -> i64 {
    message["data"]["n"].as_i64().unwrap_or(-1)
}

fn numbers(count: i64) -> Vec<i64> {
    (0..count).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_replica_has_not_replayed_comes_from_the_primary() {
    let dir = temporary_dir();
    let stage = Stage::begin(dir.path()).await;
    stage.write(0..FIRST).await;
    for replica in 0..2 {
        stage.until_readable(replica, FIRST).await;
    }
    stage.everywhere(&numbers(FIRST)).await;
    assert!(stage.reads(0).await > 0.0 && stage.reads(1).await > 0.0, "both are read");

    // One stands still, and later the other one as well, further on.
    let (one, two) = (stage.replicas[0].sql().await, stage.replicas[1].sql().await);
    one.batch_execute("SELECT pg_wal_replay_pause()").await.unwrap();
    until_true(&one, "SELECT pg_get_wal_replay_pause_state() = 'paused'").await;
    stage.write(FIRST..FIRST + SECOND).await;
    stage.until_readable(1, FIRST + SECOND).await;
    two.batch_execute("SELECT pg_wal_replay_pause()").await.unwrap();
    until_true(&two, "SELECT pg_get_wal_replay_pause_state() = 'paused'").await;
    stage.write(FIRST + SECOND..FIRST + 2 * SECOND).await;
    let before = (stage.reads(0).await, stage.reads(1).await);
    for _ in 0..3 {
        stage.everywhere(&numbers(FIRST + 2 * SECOND)).await;
    }
    assert!(stage.reads(0).await > before.0 && stage.reads(1).await > before.1, "both are read as far as they go");
    assert!(stage.metric("headwater_replica_position", 0, "").await < (FIRST + SECOND) as f64);
    // What is written is there when it is answered, whatever replicas have.
    stage.write(FIRST + 2 * SECOND..FIRST + 2 * SECOND + 1).await;
    for path in
        ["/v1/streams/a-0/messages?direction=backward&limit=1", "/v1/categories/a/messages?direction=backward&limit=1"]
    {
        let page = stage.app.get(path).await.json();
        assert_eq!(number(&page["messages"][0]), FIRST + 2 * SECOND, "{path}: {page}");
    }

    // Neither has replayed that something was erased or trimmed.
    let page = stage.app.get("/v1/all/messages?from=7&limit=1").await.json();
    let (id, erased) = (page["messages"][0]["id"].as_str().unwrap(), number(&page["messages"][0]));
    assert_eq!(stage.app.delete(&format!("/v1/messages/{id}")).await.status, 200);
    let expected = |number: i64| if number == erased { -1 } else { number };
    for path in ["/v1/all/events?from=beginning", "/v1/categories/a/events?from=beginning"] {
        let mut events = stage.app.follow(path).await;
        let followed: Vec<i64> = events.messages(FIRST as usize).await.iter().map(number).collect();
        assert_eq!(followed, (0..FIRST).map(expected).collect::<Vec<_>>(), "{path}");
    }
    let page = stage.app.get("/v1/all/messages?from=1&limit=50").await.json();
    assert!(page["messages"].as_array().unwrap().iter().all(|message| number(message) != erased), "{page}");
    let trimmed = stage.app.post("/v1/streams/a-1/trim", &json!({ "before_position": 20 })).await;
    assert_eq!(trimmed.status, 200, "{}", trimmed.text);
    for path in ["/v1/all/events?from=beginning", "/v1/streams/a-1/events?from=beginning"] {
        let mut events = stage.app.follow(path).await;
        let followed: Vec<i64> = events.messages(60).await.iter().map(number).collect();
        assert!(
            followed.iter().all(|number| *number == -1 || number % 2 == 0 || *number >= 40),
            "{path}: {followed:?}"
        );
    }

    // They go on, and are read again up to the end.
    for (replica, sql) in [&one, &two].into_iter().enumerate() {
        sql.batch_execute("SELECT pg_wal_replay_resume()").await.unwrap();
        stage.until_readable(replica, FIRST + 2 * SECOND + 1).await;
    }
    let before = stage.reads(0).await + stage.reads(1).await;
    let mut events = stage.app.follow("/v1/streams/a-0/events?from=beginning").await;
    let followed: Vec<i64> = events.messages(100).await.iter().map(number).collect();
    assert_eq!(followed, (0..200).step_by(2).map(expected).collect::<Vec<_>>());
    assert!(stage.reads(0).await + stage.reads(1).await > before);
    stage.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_replica_and_a_promoted_one_are_left_out() {
    let dir = temporary_dir();
    let mut stage = Stage::begin(dir.path()).await;
    stage.write(0..FIRST).await;
    for replica in 0..2 {
        stage.until_readable(replica, FIRST).await;
    }
    let sql = stage.replicas[1].sql().await;
    until_true(&sql, "SELECT pg_promote()").await;
    // What it takes by itself is not in the log.
    let write = "SELECT message_store.write_message(gen_random_uuid()::text, 'a-0', 'Noted', '{\"n\": 77777}')";
    sql.batch_execute(write).await.unwrap();
    eventually("a promoted replica to be left out", || async {
        (stage.metric("headwater_replica_used", 1, "").await == 0.0).then_some(())
    })
    .await;
    stage.write(FIRST..FIRST + SECOND).await;
    stage.everywhere(&numbers(FIRST + SECOND)).await;

    let dead = stage.replicas.remove(0);
    let name = host(&dead).replace("%2F", "/");
    dead.kill().await;
    stage.everywhere(&numbers(FIRST + SECOND)).await;
    eventually("a dead replica to be left out", || async {
        let text = stage.app.get("/metrics").await.text;
        text.contains(&format!("headwater_replica_used{{replica=\"{name}\"}} 0\n")).then_some(())
    })
    .await;
    stage.write(FIRST + SECOND..FIRST + 2 * SECOND).await;
    stage.everywhere(&numbers(FIRST + 2 * SECOND)).await;
    assert_eq!(stage.app.get("/readyz").await.status, 200);
    drop(stage.primary.sql().await);
    stage.app.stop().await;
}
