//! Answers of PostgreSQL that are lost after their commit: what they handed out is handed out again, and what they said
//! is said again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::support::app::TestApp;
use crate::support::database::TestDatabase;
use crate::support::proxy::FaultProxy;

const MESSAGES: i64 = 40;
/// Answers of each function that are lost.
const LOSSES: usize = 4;
/// The functions that deliver something, or answer which consumer has what.
const PARTITIONED: [&str; 4] =
    ["subscription_deliver(", "subscription_sync(", "subscription_join(", "subscription_take_replays("];
const COMPETING: [&str; 4] =
    ["subscription_claim(", "subscription_claimable(", "subscription_join(", "subscription_take("];
/// How long the random cuts go on, in seconds; minutes on wish.
const CUTS_SECONDS: &str = "HEADWATER_TEST_CUTS_SECONDS";
const CUTS_SECONDS_DEFAULT: u64 = 6;

/// How a consumer comes for its messages.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Face {
    Events,
    Fetch,
    /// Says that it wants no backlog.
    FetchOfNew,
}

const FACES: [Face; 3] = [Face::Events, Face::Fetch, Face::FetchOfNew];

/// A consumer that acks whatever it sees, as soon as it sees it.
struct Worker {
    group: Group,
    name: String,
    is_partitioned: bool,
    seen: BTreeSet<i64>,
    /// By partition, the epoch that it was told of.
    told: BTreeMap<i64, i64>,
    /// Messages with these numbers are refused when they come first.
    refuses: BTreeMap<i64, &'static str>,
}

impl Worker {
    fn new(group: &Group, name: &str, is_partitioned: bool) -> Self {
        let refuses = BTreeMap::from([(0, "park"), (1, "retry"), (7, "park"), (8, "retry")]);
        let (seen, told) = (BTreeSet::new(), BTreeMap::new());
        Self { group: group.clone(), name: name.to_owned(), is_partitioned, seen, told, refuses }
    }

    async fn take(&mut self, message: &Value) {
        let n = message["message"]["data"]["n"].as_i64().unwrap();
        if let Some(action) = self.refuses.remove(&n) {
            let mut nack = place(message);
            nack["action"] = json!(action);
            if action == "retry" {
                nack["delay"] = json!("0s");
            }
            self.say("/nacks", &json!({ "consumer": self.name, "nacks": [nack] })).await;
            if action == "park" {
                self.say("/parked/replay", &json!({ "all": true })).await;
            }
            return;
        }
        self.seen.insert(n);
        self.say("/acks", &json!({ "consumer": self.name, "acks": [place(message)] })).await;
    }

