//! Tickets: no wider and no longer than the credential that they were made with, for event streams, and for nothing else.

use std::time::Duration;

use serde_json::{Value, json};

use super::until_refused;
use crate::support::app::{TestApp, TestClient, encode};
use crate::support::database::TestDatabase;
use crate::support::events::Events;

async fn ticket(client: &TestClient, body: &Value) -> String {
    let answer = client.post("/v1/tickets", body).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    answer.json()["ticket"].as_str().expect("a ticket").to_owned()
}

#[tokio::test]
async fn a_ticket_opens_event_streams_and_nothing_else() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::guarded(&database).await;
    let other = TestApp::guarded_with(&database.url, |_| {}).await;
    app.write("order-1", "Placed", json!({})).await;
    let aggregated = json!({ "categories": ["order"], "partitioner": { "kind": "constant" } });
    assert_eq!(app.put("/v1/aggregated-streams/orders", &aggregated).await.status, 201);
    assert_eq!(app.put("/v1/subscriptions/s", &json!({ "source": { "category": "order" } })).await.status, 201);
    let ticket = ticket(&app, &json!({ "scopes": ["read:*"], "ttl": "10m" })).await;
    let stranger = app.client_without();
    for path in [
        "/v1/streams/order-1/events?from=beginning&",
        "/v1/categories/order/events?from=beginning&",
        "/v1/all/events?from=beginning&",
        "/v1/events?category=order&from=beginning&",
        "/v1/aggregated-streams/orders/events?from=beginning&",
    ] {
        let path = format!("{path}ticket={ticket}");
        assert_eq!(stranger.follow(&path).await.next("message").await.json().to_string().matches("Placed").count(), 1);
        // Any instance takes it.
        other.client_without().follow(&path).await.next("caught-up").await;
    }
    for path in [
        "/v1/streams/order-1/messages",
        "/v1/streams/order-1",
        "/v1/all/messages",
        "/v1/aggregated-streams",
        "/v1/subscriptions/s/events?consumer=w1",
        "/v1/subscriptions",
        "/v1/keys",
        "/metrics",
        "/v1/streams/events",
        "/v1/streams/a%2Fevents",
        "/events",
    ] {
        let path = format!("{path}{}ticket={ticket}", if path.contains('?') { '&' } else { '?' });
        stranger.get(&path).await.problem(401, "unauthenticated");
    }
    let events = format!("/v1/all/events?ticket={ticket}");
    assert_eq!(stranger.http.head(format!("{}{events}", app.url)).send().await.unwrap().status(), 200);
    stranger.post(&events, &json!({})).await.problem(401, "unauthenticated");
    stranger
        .post(&format!("/v1/tickets?ticket={ticket}"), &json!({ "scopes": ["read:*"] }))
        .await
        .problem(401, "unauthenticated");
    app.client_with(&ticket).get("/v1/all/messages").await.problem(401, "unauthenticated");
    app.client_with(&ticket).get("/v1/all/events").await.problem(401, "unauthenticated");
    app.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_ticket_is_never_wider_than_its_maker() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::guarded(&database).await;
    let client = app.client_that_may(&["read:order-*", "append:*", "subscribe:*"]).await;
    for (scopes, missing) in [
        (json!(["read:*"]), "read:*"),
        (json!(["read:order*"]), "read:order*"),
        (json!(["read:order-1", "read:account-1"]), "read:account-1"),
    ] {
        let problem = client.post("/v1/tickets", &json!({ "scopes": scopes })).await.problem(403, "forbidden");
        assert_eq!(problem["scope"], missing);
    }
    for scope in ["append:order-1", "subscribe:s", "admin"] {
        // Nobody makes a ticket that writes.
        for client in [&client, &*app] {
            let problem = client.post("/v1/tickets", &json!({ "scopes": [scope] })).await.problem(422, "invalid");
            assert_eq!(problem["errors"][0]["field"], "scopes[0]");
        }
    }
    for (body, status) in [
        (json!({}), 400),
        (json!({ "scopes": [] }), 422),
        (json!({ "scopes": ["read:order-*"], "ttl": "2h" }), 422),
        (json!({ "scopes": ["read:order-*"], "ttl": "0s" }), 422),
        (json!({ "scopes": ["read:order-*"], "ttl": 5 }), 400),
        (json!({ "scopes": ["read:order-*"], "cookie": "yes" }), 400),
        (json!({ "scopes": ["read:order-*"], "name": "x" }), 400),
        (json!({ "scopes": vec![format!("read:order-{}", "x".repeat(200)); 100] }), 422),
    ] {
        assert_eq!(client.post("/v1/tickets", &body).await.status, status, "{body}");
    }
    app.stop().await;
}

