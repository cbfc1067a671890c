//! kill -9 under load: followers resume by their last id, without gap or repeat.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::database::{TestDatabase, connect, temporary_dir};
use crate::support::events::{Events, position_of};
use crate::support::http_client;
use crate::support::service_process::ServiceProcess;
use crate::support::sql_writer;
use crate::support::waiting::until_some;

const PATHS: [(&str, &str); 4] = [
    ("/v1/all/events", "true"),
    ("/v1/categories/a/events", "message_store.category(stream_name) = 'a'"),
    ("/v1/streams/a-1/events", "stream_name = 'a-1'"),
    ("/v1/events?category=b&stream_name=a-2", "message_store.category(stream_name) = 'b' OR stream_name = 'a-2'"),
];
/// `a-1` and `a-2`, `b-1` and `b-2`: what the writers write to.
const WRITERS: usize = 4;
const BEFORE_THE_KILL: usize = 150;

/// Writers who go on until they are told to end, whatever the service answers, and what was acknowledged to them.
struct Load {
    ends: Arc<AtomicBool>,
    writers: Vec<tokio::task::JoinHandle<Vec<i64>>>,
}

impl Load {
    fn on(url: &str) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let writers = (0..WRITERS).map(|number| tokio::spawn(write(url.to_owned(), number, ends.clone()))).collect();
        Self { ends, writers }
    }

    /// The global positions that were acknowledged.
    async fn end(self) -> Vec<i64> {
        self.ends.store(true, Ordering::SeqCst);
        let mut acknowledged = Vec::new();
        for writer in self.writers {
            acknowledged.extend(writer.await.unwrap());
        }
        acknowledged.sort_unstable();
        acknowledged
    }
}

