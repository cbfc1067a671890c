//! How long a partition waits for its next consumer, and what the one before it still may do.

use std::time::{Duration, Instant};

use serde_json::json;

use super::*;
use crate::support::app::TestApp;
use crate::support::database::TestDatabase;
use crate::support::service_process::ServiceProcess;

/// What may come on top on a busy machine.
const GENEROSITY: Duration = Duration::from_millis(1_500);
const SECOND: Duration = Duration::from_secs(1);

async fn assigned(events: &mut Events, count: usize) -> Vec<i64> {
    let mut partitions = Vec::new();
    while partitions.len() < count {
        partitions.push(events.next("assigned").await.json()["partition"].as_i64().unwrap());
    }
    partitions.sort_unstable();
    partitions
}

#[tokio::test]
async fn a_join_and_a_clean_leave_take_a_second_at_most() {
    let database = TestDatabase::migrated().await;
    let (one, two) = (TestApp::on(&database).await, TestApp::on(&database).await);
    let group = Group::new(&one.url, "s", json!({ "source": { "category": "a" }, "partitions": 8 })).await;
    let mut first = group.events("w1").await;
    assigned(&mut first, 8).await;
    for _ in 0..3 {
        let began = Instant::now();
        let mut second = group.on(&two.url).events("w2").await;
        let partitions = assigned(&mut second, 4).await;
        let took = began.elapsed();
        assert!(took < SECOND + GENEROSITY, "a join took {took:?}");
        let began = Instant::now();
        drop(second);
        assert_eq!(assigned(&mut first, 4).await, partitions);
        let took = began.elapsed();
        assert!(took < SECOND + GENEROSITY, "a leave took {took:?}");
    }
    one.stop().await;
    two.stop().await;
}

/// An instance is killed with the connections of its consumers.
#[tokio::test]
async fn a_crash_takes_the_consumers_lease_and_a_second_at_most() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    write(&database.connect().await, "a", 20, 20).await;
    tokio::join!(crash(&database, &app, "partitioned"), crash(&database, &app, "competing"));
    app.stop().await;
}

async fn crash(database: &TestDatabase, app: &TestApp, mode: &str) {
    let timeout = Duration::from_secs(2);
    let process = ServiceProcess::start(&["--listen", "127.0.0.1:0", "--database-url", &database.url]);
    let definition = json!({
        "source": { "category": "a" }, "mode": mode, "partitions": 8, "consumer_timeout": "2s", "ack_timeout": "10m"
    });
    let group = Group::new(&app.url, mode, definition).await;
    let mut dying = group.on(&process.url).events("w1").await;
    for _ in 0..20 {
        dying.next("message").await;
    }
    // It goes on for longer than a lease: it is renewed.
    let mut living = group.events("w2&max_in_flight=1000").await;
    tokio::time::sleep(timeout + SECOND / 2).await;
    let status = group.status().await;
    assert_eq!(status["consumers"].as_array().unwrap().len(), 2, "{status}");
    let began = Instant::now();
    process.kill();
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 20 {
        let message = living.next("message").await.json();
        group.acked("w2", std::slice::from_ref(&message)).await;
        seen.insert(message["message"]["global_position"].as_i64().unwrap());
        let took = began.elapsed();
        assert!(took < timeout + SECOND + GENEROSITY, "{mode}: after {took:?} it has only {}", seen.len());
    }
}

/// A consumer that fetches now and then and has not come for the time of a lease is gone, however lately that was
/// renewed.
#[tokio::test]
async fn a_fetching_consumer_is_gone_when_it_has_not_been_heard_of_for_the_time_of_its_lease() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let definition = json!({ "source": { "category": "a" }, "partitions": 2, "consumer_timeout": "6s" });
    let group = Group::new(&app.url, "s", definition).await;
    group.fetch("w1", 1).await;
    let asked = Instant::now();
    group.fetch("w1", 1).await;
    let heard = Instant::now();
    let mut living = group.events("w2").await;
    assigned(&mut living, 1).await;
    assigned(&mut living, 1).await;
    let (at_most, took) = (asked.elapsed(), heard.elapsed());
    assert!(at_most > Duration::from_millis(5_500), "it was given up after {at_most:?}");
    // Counted from a renewal, which comes after a third of it, it would be eight seconds.
    assert!(took < Duration::from_millis(7_900), "it took {took:?}");
    drop(living);
    app.stop().await;
}

