//! What may not be read is not to be had by reading, in whatever way.

use reqwest::Method;
use serde_json::json;

use super::{Client, Guarded, streams_of};

/// Streams `order`, `order-1`, `order-2`, `account-1`, each with two messages, in turns.
async fn filled(guarded: &Guarded) -> Client {
    let admin = guarded.admin().await;
    for round in 0..2 {
        for stream in ["order", "order-1", "order-2", "account-1"] {
            admin.write(stream, json!({ "secret": stream, "round": round })).await;
        }
    }
    admin
}

#[tokio::test]
async fn a_stream_is_read_by_its_name_in_every_way_or_in_none() {
    let guarded = Guarded::new().await;
    let admin = filled(&guarded).await;
    let caller = guarded.caller(&["read:order-1", "append:*", "subscribe:*"]).await;
    for path in [
        "/messages",
        "/messages?direction=backward",
        "/messages?from_last=T",
        "/messages/last",
        "/messages/last?type=T",
        "",
    ] {
        let (own, other) = (format!("/v1/streams/order-1{path}"), format!("/v1/streams/order-2{path}"));
        assert_eq!(caller.get(&own).await.status, 200, "{own}");
        caller.lacks("read:order-2", Method::GET, &other, None).await;
    }
    for path in
        ["/v1/streams/order-2/events?from=beginning", "/v1/streams/nowhere-1/messages", "/v1/streams/order-11/messages"]
    {
        assert_eq!(caller.get(path).await.status, 403, "{path}");
    }
    // The tag of a page that another caller has read helps nobody.
    let tag = admin.get("/v1/streams/order-2/messages").await.headers["etag"].to_str().unwrap().to_owned();
    let request = caller.request(Method::GET, "/v1/streams/order-2/messages").header("if-none-match", tag);
    assert_eq!(request.send().await.unwrap().status(), 403);
    let own = caller.get("/v1/streams/order-1").await;
    assert_eq!(own.headers["cache-control"], "private, no-cache");
    assert_eq!(caller.call(Method::HEAD, "/v1/streams/order-2/messages", None).await.status, 403);
    guarded.end().await;
}

#[tokio::test]
async fn a_message_that_may_not_be_read_does_not_exist() {
    let guarded = Guarded::new().await;
    let admin = guarded.admin().await;
    let own = admin.write("order-1", json!({})).await;
    let other = admin.write("account-1", json!({ "secret": 1 })).await;
    let caller = guarded.caller(&["read:order-*"]).await;
    assert_eq!(caller.get(&format!("/v1/messages/{own}")).await.status, 200);
    let hidden = caller.get(&format!("/v1/messages/{other}")).await;
    let missing = caller.get("/v1/messages/00000000-0000-4000-8000-000000000000").await;
    hidden.problem(404, "not-found");
    missing.problem(404, "not-found");
    assert_eq!(
        hidden.text.replace(&other, "ID"),
        missing.text.replace("00000000-0000-4000-8000-000000000000", "ID"),
        "nothing tells the two apart"
    );
    caller.lacks("admin", Method::DELETE, &format!("/v1/messages/{own}"), None).await;
    guarded.caller(&["append:*"]).await.lacks("read:*", Method::GET, &format!("/v1/messages/{own}"), None).await;
    guarded.end().await;
}