async fn write(url: String, number: usize, ends: Arc<AtomicBool>) -> Vec<i64> {
    let http = http_client();
    let stream = format!("{}-{}", ["a", "b"][number % 2], 1 + number / 2);
    let mut acknowledged = Vec::new();
    while !ends.load(Ordering::SeqCst) {
        let body = json!({ "messages": [{ "type": "Written", "data": {} }, { "type": "Written", "data": {} }] });
        let request = http.post(format!("{url}/v1/streams/{stream}/messages")).json(&body);
        let answer = match request.send().await {
            Ok(answer) if answer.status() == 201 => answer.json::<serde_json::Value>().await.ok(),
            _ => None,
        };
        match answer {
            Some(answer) => {
                let messages = answer["messages"].as_array().unwrap();
                acknowledged.extend(messages.iter().map(|message| message["global_position"].as_i64().unwrap()));
            }
            // Nobody is there for a moment: no need to ask as quickly as possible.
            None => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    acknowledged
}

/// A client that reads until it is cut, and what it has seen.
struct Reader {
    path: &'static str,
    condition: &'static str,
    events: Events,
    seen: Vec<i64>,
}

impl Reader {
    async fn begin(url: &str) -> Vec<Self> {
        let mut readers = Vec::new();
        for (path, condition) in PATHS {
            let separator = if path.contains('?') { '&' } else { '?' };
            let events = Events::open(&format!("{url}{path}{separator}from=beginning"), &[]).await;
            readers.push(Self { path, condition, events, seen: Vec::new() });
        }
        readers
    }

    async fn read(&mut self, count: usize) {
        while self.seen.len() < count {
            let event = self.events.next("message").await;
            self.seen.push(position_of(&event));
        }
    }

    async fn read_until_cut(&mut self) {
        while let Some(event) = self.events.next_block(Duration::from_secs(20)).await {
            if event.is("message") {
                self.seen.push(position_of(&event));
            }
        }
    }

    async fn resume(&mut self, url: &str) {
        let last_id = self.events.last_id.clone().expect("it has seen an id");
        self.events = Events::resume(&format!("{url}{}", self.path), &last_id).await;
    }

    async fn read_the_rest(&mut self, standing: &[i64]) {
        let rest = standing.len().saturating_sub(self.seen.len());
        for _ in 0..rest {
            self.seen.push(position_of(&self.events.next("message").await));
        }
        assert_eq!(self.seen, standing, "{}", self.path);
    }
}

fn is_all_there(acknowledged: &[i64], standing: &[i64]) {
    let lost: Vec<_> = acknowledged.iter().filter(|at| standing.binary_search(at).is_err()).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
}

#[tokio::test]
async fn followers_of_a_killed_service_resume_on_the_next_one() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let arguments = ["--database-url", &database.url, "--listen", "127.0.0.1:0"];
    let mut service = ServiceProcess::start(&arguments);
    let mut readers = Reader::begin(&service.url).await;
    let mut acknowledged = Vec::new();
    for round in 1..=2 {
        let load = Load::on(&service.url);
        for reader in &mut readers {
            reader.read(round * BEFORE_THE_KILL).await;
        }
        service.kill();
        for reader in &mut readers {
            reader.read_until_cut().await;
        }
        acknowledged.extend(load.end().await);
        service = ServiceProcess::start(&arguments);
        for reader in &mut readers {
            reader.resume(&service.url).await;
        }
    }
    let standing = sql_writer::standing(&sql, "true").await;
    is_all_there(&acknowledged, &standing);
    for mut reader in readers {
        reader.read_the_rest(&sql_writer::standing(&sql, reader.condition).await).await;
    }
    assert!(service.stop().success());
}

fn postmaster(data_dir: &Path) -> Option<i32> {
    let text = std::fs::read_to_string(data_dir.join("pgdata/postmaster.pid")).ok()?;
    text.lines().next()?.parse().ok()
}

/// The embedded server's URL for a client beside the service: the lines of `postmaster.pid` say where it listens.
fn embedded_url(data_dir: &Path) -> Option<String> {
    let text = std::fs::read_to_string(data_dir.join("pgdata/postmaster.pid")).ok()?;
    let lines: Vec<&str> = text.lines().collect();
    Some(format!("postgresql://headwater@/headwater?host={}&port={}", lines.get(4)?, lines.get(3)?))
}

#[tokio::test]
async fn a_killed_embedded_postgresql_comes_back_and_followers_stay() {
    let directory = temporary_dir();
    let data_dir = directory.path().join("data");
    let service = ServiceProcess::start(&["--data-dir", data_dir.to_str().unwrap(), "--listen", "127.0.0.1:0"]);
    let mut readers = Reader::begin(&service.url).await;
    let load = Load::on(&service.url);
    for reader in &mut readers {
        reader.read(BEFORE_THE_KILL).await;
    }
    let killed = postmaster(&data_dir).expect("it runs");
    // SAFETY: the server is this test's own.
    assert_eq!(unsafe { libc::kill(killed, libc::SIGKILL) }, 0);
    let since = Instant::now();
    until_some("another server runs", Duration::from_secs(20), || postmaster(&data_dir).filter(|pid| *pid != killed))
        .await;
    // The same connections go on, past everything that was there before.
    let mut goal = 0;
    for reader in &readers {
        goal = goal.max(reader.seen.len());
    }
    for reader in &mut readers {
        reader.read(goal + 2 * BEFORE_THE_KILL).await;
    }
    // Requests that come all the time while it is away must not keep the service from coming back to it.
    assert!(since.elapsed() < Duration::from_secs(60), "{:?}", since.elapsed());
    let acknowledged = load.end().await;
    let sql = connect(&embedded_url(&data_dir).unwrap()).await;
    let standing = sql_writer::standing(&sql, "true").await;
    is_all_there(&acknowledged, &standing);
    for mut reader in readers {
        reader.read_the_rest(&sql_writer::standing(&sql, reader.condition).await).await;
    }
    drop(sql);
    assert!(service.stop().success());
}

/// A commit that waits for no disk is visible before it is there, and its positions are given again after a crash.
#[tokio::test]
async fn what_a_follower_has_seen_survives_a_crash_whoever_wrote_it() {
    let directory = temporary_dir();
    let data_dir = directory.path().join("data");
    let service = ServiceProcess::start(&["--data-dir", data_dir.to_str().unwrap(), "--listen", "127.0.0.1:0"]);
    let mut events = Events::open(&format!("{}/v1/all/events?from=beginning", service.url), &[]).await;
    let mut seen = Vec::new();
    for round in 0..3 {
        let sql = connect(&embedded_url(&data_dir).unwrap()).await;
        // Otherwise the server itself brings it to disk a moment later.
        sql.batch_execute("ALTER SYSTEM SET wal_writer_delay = '10s'").await.unwrap();
        sql.batch_execute("SELECT pg_reload_conf(); SET synchronous_commit = off").await.unwrap();
        for stream in ["a-1", "a-2"] {
            let position = sql_writer::write(&sql, stream, "{}").await;
            assert_eq!(position_of(&events.next("message").await), position, "round {round}");
            seen.push(position);
        }
        let killed = postmaster(&data_dir).expect("it runs");
        // SAFETY: the server and its processes, a group of their own, are this test's.
        assert_eq!(unsafe { libc::kill(-killed, libc::SIGKILL) }, 0);
        until_some("another server runs", Duration::from_secs(20), || {
            postmaster(&data_dir).filter(|pid| *pid != killed)
        })
        .await;
        let sql = until_connected(&data_dir).await;
        assert_eq!(sql_writer::standing(&sql, "true").await, seen, "what was seen, and no more, after round {round}");
    }
    assert!(service.stop().success());
}

/// A server that was killed takes connections once it has recovered.
async fn until_connected(data_dir: &Path) -> tokio_postgres::Client {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        assert!(Instant::now() < deadline, "the server takes no connection");
        if let Some(url) = embedded_url(data_dir)
            && let Ok((client, connection)) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await
        {
            tokio::spawn(connection);
            return client;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
