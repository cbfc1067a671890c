//! Any request may reach any instance.

use std::collections::HashMap;

use super::*;

#[tokio::test]
async fn two_instances_claim_no_message_twice() {
    let (database, app) = filled(5, 300).await;
    let other = TestApp::on(&database).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "category": "a" }, "mode": "competing" })).await;
    let twin = sub.on(&other);
    let consume = async |sub: &Sub<'_>, consumer: &str| {
        let mut seen = Vec::new();
        loop {
            let found = sub.fetch(consumer, 7).await;
            if found.is_empty() {
                return seen;
            }
            sub.acked(consumer, &found).await;
            seen.extend(numbers(&found));
        }
    };
    let (one, two, three) = tokio::join!(consume(&sub, "w1"), consume(&twin, "w2"), consume(&twin, "w3"));
    let mut counted: HashMap<i64, usize> = HashMap::new();
    for n in one.into_iter().chain(two).chain(three) {
        *counted.entry(n).or_default() += 1;
    }
    assert_eq!(counted.len(), 300);
    assert!(counted.values().all(|count| *count == 1), "a message came twice");
    app.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn an_ack_at_one_instance_makes_room_at_another() {
    for mode in ["partitioned", "competing"] {
        let (database, app) = filled(1, 4).await;
        let other = TestApp::on(&database).await;
        let definition = json!({ "source": { "category": "a" }, "mode": mode, "max_in_flight": 2 });
        let sub = Sub::new(&app, "s", definition).await;
        let mut events = app.follow(&sub.path("/events?consumer=w1")).await;
        let first = [events.next("message").await.json(), events.next("message").await.json()];
        sub.on(&other).acked("w1", &first).await;
        assert_eq!(numbers(&[events.next("message").await.json()]), [2], "{mode}");
        drop(events);
        app.stop().await;
        other.stop().await;
    }
}

#[tokio::test]
async fn fetches_of_one_consumer_may_alternate_between_instances() {
    let (database, app) = filled(3, 30).await;
    let other = TestApp::on(&database).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "category": "a" }, "partitions": 3 })).await;
    let twin = sub.on(&other);
    let mut seen = Vec::new();
    for turn in 0.. {
        let (here, there) = if turn % 2 == 0 { (&sub, &twin) } else { (&twin, &sub) };
        let found = here.fetch("w1", 4).await;
        if found.is_empty() {
            break;
        }
        there.acked("w1", &found).await;
        seen.extend(numbers(&found));
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..30).collect::<Vec<_>>());
    app.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn partitions_are_spread_over_consumers_of_several_instances() {
    let (database, app) = filled(1, 0).await;
    let other = TestApp::on(&database).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "category": "a" }, "partitions": 4 })).await;
    let mut here = app.follow(&sub.path("/events?consumer=w1")).await;
    here.next("assigned").await;
    let mut there = other.follow(&sub.path("/events?consumer=w2")).await;
    there.next("assigned").await;
    here.next("revoked").await;
    let status =
        sub.until("both hold two", |status| held(status, "w1").len() == 2 && held(status, "w2").len() == 2).await;
    assert_eq!(status["consumers"].as_array().unwrap().len(), 2);
    // A change by one is seen by the other.
    assert_eq!(
        sub.on(&other).post("/seek", &json!({ "to": "end", "partitions": [held(&status, "w1")[0]] })).await.status,
        200
    );
    while here.next("revoked").await.json()["reason"] != "reset" {}
    assert_eq!(other.delete(&sub.path("")).await.status, 204);
    assert_eq!(here.next("closing").await.json(), json!({ "reason": "deleted" }));
    drop((here, there));
    app.stop().await;
    other.stop().await;
}