#[tokio::test]
async fn pages_of_a_category_and_of_the_log_have_only_what_may_be_read() {
    let guarded = Guarded::new().await;
    filled(&guarded).await;
    let caller = guarded.caller(&["read:order-1"]).await;
    let own = ["order-1".to_owned(), "order-1".to_owned()];
    for path in [
        "/v1/categories/order/messages",
        "/v1/categories/order/messages?direction=backward",
        "/v1/categories/order/messages?types=T",
        "/v1/categories/order/messages?filter=true",
        "/v1/categories/order/messages?from_time=2000-01-01T00:00:00Z",
        "/v1/categories/order/messages?wait=1s",
        "/v1/all/messages",
        "/v1/all/messages?direction=backward",
        "/v1/all/messages?to_time=2100-01-01T00:00:00Z",
    ] {
        let page = caller.get(path).await;
        assert_eq!(streams_of(&page), own, "{path}");
        assert!(!page.text.contains("order-2") && !page.text.contains("account"), "{path}: {}", page.text);
    }
    // Pages that end at a limit go on where they ended, and never at what was left out.
    let mut from = 0;
    for _ in 0..2 {
        let page = caller.get(&format!("/v1/all/messages?limit=1&from={from}")).await;
        assert_eq!(streams_of(&page), ["order-1"]);
        from = page.json()["next"].as_i64().unwrap();
    }
    let rest = caller.get(&format!("/v1/all/messages?limit=1&from={from}")).await;
    assert_eq!((streams_of(&rest), rest.json()["at_end"].as_bool()), (Vec::new(), Some(true)));
    caller.lacks("read:account*", Method::GET, "/v1/categories/account/messages", None).await;
    // The stream `order` is of the category too, and does not fit `order-*`.
    let almost = guarded.caller(&["read:order-*"]).await;
    assert_eq!(streams_of(&almost.get("/v1/categories/order/messages").await).len(), 4);
    assert_eq!(streams_of(&guarded.caller(&["read:order*"]).await.get("/v1/categories/order/messages").await).len(), 6);
    guarded.end().await;
}

#[tokio::test]
async fn a_long_poll_is_not_ended_by_what_may_not_be_read() {
    let guarded = Guarded::new().await;
    let admin = filled(&guarded).await;
    let caller = guarded.caller(&["read:order-1"]).await;
    let end = caller.get("/v1/categories/order/messages").await.json()["next"].as_i64().unwrap();
    let path = format!("/v1/categories/order/messages?wait=20s&from={end}");
    let polling = async { streams_of(&caller.get(&path).await) };
    let writing = async {
        for _ in 0..5 {
            admin.write("order-2", json!({})).await;
        }
        admin.write("order-1", json!({})).await;
    };
    let (found, ()) = tokio::join!(polling, writing);
    assert_eq!(found, ["order-1"]);
    guarded.end().await;
}

