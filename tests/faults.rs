//! Whatever goes wrong, and in whatever order: what clients saw keeps every promise, and all goes on by itself.
//!
//! `HEADWATER_TEST_SEED` replays a schedule of faults; `HEADWATER_TEST_FAULTS_FOR` (`10m`) makes it longer.

mod checker;
mod clients;
mod history;
mod schedule;
mod stage;
mod wrong_histories;

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::app::Answer;
use crate::support::http_client;
use crate::support::waiting::lasting;
use clients::{ACKED, Clients, MADE};
use history::Told;
use schedule::Fault;
use stage::Stage;

/// How long the faults go on, instead of for each of them once.
const FOR_VARIABLE: &str = "HEADWATER_TEST_FAULTS_FOR";
/// The longest that it may take until all goes on after a fault.
const RECOVERY_MAX: Duration = Duration::from_secs(60);
const WRITERS: usize = 4;
const FOLLOWERS: usize = 3;
/// Messages that must be acknowledged after each fault before the next one comes.
const PROGRESS: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_goes_wrong_what_clients_saw_keeps_every_promise() {
    let mut stage = Stage::new().await;
    let clients = Clients::new(stage.urls.clone(), FOLLOWERS);
    for name in [ACKED, MADE] {
        // Nothing comes again because its time is over, so each epoch has each message once.
        let definition = json!({
            "source": { "category": "a" }, "partitions": 3, "ack_timeout": "10m", "consumer_timeout": "1500ms",
            "max_deliveries": 100_000, "max_in_flight": 40
        });
        let path = format!("{}/v1/subscriptions/{name}", stage.urls.some());
        let made = Answer::of(http_client().put(path).json(&definition).send().await.unwrap()).await;
        assert_eq!(made.status, 201, "{}", made.text);
    }
    let mut writing = Vec::new();
    writing.extend((0..WRITERS).map(|_| tokio::spawn(clients.clone().write())));
    writing.extend((0..2).map(|_| tokio::spawn(clients.clone().read())));
    let mut tasks = Vec::new();
    tasks.extend((0..FOLLOWERS).map(|number| tokio::spawn(clients.clone().follow(number))));
    tasks.extend((0..2).map(|number| tokio::spawn(clients.clone().consume(ACKED, number))));
    tasks.push(tokio::spawn(clients.clone().consume_events(ACKED, 0)));
    tasks.extend((0..2).map(|number| tokio::spawn(clients.clone().consume(MADE, number))));

    break_things(&mut stage, &clients).await;

    clients.writing_ends.store(true, Ordering::SeqCst);
    // What they are at is in the log, or never will be, before the log is looked at.
    for task in writing {
        task.await.expect("a client does not fail");
    }
    let (log, made_of) = until_all_have_everything(&stage, &clients).await;
    clients.ends.store(true, Ordering::SeqCst);
    for task in tasks {
        task.await.expect("a client does not fail");
    }
    for line in stage.end().await {
        assert!(!line.contains("panicked") && !line.contains("a bug of the service"), "{line}");
    }
    clients.recorder.write(|history| (history.log, history.made_of) = (log, made_of));
    clients.recorder.look(|history| {
        let found = checker::violations(history);
        let unknown = history.appends.iter().filter(|append| append.told == Told::Unknown).count();
        println!(
            "{} appends, {unknown} without an answer; {} reads, {} in the log, {} + {} deliveries",
            history.appends.len(),
            history.reads.len(),
            history.log.len(),
            history.acked.deliveries.len(),
            history.made.deliveries.len()
        );
        let shown: Vec<_> = found.iter().take(20).collect();
        assert!(found.is_empty(), "{} promises were broken, such as {shown:#?}", found.len());
    });
}

/// One fault after another, each of which must be over before the next one comes.
async fn break_things(stage: &mut Stage, clients: &Clients) {
    let seed = crate::support::seeds::seeds(1).next().expect("there is one");
    let lasts = std::env::var(FOR_VARIABLE).ok().map(|text| lasting(FOR_VARIABLE, &text));
    let began = Instant::now();
    let mut slowest: HashMap<String, Duration> = HashMap::new();
    let count = if lasts.is_some() { usize::MAX } else { schedule::ALL.len() };
    for step in schedule::steps(seed).take(count) {
        if lasts.is_some_and(|lasts| began.elapsed() >= lasts) {
            break;
        }
        if step.fault == Fault::FullDisk && stage.disk.is_none() {
            continue;
        }
        tokio::time::sleep(step.pause).await;
        println!("{:>6} ms {step:?}", began.elapsed().as_millis());
        schedule::carry_out(step, stage).await;
        let recovery = until_it_goes_on(stage, clients, &format!("{step:?}")).await;
        let slowest = slowest.entry(format!("{:?}", step.fault)).or_default();
        *slowest = recovery.max(*slowest);
    }
    println!("the longest until all went on: {slowest:?}");
}

/// Every instance must be ready, and writers must be answered. Answers how long that took.
async fn until_it_goes_on(stage: &Stage, clients: &Clients, after: &str) -> Duration {
    let began = Instant::now();
    let written = || {
        clients
            .recorder
            .look(|history| history.appends.iter().filter(|append| matches!(append.told, Told::Written { .. })).count())
    };
    let goal = written() + PROGRESS;
    let http = http_client();
    loop {
        let mut waits_for = Vec::new();
        for url in stage.urls.all() {
            let ready = http.get(format!("{url}/readyz")).timeout(Duration::from_secs(2)).send().await;
            if !ready.as_ref().is_ok_and(|answer| answer.status() == 200) {
                waits_for.push(format!("{url}: {ready:?}"));
            }
        }
        if waits_for.is_empty() && written() >= goal {
            return began.elapsed();
        }
        assert!(
            began.elapsed() < RECOVERY_MAX,
            "it does not go on after {after}: {waits_for:?}, {} of {goal}",
            written()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

type Log = (Vec<history::Message>, Vec<(uuid::Uuid, uuid::Uuid)>);

/// The writers have stopped: followers and consumers must come to the end. Answers the log.
async fn until_all_have_everything(stage: &Stage, clients: &Clients) -> Log {
    let mut progress = (0, Instant::now());
    loop {
        let log = stage.log().await;
        let of_a = log.0.iter().filter(|message| message.stream.starts_with("a-")).count();
        let mut open = clients.recorder.look(|history| {
            history.followers.iter().map(|follower| log.0.len().saturating_sub(follower.messages.len())).sum::<usize>()
        });
        open += of_a.saturating_sub(log.1.len());
        for name in [ACKED, MADE] {
            let url = format!("{}/v1/subscriptions/{name}", stage.urls.some());
            let answer = http_client().get(url).timeout(Duration::from_secs(5)).send().await;
            let Ok(answer) = answer else {
                open += 1;
                continue;
            };
            open += Answer::of(answer).await.json()["status"]["committed_lag"].as_u64().unwrap_or(1) as usize;
        }
        if open == 0 {
            return log;
        }
        if open != progress.0 {
            progress = (open, Instant::now());
        }
        assert!(progress.1.elapsed() < RECOVERY_MAX, "{open} messages were not followed, acked or made something of");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
