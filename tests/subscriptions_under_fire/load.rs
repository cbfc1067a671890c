//! Half a minute of bad luck: three instances, six consumers, both modes; instances and consumers are killed, paused
//! for longer than their leases, and come back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::json;

use super::judge::{Judge, Seen};
use super::*;
use crate::support::database::TestDatabase;
use crate::support::service_process::ServiceProcess;

const FOR: Duration = Duration::from_secs(30);
const INSTANCES: usize = 3;
const STREAMS: i64 = 12;
const ACK_TIMEOUT: Duration = Duration::from_millis(1_500);
const CONSUMER_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Longer than any lease.
const PAUSE: Duration = Duration::from_millis(2_400);

/// What all have in common.
struct Fire {
    urls: Mutex<Vec<String>>,
    ends: AtomicBool,
    written: AtomicUsize,
}

impl Fire {
    fn some_url(&self) -> String {
        let urls = self.urls.lock();
        urls[fastrand::usize(..urls.len())].clone()
    }

    fn has_ended(&self) -> bool {
        self.ends.load(Ordering::SeqCst)
    }
}

/// One of the consumers of a subscription.
struct Worker {
    fire: Arc<Fire>,
    group: Group,
    judge: Arc<Mutex<Judge>>,
    name: String,
}

impl Worker {
    fn at(&self) -> Group {
        self.group.on(&self.fire.some_url())
    }

    /// Works on what came: acks most of it at once, some of it too late, refuses some, or is killed first.
    /// Answers whether it lives.
    async fn work(&self, messages: &[Value]) -> bool {
        for some in messages.chunks(1 + fastrand::usize(..8)) {
            match fastrand::u16(..1000) {
                0..3 => return false,
                3..7 => {
                    let mut nack = place(&some[0]);
                    nack["delay"] = json!("0s");
                    let key = key(&some[0]);
                    self.judge.lock().nacked.insert(key);
                    self.at().try_post("/nacks", &json!({ "consumer": self.name, "nacks": [nack] })).await;
                    continue;
                }
                7..9 => tokio::time::sleep(PAUSE).await,
                _ => {}
            }
            // Acks go to any instance.
            let body = json!({ "consumer": self.name, "acks": some.iter().map(place).collect::<Vec<_>>() });
            let answer = self.at().try_post("/acks", &body).await;
            let mut judge = self.judge.lock();
            match answer {
                Some((200, answer)) => {
                    let is_sure = answer["acked"] == some.len();
                    let to = if is_sure { &mut judge.acked } else { &mut judge.unknown };
                    to.extend(some.iter().map(key));
                    judge.fenced += answer["fenced"].as_u64().unwrap() as usize;
                    judge.missing += answer["missing"].as_u64().unwrap() as usize;
                }
                Some((409, _)) => judge.fenced += some.len(),
                _ => judge.unknown.extend(some.iter().map(key)),
            }
        }
        true
    }

    fn saw(&self, message: &Value, not_before: Instant, is_fetched: bool) {
        self.judge.lock().seen.push(Seen::of(message, &self.name, not_before, is_fetched));
    }

    /// New messages only. Whoever gets no answer does not know what it was given, and comes again under another name: what
    /// it has in flight is not its own any more.
    async fn fetch(mut self) {
        let mut lives = 0;
        while !self.fire.has_ended() {
            let body = json!({ "consumer": self.name, "limit": 20, "wait": "200ms", "backlog": false });
            let asked_at = Instant::now();
            let is_alive = match self.at().try_post("/fetch", &body).await {
                Some((200, answer)) => {
                    let messages = answer["messages"].as_array().unwrap();
                    messages.iter().for_each(|message| self.saw(message, asked_at, true));
                    self.work(messages).await
                }
                _ => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    false
                }
            };
            if !is_alive {
                lives += 1;
                let base = self.name.split('.').next().unwrap().to_owned();
                self.name = format!("{base}.{lives}");
            }
        }
    }

    /// A connection that is opened again wherever there is an instance.
    async fn follow(self) {
        while !self.fire.has_ended() {
            let at = self.at();
            let opening = at.http.get(at.path(&format!("/events?consumer={}&max_in_flight=30", self.name))).send();
            let Ok(Ok(answer)) = tokio::time::timeout(ANSWER_WAIT, opening).await else { continue };
            if answer.status() != 200 {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            let opened_at = Instant::now();
            let mut events = Events::of(answer).await;
            let mut quiet = Instant::now();
            while !self.fire.has_ended() && quiet.elapsed() < ANSWER_WAIT {
                let next = tokio::time::timeout(Duration::from_millis(300), events.next_block(PATIENCE)).await;
                let Ok(next) = next else { continue };
                let Some(event) = next else { break };
                quiet = Instant::now();
                if event.is("message") {
                    let message = event.json();
                    self.saw(&message, opened_at, false);
                    if !self.work(&[message]).await {
                        break;
                    }
                }
            }
        }
    }
}

