//! The main job: append, read and follow.

use serde_json::json;

use crate::support::app::TestApp;
use crate::support::database::TestDatabase;

#[tokio::test]
async fn what_is_appended_is_read_and_followed() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let mut events = app.follow("/v1/categories/account/events?from=beginning").await;
    let answer =
        app.append("account-1", &json!({ "messages": [{ "type": "Deposited", "data": { "amount": 5 } }] })).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    let page = app.get("/v1/streams/account-1/messages").await.json();
    assert_eq!(page["version"], 0);
    assert_eq!(page["messages"][0]["data"], json!({ "amount": 5 }));
    assert_eq!(events.messages(1).await[0], page["messages"][0]);
    app.stop().await;
}

/// Message DB was there before, with its own functions, which work only for a search path that has `message_store`.
#[tokio::test]
async fn an_installed_message_db_is_served_as_it_is() {
    let database = TestDatabase::empty().await;
    let sql = database.connect().await;
    sql.batch_execute(include_str!("fixtures/stock_message_db.sql")).await.unwrap();
    let write = "SET search_path = message_store; SELECT write_message(gen_random_uuid()::varchar, 'account-1', 'Opened', '{}')";
    sql.batch_execute(write).await.unwrap();
    let app = TestApp::on(&database).await;
    let mut events = app.follow("/v1/categories/account/events?from=beginning").await;
    let opened = events.messages(1).await.remove(0);
    assert_eq!((&opened["type"], &opened["position"]), (&json!("Opened"), &json!(0)));
    let body = json!({ "expected_version": 0, "messages": [{ "type": "Deposited", "data": { "amount": 5 } }] });
    let answer = app.append("account-1", &body).await;
    assert_eq!((answer.status, &answer.json()["version"]), (201, &json!(1)), "{}", answer.text);
    assert_eq!(events.messages(1).await[0]["type"], "Deposited");
    // It does not notify; the poll finds what its own function writes.
    sql.batch_execute(write).await.unwrap();
    assert_eq!(events.messages(1).await[0]["position"], 2);
    let members = ["0", "1", "2"]
        .map(|member| format!("/v1/categories/account/messages?consumer_group_member={member}&consumer_group_size=3"));
    let mut found = 0;
    for member in members {
        found += app.get(&member).await.json()["messages"].as_array().unwrap().len();
    }
    assert_eq!(found, 3);
    app.stop().await;
}
