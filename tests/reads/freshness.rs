//! A read sees what was answered before it was asked.

use serde_json::json;

use super::one;
use crate::support::app::TestApp;
use crate::support::database::TestDatabase;

#[tokio::test]
async fn every_read_sees_a_write_as_soon_as_it_is_answered() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let writer = |stream: &'static str| {
        let app = &app;
        async move {
            for round in 0..60 {
                let written = app.append(stream, &one("Written")).await.json();
                let (position, global) =
                    (written["version"].as_i64().unwrap(), written["messages"][0]["global_position"].as_i64().unwrap());
                let category = stream.split('-').next().unwrap();
                let id = written["messages"][0]["id"].as_str().unwrap();
                for (path, key) in [
                    (format!("/v1/streams/{stream}/messages?from={position}"), "messages"),
                    (format!("/v1/categories/{category}/messages?from={global}"), "messages"),
                    (format!("/v1/all/messages?from={global}"), "messages"),
                ] {
                    let page = app.get(&path).await.json();
                    let first = &page[key][0];
                    assert_eq!(first["global_position"], global, "round {round}: {path}: {page}");
                }
                assert_eq!(app.get(&format!("/v1/messages/{id}")).await.status, 200);
                assert_eq!(app.get(&format!("/v1/streams/{stream}")).await.json()["version"], position);
                let last = app.get(&format!("/v1/streams/{stream}/messages/last")).await.json();
                assert_eq!(last["position"], position);
            }
        }
    };
    tokio::join!(writer("a-1"), writer("b-1"), writer("c-1"));
    app.stop().await;
}

#[tokio::test]
async fn a_read_sees_what_sql_has_committed_just_before() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let sql = database.connect().await;
    for position in 0..30_i64 {
        let write = "SELECT message_store.write_message(gen_random_uuid()::text, 'a-1', 'T', '{}')";
        sql.query_one(write, &[]).await.unwrap();
        for path in ["/v1/streams/a-1/messages", "/v1/categories/a/messages", "/v1/all/messages"] {
            let page = app.get(path).await.json();
            assert_eq!(page["messages"].as_array().unwrap().len() as i64, position + 1, "{path}");
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn everything_is_read_only_up_to_what_cannot_change_any_more() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    app.write("a-1", "First", json!({})).await;
    let sql = database.connect().await;
    sql.batch_execute("BEGIN").await.unwrap();
    sql.query_one("SELECT message_store.write_message(gen_random_uuid()::text, 'slow-1', 'Open', '{}')", &[])
        .await
        .unwrap();
    let after = app.write("a-1", "After", json!({})).await;
    // The stream and the category show it at once; the whole log does not pass the hole before it.
    let types = |page: serde_json::Value| -> Vec<String> {
        page["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|message| message["type"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(types(app.get("/v1/streams/a-1/messages").await.json()), ["First", "After"]);
    assert_eq!(types(app.get("/v1/categories/a/messages").await.json()), ["First", "After"]);
    let page = app.get("/v1/all/messages").await.json();
    let next = page["next"].as_i64().unwrap();
    assert!(next < after, "{page}");
    assert_eq!(types(page), ["First"]);
    sql.batch_execute("COMMIT").await.unwrap();
    let page = app.get(&format!("/v1/all/messages?from={next}&wait=20s")).await.json();
    let all = types(app.get("/v1/all/messages").await.json());
    assert_eq!(all, ["First", "Open", "After"]);
    assert_eq!(types(page)[0], "Open");
    app.stop().await;
}
