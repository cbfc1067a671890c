//! What one credential may use leaves the rest for the others.

use headwater::domain::observation::Observation;
use reqwest::Method;
use serde_json::{Value, json};

use super::Guarded;
use crate::support::app::{TestApp, TestClient};
use crate::support::append_session::AppendSession;
use crate::support::waiting::eventually;

#[tokio::test]
async fn a_credential_has_so_many_event_streams_and_gets_their_places_back() {
    let guarded = Guarded::with(|settings| settings.per_credential.followers_per_credential_max = 2).await;
    let (one, other) = (guarded.caller(&["read:*"]).await, guarded.caller(&["read:*"]).await);
    let mut open = vec![one.follow("/v1/all/events").await, one.follow("/v1/streams/a-1/events").await];
    let refused = one.get("/v1/all/events").await;
    assert_eq!(refused.problem(429, "rate-limited")["limit"], 2);
    assert_eq!(refused.headers["retry-after"], "1");
    let _others = other.follow("/v1/all/events").await;
    let mut watcher = guarded.app.service.observer.watch();
    drop(open.pop());
    TestApp::observed(&mut watcher, "a place to come back", |seen| matches!(seen, Observation::FollowerLeft)).await;
    let mut again = one.follow("/v1/all/events").await;
    again.next("caught-up").await;
    guarded.end().await;
}

#[tokio::test]
async fn a_credential_appends_so_often_and_its_sessions_wait_for_their_turn() {
    let guarded = Guarded::with(|settings| settings.per_credential.appends_per_credential_max = 2).await;
    let (one, other) = (guarded.caller(&["append:*"]).await, guarded.caller(&["append:*"]).await);
    let body = json!({ "messages": [{ "type": "T" }] });
    let answers = futures_util::future::join_all((0..10).map(|_| one.append("a-1", &body))).await;
    let (written, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 201);
    assert!(written.len() >= 2 && !refused.is_empty(), "{} of 10 were written", written.len());
    for answer in refused {
        assert_eq!(answer.problem(429, "rate-limited")["limit"], 2);
        assert_eq!(answer.headers["retry-after"], "1");
    }
    let several = json!({ "appends": [{ "stream_name": "a-1", "messages": [{ "type": "T" }] }] });
    let answers = futures_util::future::join_all((0..5).map(|_| one.post("/v1/appends", &several))).await;
    assert!(answers.iter().any(|answer| answer.status == 429), "both ways count together");
    other.write("b-1", json!({})).await;
    // A session is slowed down, not refused: every line is written.
    let lines = "{\"type\":\"T\"}\n".repeat(50);
    let session = one.request(Method::POST, "/v1/streams/c-1/messages").header("content-type", "application/x-ndjson");
    let told = session.body(lines).send().await.unwrap().text().await.unwrap();
    let count: i64 = told
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["count"].as_i64().expect("a commit"))
        .sum();
    assert_eq!(count, 50, "{told}");
    guarded.end().await;
}

#[tokio::test]
async fn a_credential_has_so_many_append_sessions_and_gets_their_places_back() {
    let guarded = Guarded::with(|settings| settings.per_credential.append_sessions_per_credential_max = 2).await;
    let (one, other) = (guarded.caller(&["append:*"]).await, guarded.caller(&["append:*"]).await);
    let open =
        async |caller: &TestClient, stream: &str| AppendSession::at(&caller.http, &caller.url, stream, &[]).await;
    let mut sessions = vec![open(&one, "a-1").await, open(&one, "a-2").await];
    let refused = open(&one, "a-3").await.refused().await;
    assert_eq!(refused.problem(429, "rate-limited")["limit"], 2);
    assert_eq!(refused.headers["retry-after"], "1");
    sessions.push(open(&other, "b-1").await);
    for session in &mut sessions {
        assert_eq!(session.status, 200);
        session.write([&json!({ "type": "T" })]).await;
        session.committed(1).await;
    }
    sessions[0].end();
    sessions[0].rest().await;
    eventually("a place", async || (open(&one, "a-3").await.status == 200).then_some(())).await;
    drop(sessions);
    guarded.end().await;
}

#[tokio::test]
async fn a_credential_makes_so_many_subscriptions_and_aggregated_streams() {
    let guarded = Guarded::with(|settings| {
        settings.per_credential.subscriptions_per_credential_max = 2;
        settings.per_credential.aggregated_streams_per_credential_max = 1;
    })
    .await;
    let scopes = &["read:*", "subscribe:*"];
    let (one, other) = (guarded.caller(scopes).await, guarded.caller(scopes).await);
    let subscription = json!({ "source": { "all": true } });
    let paths: Vec<_> = (0..6).map(|n| format!("/v1/subscriptions/s{n}")).collect();
    let answers = futures_util::future::join_all(paths.iter().map(|path| one.put(path, &subscription))).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 2);
    for answer in answers.iter().filter(|answer| answer.status != 201) {
        let problem = answer.problem(422, "invalid");
        assert!(problem.to_string().contains("the limit of 2 subscriptions of one credential"), "{problem}");
    }
    assert_eq!(other.put("/v1/subscriptions/others", &subscription).await.status, 201);
    let made = paths.iter().zip(&answers).find(|(_, answer)| answer.status == 201).unwrap().0;
    assert_eq!(one.put(made, &subscription).await.status, 200, "what is there is not made again");
    assert_eq!(one.delete(made).await.status, 204);
    assert_eq!(one.put("/v1/subscriptions/next", &subscription).await.status, 201);
    let definition = json!({ "partitioner": { "kind": "constant" } });
    assert_eq!(one.put("/v1/aggregated-streams/a", &definition).await.status, 201);
    let refused = one.put("/v1/aggregated-streams/b", &definition).await.problem(422, "invalid");
    assert!(refused.to_string().contains("the limit of 1 aggregated streams of one credential"), "{refused}");
    assert_eq!(other.put("/v1/aggregated-streams/b", &definition).await.status, 201);
    guarded.end().await;
}
