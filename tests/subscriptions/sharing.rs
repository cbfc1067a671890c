//! Sharing: partitions are spread evenly, move as little as possible, and go on when somebody goes.

use super::*;
use crate::support::events::Events;

/// What was promised for a join and a clean leave, and some patience for a busy machine.
const SOON: Duration = Duration::from_secs(1);
const BUSY: Duration = Duration::from_secs(4);

async fn join(sub: &Sub<'_>, consumer: &str) -> Events {
    sub.app.follow(&sub.path(&format!("/events?consumer={consumer}"))).await
}

async fn spread(sub: &Sub<'_>, consumers: &[&str], counts: &[usize]) -> Value {
    sub.until("the spread is even", |status| {
        consumers.iter().zip(counts).all(|(consumer, count)| held(status, consumer).len() == *count)
    })
    .await
}

#[tokio::test]
async fn a_join_and_a_leave_lead_to_an_even_spread_with_few_moves() {
    let (_database, app) = filled(1, 0).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "category": "a" }, "partitions": 9 })).await;
    let mut one = join(&sub, "w1").await;
    one.next("assigned").await;
    let alone = spread(&sub, &["w1"], &[9]).await;
    assert_eq!(held(&alone, "w1"), (0..9).collect::<Vec<_>>());
    let began = Instant::now();
    let two = join(&sub, "w2").await;
    let both = spread(&sub, &["w1", "w2"], &[5, 4]).await;
    assert!(began.elapsed() < SOON + BUSY);
    assert_eq!(one.next("revoked").await.json()["reason"], "rebalance");
    let three = join(&sub, "w3").await;
    let all = spread(&sub, &["w1", "w2", "w3"], &[3, 3, 3]).await;
    for consumer in ["w1", "w2"] {
        let before = held(&both, consumer);
        assert!(
            held(&all, consumer).iter().all(|partition| before.contains(partition)),
            "{consumer} moved without need"
        );
    }
    let began = Instant::now();
    drop(two);
    let left = spread(&sub, &["w1", "w2", "w3"], &[5, 0, 4]).await;
    assert!(began.elapsed() < SOON + BUSY);
    for consumer in ["w1", "w3"] {
        let now = held(&left, consumer);
        assert!(held(&all, consumer).iter().all(|partition| now.contains(partition)), "{consumer} lost something");
    }
    // A consumer that comes back under its name gets back what it had.
    let two = join(&sub, "w2").await;
    let back = spread(&sub, &["w1", "w2", "w3"], &[3, 3, 3]).await;
    for consumer in ["w1", "w2", "w3"] {
        assert_eq!(held(&back, consumer), held(&all, consumer), "{consumer}");
    }
    drop((one, two, three));
    app.stop().await;
}

#[tokio::test]
async fn a_consumer_that_is_not_heard_of_loses_what_it_has() {
    let (_database, app) = filled(4, 8).await;
    let definition = json!({ "source": { "category": "a" }, "partitions": 4, "consumer_timeout": "3s" });
    let sub = Sub::new(&app, "s", definition).await;
    let lost = sub.fetch("w1", 100).await;
    assert_eq!(lost.len(), 8);
    let began = Instant::now();
    let mut events = join(&sub, "w2").await;
    let mut found = Vec::new();
    while found.len() < 8 {
        let message = events.next("message").await.json();
        sub.acked("w2", std::slice::from_ref(&message)).await;
        found.push(message);
    }
    // One timeout, one second to notice.
    assert!(began.elapsed() < Duration::from_secs(4) + BUSY, "{:?}", began.elapsed());
    let mut seen = numbers(&found);
    seen.sort_unstable();
    assert_eq!(seen, (0..8).collect::<Vec<_>>());
    sub.ack("w1", &lost[..1]).await.problem(409, "fenced");
    app.stop().await;
}

#[tokio::test]
async fn a_partition_with_messages_in_flight_waits_for_their_acks() {
    let database = TestDatabase::migrated().await;
    let app =
        TestApp::with(&database.url, |settings| settings.subscription_revoke_grace = Duration::from_secs(20)).await;
    write(&app, "a", 8, 16).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "category": "a" }, "partitions": 2 })).await;
    let mut one = join(&sub, "w1").await;
    let mut found = Vec::new();
    while found.len() < 16 {
        found.push(one.next("message").await.json());
    }
    let mut two = join(&sub, "w2").await;
    let revoked = one.next("revoked").await.json()["partition"].as_i64().unwrap();
    app.write("a-1", "T", json!({ "n": 16 })).await;
    let status = sub.status().await;
    assert_eq!(held(&status, "w1").len(), 2, "it keeps it for the grace");
    let last = found.iter().rfind(|message| message["partition"] == revoked).unwrap();
    sub.acked("w1", std::slice::from_ref(last)).await;
    let assigned = two.next("assigned").await.json();
    assert_eq!((&assigned["partition"], &assigned["epoch"]), (&json!(revoked), &json!(2)));
    assert_eq!(assigned["position"], last["position"]);
    app.stop().await;
}

