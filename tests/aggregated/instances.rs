//! Several instances on one database: the one that projects is killed, cut off, or stopped, and nothing is lost or twice.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fastrand::Rng;
use serde_json::json;

use super::*;
use crate::support::database::{TestDatabase, connect, temporary_dir};
use crate::support::events::Events;
use crate::support::http_client;
use crate::support::proxy::FaultProxy;
use crate::support::service_process::ServiceProcess;
use crate::support::sql_writer;

const KILLS: usize = 20;
const BETWEEN_KILLS: Duration = Duration::from_secs(1);

fn by_number() -> Value {
    json!({
        "categories": ["n"], "partitioner": { "kind": "cel", "expression": "data.num % 3" }, "max_partition": 2,
        "on_error": "skip"
    })
}

const IN_N: &str = "message_store.category(stream_name) = 'n'";
const PARTITION: &str = "CASE WHEN (data ->> 'num')::int >= 0 THEN (data ->> 'num')::int % 3 END";

fn start(database: &TestDatabase) -> ServiceProcess {
    let arguments = ["--database-url", &database.url, "--listen", "127.0.0.1:0", "--projector-lease", "1s"];
    ServiceProcess::start(&arguments)
}

async fn metric(url: &str, name: &str) -> f64 {
    let text = http_client().get(format!("{url}/metrics")).send().await.unwrap().text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name).filter(|rest| rest.starts_with(' ')));
    line.map_or(0.0, |value| value.trim().parse().unwrap())
}

/// Which of these projects.
async fn leader(urls: &[&str]) -> usize {
    let deadline = Instant::now() + PATIENCE;
    loop {
        for (number, url) in urls.iter().enumerate() {
            if metric(url, "headwater_projector_leads").await > 0.0 {
                return number;
            }
        }
        assert!(Instant::now() < deadline, "nobody projects");
        tokio::time::sleep(POLL).await;
    }
}

/// Writers in SQL, who also roll back and commit out of order, until they are told to end.
struct Load {
    ends: Arc<AtomicBool>,
    writers: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn on(url: &str, count: u64) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let writers = (0..count).map(|number| tokio::spawn(write(url.to_owned(), number, ends.clone()))).collect();
        Self { ends, writers }
    }

    async fn end(self) {
        self.ends.store(true, Ordering::SeqCst);
        for writer in self.writers {
            writer.await.unwrap();
        }
    }
}

async fn write(url: String, number: u64, ends: Arc<AtomicBool>) {
    let client = connect(&url).await;
    let mut rng = Rng::with_seed(number);
    while !ends.load(Ordering::SeqCst) {
        client.batch_execute("BEGIN").await.unwrap();
        for _ in 0..rng.u8(1..5) {
            let data = json!({ "num": rng.i32(-1..30) }).to_string();
            sql_writer::insert(&client, &format!("n-{number}"), "Written", &data).await;
        }
        // The pace of the load, and transactions that last.
        tokio::time::sleep(Duration::from_millis(rng.u64(1..12))).await;
        client.batch_execute(if rng.u8(..6) == 0 { "ROLLBACK" } else { "COMMIT" }).await.unwrap();
    }
}

/// A client that reads until it is cut, and what it has seen.
struct Reader {
    events: Events,
    seen: Vec<Link>,
    path: String,
    /// Whom it reads from.
    url: String,
}

impl Reader {
    async fn begin(url: &str, parameters: &str) -> Self {
        let path = format!("{}/events?heartbeat=5s{parameters}", path_of("numbers"));
        let events = Events::open(&format!("{url}{path}&from=beginning"), &[]).await;
        Self { events, seen: Vec::new(), path, url: url.to_owned() }
    }

    /// Reads until its service is gone, then goes on at another.
    async fn move_to(&mut self, url: &str) {
        while let Some(event) = self.events.next_block(PATIENCE).await {
            if event.is("message") {
                self.seen.push(link_of(&event.json()));
            }
        }
        url.clone_into(&mut self.url);
        let from = self.events.last_id.clone();
        self.events = match from {
            Some(id) => Events::resume(&format!("{url}{}", self.path), &id).await,
            None => Events::open(&format!("{url}{}&from=beginning", self.path), &[]).await,
        };
    }