#[tokio::test]
async fn event_streams_have_only_what_may_be_read_before_and_after_they_are_live() {
    let guarded = Guarded::new().await;
    let admin = filled(&guarded).await;
    let caller = guarded.caller(&["read:order-1", "read:account-*"]).await;
    for (path, streams) in [
        ("/v1/categories/order/events?from=beginning", &["order-1", "order-1"][..]),
        ("/v1/all/events?from=beginning", &["order-1", "account-1", "order-1", "account-1"]),
        (
            "/v1/events?category=order&stream_name=account-1&from=beginning",
            &["order-1", "account-1", "order-1", "account-1"],
        ),
        ("/v1/events?stream_name=order-2&stream_name=account-1&from=beginning", &["account-1", "account-1"]),
        ("/v1/categories/order/events?from=latest_of_each", &["order-1"]),
        ("/v1/events?category=order&category=account&from=latest_of_each", &["order-1", "account-1"]),
    ] {
        let mut events = caller.follow(path).await;
        let blocks = events.blocks_until("caught-up").await;
        let found: Vec<_> = blocks
            .iter()
            .filter(|block| block.is("message"))
            .map(|block| block.json()["stream_name"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(found, streams, "{path}");
    }
    for path in ["/v1/categories/invoice/events", "/v1/events?stream_name=order-2&category=invoice"] {
        assert_eq!(caller.get(path).await.status, 403, "{path}");
    }
    let mut live = caller.follow("/v1/categories/order/events").await;
    live.next("caught-up").await;
    admin.write("order-2", json!({ "secret": 2 })).await;
    admin.write("order-1", json!({ "own": 1 })).await;
    assert_eq!(live.next("message").await.json()["data"]["own"], 1);
    guarded.end().await;
}

/// Connections that get the same bytes are written to by one task: only those that may read the same.
#[tokio::test]
async fn connections_that_share_their_bytes_have_the_same_rights() {
    let guarded = Guarded::new().await;
    let admin = filled(&guarded).await;
    let mut followers = Vec::new();
    for scopes in [&["read:order-1"][..], &["read:order-1"], &["read:order-2"], &["read:*"], &["admin"]] {
        let caller = guarded.caller(scopes).await;
        for _ in 0..3 {
            let mut events = caller.follow("/v1/categories/order/events").await;
            events.next("caught-up").await;
            followers.push((scopes, events));
        }
    }
    for round in 0..20 {
        admin.write("order-1", json!({ "round": round })).await;
        admin.write("order-2", json!({ "round": round })).await;
    }
    for (scopes, events) in &mut followers {
        let count = if scopes[0].starts_with("read:order") { 20 } else { 40 };
        let messages = events.messages(count).await;
        for message in &messages {
            let stream = message["stream_name"].as_str().unwrap();
            let may = !scopes[0].starts_with("read:order") || scopes[0] == format!("read:{stream}");
            assert!(may, "{scopes:?} was told of {stream}");
        }
    }
    guarded.end().await;
}

#[tokio::test]
async fn what_was_trimmed_is_counted_for_those_alone_that_may_read_all_of_it() {
    let guarded = Guarded::new().await;
    let admin = filled(&guarded).await;
    let trim = json!({ "keep_last": 1, "unless_unacked": false });
    for stream in ["order-1", "order-2"] {
        assert_eq!(admin.post(&format!("/v1/streams/{stream}/trim"), &trim).await.json()["trimmed"], 1);
    }
    let trimmed = async |client: &Client, path: &str| {
        let blocks = client.follow(path).await.blocks_until("caught-up").await;
        blocks
            .iter()
            .filter(|block| block.is("trimmed"))
            .map(|block| block.json()["count"].as_i64().unwrap())
            .sum::<i64>()
    };
    let caller = guarded.caller(&["read:order-1"]).await;
    assert_eq!(trimmed(&admin, "/v1/categories/order/events?from=beginning").await, 2);
    assert_eq!(trimmed(&caller, "/v1/categories/order/events?from=beginning").await, 0);
    assert_eq!(trimmed(&caller, "/v1/streams/order-1/events?from=beginning").await, 1);
    assert_eq!(trimmed(&caller, "/v1/events?stream_name=order-1&stream_name=order-2&from=beginning").await, 1);
    guarded.end().await;
}

#[tokio::test]
async fn reports_metrics_and_what_deletes_are_for_those_that_may_everything() {
    let guarded = Guarded::new().await;
    filled(&guarded).await;
    let caller = guarded.caller(&["read:order*", "append:*", "subscribe:*"]).await;
    for path in ["/v1/reports/streams", "/v1/reports/categories", "/v1/reports/types", "/metrics"] {
        caller.lacks("read:*", Method::GET, path, None).await;
        assert_eq!(guarded.caller(&["read:*"]).await.get(path).await.status, 200, "{path}");
    }
    let reader = guarded.caller(&["read:*", "append:*", "subscribe:*"]).await;
    for (method, path, body) in [
        (Method::POST, "/v1/streams/order-1/trim", Some(json!({ "keep_last": 1 }))),
        (Method::PUT, "/v1/categories/order/retention", Some(json!({ "max_count": 5 }))),
        (Method::GET, "/v1/categories/order/retention", None),
        (Method::DELETE, "/v1/categories/order/retention", None),
        (Method::GET, "/v1/retentions", None),
    ] {
        reader.lacks("admin", method, path, body.as_ref()).await;
    }
    guarded.end().await;
}
