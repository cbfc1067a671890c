//! Pages from a time and to a time, in a store whose writers give times in any order, with times that are known up to
//! some position, or not at all.

use super::{numbers, walk};
use crate::support::app::TestApp;
use crate::support::database::TestDatabase;
use crate::support::waiting::eventually;

const MESSAGES: i64 = 25_000;

/// Ten streams of two categories. Times ascend from the year 2001 on, a second apart; but every thousandth message has the
/// time of another one, and two thousand messages in a row are of 2050.
async fn fill(database: &TestDatabase) {
    let fill = format!(
        "INSERT INTO message_store.messages (stream_name, position, type, data, time) \
         SELECT 'c' || n % 2 || '-' || n % 10, n / 10, 'T', '{{}}', CASE \
         WHEN n % 1000 = 7 THEN timestamp '2001-01-01' + (n * 7919 % {MESSAGES}) * interval '1 s' \
         WHEN n BETWEEN 12000 AND 13999 THEN timestamp '2050-01-01' + n * interval '1 s' \
         ELSE timestamp '2001-01-01' + n * interval '1 s' END FROM generate_series(0, {MESSAGES} - 1) AS n"
    );
    database.connect().await.batch_execute(&fill).await.unwrap();
}

/// What a page must hold, as PostgreSQL finds it by looking at every message.
async fn expected(database: &TestDatabase, path: &str, [from, to]: [&str; 2]) -> Vec<i64> {
    let wanted = match path {
        "/v1/all/messages" => "true",
        "/v1/categories/c1/messages" => "stream_name LIKE 'c1-%'",
        _ => "stream_name = 'c1-3'",
    };
    let select = format!(
        "SELECT coalesce(array_agg(global_position ORDER BY global_position), '{{}}') FROM message_store.messages \
         WHERE {wanted} AND time >= '{from}' AND time < '{to}'"
    );
    database.connect().await.query_one(&select, &[]).await.unwrap().get(0)
}

async fn check(database: &TestDatabase, app: &TestApp) {
    for span in [
        ["2001-01-01T04:00:00Z", "2001-01-01T04:00:09Z"],
        ["2001-01-01T06:50:00Z", "9999-01-01T00:00:00Z"],
        ["2050-01-01T03:20:00Z", "2050-01-01T03:20:09Z"],
        ["0001-01-01T00:00:00Z", "2001-01-01T00:01:00Z"],
        ["2100-01-01T00:00:00Z", "9999-01-01T00:00:00Z"],
        ["0001-01-01T00:00:00Z", "2000-01-01T00:00:00Z"],
        ["2001-01-01T00:00:00Z", "2001-01-01T06:00:00Z"],
    ] {
        for path in ["/v1/all/messages", "/v1/categories/c1/messages", "/v1/streams/c1-3/messages"] {
            let mut positions = expected(database, path, span).await;
            let path = format!("{path}?from_time={}&to_time={}", span[0], span[1]);
            assert_eq!(numbers(&walk(app, &path, 1_000).await, "global_position"), positions, "{path}");
            positions.reverse();
            let path = format!("{path}&direction=backward");
            assert_eq!(numbers(&walk(app, &path, 1_000).await, "global_position"), positions, "{path}");
        }
    }
}

/// A request counts for a quarter of a second at most; later ones count the rest.
async fn until_all_are_counted(app: &TestApp) {
    eventually("all to be counted", || async {
        let counts = app.get("/v1/reports/categories").await.json();
        (counts["counted_position"] == MESSAGES).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_page_by_time_has_all_messages_of_that_time_however_many_times_are_known() {
    let database = TestDatabase::migrated().await;
    fill(&database).await;
    let app = TestApp::on(&database).await;
    check(&database, &app).await;
    until_all_are_counted(&app).await;
    // Of these, times are not known yet.
    let more = "INSERT INTO message_store.messages (stream_name, position, type, time) SELECT 'c1-3', 2500 + n, 'T', \
        timestamp '2001-01-01 04:00' + n * interval '1 minute' FROM generate_series(0, 49) AS n";
    database.connect().await.batch_execute(more).await.unwrap();
    check(&database, &app).await;
    app.stop().await;
}

#[tokio::test]
async fn a_follower_begins_at_the_first_message_of_a_time_that_is_out_of_order() {
    let database = TestDatabase::migrated().await;
    fill(&database).await;
    let app = TestApp::on(&database).await;
    until_all_are_counted(&app).await;
    for (path, [from, to]) in [
        ("/v1/all/events", ["2050-01-01T03:20:00Z", "9999-01-01T00:00:00Z"]),
        // Only a single message of the other category is as late.
        ("/v1/categories/c1/events", ["2001-01-01T06:00:00Z", "9999-01-01T00:00:00Z"]),
        ("/v1/events?category=c1&stream_name=c0-2", ["2050-01-01T03:20:00Z", "9999-01-01T00:00:00Z"]),
        ("/v1/streams/c1-3/events", ["2001-01-01T06:00:00Z", "9999-01-01T00:00:00Z"]),
    ] {
        let first = match path.contains('?') {
            false => expected(&database, &path.replace("events", "messages"), [from, to]).await[0],
            true => 12_002,
        };
        let separator = if path.contains('?') { '&' } else { '?' };
        let mut events = app.follow(&format!("{path}{separator}from={from}")).await;
        assert_eq!(events.messages(1).await[0]["global_position"], first, "{path}");
    }
    app.stop().await;
}

#[tokio::test]
async fn times_of_a_log_that_is_gone_hide_nothing_of_the_new_one() {
    let database = TestDatabase::migrated().await;
    fill(&database).await;
    let app = TestApp::on(&database).await;
    until_all_are_counted(&app).await;
    let anew = "TRUNCATE message_store.messages RESTART IDENTITY; \
        INSERT INTO message_store.messages (stream_name, position, type, time) VALUES ('c1-3', 0, 'T', '2040-01-01')";
    database.connect().await.batch_execute(anew).await.unwrap();
    // At once, before anybody can have noticed.
    for path in ["/v1/categories/c1/messages", "/v1/streams/c1-3/messages"] {
        let page = app.get(&format!("{path}?from_time=2040-01-01T00:00:00Z&to_time=2041-01-01T00:00:00Z")).await.json();
        assert_eq!(page["messages"][0]["global_position"], 1, "{page}");
    }
    app.stop().await;
}

#[tokio::test]
async fn a_long_stream_is_summed_up_by_its_ends() {
    let database = TestDatabase::migrated().await;
    fill(&database).await;
    let app = TestApp::on(&database).await;
    let summary = app.get("/v1/streams/c1-3").await.json();
    assert_eq!(summary["version"], MESSAGES / 10 - 1);
    assert_eq!(summary["message_count"], MESSAGES / 10);
    app.stop().await;
}
