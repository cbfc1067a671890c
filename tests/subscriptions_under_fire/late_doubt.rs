//! Doubts that wait: an instance that does not know whether it has delivered something cannot reach PostgreSQL meanwhile.

use serde_json::json;

use super::*;
use crate::support::app::TestApp;
use crate::support::database::TestDatabase;
use crate::support::proxy::FaultProxy;
use crate::support::waiting::{eventually, until};

/// Nothing but the taking back gives it again in time.
fn patient(mode: &str) -> Value {
    json!({ "source": { "stream_name": "a-1" }, "mode": mode, "ack_timeout": "10m", "consumer_timeout": "5m" })
}

/// What a consumer says at another instance of what it was given there: the answer that was lost has not lost it.
#[tokio::test]
async fn what_is_acked_elsewhere_while_a_doubt_waits_stays_acked() {
    for (what, comes_again) in [("acks all", &[][..]), ("acks some", &[8, 9]), ("parks the first", &[6, 7, 8, 9])] {
        let database = TestDatabase::migrated().await;
        let proxy = FaultProxy::before(&database.url).await;
        let (one, two) = (TestApp::with(&proxy.url, |_| {}).await, TestApp::on(&database).await);
        write(&database.connect().await, "a", 1, 10).await;
        let group = Group::new(&one.url, "s", patient("partitioned")).await;
        let other = group.on(&two.url);
        let first = other.fetch("w", 5).await;
        other.acked("w", &first).await;
        proxy.silence_when_sent(Some("subscription_take_back("));
        proxy.lose_answers_of("subscription_deliver(", 1);
        let fetch = json!({ "consumer": "w", "limit": 5 });
        group.post("/fetch", &fetch).await.problem(503, "database-unavailable");
        until("the doubt waits", PATIENCE, || !proxy.links_that_sent("subscription_take_back(").is_empty()).await;

        let given = other.fetch_with("w", json!({ "limit": 5 })).await;
        assert_eq!(positions(&given), [5, 6, 7, 8, 9], "{what}");
        match what {
            "acks all" => other.acked("w", &given[4..]).await,
            "acks some" => other.acked("w", &given[2..3]).await,
            _ => other.nacked("w", &given[0], json!({ "action": "park" })).await,
        }

        proxy.silence_when_sent(None);
        proxy.cut_all();
        eventually("the taking back", async || {
            (one.metric("headwater_subscription_deliveries_taken_back_total").await > 0.0).then_some(())
        })
        .await;
        let again = other.fetch("w", 10).await;
        assert_eq!(positions(&again), comes_again, "{what}");
        if let Some(last) = again.last() {
            other.acked("w", std::slice::from_ref(last)).await;
        }
        assert_eq!(other.until_all_is_acked().await["delivered_lag"], 0, "{what}");
        assert_eq!(other.fetch("w", 10).await.len(), 0, "{what}");
        one.stop().await;
        two.stop().await;
    }
}

/// The doubt is the claiming consumer's own by then: nobody else knows of it.
#[tokio::test]
async fn a_claim_takes_back_first_what_its_consumer_may_have_been_given() {
    let database = TestDatabase::migrated().await;
    let proxy = FaultProxy::before(&database.url).await;
    let app = TestApp::with(&proxy.url, |_| {}).await;
    write(&database.connect().await, "a", 1, 6).await;
    let group = Group::new(&app.url, "s", patient("competing")).await;
    proxy.silence_when_sent(Some("subscription_give_back("));
    proxy.lose_answers_of("subscription_claim(", 1);
    let fetch = json!({ "consumer": "w1", "limit": 6 });
    group.post("/fetch", &fetch).await.problem(503, "database-unavailable");
    until("the doubt waits", PATIENCE, || !proxy.links_that_sent("subscription_give_back(").is_empty()).await;
    proxy.silence_when_sent(None);
    // It finds nothing to claim.
    let claim = json!({ "consumer": "w1", "min_idle": "0s", "positions": [1_000] });
    assert_eq!(group.done("/claims", &claim).await["messages"], json!([]));
    proxy.cut_all();
    let mut seen = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while seen.len() < 6 {
        // The connections to the database are made anew.
        if let Some((200, answer)) = group.try_post("/fetch", &json!({ "consumer": "w2", "limit": 6 })).await {
            seen.extend(positions(answer["messages"].as_array().unwrap()));
        }
        assert!(Instant::now() < deadline, "what a lost answer has given came to nobody: {seen:?}");
    }
    assert_eq!(seen, [0, 1, 2, 3, 4, 5]);
    app.stop().await;
}
