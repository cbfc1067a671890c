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
