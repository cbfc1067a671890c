//! Where a follower begins, and that every `id` is a place to go on from.

use serde_json::{Value, json};

use super::{SOURCES, with, write_some};
use crate::support::app::{PATIENCE, TestApp};
use crate::support::database::TestDatabase;
use crate::support::events::{Events, position_of};
use crate::support::sql_writer;

/// What comes up to the first caught-up, as global positions.
async fn history(events: &mut Events) -> Vec<i64> {
    events.blocks_until("caught-up").await.iter().filter(|event| event.is("message")).map(position_of).collect()
}

#[tokio::test]
async fn the_header_goes_before_the_parameter_and_the_parameter_before_from() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    for _ in 0..5 {
        app.write("other-1", "Written", json!({})).await;
        app.write("a-1", "Written", json!({})).await;
    }
    let page = app.get("/v1/streams/a-1/messages").await.json();
    let time = page["messages"][3]["time"].as_str().unwrap();
    let first = async |path: &str, header: Option<&str>| -> Option<i64> {
        let headers: Vec<(&str, &str)> = header.iter().map(|id| ("last-event-id", *id)).collect();
        let mut events = Events::open(&format!("{}{path}", app.url), &headers).await;
        let event = events.next_event().await;
        event.is("message").then(|| event.json()["position"].as_i64().unwrap())
    };
    let stream = "/v1/streams/a-1/events";
    for (query, header, expected) in [
        ("", None, None),
        ("?from=end", None, None),
        ("?from=beginning", None, Some(0)),
        ("?from=2", None, Some(2)),
        (&format!("?from={time}"), None, Some(3)),
        ("?from=beginning&last_event_id=1", None, Some(2)),
        ("?from=beginning&last_event_id=1", Some("2"), Some(3)),
        ("?last_event_id=1", Some("4"), None),
        ("?from=3", Some("-1"), Some(0)),
        // An empty one is none.
        ("?last_event_id=1", Some(""), Some(2)),
        ("?from=beginning&last_event_id=1", Some(""), Some(2)),
        ("?from=3&last_event_id=", Some(""), Some(3)),
    ] {
        assert_eq!(first(&format!("{stream}{query}"), header).await, expected, "{query} {header:?}");
    }
    // The same in global positions, of which this stream has the even ones.
    for path in ["/v1/categories/a/events", "/v1/events?stream_name=a-1"] {
        for (query, header, expected) in [
            ("from=end", None, None),
            ("from=beginning", None, Some(0)),
            ("from=4", None, Some(1)),
            ("from=5", None, Some(2)),
            (&format!("from={time}"), None, Some(3)),
            ("from=beginning&last_event_id=4", None, Some(2)),
            ("from=beginning&last_event_id=4", Some("6"), Some(3)),
            ("from=beginning", Some("10"), None),
        ] {
            assert_eq!(first(&with(path, query), header).await, expected, "{path} {query} {header:?}");
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn a_place_that_cannot_be_read_is_refused() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    for query in ["from=yesterday", "from=-1", "last_event_id=x", "last_event_id=-2", "heartbeat=soon"] {
        app.get(&format!("/v1/streams/a-1/events?{query}")).await.problem(400, "malformed-request");
    }
    app.get("/v1/all/events?heartbeat=1ms").await.problem(422, "invalid");
    app.get("/v1/all/events?filter=data.").await.problem(422, "invalid");
    app.get("/v1/events").await.problem(422, "invalid");
    app.get("/v1/all/events?form=beginning").await.problem(400, "malformed-request");
    app.stop().await;
}

#[tokio::test]
async fn every_id_is_a_place_to_go_on_from_without_gap_or_repeat() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let app = TestApp::on(&database).await;
    sql_writer::roll_back_one(&sql).await;
    write_some(&app, 1).await;
    sql_writer::roll_back_one(&sql).await;
    write_some(&app, 1).await;
    for (path, condition) in SOURCES {
        let expected = sql_writer::standing(&sql, condition).await;
        let mut events = app.follow(&with(path, "from=beginning")).await;
        let blocks = events.blocks_until("caught-up").await;
        let mut seen = 0;
        for block in blocks.iter().filter(|block| block.id.is_some()) {
            seen += usize::from(block.is("message"));
            let id = block.id.as_deref().unwrap();
            let mut resumed = Events::resume(&format!("{}{path}", app.url), id).await;
            assert_eq!(history(&mut resumed).await, expected[seen..], "{path} after {id}");
        }
        assert_eq!(seen, expected.len());
    }
    app.stop().await;
}

