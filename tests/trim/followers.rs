//! Followers are told how many messages were trimmed, and go on.

use serde_json::json;

use super::{aggregate, fill, trim};
use crate::support::app::TestApp;
use crate::support::database::TestDatabase;

#[tokio::test]
async fn a_follower_from_the_beginning_is_told_how_many_are_gone() {
    let database = TestDatabase::migrated().await;
    fill(&database, "b-1", 1).await;
    let last = fill(&database, "a-1", 1_000).await;
    let app = TestApp::on(&database).await;
    aggregate(&app, last).await;
    trim(&app, "a-1", json!({ "keep_last": 10 })).await;
    for (path, first) in [
        ("/v1/streams/a-1/events?from=beginning", 990),
        ("/v1/categories/a/events?from=beginning", 992),
        ("/v1/all/events?from=beginning", 992),
        ("/v1/events?stream_name=a-1&category=c&from=beginning", 992),
        ("/v1/aggregated-streams/everything/events?from=beginning", 992),
        ("/v1/categories/a/events?from=beginning&types=Odd", 992),
        ("/v1/categories/a/events?from=beginning&filter=data.n%20%3E%20995", 992),
    ] {
        let mut events = app.follow(path).await;
        let before = events.blocks_until("caught-up").await;
        let trimmed: Vec<_> = before.iter().filter(|event| event.is("trimmed")).collect();
        assert_eq!(trimmed.len(), 1, "{path}: {before:?}");
        assert_eq!(trimmed[0].json(), json!({ "count": 990, "first_position": first }), "{path}");
        let messages = before.iter().filter(|event| event.is("message")).count();
        let expected = match path {
            _ if path.contains("all") => 11,
            _ if path.contains("types") => 5,
            _ if path.contains("filter") => 4,
            _ => 10,
        };
        assert_eq!(messages, expected, "{path}");
        // It is live as any other.
        app.write("a-1", "Odd", json!({ "n": 1_000_000 })).await;
        events.next("message").await;
        trim(&app, "a-1", json!({ "before_position": 990 })).await;
        drop(events);
        // The next one finds as many again as this one found.
        let sql = database.connect().await;
        sql.execute("DELETE FROM message_store.messages WHERE stream_name = 'a-1' AND position > 999", &[])
            .await
            .unwrap();
    }
    app.stop().await;
}

/// Also if nothing passes its filter, so that no message moves it on.
#[tokio::test]
async fn a_follower_of_one_stream_is_told_once() {
    let database = TestDatabase::migrated().await;
    fill(&database, "a-1", 20).await;
    let app = TestApp::on(&database).await;
    trim(&app, "a-1", json!({ "before_position": 8 })).await;
    for (start, rare) in [("from=beginning", "First"), ("last_event_id=3", "Second")] {
        let path = format!("/v1/streams/a-1/events?types={rare}");
        let mut events = app.follow(&format!("{path}&{start}")).await;
        let trimmed = events.next("trimmed").await;
        assert_eq!((trimmed.json()["first_position"].as_i64(), trimmed.place()), (Some(8), Some("7")));
        let id = trimmed.id.unwrap();
        let mut events = app.follow(&format!("{path}&last_event_id={id}")).await;
        let blocks = events.blocks_until("caught-up").await;
        assert!(!blocks.iter().any(|event| event.is("trimmed")), "{blocks:?}");
        // It goes on as any other.
        app.write("a-1", rare, json!({})).await;
        assert_eq!(events.next("message").await.json()["type"], rare);
    }
    app.stop().await;
}

/// A cursor that names a message which was trimmed since is one of this log, and goes on after it.
#[tokio::test]
async fn a_cursor_among_trimmed_messages_goes_on() {
    let database = TestDatabase::migrated().await;
    let last = fill(&database, "a-1", 100).await;
    let app = TestApp::on(&database).await;
    aggregate(&app, last).await;
    let paths = [
        "/v1/streams/a-1/events?",
        "/v1/categories/a/events?",
        "/v1/aggregated-streams/everything/events?",
        "/v1/aggregated-streams/keyed/events?key=1&",
    ];
    let mut cursors = Vec::new();
    for path in paths {
        let mut events = app.follow(&format!("{path}from=beginning")).await;
        events.messages(20).await;
        let event = events.next("message").await;
        cursors.push(event.id.unwrap());
    }
    trim(&app, "a-1", json!({ "keep_last": 10 })).await;
    let other = TestApp::on(&database).await;
    for (path, cursor) in paths.into_iter().zip(cursors) {
        assert!(cursor.contains('~'), "{cursor}");
        let mut events = other.follow(&format!("{path}last_event_id={cursor}")).await;
        let blocks = events.blocks_until("caught-up").await;
        let trimmed = blocks.iter().find(|event| event.is("trimmed")).unwrap_or_else(|| panic!("{path}: {blocks:?}"));
        let count = trimmed.json()["count"].as_i64().unwrap();
        // Twenty-one of ninety were seen.
        assert_eq!(count, 69, "{path}");
        assert_eq!(blocks.iter().filter(|event| event.is("message")).count(), 10, "{path}");
    }
    other.stop().await;
    app.stop().await;
}

