//! Following: a stream, a category, everything, or several of them on one connection.

mod bounds;
mod cursor;
mod latest_of_each;
mod slow;
mod together;
mod transport;
mod wire;

use serde_json::json;

use crate::support::app::TestApp;
use crate::support::database::TestDatabase;
use crate::support::events::Events;
use crate::support::sql_writer;

/// A source as a path, and its messages as a condition in SQL.
const SOURCES: [(&str, &str); 6] = [
    ("/v1/streams/a-1/events", "stream_name = 'a-1'"),
    ("/v1/categories/a/events", "message_store.category(stream_name) = 'a'"),
    ("/v1/all/events", "true"),
    ("/v1/events?stream_name=b-1&category=a", "stream_name = 'b-1' OR message_store.category(stream_name) = 'a'"),
    ("/v1/events?stream_name=a-1&category=a&stream_name=a-1", "message_store.category(stream_name) = 'a'"),
    ("/v1/events?stream_name=a-1&stream_name=b-2", "stream_name IN ('a-1', 'b-2')"),
];

/// A path with one more parameter.
fn with(path: &str, parameter: &str) -> String {
    format!("{path}{}{parameter}", if path.contains('?') { "&" } else { "?" })
}

/// Messages in streams of three categories; the last one is in `a-1`, which belongs to every source.
async fn write_some(app: &TestApp, rounds: usize) -> i64 {
    for _ in 0..rounds {
        for stream in ["a-1", "b-1", "a-2", "c-1", "b-2", "c"] {
            app.write(stream, "Written", json!({})).await;
        }
    }
    app.write("a-1", "Written", json!({})).await
}

#[tokio::test]
async fn every_source_sends_its_own_messages_once_and_in_global_order() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let app = TestApp::on(&database).await;
    let mut live = Vec::new();
    for (path, condition) in SOURCES {
        live.push((app.follow(&with(path, "from=end")).await, condition));
    }
    let middle = write_some(&app, 2).await;
    // Written in SQL, so that it is read from the database and not known from the append.
    sql_writer::write(&sql, "b-1", "{}").await;
    let mut joined_late = Vec::new();
    for (path, condition) in SOURCES {
        joined_late.push((app.follow(&with(path, "from=beginning")).await, condition));
    }
    let last = write_some(&app, 2).await;
    assert!(last > middle);
    for (mut events, condition) in live.into_iter().chain(joined_late) {
        assert_eq!(events.positions_until(last).await, sql_writer::standing(&sql, condition).await, "{condition}");
    }
    app.stop().await;
}

#[tokio::test]
async fn a_source_without_messages_is_followed() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    for (path, _) in SOURCES {
        for from in ["from=beginning", "from=end", "from=0", "from=2026-01-01T00:00:00Z"] {
            let mut events = app.follow(&with(path, from)).await;
            assert!(events.next_event().await.is("caught-up"), "{path} {from}");
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn caught_up_comes_after_history_and_before_what_is_new() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let mut last = write_some(&app, 3).await;
    for (path, _) in SOURCES {
        let mut events = app.follow(&with(path, "from=beginning")).await;
        assert_eq!(events.positions_until(last).await.last(), Some(&last));
        let caught_up = events.next_event().await;
        assert!(caught_up.is("caught-up"), "{caught_up:?}");
        let data = caught_up.json();
        assert_eq!(caught_up.place(), Some(data["position"].to_string().as_str()));
        assert!(data["time"].as_str().unwrap().ends_with('Z'), "{data}");
        last = app.write("a-1", "Written", json!({})).await;
        assert!(events.next_event().await.is("message"));
    }
    app.stop().await;
}

#[tokio::test]
async fn filters_choose_by_type_expression_and_time() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let at = |minute: i64| format!("2026-03-01T10:{minute:02}:00.000001Z");
    let write = async |stream: &str, first: i64| {
        for n in first..first + 10 {
            let message_type = ["Opened", "Moved", "Closed"][n as usize % 3];
            let body = json!({ "messages": [{ "type": message_type, "data": { "n": n }, "time": at(n) }] });
            assert_eq!(app.append(stream, &body).await.status, 201);
        }
    };
    let filters = [
        ("types=Opened,Closed".to_owned(), vec![0, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18]),
        ("filter=data.n%20%25%205%20%3D%3D%200".to_owned(), vec![0, 5, 10, 15]),
        (format!("from_time={}", at(17)), vec![17, 18, 19]),
        (format!("to_time={}", at(2)), vec![0, 1]),
        (format!("from_time={}&to_time={}", at(9), at(12)), vec![9, 10, 11]),
        (format!("types=Moved&filter=data.n%20%3E%205&from_time={}", at(8)), vec![10, 13, 16, 19]),
    ];
    let sources = ["/v1/streams/a-1/events", "/v1/categories/a/events", "/v1/all/events", "/v1/events?category=a"];
    let mut open: Vec<(Events, &str, Vec<i64>)> = Vec::new();
    write("a-1", 0).await;
    for path in sources {
        for (filter, expected) in &filters {
            let mut events = app.follow(&with(&with(path, "from=beginning"), filter)).await;
            let history: Vec<_> = events.blocks_until("caught-up").await;
            let history = history.iter().filter(|event| event.is("message")).count();
            assert_eq!(history, expected.iter().filter(|n| **n < 10).count(), "{path} {filter}");
            open.push((events, filter, expected[history..].to_vec()));
        }
    }
    write("a-1", 10).await;
    for (events, filter, expected) in &mut open {
        let numbers: Vec<i64> = events
            .messages(expected.len())
            .await
            .iter()
            .map(|message| message["data"]["n"].as_i64().unwrap())
            .collect();
        assert_eq!(numbers, *expected, "{filter}");
    }
    app.stop().await;
}