/// Static names: a consumer that comes back gets what it had.
#[tokio::test]
async fn who_comes_back_gets_its_partitions_back() {
    let database = TestDatabase::migrated().await;
    let (one, two) = (TestApp::on(&database).await, TestApp::on(&database).await);
    let group = Group::new(&one.url, "s", json!({ "source": { "category": "a" }, "partitions": 12 })).await;
    let other = group.on(&two.url);
    let _w1 = group.events("w1").await;
    let _w2 = other.events("w2").await;
    let w3 = group.events("w3").await;
    let is_even = |status: &Value| ["w1", "w2", "w3"].iter().all(|name| held(status, name).len() == 4);
    let before = group.until("all have four", is_even).await;
    drop(w3);
    group.until("two have six", |status| ["w1", "w2"].iter().all(|name| held(status, name).len() == 6)).await;
    // At another instance this time.
    let w3 = other.events("w3").await;
    let after = group.until("all have four again", is_even).await;
    for name in ["w1", "w2", "w3"] {
        assert_eq!(held(&before, name), held(&after, name), "{name}");
    }
    // Cut off and back at once: nothing moves.
    drop(w3);
    let _w3 = group.events("w3").await;
    let again = group.until("all have four again", is_even).await;
    assert_eq!(held(&before, "w3"), held(&again, "w3"));
    one.stop().await;
    two.stop().await;
}

/// A partition that is to go waits for the acks of what is in flight, for a while, and goes at once when they are there.
#[tokio::test]
async fn who_loses_a_partition_may_finish_what_it_has() {
    let database = TestDatabase::migrated().await;
    let grace = Duration::from_millis(1_500);
    let app = TestApp::with(&database.url, |settings| settings.subscription_revoke_grace = grace).await;
    write(&database.connect().await, "a", 40, 80).await;
    for acks in [true, false] {
        let definition = json!({ "source": { "category": "a" }, "partitions": 4, "max_in_flight": 1000 });
        let group = Group::new(&app.url, &format!("acks-{acks}"), definition).await;
        let mut first = group.events("w1").await;
        let mut messages = Vec::new();
        while messages.len() < 80 {
            messages.push(first.next("message").await.json());
        }
        let began = Instant::now();
        let mut second = group.events("w2").await;
        let mut revoked = Vec::new();
        while revoked.len() < 2 {
            revoked.push(first.next("revoked").await.json()["partition"].clone());
        }
        let theirs: Vec<Value> = messages.into_iter().filter(|one| revoked.contains(&one["partition"])).collect();
        assert!(!theirs.is_empty());
        if acks {
            group.acked("w1", &theirs).await;
            assigned(&mut second, 2).await;
            let took = began.elapsed();
            assert!(took < grace + GENEROSITY / 2, "it took {took:?} although all was acked");
            write(&database.connect().await, "a", 40, 40).await;
            let next = second.next("message").await.json();
            assert_eq!(next["delivery_count"], 1, "what was acked in time does not come again: {next}");
        } else {
            assigned(&mut second, 2).await;
            let took = began.elapsed();
            assert!(took > grace - Duration::from_millis(50), "it had only {took:?}");
            assert!(took < grace + SECOND + GENEROSITY, "it took {took:?}");
            group.ack("w1", &theirs).await.problem(409, "fenced");
            let again = second.messages(theirs.len()).await;
            assert!(again.iter().all(|one| one["delivery_count"] == 2));
        }
    }
    app.stop().await;
}

/// A consumer that gives back what it has by nacks has nothing in flight: nobody waits for it.
#[tokio::test]
async fn what_is_nacked_is_not_waited_for() {
    let database = TestDatabase::migrated().await;
    let grace = Duration::from_secs(15);
    let app = TestApp::with(&database.url, |settings| settings.subscription_revoke_grace = grace).await;
    write(&database.connect().await, "a", 1, 3).await;
    let group = Group::new(&app.url, "s", json!({ "source": { "category": "a" }, "partitions": 2 })).await;
    let one = group.fetch("w1", 1).await;
    let partition = one[0]["partition"].as_i64().unwrap();
    let mut second = group.events("w2").await;
    let mut third = group.events("w3").await;
    let moving = group.until("it is to go", |status| held(status, "w1") == [partition]).await;
    assert_eq!(moving["consumers"].as_array().unwrap().len(), 3);
    // Only a consumer that is removed, or has more than its share, loses one.
    let answer = group.http.delete(group.path("/consumers/w1")).send().await.unwrap();
    assert_eq!(answer.status(), 204);
    let began = Instant::now();
    let (a, b) = tokio::join!(assigned(&mut second, 1), assigned(&mut third, 1));
    assert_eq!(a.len() + b.len(), 2);
    assert!(began.elapsed() < SECOND + GENEROSITY, "{:?}", began.elapsed());
    app.stop().await;
}