    /// Says it until it is answered.
    async fn say(&self, what: &str, body: &Value) {
        let deadline = Instant::now() + PATIENCE;
        while !matches!(self.group.try_post(what, body).await, Some((200 | 409, _))) {
            assert!(Instant::now() < deadline, "no answer to {what} {body}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn follow(&mut self, ends: &AtomicBool) {
        while !ends.load(Ordering::SeqCst) {
            let request = self.group.http.get(self.group.path(&format!("/events?consumer={}", self.name)));
            let Ok(answer) = request.send().await else { continue };
            if answer.status() != 200 {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            let mut events = Events::of(answer).await;
            self.told.clear();
            while !ends.load(Ordering::SeqCst) {
                let next = tokio::time::timeout(Duration::from_millis(100), events.next_block(PATIENCE)).await;
                let Ok(next) = next else { continue };
                let Some(event) = next else { break };
                self.event(&event.name.clone().unwrap_or_default(), &event.json()).await;
            }
        }
    }

    async fn event(&mut self, name: &str, data: &Value) {
        let number = |field: &str| data[field].as_i64().unwrap();
        match name {
            "assigned" => {
                self.told.insert(number("partition"), number("epoch"));
            }
            "revoked" => {
                let was_told = self.told.contains_key(&number("partition"));
                assert!(was_told, "{}: it never knew of it: revoked {data}", self.name);
            }
            "message" => {
                if self.is_partitioned {
                    let told = self.told.get(&number("partition"));
                    assert_eq!(told, Some(&number("epoch")), "{}: it was not told: {data}", self.name);
                }
                self.take(data).await;
            }
            _ => {}
        }
    }

    async fn fetch(&mut self, ends: &AtomicBool, face: Face) {
        let mut body = json!({ "consumer": self.name, "limit": 6, "wait": "100ms" });
        if face == Face::FetchOfNew {
            body["backlog"] = json!(false);
        }
        while !ends.load(Ordering::SeqCst) {
            let answer = self.group.post("/fetch", &body).await;
            if answer.status != 200 {
                answer.problem(503, "database-unavailable");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            for message in answer.json()["messages"].as_array().unwrap() {
                self.take(message).await;
            }
        }
    }

    async fn consume(&mut self, ends: &AtomicBool, face: Face) {
        match face {
            Face::Events => self.follow(ends).await,
            Face::Fetch | Face::FetchOfNew => self.fetch(ends, face).await,
        }
    }
}

/// Nothing but the taking back gives it again in time: neither acks nor leases run out.
fn patient(mode: &str) -> Value {
    json!({
        "source": { "category": "a" }, "mode": mode, "partitions": 3, "max_in_flight": 10, "ack_timeout": "10m",
        // In a partition, one that rides along behind two that are refused has as many deliveries more.
        "consumer_timeout": "5m", "max_deliveries": if mode == "partitioned" { 4 } else { 2 }
    })
}

/// Loses answers of one function, one after the other, until the consumer has seen everything.
async fn lose(database: &TestDatabase, mode: &str, face: Face, function: &str) {
    let proxy = FaultProxy::before(&database.url).await;
    let app = TestApp::with(&proxy.url, |_| {}).await;
    let name = format!("{mode} {face:?} {function}");
    let group = Group::new(&app.url, &name, patient(mode)).await;
    proxy.lose_answers_of(function, 1);
    let ends = Arc::new(AtomicBool::new(false));
    let mut worker = Worker::new(&group, "w", mode == "partitioned");
    let working = tokio::spawn({
        let ends = ends.clone();
        async move {
            worker.consume(&ends, face).await;
            worker
        }
    });
    let deadline = Instant::now() + PATIENCE;
    let mut lost = 0;
    loop {
        if proxy.answers_to_lose() == 0 && lost < LOSSES {
            lost += 1;
            // A moment for what the answer before has lost, so that not every answer is lost.
            tokio::time::sleep(Duration::from_millis(30)).await;
            proxy.lose_answers_of(function, 1);
        }
        if let Some((200, answer)) = group.try_get("").await
            && answer["status"]["committed_lag"] == 0
            && answer["status"]["delivered_lag"] == 0
        {
            break;
        }
        assert!(Instant::now() < deadline, "{name}: not all was acked: {:?}", group.try_get("").await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    ends.store(true, Ordering::SeqCst);
    let worker = working.await.unwrap();
    let never: Vec<i64> = (0..MESSAGES).filter(|n| !worker.seen.contains(n)).collect();
    assert!(never.is_empty(), "{name}: never came: {never:?}");
    assert!(proxy.lost_answers() > 0, "{name}: nothing was lost");
    // A lost answer is no failure of a message.
    assert_eq!(group.get("/parked").await["parked"], json!([]), "{name}");
    app.stop().await;
}

async fn lose_in_turn(mode: &str, functions: &[&str]) {
    let database = TestDatabase::migrated().await;
    write(&database.connect().await, "a", 7, MESSAGES).await;
    for face in FACES {
        for function in functions {
            lose(&database, mode, face, function).await;
        }
    }
}

#[tokio::test]
async fn nothing_that_a_lost_answer_handed_out_is_skipped_in_a_partitioned_subscription() {
    lose_in_turn("partitioned", &PARTITIONED).await;
}

#[tokio::test]
async fn nothing_that_a_lost_answer_handed_out_is_skipped_in_a_competing_subscription() {
    lose_in_turn("competing", &COMPETING).await;
}

/// What was taken over from others, too: nobody waits until its time is over.
#[tokio::test]
async fn what_a_lost_answer_took_over_is_given_at_once() {
    let database = TestDatabase::migrated().await;
    write(&database.connect().await, "a", 1, 6).await;
    let proxy = FaultProxy::before(&database.url).await;
    let app = TestApp::with(&proxy.url, |_| {}).await;
    let group = Group::new(&app.url, "s", patient("competing")).await;
    let had = group.fetch("w1", 6).await;
    proxy.lose_answers_of("subscription_take(", 1);
    let body = json!({ "consumer": "w2", "min_idle": "0s" });
    group.post("/claims", &body).await.problem(503, "database-unavailable");
    // It is nobody's any more, and its attempt has not counted.
    let again = group.fetch_some("w3", 6).await;
    assert_eq!(positions(&again), positions(&had));
    assert!(again.iter().all(|one| one["delivery_count"] == 2), "{again:?}");
    group.acked("w3", &again).await;
    app.stop().await;
}

/// A seek whose answer is lost was done all the same, and consumers are told.
#[tokio::test]
async fn a_seek_whose_answer_is_lost_is_told_to_the_consumers() {
    for function in ["subscription_seek(", "subscription_sync("] {
        let database = TestDatabase::migrated().await;
        write(&database.connect().await, "a", 1, 6).await;
        let proxy = FaultProxy::before(&database.url).await;
        let app = TestApp::with(&proxy.url, |_| {}).await;
        let mut definition = patient("partitioned");
        definition["partitions"] = json!(1);
        let group = Group::new(&app.url, "s", definition).await;
        let mut events = group.events("w").await;
        let epoch = events.next("assigned").await.json()["epoch"].as_i64();
        let first = events.messages(6).await;
        group.acked("w", &first).await;
        proxy.lose_answers_of(function, 1);
        let sought = group.post("/seek", &json!({ "to": "beginning" })).await;
        assert_eq!(sought.status, if function == "subscription_seek(" { 503 } else { 200 });
        assert_eq!(events.next("revoked").await.json()["reason"], "reset");
        let told = events.next("assigned").await.json()["epoch"].as_i64();
        assert!(told > epoch, "{function}: {told:?}");
        let again = events.messages(6).await;
        assert_eq!(positions(&again), positions(&first), "{function}");
        assert!(again.iter().all(|one| one["epoch"].as_i64() == told));
        group.acked("w", &again).await;
        app.stop().await;
    }
}

/// One of two goes, and the other gets its partitions: told, and with all that is in them.
#[tokio::test]
async fn a_hand_over_whose_answer_is_lost_is_told() {
    let database = TestDatabase::migrated().await;
    write(&database.connect().await, "a", 9, MESSAGES).await;
    let proxy = FaultProxy::before(&database.url).await;
    let app = TestApp::with(&proxy.url, |_| {}).await;
    let mut definition = patient("partitioned");
    definition["partitions"] = json!(6);
    definition["max_in_flight"] = json!(100);
    let group = Group::new(&app.url, "s", definition).await;
    let leaving = group.events("w1").await;
    group.until("it has all", |status| held(status, "w1").len() == 6).await;
    let mut staying = group.events("w2").await;
    let mut partitions = BTreeSet::new();
    proxy.lose_answers_of("subscription_sync(", 1);
    drop(leaving);
    while partitions.len() < 6 {
        proxy.lose_answers_of("subscription_sync(", 1);
        partitions.insert(staying.next("assigned").await.json()["partition"].as_i64().unwrap());
    }
    app.stop().await;
}

/// What a burst of bad luck hits.
async fn cut_at_random(proxy: &FaultProxy, until: Instant) -> usize {
    let mut cuts = 0;
    while Instant::now() < until {
        let links = proxy.links();
        match fastrand::u8(..4) {
            0 => proxy.cut_all(),
            1 if !links.is_empty() => links[fastrand::usize(..links.len())].cut(),
            _ => {
                let functions = if fastrand::bool() { &PARTITIONED } else { &COMPETING };
                proxy.lose_answers_of(functions[fastrand::usize(..functions.len())], 1);
            }
        }
        cuts += 1;
        tokio::time::sleep(Duration::from_millis(fastrand::u64(20..300))).await;
    }
    proxy.lose_answers_of("subscription_", 0);
    cuts
}

/// Connections to PostgreSQL are cut at random, and answers lost, while consumers of both kinds ack all that they see.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_cuts_lose_nothing() {
    let seconds = std::env::var(CUTS_SECONDS).ok().and_then(|text| text.parse().ok()).unwrap_or(CUTS_SECONDS_DEFAULT);
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let proxy = FaultProxy::before(&database.url).await;
    let app = TestApp::with(&proxy.url, |_| {}).await;
    let ends = Arc::new(AtomicBool::new(false));
    let (mut groups, mut workers) = (Vec::new(), Vec::new());
    for mode in ["partitioned", "competing"] {
        for face in FACES {
            let mut definition = patient(mode);
            definition["consumer_timeout"] = json!("3s");
            definition["max_deliveries"] = json!(1_000_000);
            let group = Group::new(&app.url, &format!("{mode} {face:?}"), definition).await;
            for name in ["w1", "w2"] {
                let (mut worker, ends) = (Worker::new(&group, name, mode == "partitioned"), ends.clone());
                workers.push(tokio::spawn(async move {
                    worker.consume(&ends, face).await;
                    worker
                }));
            }
            groups.push(group);
        }
    }
    let until = Instant::now() + Duration::from_secs(seconds);
    let write_some = async {
        let mut written = 0;
        while Instant::now() < until {
            let some = "SELECT count(message_store.write_message(gen_random_uuid()::varchar, 'a-' || (n % 11), 'T', \
                jsonb_build_object('n', n))) FROM generate_series($1::bigint, $1::bigint + 4) AS g (n)";
            sql.query_one(some, &[&written]).await.unwrap();
            written += 5;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        written
    };
    let (cuts, written) = tokio::join!(cut_at_random(&proxy, until), write_some);
    for group in &groups {
        let (mut deadline, mut lag) = (Instant::now() + PATIENCE, i64::MAX);
        while lag > 0 {
            let answer = group.try_get("").await;
            // As long as it goes on. A lag that is still being counted may only seem to be less.
            if let Some((200, answer)) = &answer
                && answer["status"]["lag_exact"] == true
                && let Some(now) = answer["status"]["committed_lag"].as_i64().filter(|now| *now < lag)
            {
                (deadline, lag) = (Instant::now() + PATIENCE, now);
            }
            assert!(Instant::now() < deadline, "{}: not all was acked: {answer:?}", group.name);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    ends.store(true, Ordering::SeqCst);
    let mut seen: BTreeMap<String, BTreeSet<i64>> = BTreeMap::new();
    for worker in workers {
        let worker = worker.await.unwrap();
        seen.entry(worker.group.name).or_default().extend(worker.seen);
    }
    println!("{cuts} cuts, {} answers lost, {written} messages", proxy.lost_answers());
    for (name, seen) in &seen {
        let never: Vec<i64> = (0..written).filter(|n| !seen.contains(n)).collect();
        assert!(never.is_empty(), "{name}: {} of {written} never came: {never:?}", never.len());
    }
    app.stop().await;
}
