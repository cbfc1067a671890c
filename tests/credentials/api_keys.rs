//! API keys: made, used, listed, revoked, by HTTP and by the command line.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::database::TestDatabase;
use crate::support::proxy::FaultProxy;

#[tokio::test]
async fn a_key_is_shown_once_and_its_text_is_nowhere_else() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::guarded(&database).await;
    let request = json!({ "name": "billing", "scopes": ["read:order-*", "subscribe:billing"], "expires_in": "30d" });
    let answer = app.post("/v1/keys", &request).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    assert_eq!(answer.headers["cache-control"], "no-store");
    let made = answer.json();
    let (id, key) = (made["id"].as_str().unwrap().to_owned(), made["key"].as_str().unwrap().to_owned());
    assert!(key.starts_with(&format!("hw_{id}_")), "{made}");
    assert_eq!(
        (&made["name"], &made["scopes"], &made["state"]),
        (&json!("billing"), &request["scopes"], &json!("active"))
    );
    assert!(made["created_by"].as_str().unwrap().starts_with("key:"), "{made}");

    let listed = app.get("/v1/keys").await;
    let keys = listed.json()["keys"].clone();
    let found = keys.as_array().unwrap().iter().find(|key| key["id"] == id.as_str()).unwrap().clone();
    let mut expected = made;
    expected.as_object_mut().unwrap().remove("key");
    assert_eq!(found, expected);
    let secret = key.rsplit('_').next().unwrap();
    assert!(!listed.text.contains(secret));

    let sql = database.connect().await;
    for table in ["api_keys", "secrets"] {
        for row in sql.query(&format!("SELECT t::text FROM headwater.{table} AS t"), &[]).await.unwrap() {
            assert!(!row.get::<_, String>(0).contains(secret));
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn a_key_can_be_used_at_once_on_every_instance_and_ends_on_every_instance() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::guarded(&database).await;
    let other = TestApp::guarded_with(&database.url, |_| {}).await;
    for _ in 0..3 {
        let made = app.post("/v1/keys", &json!({ "name": "k", "scopes": ["admin"] })).await.json();
        let (id, key) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
        let (here, there) = (app.client_with(key), other.client_with(key));
        assert_eq!(there.get("/v1/all/messages").await.status, 200);
        assert_eq!(here.get("/v1/all/messages").await.status, 200);
        assert_eq!(app.delete(&format!("/v1/keys/{id}")).await.status, 204);
        // Where it was revoked it has ended before the answer, elsewhere within five seconds.
        here.get("/v1/all/messages").await.problem(401, "unauthenticated");
        let ended = async { while there.get("/v1/all/messages").await.status != 401 {} };
        tokio::time::timeout(Duration::from_secs(5), ended).await.expect("it ends there");
        assert_eq!(app.delete(&format!("/v1/keys/{id}")).await.status, 204, "again is no mistake");
        let listed = app.get("/v1/keys").await.json();
        let found = listed["keys"].as_array().unwrap().iter().find(|one| one["id"] == id).unwrap().clone();
        assert_eq!(found["state"], "revoked");
        assert!(found["revoked_at"].is_string());
    }
    app.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_key_that_was_changed_or_deleted_in_sql_has_ended() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::guarded(&database).await;
    let sql = database.connect().await;
    for change in [
        "UPDATE headwater.api_keys SET revoked_at = now() WHERE id = $1",
        "UPDATE headwater.api_keys SET expires_at = now() - interval '1 s' WHERE id = $1",
        "DELETE FROM headwater.api_keys WHERE id = $1",
    ] {
        let key = app.make_key(&["admin"]).await;
        let client = app.client_with(&key);
        assert_eq!(client.get("/v1/all/messages").await.status, 200);
        sql.execute(change, &[&&key[3..16]]).await.unwrap();
        let ended = async { while client.get("/v1/all/messages").await.status != 401 {} };
        tokio::time::timeout(Duration::from_secs(5), ended).await.expect("it ends");
    }
    app.stop().await;
}

#[tokio::test]
async fn a_key_expires_by_the_clock() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::guarded(&database).await;
    let made = app.post("/v1/keys", &json!({ "name": "k", "scopes": ["read:*"], "expires_in": "1s" })).await.json();
    let client = app.client_with(made["key"].as_str().unwrap());
    let ended = async { while client.get("/v1/all/messages").await.status != 401 {} };
    tokio::time::timeout(Duration::from_secs(5), ended).await.expect("it expires");
    app.stop().await;
}

