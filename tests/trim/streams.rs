//! Pages, summaries and appends of trimmed streams, and what a trim may be asked.

use serde_json::json;

use super::{aggregate, fill, trim, try_trim};
use crate::support::app::{Answer, TestApp};
use crate::support::database::TestDatabase;
use crate::support::proxy::FaultProxy;

#[tokio::test]
async fn the_oldest_go_and_positions_stay() {
    let database = TestDatabase::migrated().await;
    fill(&database, "a-1", 10).await;
    let app = TestApp::on(&database).await;
    for (body, trimmed, first) in [
        (json!({ "before_position": 0 }), 0, 0),
        (json!({ "before_position": 2 }), 2, 2),
        (json!({ "before_position": 1 }), 0, 2),
        (json!({ "before_time": "2026-01-01T04:00:00Z" }), 2, 4),
        (json!({ "keep_last": 4 }), 2, 6),
        (json!({ "keep_last": 9223372036854775807i64 }), 0, 6),
        // The newest always stays.
        (json!({ "before_position": 9223372036854775807i64 }), 3, 9),
        (json!({ "before_time": "2030-01-01T00:00:00Z" }), 0, 9),
        (json!({ "keep_last": 1 }), 0, 9),
    ] {
        let answer = trim(&app, "a-1", body.clone()).await;
        let expected =
            json!({ "trimmed": trimmed, "first_position": first, "kept_unacked": false, "is_complete": true });
        assert_eq!(answer, expected, "{body}");
        let page = app.get("/v1/streams/a-1/messages").await.json();
        assert_eq!(page["messages"][0]["position"], first, "{body}: a page without from begins with what is left");
        assert_eq!((&page["version"], &page["next"]), (&json!(9), &json!(10)));
        let summary = app.get("/v1/streams/a-1").await.json();
        assert_eq!(summary["first_position"], first);
        assert_eq!(summary["message_count"], 10 - first);
        assert_eq!(summary["version"], 9);
    }
    // Versions never go back.
    let next = app.append("a-1", &json!({ "expected_version": 9, "messages": [{ "type": "T" }] })).await;
    assert_eq!(next.json()["version"], 10, "{}", next.text);
    app.stop().await;
}

#[tokio::test]
async fn reads_of_trimmed_positions_are_told_the_first_that_is_left() {
    let database = TestDatabase::migrated().await;
    let last = fill(&database, "a-1", 10).await;
    let app = TestApp::on(&database).await;
    aggregate(&app, last).await;
    trim(&app, "a-1", json!({ "before_position": 6 })).await;
    for path in ["/v1/streams/a-1/messages", "/v1/aggregated-streams/everything/partitions/0/messages"] {
        for from in [0, 5] {
            let problem = app.get(&format!("{path}?from={from}")).await.problem(410, "position-trimmed");
            assert_eq!(problem["first_position"], 6, "{path}");
            // A filter that nothing passes, and a wait, change nothing.
            if path.contains("streams/a-1") {
                let problem = app.get(&format!("{path}?from={from}&types=No&wait=10s")).await;
                assert_eq!(problem.problem(410, "position-trimmed")["first_position"], 6);
                app.get(&format!("{path}?from={from}&direction=backward")).await.problem(410, "position-trimmed");
            }
        }
        for from in ["?from=6", ""] {
            let page = app.get(&format!("{path}{from}")).await.json();
            assert_eq!(page["messages"].as_array().unwrap().len(), 4, "{path}: {page}");
            assert_eq!(page["messages"][0]["position"], 6, "{path}");
            assert_eq!(page["at_end"], true);
        }
    }
    let backward = app.get("/v1/streams/a-1/messages?direction=backward&limit=3").await.json();
    let next = backward["next"].as_i64().unwrap();
    let end = app.get(&format!("/v1/streams/a-1/messages?direction=backward&limit=3&from={next}")).await.json();
    assert_eq!(
        (&end["messages"][0]["position"], &end["at_end"], &end["next"]),
        (&json!(6), &json!(true), &json!(null))
    );
    for (path, count) in [("/v1/categories/a/messages?from=0", 4), ("/v1/all/messages?from=1", 4)] {
        assert_eq!(app.get(path).await.json()["messages"].as_array().unwrap().len(), count, "{path}");
    }
    let from_last = app.get("/v1/streams/a-1/messages?from_last=Nowhere").await.json();
    assert_eq!(from_last["messages"][0]["position"], 6);
    let positions = app.get("/v1/aggregated-streams/everything/positions?global_position=2").await.json();
    assert_eq!(positions["positions"], json!([{ "partition": 0, "position": 6 }]));
    app.stop().await;
}

