//! A request that was done before is answered with its first result, whatever has become of its versions and conditions.

use std::time::Duration;

use futures_util::future::join_all;
use uuid::Uuid;

use super::*;
use crate::support::proxy::FaultProxy;

const APPEND: &str = "headwater.append_batch";

fn body(ids: &[Uuid; 3]) -> Value {
    json!({
        "appends": [
            { "stream_name": "a-1", "expected_version": -1, "messages": [{ "type": "T", "id": ids[0] }, { "type": "U", "id": ids[1] }] },
            { "stream_name": "b-1", "messages": [{ "type": "T", "id": ids[2] }] },
        ],
        "conditions": [{ "stream_name": "c-1", "version": -1 }, { "categories": ["a", "b"], "types": ["T"], "after": 0 }],
    })
}

fn assert_duplicate_of(answer: &Answer, first: &Value) {
    let mut expected = first.clone();
    expected["duplicate"] = json!(true);
    assert_eq!((answer.status, answer.json()), (200, expected));
}

#[tokio::test]
async fn same_request_is_recognised_before_versions_and_conditions() {
    let (database, app) = app().await;
    let ids = [(); 3].map(|()| Uuid::new_v4());
    let first = written(&app, &body(&ids)).await;
    app.write("c-1", "T", json!(0)).await;
    app.write("a-1", "T", json!(0)).await;
    assert_duplicate_of(&appends(&app, &body(&ids)).await, &first);
    let other = TestApp::on(&database).await;
    for answer in join_all((0..20).map(|n| {
        let app = [&app, &other][n % 2];
        let body = body(&ids);
        async move { appends(app, &body).await }
    }))
    .await
    {
        assert_duplicate_of(&answer, &first);
    }
    assert_eq!(count(&database).await, 5);
}

#[tokio::test]
async fn idempotency_key_gives_ids_by_stream_and_place() {
    let (database, app) = app().await;
    let body = json!({ "appends": [to("a-1", -1), to("b-1", -1)] });
    let send = async |key: &str| {
        let request = app.http.post(format!("{}/v1/appends", app.url)).header("Idempotency-Key", key).json(&body);
        Answer::of(request.send().await.unwrap()).await
    };
    let first = send("k").await;
    assert_eq!(first.status, 201, "{}", first.text);
    assert_duplicate_of(&send("k").await, &first.json());
    send("l").await.problem(409, "wrong-expected-version");
    assert_eq!(count(&database).await, 2);
}

#[tokio::test]
async fn request_of_which_a_part_is_there_is_refused_whole() {
    let (database, app) = app().await;
    let ids = [(); 3].map(|()| Uuid::new_v4());
    let stands = json!({ "messages": [{ "type": "T", "id": ids[2] }] });
    assert_eq!(app.append("b-1", &stands).await.status, 201);
    let problem = appends(&app, &body(&ids)).await.problem(409, "message-id-reused");
    let facts = (&problem["message_id"], &problem["stream_name"], &problem["position"]);
    assert_eq!(facts, (&json!(ids[2]), &json!("b-1"), &json!(0)));
    assert_eq!(count(&database).await, 1);
    // A message that was meant for another stream.
    let mut moved = body(&[Uuid::new_v4(), Uuid::new_v4(), ids[2]]);
    moved["appends"][1]["stream_name"] = json!("d-1");
    appends(&app, &moved).await.problem(409, "message-id-reused");
    assert_eq!(count(&database).await, 1);
}

#[tokio::test]
async fn answer_that_is_lost_after_the_commit_is_found_out() {
    let database = TestDatabase::migrated().await;
    let proxy = FaultProxy::before(&database.url).await;
    let app = TestApp::with(&proxy.url, |settings| settings.append_commit_timeout = Duration::from_secs(5)).await;
    // Opens the session, so that what is lost is an append's answer.
    app.write("first-1", "T", json!(0)).await;
    for round in 1..=3 {
        proxy.lose_answers_of(APPEND, 1);
        let ids = [(); 3].map(|()| Uuid::new_v4());
        let mut request = body(&ids);
        request["appends"][0]["stream_name"] = json!(format!("x-{round}"));
        request["appends"][1]["stream_name"] = json!(format!("y-{round}"));
        request["conditions"] = json!([{ "stream_name": "a-1", "version": round as i64 - 2 }]);
        let first = written(&app, &request).await;
        assert_eq!(proxy.lost_answers(), round, "the answer was not lost");
        app.write("a-1", "T", json!(0)).await;
        assert_duplicate_of(&appends(&app, &request).await, &first);
        assert_eq!(count(&database).await, 4 * round as i64 + 1);
    }
}

#[tokio::test]
async fn answer_in_whose_place_a_pooler_says_that_it_lost_its_server_is_found_out() {
    let database = TestDatabase::migrated().await;
    let proxy = FaultProxy::before(&database.url).await;
    let app = TestApp::with(&proxy.url, |_| {}).await;
    app.write("first-1", "T", json!(0)).await;
    proxy.report_lost_answers_of(APPEND, 1);
    let ids = [(); 3].map(|()| Uuid::new_v4());
    let first = written(&app, &body(&ids)).await;
    assert_eq!(proxy.lost_answers(), 1, "the answer was not lost");
    assert_duplicate_of(&appends(&app, &body(&ids)).await, &first);
    assert_eq!(count(&database).await, 4);
}