fn key(message: &Value) -> (i64, i64, i64) {
    let number = |name: &str| message[name].as_i64().unwrap();
    (number("partition"), number("position"), number("epoch"))
}

/// Writes as fast as the consumers may follow.
async fn write_all(fire: Arc<Fire>, sql: tokio_postgres::Client) {
    let write = "SELECT count(message_store.write_message(gen_random_uuid()::varchar, \
        'a-' || (random() * ($1::bigint - 1))::int, 'T', '{}')) FROM generate_series(1, 6)";
    while !fire.has_ended() {
        sql.query_one(write, &[&STREAMS]).await.unwrap();
        fire.written.fetch_add(6, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn start(database_url: &str) -> ServiceProcess {
    ServiceProcess::start(&["--listen", "127.0.0.1:0", "--database-url", database_url])
}

/// Kills, pauses and stops instances in turn.
async fn set_on_fire(fire: &Fire, instances: &mut Vec<ServiceProcess>, database_url: &str) {
    let began = Instant::now();
    let mut turn = 0;
    while began.elapsed() < FOR {
        tokio::time::sleep(Duration::from_millis(900)).await;
        let victim = turn % INSTANCES;
        match turn % 4 {
            0 | 2 => {
                instances[victim].signal(libc::SIGSTOP);
                tokio::time::sleep(PAUSE).await;
                instances[victim].signal(libc::SIGCONT);
            }
            1 => instances.remove(victim).kill(),
            _ => {
                let instance = instances.remove(victim);
                let ended = tokio::task::spawn_blocking(move || instance.stop()).await.unwrap();
                assert!(ended.success(), "{ended}");
            }
        }
        if instances.len() < INSTANCES {
            let database_url = database_url.to_owned();
            let another = tokio::task::spawn_blocking(move || start(&database_url)).await.unwrap();
            fire.urls.lock()[victim].clone_from(&another.url);
            instances.insert(victim, another);
        }
        turn += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_minute_of_bad_luck_loses_nothing_and_repeats_only_what_may_be() {
    let database = TestDatabase::migrated().await;
    let mut instances: Vec<_> = (0..INSTANCES).map(|_| start(&database.url)).collect();
    let fire = Arc::new(Fire {
        urls: Mutex::new(instances.iter().map(|instance| instance.url.clone()).collect()),
        ends: AtomicBool::new(false),
        written: AtomicUsize::new(0),
    });
    let writer = tokio::spawn(write_all(fire.clone(), database.connect().await));
    let (mut groups, mut workers) = (Vec::new(), Vec::new());
    for mode in ["partitioned", "competing"] {
        let definition = json!({
            "source": { "category": "a" }, "mode": mode, "partitions": 6, "max_in_flight": 60, "backoff": ["50ms"],
            "max_deliveries": 100_000, "ack_timeout": format!("{}ms", ACK_TIMEOUT.as_millis()),
            "consumer_timeout": format!("{}ms", CONSUMER_TIMEOUT.as_millis())
        });
        let group = Group::new(&instances[0].url, mode, definition).await;
        let judge = Arc::new(Mutex::new(Judge::default()));
        groups.push((group.clone(), judge.clone()));
        for number in 0..3 {
            let worker =
                Worker { fire: fire.clone(), group: group.clone(), judge: judge.clone(), name: format!("w{number}") };
            workers.push(match number {
                0 | 1 => tokio::spawn(worker.follow()),
                _ => tokio::spawn(worker.fetch()),
            });
        }
    }
    set_on_fire(&fire, &mut instances, &database.url).await;
    writer.abort();
    let _ = writer.await;
    let sql = database.connect().await;
    let rows = sql.query("SELECT global_position, stream_name, position FROM message_store.messages", &[]).await;
    let standing: BTreeMap<i64, (String, i64)> =
        rows.unwrap().iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect();
    for (group, _) in &groups {
        let group = group.on(&instances[0].url);
        group.until_all_is_acked().await;
        assert_eq!(group.get("/parked").await["parked"], json!([]));
    }
    fire.ends.store(true, Ordering::SeqCst);
    for worker in workers {
        worker.await.unwrap();
    }
    for instance in instances {
        assert!(tokio::task::spawn_blocking(move || instance.stop()).await.unwrap().success());
    }
    assert_eq!(deadlocks(&sql).await, 0);
    for (group, judge) in &groups {
        let judge = judge.lock();
        let is_partitioned = group.name == "partitioned";
        judge.none_is_lost(&standing, is_partitioned);
        judge.what_is_acked_stays_acked(is_partitioned);
        let again = match is_partitioned {
            true => judge.streams_are_in_order(ACK_TIMEOUT),
            false => judge.repeats_are_allowed(ACK_TIMEOUT),
        };
        let (seen, fenced, missing) = (judge.seen.len(), judge.fenced, judge.missing);
        println!(
            "{}: {} messages, {seen} deliveries, {again} again, {fenced} fenced, {missing} missing",
            group.name,
            standing.len()
        );
        assert!(seen > standing.len() && fenced > 0, "nobody was hit");
    }
}