#[tokio::test]
async fn an_empty_source_followed_from_its_end_and_cut_misses_nothing() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    for (number, (path, _)) in SOURCES.into_iter().enumerate() {
        let category = format!("new{number}");
        let path = path.replace("a-1", &format!("{category}-1"));
        let path = path.replace("category=a", &format!("category={category}")).replace("/a/", &format!("/{category}/"));
        let mut events = app.follow(&with(&path, "from=end")).await;
        let id = events.next("caught-up").await.id.expect("caught-up has a cursor");
        drop(events);
        let written = app.write(&format!("{category}-1"), "Written", json!({})).await;
        let mut resumed = Events::resume(&format!("{}{path}", app.url), &id).await;
        assert_eq!(position_of(&resumed.next("message").await), written, "{path}");
    }
    app.stop().await;
}

#[tokio::test]
async fn a_follower_that_begins_beyond_the_end_can_come_back_and_gets_what_it_asked_for() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    for _ in 0..3 {
        app.write("a-1", "Written", json!({})).await;
    }
    for (path, is_asked_for) in [
        ("/v1/streams/a-1/events?from=5", "position"),
        ("/v1/categories/a/events?from=6", "global_position"),
        ("/v1/all/events?from=6", "global_position"),
    ] {
        let url = format!("{}{path}", app.url);
        let mut events = Events::open(&url, &[]).await;
        events.next("caught-up").await;
        let resumed = match &events.last_id {
            Some(id) => Events::resume(&url, id).await,
            None => Events::open(&url, &[]).await,
        };
        let from = path.rsplit('=').next().unwrap().parse::<i64>().unwrap();
        let written = loop {
            let answer = app.append("a-1", &json!({ "messages": [{ "type": "T", "data": {} }] })).await.json();
            if answer["messages"][0][is_asked_for].as_i64() >= Some(from) {
                break answer["messages"][0]["global_position"].as_i64().unwrap();
            }
        };
        for mut events in [events, resumed] {
            assert_eq!(position_of(&events.next("message").await), written, "{path}");
        }
    }
    app.stop().await;
}

/// Appends messages numbered from `first`, a thousand at once.
async fn write_numbered(app: &TestApp, stream: &str, numbers: std::ops::Range<usize>) {
    let numbers: Vec<usize> = numbers.collect();
    for some in numbers.chunks(1_000) {
        let messages: Vec<Value> = some.iter().map(|n| json!({ "type": "Numbered", "data": { "n": n } })).collect();
        let answer = app.append(stream, &json!({ "messages": messages })).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
    }
}

#[tokio::test]
async fn a_filter_that_lets_nothing_pass_moves_the_cursor_on_all_the_same() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    write_numbered(&app, "a-1", 0..2_500).await;
    for path in ["/v1/streams/a-1/events", "/v1/categories/a/events", "/v1/all/events"] {
        let path = with(path, "filter=data.n%20%25%2010000%20%3D%3D%202400&heartbeat=1s");
        let url = format!("{}{path}", app.url);
        let mut events = Events::open(&with(&url, "from=beginning"), &[]).await;
        let mut blocks = events.blocks_until("heartbeat").await;
        let progress = |block: &&crate::support::events::Event| block.id.is_some() && block.name.is_none();
        let before = blocks.iter().take_while(|block| !block.is("message"));
        assert!(before.clone().filter(progress).count() >= 1, "{blocks:?}");
        assert!(before.filter(progress).all(|block| block.data.is_none()));
        // A client that is cut at any of them, the message, caught-up and the heartbeat too, gets the rest.
        blocks.retain(|block| block.id.is_some());
        let mut expected = 1;
        for block in &blocks {
            expected -= usize::from(block.is("message"));
            let mut resumed = Events::resume(&url, block.id.as_deref().unwrap()).await;
            assert_eq!(history(&mut resumed).await.len(), expected, "{path} {block:?}");
        }
        assert_eq!(expected, 0);
    }
    app.stop().await;
}

#[tokio::test]
async fn progress_comes_to_a_live_follower_too() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    for filter in ["types=Never", "filter=data.n%20%3C%200"] {
        let stream = format!("{}-1", &filter[..5]);
        let url = format!("{}/v1/streams/{stream}/events?{filter}", app.url);
        let mut events = Events::open(&url, &[]).await;
        events.next("caught-up").await;
        write_numbered(&app, &stream, 0..3_000).await;
        let block = events.next_block(PATIENCE).await.unwrap();
        assert!(block.data.is_none() && block.id.is_some(), "{block:?}");
        let id: i64 = block.place().unwrap().parse().unwrap();
        assert!((500..3_000).contains(&id), "{id}");
    }
    app.stop().await;
}