#[tokio::test]
async fn a_page_from_before_a_trim_is_not_said_to_be_unchanged() {
    let database = TestDatabase::migrated().await;
    fill(&database, "a-1", 4).await;
    let app = TestApp::on(&database).await;
    let page = |tag: String| {
        let request = app.http.get(format!("{}/v1/streams/a-1/messages", app.url)).header("if-none-match", tag);
        async move { Answer::of(request.send().await.unwrap()).await }
    };
    let tag = |answer: &Answer| answer.headers["etag"].to_str().unwrap().to_owned();
    let before = page("\"\"".into()).await;
    assert_eq!(page(tag(&before)).await.status, 304);
    trim(&app, "a-1", json!({ "keep_last": 2 })).await;
    let after = page(tag(&before)).await;
    assert_eq!((after.status, after.json()["messages"].as_array().unwrap().len()), (200, 2));
    assert_eq!(page(tag(&after)).await.status, 304);
    app.stop().await;
}

#[tokio::test]
async fn reports_count_what_is_left() {
    let database = TestDatabase::migrated().await;
    fill(&database, "a-1", 10).await;
    fill(&database, "a-2", 10).await;
    let app = TestApp::on(&database).await;
    // Counted before for one, and not before for the other.
    trim(&app, "a-1", json!({ "keep_last": 3 })).await;
    let report = || async { app.get("/v1/reports/categories").await.json()["categories"][0].clone() };
    let first = report().await;
    assert_eq!((&first["message_count"], &first["stream_count"]), (&json!(13), &json!(2)), "{first}");
    trim(&app, "a-2", json!({ "keep_last": 4 })).await;
    let second = report().await;
    assert_eq!((&second["message_count"], &second["stream_count"]), (&json!(7), &json!(2)), "{second}");
    app.stop().await;
}

#[tokio::test]
async fn bad_input_is_named_and_trims_nothing() {
    let database = TestDatabase::migrated().await;
    fill(&database, "a-1", 5).await;
    let app = TestApp::on(&database).await;
    for (body, status, slug) in [
        (json!({}), 422, "invalid"),
        (json!({ "before_position": 3, "keep_last": 2 }), 422, "invalid"),
        (json!({ "before_position": 3, "before_time": "2026-01-01T04:00:00Z" }), 422, "invalid"),
        (json!({ "before_position": -1 }), 422, "invalid"),
        (json!({ "keep_last": 0 }), 422, "invalid"),
        (json!({ "keep_last": -5 }), 422, "invalid"),
        (json!({ "keep_last": "3" }), 400, "malformed-request"),
        (json!({ "keep_last": 1.5 }), 400, "malformed-request"),
        (json!({ "before_time": "yesterday" }), 400, "malformed-request"),
        (json!({ "before_time": 5 }), 400, "malformed-request"),
        (json!({ "keep_last": 1, "unless_unacked": "no" }), 400, "malformed-request"),
        (json!({ "keep_last": 1, "keep": 1 }), 400, "malformed-request"),
        (json!([]), 400, "malformed-request"),
    ] {
        let problem = try_trim(&app, "a-1", &body).await.problem(status, slug);
        assert!(problem["errors"][0]["field"].is_string(), "{body}: {problem}");
    }
    let huge = "{\"before_position\": 99999999999999999999}";
    app.post_text("/v1/streams/a-1/trim", huge).await.problem(400, "malformed-request");
    app.post_text("/v1/streams/a-1/trim", "").await.problem(400, "malformed-request");
    try_trim(&app, "a-9", &json!({ "keep_last": 1 })).await.problem(404, "not-found");
    try_trim(&app, "a", &json!({ "keep_last": 1 })).await.problem(404, "not-found");
    assert_eq!(app.get("/v1/streams/a-1").await.json()["message_count"], 5);
    for odd in ["a-it%27s%20%22odd%22", "a-%25_%5C%2B%3A", "a-%F0%9F%98%80"] {
        for _ in 0..3 {
            app.post(&format!("/v1/streams/{odd}/messages"), &json!({ "messages": [{ "type": "T" }] })).await;
        }
        assert_eq!(trim(&app, odd, json!({ "keep_last": 1 })).await["trimmed"], 2, "{odd}");
    }
    app.stop().await;
}

/// The step commits, and its answer is lost: what it deleted stays deleted, and the same request goes on.
#[tokio::test]
async fn a_trim_whose_answer_is_lost_goes_on_when_it_is_sent_again() {
    let database = TestDatabase::migrated().await;
    fill(&database, "a-1", 1_000).await;
    let proxy = FaultProxy::before(&database.url).await;
    let app = TestApp::with(&proxy.url, |_| {}).await;
    proxy.lose_answers_of("trim_stream", 1);
    let body = json!({ "keep_last": 10 });
    try_trim(&app, "a-1", &body).await.problem(503, "database-unavailable");
    assert_eq!(proxy.lost_answers(), 1);
    let first = app.get("/v1/streams/a-1").await.json()["first_position"].as_i64().unwrap();
    assert!(first > 0 && first < 990, "{first}");
    let again = trim(&app, "a-1", body).await;
    assert_eq!((&again["trimmed"], &again["first_position"]), (&json!(990 - first), &json!(990)));
    let events = app.follow("/v1/streams/a-1/events?from=beginning").await.next("trimmed").await.json();
    assert_eq!(events, json!({ "count": 990, "first_position": 990 }));
    app.stop().await;
}