/// Also of a key of which nothing is left, and whose last link therefore stays.
#[tokio::test]
async fn a_follower_of_keys_is_told_what_is_gone_of_them() {
    let database = TestDatabase::migrated().await;
    let last = fill(&database, "a-1", 100).await;
    let app = TestApp::on(&database).await;
    let by_type = json!({ "categories": ["a"], "partitioner": { "kind": "key", "of": "type" } });
    assert_eq!(app.put("/v1/aggregated-streams/types", &by_type).await.status, 201);
    app.get(&format!("/v1/aggregated-streams/types?min_position={last}&wait=10s")).await;
    // What is left is the last of the odd ones.
    trim(&app, "a-1", json!({ "keep_last": 1 })).await;
    for (keys, gone, left) in [("key=Even", 50, 0), ("key=Odd", 49, 1), ("key=Even&key=Odd", 99, 1), ("key=None", 0, 0)]
    {
        let mut events = app.follow(&format!("/v1/aggregated-streams/types/events?{keys}&from=beginning")).await;
        let blocks = events.blocks_until("caught-up").await;
        let counts =
            blocks.iter().filter(|event| event.is("trimmed")).map(|event| event.json()["count"].as_i64().unwrap());
        assert_eq!(counts.sum::<i64>(), gone, "{keys}: {blocks:?}");
        assert_eq!(blocks.iter().filter(|event| event.is("message")).count(), left, "{keys}: {blocks:?}");
    }
    app.stop().await;
}

#[tokio::test]
async fn those_that_have_passed_are_not_disturbed() {
    let database = TestDatabase::migrated().await;
    let last = fill(&database, "a-1", 50).await;
    let app = TestApp::on(&database).await;
    aggregate(&app, last).await;
    let mut followers = Vec::new();
    for path in [
        "/v1/streams/a-1/events",
        "/v1/categories/a/events?from=beginning",
        "/v1/all/events",
        "/v1/aggregated-streams/everything/events",
        "/v1/events?category=a&aggregated_stream=everything",
    ] {
        let mut events = app.follow(path).await;
        events.next("caught-up").await;
        followers.push(events);
    }
    assert_eq!(trim(&app, "a-1", json!({ "keep_last": 1 })).await["trimmed"], 49);
    let position = app.write("a-1", "T", json!({})).await;
    for events in &mut followers {
        let next = events.next_event().await;
        assert!(next.is("message"), "{next:?}");
        assert!(next.place().unwrap().starts_with(&position.to_string()) || next.place() == Some("50"), "{next:?}");
    }
    app.stop().await;
}

/// The log is the same after a restart of server and service, also if the message by which it is recognised was trimmed.
#[tokio::test]
async fn a_trimmed_checkpoint_is_no_other_history() {
    let database = TestDatabase::migrated().await;
    let last = fill(&database, "a-1", 50).await;
    let sql = database.connect().await;
    let id: uuid::Uuid = sql
        .query_one("SELECT id FROM message_store.messages WHERE global_position = $1", &[&last])
        .await
        .unwrap()
        .get(0);
    fill(&database, "a-1", 50).await;
    let app = TestApp::on(&database).await;
    trim(&app, "a-1", json!({ "keep_last": 1 })).await;
    app.stop().await;
    // As an instance leaves it that was stopped before the trim, and a server that was started anew since.
    let keep =
        "UPDATE headwater.settled_position SET position = $1, message_position = $1, message_id = $2, server = 'other'";
    assert_eq!(sql.execute(keep, &[&last, &id]).await.unwrap(), 1);
    let app = TestApp::on(&database).await;
    let mut events = app.follow(&format!("/v1/all/events?last_event_id={last}~{}", &id.to_string()[28..])).await;
    assert_eq!(events.next("trimmed").await.json()["count"], 49);
    assert_eq!(app.metric("headwater_history_changes_total").await, 0.0);
    // And a truncated log is another one as ever.
    sql.batch_execute("TRUNCATE message_store.messages RESTART IDENTITY").await.unwrap();
    assert_eq!(events.next("closing").await.json()["reason"], "history-changed");
    app.write("a-1", "T", json!({})).await;
    let mut events = app.follow("/v1/streams/a-1/events?from=beginning").await;
    assert!(events.next_event().await.is("message"), "nothing of the former log is missed");
    app.stop().await;
}
