//! Exporting: everything that is settled, in order, as it is stored.

use serde_json::{Value, json};

use super::{Lines, imported, many, run, stored};
use crate::support::app::TestApp;
use crate::support::database::TestDatabase;
use crate::support::sql_writer;
use crate::support::writers::Writers;

/// Messages that a careless export would change.
const ODD: &str = r#"
    INSERT INTO message_store.messages (stream_name, position, type, data, metadata, time) VALUES
    ('plain-1', 0, 'T', '{"a": 1}', '{"m": [1, 2]}', '2018-01-02 03:04:05.678901'),
    ('plain-1', 1, 'T', NULL, NULL, '0001-01-01'),
    ('plain-1', 5, 'T', 'null', 'null', '9999-12-31 23:59:59.999999'),
    ('it''s "q"\ %_+:-1', 0, E'tab\tand \u00e9', '"\u0001 \\ \" \n"', '1', 'infinity'),
    ('', 0, '', '{"n": 12345678901234567890.123456789012345678901234567890}', '1e-20', '-infinity'),
    ('far-1', 0, 'T', '[[[[]]]]', '{}', '20000-01-01'),
    ('far-1', 1, 'T', '{"b": 1, "a": 2}', '{}', '0044-03-15 BC');
    INSERT INTO message_store.messages (stream_name, position, type, data)
    VALUES ('deep-1', 0, 'T', (repeat('[', 600) || repeat(']', 600))::jsonb), ('long-1', 0, 'T', repeat('9', 5000)::jsonb);
    INSERT INTO message_store.messages (stream_name, position, type) VALUES ('gone-1', 0, 'T'), ('last-1', 0, 'T');
    DELETE FROM message_store.messages WHERE stream_name = 'gone-1';
"#;