#[tokio::test]
async fn only_admins_make_list_and_revoke_keys() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::guarded(&database).await;
    let client = app.client_that_may(&["read:*", "append:*", "subscribe:*"]).await;
    let id = client.token()[3..16].to_owned();
    let problem = client.post("/v1/keys", &json!({ "name": "k", "scopes": ["admin"] })).await.problem(403, "forbidden");
    assert_eq!(problem["scope"], "admin");
    client.get("/v1/keys").await.problem(403, "forbidden");
    client.delete(&format!("/v1/keys/{id}")).await.problem(403, "forbidden");
    app.stop().await;
}

#[tokio::test]
async fn what_is_no_key_is_refused_with_its_field_and_makes_none() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::guarded(&database).await;
    let before = app.get("/v1/keys").await.json()["keys"].as_array().unwrap().len();
    let long = "x".repeat(201);
    for (body, status, field) in [
        (json!({}), 400, "name"),
        (json!({ "name": "k" }), 400, "scopes"),
        (json!({ "name": 5, "scopes": ["admin"] }), 400, "name"),
        (json!({ "name": "k", "scopes": "admin" }), 400, "scopes"),
        (json!({ "name": "k", "scopes": ["admin"], "expires_in": 5 }), 400, "expires_in"),
        (json!({ "name": "k", "scopes": ["admin"], "expires_in": "soon" }), 400, "expires_in"),
        (json!({ "name": "k", "scopes": ["admin"], "id": "x" }), 400, "id"),
        (json!({ "name": "", "scopes": ["admin"] }), 422, "name"),
        (json!({ "name": "a\u{0}b", "scopes": ["admin"] }), 422, "name"),
        (json!({ "name": long, "scopes": ["admin"] }), 422, "name"),
        (json!({ "name": "k", "scopes": [] }), 422, "scopes"),
        (json!({ "name": "k", "scopes": ["admin", "write:*"] }), 422, "scopes[1]"),
        (json!({ "name": "k", "scopes": ["read:"] }), 422, "scopes[0]"),
        (json!({ "name": "k", "scopes": ["read:a\u{0}"] }), 422, "scopes[0]"),
        (json!({ "name": "k", "scopes": vec!["read:*"; 101] }), 422, "scopes[100]"),
        (json!({ "name": "k", "scopes": ["admin"], "expires_in": "0s" }), 422, "expires_in"),
        (json!({ "name": "k", "scopes": ["admin"], "expires_in": "100years" }), 422, "expires_in"),
    ] {
        let slug = if status == 400 { "malformed-request" } else { "invalid" };
        let problem = app.post("/v1/keys", &body).await.problem(status, slug);
        assert_eq!(problem["errors"][0]["field"], field, "{body}: {problem}");
    }
    let key = app.token().to_owned();
    for id in ["x", &key, "%00", "aaaaaaaaaaaa1"] {
        let answer = app.delete(&format!("/v1/keys/{id}")).await;
        let problem = answer.problem(422, "invalid");
        assert_eq!(problem["errors"][0]["field"], "id", "{id}");
        assert!(!answer.text.contains(&key), "{problem}");
    }
    app.delete("/v1/keys/aaaaaaaaaaaaa").await.problem(404, "not-found");
    app.get("/v1/keys?limit=0").await.problem(422, "invalid");
    app.get("/v1/keys?after=nothing").await.problem(422, "invalid");
    assert_eq!(app.get("/v1/keys").await.json()["keys"].as_array().unwrap().len(), before);
    app.stop().await;
}

#[tokio::test]
async fn keys_are_bounded_and_listed_in_pages_in_the_order_in_which_they_were_made() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::guarded_with(&database.url, |settings| settings.auth.api_keys_max = 5).await;
    let mut ids: Vec<Value> = vec![app.token()[3..16].into()];
    for number in 0..4 {
        let made = app.post("/v1/keys", &json!({ "name": format!("k{number}"), "scopes": ["admin"] })).await;
        assert_eq!(made.status, 201, "{}", made.text);
        ids.push(made.json()["id"].clone());
    }
    let one_more = json!({ "name": "k", "scopes": ["admin"] });
    let problem = app.post("/v1/keys", &one_more).await.problem(422, "invalid");
    assert!(problem["detail"].as_str().unwrap().contains("--api-keys-max"), "{problem}");
    app.delete(&format!("/v1/keys/{}", ids[4].as_str().unwrap())).await;
    assert_eq!(app.post("/v1/keys", &one_more).await.status, 201);

    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let page = app.get(&format!("/v1/keys?limit=2{after}")).await.json();
        found.extend(page["keys"].as_array().unwrap().iter().map(|key| key["id"].clone()));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(found[..5], ids[..]);
    assert_eq!(found.len(), 6);
    app.stop().await;
}