#[tokio::test]
async fn a_ticket_is_never_longer_than_its_maker() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::guarded(&database).await;
    let key = app.make_key_for(&["read:*"], Some(Duration::from_secs(3))).await;
    let answer = app.client_with(&key).post("/v1/tickets", &json!({ "scopes": ["read:*"], "ttl": "1h" })).await.json();
    let listed = app.get("/v1/keys").await.json();
    let made = listed["keys"].as_array().unwrap().iter().find(|one| one["id"] == key[3..16]).unwrap().clone();
    assert_eq!(answer["expires_at"], made["expires_at"]);
    let path = format!("/v1/all/events?ticket={}", answer["ticket"].as_str().unwrap());
    let closing = app.client_without().follow(&path).await.next("closing").await;
    assert_eq!(closing.json(), json!({ "reason": "expired" }));
    app.client_without().get(&path).await.problem(401, "unauthenticated");
    app.stop().await;
}

#[tokio::test]
async fn a_ticket_ends_with_the_key_that_made_it_on_every_instance() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::guarded(&database).await;
    let other = TestApp::guarded_with(&database.url, |_| {}).await;
    let maker = app.client_that_may(&["read:*"]).await;
    let ticket = ticket(&maker, &json!({ "scopes": ["read:*"] })).await;
    let path = format!("/v1/all/events?ticket={ticket}");
    let mut open = [app.client_without().follow(&path).await, other.client_without().follow(&path).await];
    for events in &mut open {
        events.next("caught-up").await;
    }
    assert_eq!(app.delete(&format!("/v1/keys/{}", &maker.token()[3..16])).await.status, 204);
    for events in &mut open {
        let closing = tokio::time::timeout(Duration::from_secs(5), events.next("closing")).await.expect("within 5 s");
        assert_eq!(closing.json(), json!({ "reason": "expired" }));
    }
    app.client_without().get(&path).await.problem(401, "unauthenticated");
    until_refused(&other.client_without(), &path).await;
    app.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_ticket_that_was_touched_is_none() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::guarded(&database).await;
    let good = ticket(&app, &json!({ "scopes": ["read:order-*"] })).await;
    let stranger = app.client_without();
    let (claims, signature) = good.strip_prefix("hwt_").unwrap().split_once('.').unwrap();
    let flipped = |text: &str, at: usize| {
        let mut bytes = text.as_bytes().to_vec();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        String::from_utf8(bytes).unwrap()
    };
    let mut touched = vec![
        String::new(),
        "hwt_".into(),
        "hwt_.".into(),
        format!("hwt_{claims}"),
        format!("hwt_{claims}."),
        format!("hwt_.{signature}"),
        format!("{good}."),
        format!("{good}A"),
        format!("hwt_{claims}.{signature}.{signature}"),
        good[1..].to_owned(),
        good.to_uppercase(),
        format!("{good}={good}"),
        app.token().to_owned(),
        "A".repeat(5_000),
    ];
    touched.extend((0..claims.len()).step_by(7).map(|at| format!("hwt_{}.{signature}", flipped(claims, at))));
    touched.extend((0..signature.len() - 1).step_by(5).map(|at| format!("hwt_{claims}.{}", flipped(signature, at))));
    for ticket in &touched {
        stranger.get(&format!("/v1/all/events?ticket={}", encode(ticket))).await.problem(401, "unauthenticated");
    }
    assert_eq!(
        stranger
            .http
            .get(format!("{}/v1/streams/order-1/events?ticket={good}", app.url))
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
    // Another secret ends all tickets.
    let path = format!("/v1/streams/order-1/events?ticket={good}");
    let mut open = stranger.follow(&path).await;
    let sql = database.connect().await;
    sql.batch_execute("UPDATE headwater.secrets SET secret = sha256('other')").await.unwrap();
    // Whoever looks first: here it is what makes a key.
    app.make_key(&["read:*"]).await;
    assert_eq!(open.next("closing").await.json(), json!({ "reason": "expired" }));
    until_refused(&stranger, &path).await;
    app.stop().await;
}