#[tokio::test(flavor = "multi_thread")]
async fn everything_comes_back_as_it_was_stored() {
    let (one, other) = (TestDatabase::migrated().await, TestDatabase::empty().await);
    let sql = one.connect().await;
    sql_writer::roll_back_one(&sql).await;
    sql.batch_execute(ODD).await.unwrap();
    let file = Lines::nowhere();
    let (code, out, error) = run(&one.url, &["export", file.path.to_str().unwrap()]).await;
    assert_eq!((code, out.as_str(), error.as_str()), (0, "", "10 messages exported\n"));
    imported(&other.url, &file.path, &[]).await;
    let copy = other.connect().await;
    assert_eq!(stored(&copy).await, stored(&sql).await);
    let (_, again, _) = run(&other.url, &["export"]).await;
    assert_eq!(again, file.text());
    // What is written next does not collide with what was imported.
    let last: Vec<i64> = sql_writer::standing(&sql, "true").await;
    assert!(sql_writer::write(&copy, "plain-1", "{}").await > *last.last().unwrap());
    let first: Value = serde_json::from_str(again.lines().next().unwrap()).unwrap();
    let fields: Vec<&String> = first.as_object().unwrap().keys().collect();
    let expected = ["id", "stream_name", "type", "position", "global_position", "data", "metadata", "time"];
    assert_eq!(fields, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_the_log_is_exported_by_category_and_position() {
    let database = TestDatabase::migrated().await;
    let file = Lines::of(&many(20));
    imported(&database.url, &file.path, &[]).await;
    let positions = async |arguments: &[&str]| -> Vec<i64> {
        let (code, out, error) = run(&database.url, &[&["export"], arguments].concat()).await;
        assert_eq!(code, 0, "{error}");
        let position = |line| serde_json::from_str::<Value>(line).unwrap()["global_position"].as_i64().unwrap();
        out.lines().map(position).collect()
    };
    assert_eq!(positions(&["--after", "19"]).await, [21, 22]);
    assert_eq!(positions(&["-", "--categories", "b,none", "--after", "12"]).await, [13, 15, 17, 19, 22]);
    assert_eq!(positions(&["--after", "22"]).await, [0; 0]);
    assert_eq!(positions(&["--after", "9223372036854775807"]).await, [0; 0]);
    assert_eq!(positions(&["--categories", "none"]).await, [0; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_gone_on_with_after_its_last_whole_line() {
    let database = TestDatabase::migrated().await;
    let whole = many(300);
    imported(&database.url, &Lines::of(&whole).path, &[]).await;
    for cut in [0, 1, 150, 40_000, whole.len() - 1, whole.len()] {
        let file = Lines::of(&whole[..cut]);
        let path = file.path.to_str().unwrap();
        if cut > 0 {
            let (code, _, error) = run(&database.url, &["export", path]).await;
            assert!(code == 1 && error.contains("--resume"), "{error}");
            assert_eq!(file.text(), whole[..cut]);
        }
        let (code, _, error) = run(&database.url, &["export", path, "--resume"]).await;
        assert_eq!(code, 0, "{error}");
        assert_eq!(file.text(), whole, "cut at {cut}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_another_log_is_not_gone_on_with() {
    let database = TestDatabase::migrated().await;
    let whole = many(30);
    imported(&database.url, &Lines::of(&whole).path, &[]).await;
    let last = whole.lines().last().unwrap();
    for (text, part) in [
        (last.replace("\"id\":\"0", "\"id\":\"1").replace("0021\"", "0022\""), "history of the log has changed"),
        (last.replace("\"global_position\":33", "\"global_position\":3300"), "history of the log has changed"),
        ("{\"no\": \"message\"}".into(), "no exported message"),
    ] {
        let file = Lines::of(&format!("{text}\n"));
        let (code, _, error) = run(&database.url, &["export", file.path.to_str().unwrap(), "--resume"]).await;
        assert!(code == 1 && error.contains(part), "{text}: {error}");
        assert_eq!(file.text(), format!("{text}\n"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_beside_writers_misses_nothing_before_its_end() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let sql = database.connect().await;
    // A transaction that took its number and has not committed: what comes after it is not settled.
    let open = database.connect().await;
    open.batch_execute("BEGIN").await.unwrap();
    let held = sql_writer::write(&open, "slow-1", "{}").await;
    let writers = Writers::start(&app.url, "account", 4);
    let file = Lines::nowhere();
    let path = file.path.to_str().unwrap();
    let (code, _, error) = run(&database.url, &["export", path]).await;
    assert_eq!((code, error.as_str()), (0, "0 messages exported\n"), "nothing is settled after the open transaction");
    open.batch_execute("COMMIT").await.unwrap();
    for _ in 0..4 {
        let (code, _, error) = run(&database.url, &["export", path, "--resume"]).await;
        assert_eq!(code, 0, "{error}");
    }
    writers.stop().await;
    let (code, _, error) = run(&database.url, &["export", path, "--resume"]).await;
    assert_eq!(code, 0, "{error}");
    let position = |line: &str| serde_json::from_str::<Value>(line).unwrap()["global_position"].as_i64().unwrap();
    let exported: Vec<i64> = file.text().lines().map(position).collect();
    assert_eq!(exported, sql_writer::standing(&sql, "true").await);
    assert_eq!(exported.first(), Some(&held));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_the_schemas_is_left_alone() {
    let database = TestDatabase::empty().await;
    let (code, out, error) = run(&database.url, &["export"]).await;
    assert!(code == 1 && out.is_empty() && error.contains("headwater migrate"), "{error}");
    let (code, _, error) = run(&database.url, &["export", "--resume"]).await;
    assert!(code == 1 && error.contains("--resume needs a file"), "{error}");
    for arguments in
        [&["export", "--after", "-1"][..], &["export", "x", "--resume", "--after", "1"], &["import", "--resume"]]
    {
        let (code, _, error) = run(&database.url, arguments).await;
        assert_eq!(code, 2, "{arguments:?}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_http_wrote_is_what_http_gives_after_a_move() {
    let (one, other) = (TestDatabase::migrated().await, TestDatabase::migrated().await);
    let app = TestApp::on(&one).await;
    let body = json!({ "messages": [
        { "type": "A", "data": { "n": 1 }, "metadata": { "correlationStreamName": "x-1" } },
        { "type": "B", "time": "2018-01-01T00:00:00Z" },
    ] });
    assert_eq!(app.append("account-1", &body).await.status, 201);
    let (_, lines, _) = run(&one.url, &["export"]).await;
    let (code, _, error) = super::run_with_input(&other.url, &["import", "-"], lines).await;
    assert_eq!(code, 0, "{error}");
    let moved = TestApp::on(&other).await;
    for path in ["/v1/all/messages", "/v1/streams/account-1/messages", "/v1/categories/x/messages"] {
        assert_eq!(moved.get(path).await.text, app.get(path).await.text, "{path}");
    }
    app.stop().await;
    moved.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_message_stays_one() {
    let one = TestDatabase::migrated().await;
    let app = TestApp::on(&one).await;
    for n in 0..4 {
        app.write("account-1", "T", json!({ "n": n })).await;
    }
    let page = app.get("/v1/streams/account-1/messages").await.json();
    for (nth, query) in [(1, "?reason=asked%20for"), (3, "")] {
        let id = page["messages"][nth]["id"].as_str().unwrap();
        assert_eq!(app.delete(&format!("/v1/messages/{id}{query}")).await.status, 200);
    }
    let (_, lines, _) = run(&one.url, &["export"]).await;
    for more in [&[][..], &["--append"]] {
        let other = TestDatabase::migrated().await;
        let file = Lines::of(&lines);
        imported(&other.url, &file.path, more).await;
        imported(&other.url, &file.path, more).await;
        let moved = TestApp::on(&other).await;
        let path = "/v1/streams/account-1/messages";
        assert_eq!(moved.get(path).await.json(), app.get(path).await.json());
        assert!(app.get(path).await.json()["messages"][1]["erased"]["reason"] == "asked for");
        // The next erasure is counted after those that were imported.
        let id = page["messages"][0]["id"].as_str().unwrap();
        assert_eq!(moved.delete(&format!("/v1/messages/{id}")).await.status, 200);
        assert!(moved.get(path).await.json()["messages"][0]["erased"].is_object());
        moved.stop().await;
    }
    app.stop().await;
}