#[tokio::test]
async fn a_key_whose_answer_was_lost_is_made_once_and_can_be_used() {
    let database = TestDatabase::migrated().await;
    let proxy = FaultProxy::before(&database.url).await;
    let app = TestApp::guarded_with(&proxy.url, |_| {}).await;
    proxy.lose_answers_of("INSERT INTO headwater.api_keys", 1);
    let answer = app.post("/v1/keys", &json!({ "name": "lost", "scopes": ["admin"] })).await;
    assert_eq!((answer.status, proxy.lost_answers()), (201, 1), "{}", answer.text);
    let client = app.client_with(answer.json()["key"].as_str().unwrap());
    assert_eq!(client.get("/v1/all/messages").await.status, 200);
    let keys = app.get("/v1/keys").await.json();
    let named: Vec<_> = keys["keys"].as_array().unwrap().iter().filter(|key| key["name"] == "lost").collect();
    assert_eq!(named.len(), 1, "{keys}");

    // A revocation is said to be in doubt, and has taken place.
    proxy.lose_answers_of("UPDATE headwater.api_keys AS k SET revoked_at", 1);
    let id = named[0]["id"].as_str().unwrap();
    app.delete(&format!("/v1/keys/{id}")).await.problem(503, "database-unavailable");
    let ended = async { while client.get("/v1/all/messages").await.status != 401 {} };
    tokio::time::timeout(Duration::from_secs(5), ended).await.expect("it ends");
    assert_eq!(app.delete(&format!("/v1/keys/{id}")).await.status, 204);
    app.stop().await;
}

#[tokio::test]
async fn known_keys_go_on_while_the_database_is_away_and_unknown_ones_are_in_doubt() {
    let database = TestDatabase::migrated().await;
    let proxy = FaultProxy::before(&database.url).await;
    let app = TestApp::guarded_with(&proxy.url, |_| {}).await;
    let known = app.client_that_may(&["read:*"]).await;
    assert_eq!(known.get("/v1/all/messages").await.status, 200);
    proxy.take_away();
    // What needs the database says so; who asks is known.
    known.get("/v1/all/messages").await.problem(503, "database-unavailable");
    let unknown = format!("hw_{}_{}", "a".repeat(13), "a".repeat(52));
    app.client_with(&unknown).get("/v1/all/messages").await.problem(503, "database-unavailable");
    proxy.restore();
    let back = async { while app.client_with(&unknown).get("/v1/all/messages").await.status != 401 {} };
    tokio::time::timeout(Duration::from_secs(20), back).await.expect("it is refused once that is known");
    app.stop().await;
}

#[tokio::test]
async fn it_is_noted_when_a_key_was_used() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::guarded(&database).await;
    let client = app.client_that_may(&["read:*"]).await;
    let id = &client.token()[3..16];
    client.get("/v1/all/messages").await;
    let sql = database.connect().await;
    let listed = app.get("/v1/keys").await.json();
    let found = listed["keys"].as_array().unwrap().iter().find(|one| one["id"] == id).unwrap();
    assert_eq!(found["last_used_at"], Value::Null, "at most once a minute");
    let used = [(id.to_owned(), headwater::domain::time::Timestamp::now())];
    let pool = headwater::store::Database::open(headwater::store::DatabaseSettings {
        url: database.url.clone(),
        pooler_url: None,
        connections_max: 2,
        connect_timeout: Duration::from_secs(5),
        silence_timeout: Duration::from_secs(5),
    })
    .unwrap();
    pool.api_keys().used(&used).await.unwrap();
    let recent = "SELECT last_used_at > now() - interval '1 minute' FROM headwater.api_keys WHERE id = $1";
    assert!(sql.query_one(recent, &[&id]).await.unwrap().get::<_, bool>(0));
    // A note is no change of the key.
    assert_eq!(client.get("/v1/all/messages").await.status, 200);
    app.stop().await;
}