#[tokio::test]
async fn a_cookie_has_the_power_of_a_ticket_and_cannot_be_read_by_scripts() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::guarded(&database).await;
    app.write("order-1", "Placed", json!({})).await;
    let request = json!({ "scopes": ["read:order-*"], "ttl": "1m", "cookie": true });
    let answer = app.post("/v1/tickets", &request).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    assert!(answer.json().get("ticket").is_none() && !answer.text.contains("hwt_"), "{}", answer.text);
    let cookie = answer.headers["set-cookie"].to_str().unwrap().to_owned();
    let (pair, attributes) = cookie.split_once("; ").unwrap();
    let attributes: Vec<_> = attributes.split("; ").collect();
    for attribute in ["HttpOnly", "SameSite=Strict", "Path=/v1"] {
        assert!(attributes.contains(&attribute), "{cookie}");
    }
    let age = attributes.iter().find_map(|one| one.strip_prefix("Max-Age=")).unwrap().parse::<i64>().unwrap();
    assert!((50..=60).contains(&age) && !attributes.contains(&"Secure"), "{cookie}");

    let url = format!("{}/v1/streams/order-1/events?from=beginning", app.url);
    Events::open(&url, &[("cookie", pair)]).await.next("message").await;
    Events::open(&url, &[("cookie", &format!("a=b; {pair}; c=d"))]).await.next("message").await;
    let stranger = app.client_without();
    let sent = async |method: reqwest::Method, path: &str| {
        let request = stranger.http.request(method, format!("{}{path}", app.url)).header("cookie", pair);
        request.json(&json!({ "messages": [{ "type": "A" }] })).send().await.unwrap().status().as_u16()
    };
    assert_eq!(sent(reqwest::Method::GET, "/v1/streams/order-1/messages").await, 401);
    assert_eq!(sent(reqwest::Method::POST, "/v1/streams/order-1/messages").await, 401);
    assert_eq!(sent(reqwest::Method::POST, "/v1/tickets").await, 401);
    assert_eq!(sent(reqwest::Method::GET, "/v1/subscriptions/s/events?consumer=w").await, 401);

    // A page that came by TLS gets a cookie that goes no other way.
    let url = format!("{}/v1/tickets", app.url);
    let secure =
        app.http.post(url).header("origin", app.url.replace("http:", "https:")).json(&request).send().await.unwrap();
    assert!(secure.headers()["set-cookie"].to_str().unwrap().ends_with("; Secure"));
    app.stop().await;
}

#[tokio::test]
async fn a_ticket_is_taken_and_not_needed_where_credentials_are_off() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let ticket = ticket(&app, &json!({ "scopes": ["read:*"] })).await;
    for ticket in [ticket.as_str(), "anything", ""] {
        app.follow(&format!("/v1/all/events?ticket={ticket}")).await.next("caught-up").await;
    }
    app.get("/v1/all/messages?ticket=x").await.problem(400, "malformed-request");
    app.stop().await;
}