    async fn read_to(&mut self, last: i64) {
        while self.seen.last().is_none_or(|link| link.2 < last) {
            let event = self.events.next("message").await;
            self.seen.push(link_of(&event.json()));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_projector_is_killed_every_second_under_load() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let mut services = vec![start(&database), start(&database), start(&database)];
    let answer = http_client()
        .put(format!("{}{}", services[0].url, path_of("numbers")))
        .json(&by_number())
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 201);
    // Who stays to the end sees all of it, wherever it is projected.
    let staying = TestApp::with(&database.url, |settings| settings.projector_lease = Duration::from_secs(1)).await;
    let mut stayer = Reader::begin(&staying.url, "").await;
    let mut readers = Vec::new();
    for service in &services {
        readers.push(Reader::begin(&service.url, "").await);
        readers.push(Reader::begin(&service.url, "&partition=1").await);
    }
    let load = Load::on(&database.url, 4);
    let mut kills = tokio::time::interval(BETWEEN_KILLS);
    kills.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    kills.tick().await;
    let (mut killed, mut round) = (0, 0);
    let mut epochs = Vec::new();
    // Who takes over is chance: it goes on until enough of those that can be killed have led.
    while round < KILLS || killed < KILLS / 3 {
        assert!(round < 5 * KILLS, "{killed} killed in {round} rounds");
        round += 1;
        kills.tick().await;
        let urls: Vec<&str> =
            services.iter().map(|service| service.url.as_str()).chain([staying.url.as_str()]).collect();
        let leads = leader(&urls).await;
        let epoch =
            || async { sql.query_one("SELECT epoch FROM headwater.projector", &[]).await.unwrap().get::<_, i64>(0) };
        let held = epoch().await;
        epochs.push(held);
        if leads == services.len() {
            // The one that stays cannot be killed: its session is, which is as good for all others.
            let end = "SELECT pg_terminate_backend(session_pid) FROM headwater.projector";
            sql.execute(end, &[]).await.unwrap();
            // Its metric says for a moment longer that it leads.
            let deadline = Instant::now() + PATIENCE;
            while epoch().await == held {
                assert!(Instant::now() < deadline, "nobody takes over");
                tokio::time::sleep(POLL).await;
            }
            continue;
        }
        let gone = services.remove(leads);
        let its_url = gone.url.clone();
        gone.kill();
        killed += 1;
        services.push(start(&database));
        for (number, reader) in readers.iter_mut().enumerate().filter(|(_, reader)| reader.url == its_url) {
            // To the one that is new, and to those that were there.
            reader.move_to(&services[number % services.len()].url).await;
        }
        if round % 4 == 0 {
            let answer =
                http_client().post(format!("{}{}/rebuild", services[0].url, path_of("numbers"))).send().await.unwrap();
            assert_eq!(answer.status(), 200);
        }
    }
    epochs.dedup();
    assert!(epochs.len() > KILLS / 2, "the right to project goes from one to the other: {epochs:?}");
    load.end().await;
    let last = sql_writer::insert(&sql, "n-end", "End", r#"{"num": 1}"#).await;
    projected(&staying, "numbers", last).await;
    until(&staying, "numbers", "is not being rebuilt", |status| status["rebuild"].is_null()).await;
    holds(&staying, &sql, "numbers", IN_N, PARTITION).await;
    let all = in_global_order(links(&sql, "numbers").await);
    stayer.read_to(last).await;
    assert!(stayer.seen == all, "{}", difference(&stayer.seen, &all));
    drop(stayer);
    // What the others were told of is the same, as far as they have come.
    for service in services {
        service.kill();
    }
    for mut reader in readers {
        reader.move_to(&staying.url).await;
        reader.read_to(last).await;
        let is_of_one = reader.path.contains("partition=1");
        let expected: Vec<Link> = all.iter().filter(|link| !is_of_one || link.0 == 1).copied().collect();
        assert!(reader.seen == expected, "{}", difference(&reader.seen, &expected));
    }
    staying.stop().await;
}

#[tokio::test]
async fn a_projector_whose_connection_is_cut_or_falls_silent_loses_nothing() {
    let database = TestDatabase::migrated().await;
    let proxy = FaultProxy::before(&database.url).await;
    let short = |settings: &mut headwater::config::Settings| settings.projector_lease = Duration::from_secs(1);
    let cut = TestApp::with(&proxy.url, short).await;
    let sql = database.connect().await;
    define(&cut, "numbers", &by_number()).await;
    until_state(&cut, "numbers", "live").await;
    let mut events = Events::open(&format!("{}{}/events?from=beginning", cut.url, path_of("numbers")), &[]).await;
    let load = Load::on(&database.url, 2);
    let epoch =
        || async { sql.query_one("SELECT epoch FROM headwater.projector", &[]).await.unwrap().get::<_, i64>(0) };
    let until_taken_after = |before: i64| async move {
        let deadline = Instant::now() + PATIENCE;
        while epoch().await == before {
            assert!(Instant::now() < deadline, "nobody takes over");
            tokio::time::sleep(POLL).await;
        }
    };
    // Alone, it takes over from itself.
    for _ in 0..5 {
        let before = epoch().await;
        for link in proxy.links_that_sent("headwater.projector_take") {
            link.cut();
        }
        until_taken_after(before).await;
    }
    // Everything is cut, also the pages of who catches up.
    order(&cut, "numbers", "rebuild").await;
    let before = epoch().await;
    proxy.cut_all();
    until_taken_after(before).await;
    // Silent, it keeps its session: another one takes over when the lease is over.
    let before = epoch().await;
    let other = TestApp::with(&database.url, short).await;
    for link in proxy.links_that_sent("headwater.projector_take") {
        link.silence();
    }
    until_taken_after(before).await;
    leader(&[&other.url]).await;
    load.end().await;
    let last = sql_writer::insert(&sql, "n-end", "End", r#"{"num": 1}"#).await;
    projected(&other, "numbers", last).await;
    until(&other, "numbers", "is not being rebuilt", |status| status["rebuild"].is_null()).await;
    holds(&other, &sql, "numbers", IN_N, PARTITION).await;
    let all = in_global_order(links(&sql, "numbers").await);
    let found: Vec<Link> = events.messages(all.len()).await.iter().map(link_of).collect();
    assert!(found == all, "{}", difference(&found, &all));
    drop(events);
    cut.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn one_that_was_stopped_for_longer_than_its_lease_writes_nothing_when_it_goes_on() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let stopped = start(&database);
    let load = Load::on(&database.url, 2);
    for round in 0..2 {
        leader(&[&stopped.url]).await;
        let other = TestApp::with(&database.url, |settings| settings.projector_lease = Duration::from_secs(1)).await;
        assert_eq!(put(&other, "numbers", &by_number()).await.status, if round == 0 { 201 } else { 200 });
        until_state(&other, "numbers", "live").await;
        stopped.signal(libc::SIGSTOP);
        leader(&[&other.url]).await;
        // Changes that the stopped one has not heard of, and another projection.
        order(&other, "numbers", "pause").await;
        order(&other, "numbers", "rebuild").await;
        order(&other, "numbers", "resume").await;
        let last = sql_writer::insert(&sql, "n-end", "End", r#"{"num": 1}"#).await;
        projected(&other, "numbers", last).await;
        let holder = || async {
            let row = sql.query_one("SELECT epoch, session_pid FROM headwater.projector", &[]).await.unwrap();
            (row.get::<_, i64>(0), row.get::<_, i32>(1))
        };
        let held = holder().await;
        stopped.signal(libc::SIGCONT);
        // It finds out by itself.
        let deadline = Instant::now() + PATIENCE;
        while metric(&stopped.url, "headwater_projector_leads").await > 0.0 {
            assert!(Instant::now() < deadline, "it still thinks that it projects");
            tokio::time::sleep(POLL).await;
        }
        assert_eq!(holder().await, held, "it has not taken anything back");
        let last = sql_writer::insert(&sql, "n-end", "End", r#"{"num": 1}"#).await;
        projected(&other, "numbers", last).await;
        until(&other, "numbers", "is not being rebuilt", |status| status["rebuild"].is_null()).await;
        // The other one gives it back.
        other.stop().await;
    }
    load.end().await;
    let last = sql_writer::insert(&sql, "n-end", "End", r#"{"num": 1}"#).await;
    let app = TestApp::on(&database).await;
    projected(&app, "numbers", last).await;
    holds(&app, &sql, "numbers", IN_N, PARTITION).await;
    assert!(stopped.stop().success());
    app.stop().await;
}

fn postmaster_file(data_dir: &Path) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(data_dir.join("pgdata/postmaster.pid")).ok()?;
    Some(text.lines().map(str::to_owned).collect())
}

#[tokio::test]
async fn after_postgresql_is_killed_what_followers_were_told_is_still_so() {
    let directory = temporary_dir();
    let data_dir = directory.path().join("data");
    let service = ServiceProcess::start(&["--data-dir", data_dir.to_str().unwrap(), "--listen", "127.0.0.1:0"]);
    let http = http_client();
    let answer = http.put(format!("{}{}", service.url, path_of("numbers"))).json(&by_number()).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    let mut reader = Reader::begin(&service.url, "").await;
    let send = |number: i64| {
        let url = format!("{}/v1/streams/n-1/messages", service.url);
        let body = json!({ "messages": [{ "type": "T", "data": { "num": number } }] });
        let http = http.clone();
        async move {
            let deadline = Instant::now() + PATIENCE;
            loop {
                let answer = http.post(&url).json(&body).send().await.unwrap();
                if answer.status() == 201 {
                    let answer: Value = answer.json().await.unwrap();
                    return answer["messages"][0]["global_position"].as_i64().unwrap();
                }
                assert!(Instant::now() < deadline, "nothing is written");
                tokio::time::sleep(POLL).await;
            }
        }
    };
    for round in 0..2 {
        let mut last = 0;
        for number in 0..40 {
            last = send(number).await;
        }
        // Its rounds do not wait for the disk: what was told a moment ago is made again, the same.
        reader.read_to(last).await;
        let pid: i32 = postmaster_file(&data_dir).unwrap()[0].parse().unwrap();
        // SAFETY: the server is this test's own.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0, "round {round}");
    }
    let last = send(1).await;
    reader.read_to(last).await;
    // The last append may have gone through a session that outlived the killed server: the new one may not be up yet.
    let deadline = Instant::now() + PATIENCE;
    let url = loop {
        let lines = postmaster_file(&data_dir).filter(|lines| lines.len() > 4 && !lines[4].is_empty());
        if let Some(lines) = lines {
            let url = format!("postgresql://headwater@/headwater?host={}&port={}", lines[4], lines[3]);
            if tokio_postgres::connect(&url, tokio_postgres::NoTls).await.is_ok() {
                break url;
            }
        }
        assert!(Instant::now() < deadline, "PostgreSQL is not back");
        tokio::time::sleep(POLL).await;
    };
    let sql = connect(&url).await;
    // What a session that outlived the killed server has projected may be lost with it: then it is projected again.
    let expected = expected(&sql, IN_N, PARTITION).await;
    let mut found = links(&sql, "numbers").await;
    while found.len() < expected.len() && Instant::now() < deadline {
        tokio::time::sleep(POLL).await;
        found = links(&sql, "numbers").await;
    }
    assert!(found == expected, "{}", difference(&found, &expected));
    let all = in_global_order(found);
    assert!(reader.seen == all, "{}", difference(&reader.seen, &all));
    drop((sql, reader));
    assert!(service.stop().success());
}