#[tokio::test]
async fn the_grace_has_an_end() {
    let (_database, app) = filled(8, 16).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "category": "a" }, "partitions": 2 })).await;
    let first = sub.fetch("w1", 100).await;
    let began = Instant::now();
    let mut events = join(&sub, "w2").await;
    let again = events.next("message").await.json();
    assert!(began.elapsed() < SOON + BUSY, "{:?}", began.elapsed());
    let partition = again["partition"].as_i64().unwrap();
    let expected = first.iter().find(|message| message["partition"] == partition).unwrap();
    assert_eq!(again["position"], expected["position"]);
    assert_eq!(again["delivery_count"], 2);
    app.stop().await;
}

#[tokio::test]
async fn fetching_consumers_share_too_and_lose_nothing() {
    let (_database, app) = filled(20, 200).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "category": "a" }, "partitions": 8 })).await;
    let seen = parking_lot::Mutex::new(std::collections::HashSet::new());
    let deadline = Instant::now() + PATIENCE;
    let consume = async |consumer: &str| {
        while seen.lock().len() < 200 {
            assert!(Instant::now() < deadline, "{} of 200", seen.lock().len());
            let found = sub.fetch_with(json!({ "consumer": consumer, "limit": 20, "wait": "50ms" })).await;
            if found.is_empty() {
                continue;
            }
            // A partition that goes to another one on the way fences what it had: each message says so for itself.
            for one in found.chunks(1) {
                let answer = sub.ack(consumer, one).await;
                if answer.status == 200 && answer.json()["acked"] == 1 {
                    seen.lock().extend(numbers(one));
                }
            }
        }
    };
    tokio::join!(consume("w1"), consume("w2"), consume("w3"));
    assert_eq!(sub.until("all is acked", |status| status["committed_lag"] == 0).await["committed_lag"], 0);
    app.stop().await;
}

/// A replayed message goes with its partition, and leaves the credit of the consumer that had it.
#[tokio::test]
async fn a_replay_in_flight_goes_to_the_next_consumer_of_its_partition_at_once() {
    let (_database, app) = filled(8, 16).await;
    let definition =
        json!({ "source": { "category": "a" }, "partitions": 2, "ack_timeout": "10m", "max_in_flight": 1 });
    let sub = Sub::new(&app, "s", definition).await;
    let (mut parked, mut staying) = (None, String::new());
    loop {
        let found = sub.fetch("w1", 1).await;
        let Some(message) = found.first() else { break };
        if message["partition"] == 1 && parked.is_none() {
            sub.nacked("w1", message, json!({ "action": "park" })).await;
            parked = Some(message["position"].clone());
            continue;
        }
        if message["partition"] == 0 {
            staying = message["message"]["stream_name"].as_str().unwrap().to_owned();
        }
        sub.acked("w1", &found).await;
    }
    assert_eq!(sub.post("/parked/replay", &json!({ "all": true })).await.json(), json!({ "replayed": 1 }));
    let had = sub.fetch_some("w1", 1).await;
    assert_eq!(Some(&had[0]["position"]), parked.as_ref());
    let has = sub.fetch_some("w2", 1).await;
    assert_eq!((&has[0]["position"], &has[0]["delivery_count"]), (&had[0]["position"], &json!(2)));
    // Whatever the first one says of it is late.
    sub.ack("w1", &had).await.problem(409, "fenced");
    sub.nack("w1", &had[0], json!({ "action": "skip" })).await.problem(409, "fenced");
    let extension = json!({ "consumer": "w1", "extensions": [place(&had[0])] });
    sub.post("/extensions", &extension).await.problem(409, "fenced");
    app.write(&staying, "T", json!({ "n": 16 })).await;
    let new = sub.fetch_some("w1", 1).await;
    assert_eq!(numbers(&new), [16]);
    sub.acked("w1", &new).await;
    sub.acked("w2", &has).await;
    assert_eq!(sub.status().await["committed_lag"], 0);
    app.stop().await;
}
