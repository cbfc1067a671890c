//! Copies in memory are forgotten: at once where the message was erased, soon on all other instances.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{SECRET, assert_erased, erase, write_secret};
use crate::support::app::TestApp;
use crate::support::database::TestDatabase;
use crate::support::events::Events;
use crate::support::proxy::FaultProxy;
use crate::support::waiting::eventually;

/// On instances that did not erase it themselves.
const LATEST: Duration = Duration::from_secs(10);

/// Event streams that have all of this in memory, and go on from there.
const PATHS: [&str; 5] = [
    "/v1/streams/person-1/events?",
    "/v1/categories/person/events?",
    "/v1/all/events?",
    "/v1/aggregated-streams/everything/events?",
    "/v1/events?category=person&aggregated_stream=everything",
];

/// Several sources that have it give it several times.
fn copies(path: &str) -> usize {
    if path.contains("category=") { 2 } else { 1 }
}

/// Followers that have seen everything: they keep it in memory for those that come again.
async fn keepers(app: &TestApp) -> Vec<Events> {
    let mut keepers = Vec::new();
    for path in PATHS {
        let mut events = app.follow(path).await;
        events.next("caught-up").await;
        keepers.push(events);
    }
    keepers
}

async fn begun(app: &TestApp) {
    let definition = json!({ "stream_wildcards": ["%"], "partitioner": { "kind": "constant" } });
    let status = app.put("/v1/aggregated-streams/everything", &definition).await.status;
    assert!(status == 201 || status == 200);
    app.write("person-1", "First", json!({})).await;
}

/// The first message after the first one, as somebody gets it that comes again; its text.
async fn second_message(app: &TestApp, path: &str) -> String {
    let from = if path.contains("streams/person-1") { "last_event_id=0" } else { "last_event_id=1" };
    let mut events = app.follow(&format!("{path}&{from}")).await;
    events.next("message").await.json().to_string()
}

#[tokio::test]
async fn no_copy_is_shown_once_the_erasure_is_answered() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    begun(&app).await;
    let mut keepers = keepers(&app).await;
    let (id, _) = write_secret(&app, "person-1").await;
    for (keeper, path) in keepers.iter_mut().zip(PATHS) {
        for _ in 0..copies(path) {
            assert!(keeper.next("message").await.json().to_string().contains(SECRET));
        }
    }
    for path in PATHS {
        assert!(second_message(&app, path).await.contains(SECRET), "{path}");
    }
    erase(&app, &id).await;
    for path in PATHS {
        let text = second_message(&app, path).await;
        assert!(!text.contains(SECRET) && text.contains("\"erased\""), "{path}: {text}");
    }
    // Those that have seen it are not disturbed.
    app.write("person-1", "Next", json!({})).await;
    for keeper in &mut keepers {
        let next = keeper.next_event().await;
        assert!(next.is("message") && next.json().to_string().contains("\"Next\""), "{next:?}");
    }
    app.stop().await;
}

/// With a hint, and where the hint is lost.
#[tokio::test]
async fn other_instances_forget_it_soon() {
    for is_heard in [true, false] {
        let database = TestDatabase::migrated().await;
        let proxy = FaultProxy::before(&database.url).await;
        // A silent listener is not found out before this: only the look once a second can have done it.
        let rarely = |settings: &mut headwater::config::Settings| settings.listener_heartbeat = Duration::from_secs(60);
        let (one, other) = (TestApp::on(&database).await, TestApp::with(&proxy.url, rarely).await);
        begun(&one).await;
        let mut keepers = keepers(&other).await;
        let (id, _) = write_secret(&one, "person-1").await;
        for keeper in &mut keepers {
            assert!(keeper.next("message").await.json().to_string().contains(SECRET));
        }
        if !is_heard {
            eventually("it listens", || async { (other.metric("headwater_listener_up").await == 1.0).then_some(()) })
                .await;
            proxy.links_that_sent("LISTEN").iter().for_each(|link| link.silence());
        }
        erase(&one, &id).await;
        let erased = Instant::now();
        for path in PATHS {
            let is_forgotten =
                || async { Some(second_message(&other, path).await).filter(|text| !text.contains(SECRET)) };
            let text = eventually("the copy to be forgotten", is_forgotten).await;
            assert!(erased.elapsed() < LATEST, "heard: {is_heard}, {path}: {:?}", erased.elapsed());
            assert!(text.contains("\"erased\""), "{path}: {text}");
        }
        other.stop().await;
        one.stop().await;
    }
}

/// One source is held back by another, and what it has read waits.
#[tokio::test]
async fn what_waits_for_another_source_is_replaced() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    begun(&app).await;
    app.get("/v1/aggregated-streams/everything?min_position=1&wait=10s").await;
    assert_eq!(app.post("/v1/aggregated-streams/everything/pause", &json!({})).await.status, 200);
    let mut events = app.follow("/v1/events?category=person&aggregated_stream=everything&from=2").await;
    let mut other = app.follow("/v1/categories/person/events").await;
    other.next("caught-up").await;
    let (id, _) = write_secret(&app, "person-1").await;
    other.next("message").await;
    erase(&app, &id).await;
    assert_eq!(app.post("/v1/aggregated-streams/everything/resume", &json!({})).await.status, 200);
    for _ in 0..2 {
        let data = events.next("message").await.json();
        assert_erased(if data["message"].is_object() { &data["message"] } else { &data });
    }
    app.stop().await;
}
