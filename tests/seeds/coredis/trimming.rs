//! `xadd` with a trim strategy, and `xtrim`.

use std::time::Duration;

use headwater::config::Settings;
use serde_json::{Value, json};

use super::{add, entry, group, service, xconsumer};
use crate::subscriptions::numbers;
use crate::support::app::TestApp;
use crate::support::database::TestDatabase;
use crate::support::events::Event;
use crate::support::waiting::eventually;

/// `client.xadd(stream, …, trim_strategy=…, threshold=…)`: the append, then `client.xtrim(stream, trim_strategy, threshold)`.
async fn xadd(app: &TestApp, stream: &str, id: i64, trim: &Value) -> Value {
    app.write(stream, "Entry", json!({ "n": id })).await;
    xtrim(app, stream, trim).await
}

async fn xtrim(app: &TestApp, stream: &str, trim: &Value) -> Value {
    let answer = app.post(&format!("/v1/streams/{stream}/trim"), trim).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

/// What `client.xrange(stream)` gives: the numbers of all entries.
async fn xrange(app: &TestApp, stream: &str) -> Vec<i64> {
    let page = app.get(&format!("/v1/streams/{stream}/messages?limit=1000")).await.json();
    page["messages"].as_array().unwrap().iter().map(|message| message["data"]["n"].as_i64().unwrap()).collect()
}

/// `MAXLEN = 10`, exactly; then `MINID`, by position and by time.
#[tokio::test]
async fn a_stream_is_trimmed_on_add_by_length_and_by_id() {
    let (_database, app) = service().await;
    for id in 0..30 {
        let done = xadd(&app, "one", id, &json!({ "keep_last": 10 })).await;
        assert_eq!(done["trimmed"], i64::from(id >= 10));
        assert_eq!(xrange(&app, "one").await, ((id - 9).max(0)..=id).collect::<Vec<_>>());
    }
    // The id of an entry is its position, so the smallest that stays may be computed.
    for id in 30..35 {
        let done = xadd(&app, "one", id, &json!({ "before_position": id - 4 })).await;
        assert_eq!(done["first_position"], id - 4);
        assert_eq!(xrange(&app, "one").await, (id - 4..=id).collect::<Vec<_>>());
    }
    // An id in Redis begins with a time.
    let time = app.get("/v1/streams/one/messages?from=33").await.json()["messages"][0]["time"].clone();
    let done = xtrim(&app, "one", &json!({ "before_time": time })).await;
    assert_eq!((&done["trimmed"], xrange(&app, "one").await), (&json!(3), vec![33, 34]));
    app.stop().await;
}

/// `MAXLEN ~ 10`, without a trim in each request: the retention of the category, which is the stream of that name.
#[tokio::test]
async fn a_stream_is_kept_at_a_length_in_the_background() {
    let database = TestDatabase::migrated().await;
    let often = |settings: &mut Settings| settings.retention_interval = Duration::from_millis(100);
    let app = TestApp::with(&database.url, often).await;
    let set = app.put("/v1/categories/one/retention", &json!({ "max_count": 10 })).await;
    assert_eq!(set.status, 200, "{}", set.text);
    for round in 0..3 {
        add(&app, "one", round * 20..round * 20 + 20).await;
        let newest: Vec<i64> = (round * 20 + 10..round * 20 + 20).collect();
        let is_short = || async { (xrange(&app, "one").await == newest).then_some(()) };
        eventually("the newest ten", is_short).await;
    }
    app.stop().await;
}

/// `xtrim` in Redis takes entries that are pending; here they stay by default, and a consumer is told of what it has
/// missed if they do not.
#[tokio::test]
async fn what_a_group_has_not_acked_is_not_trimmed() {
    let (_database, app) = service().await;
    let sub = group(&app, &["one"], json!({})).await;
    add(&app, "one", 0..10).await;
    let given = sub.fetch_with(json!({ "consumer": "consumer-1", "limit": 6 })).await;
    sub.acked("consumer-1", &given[..4]).await;
    let done = xtrim(&app, "one", &json!({ "keep_last": 1 })).await;
    assert_eq!((&done["trimmed"], &done["kept_unacked"]), (&json!(4), &json!(true)));
    assert_eq!(sub.get("/pending/summary").await["count"], 2);
    let done = xtrim(&app, "one", &json!({ "keep_last": 1, "unless_unacked": false })).await;
    assert_eq!((&done["trimmed"], &done["kept_unacked"]), (&json!(5), &json!(false)));
    // Two were pending, and three not read yet.
    let rest = sub.fetch_with(json!({ "consumer": "consumer-1", "backlog": true })).await;
    assert_eq!(numbers(&rest), [9]);
    assert_eq!(sub.status().await["trimmed"], 5);
    sub.acked("consumer-1", &rest).await;
    // The two that were given are its own until their time is over, or until it comes back.
    assert_eq!(sub.get("/pending/summary").await["count"], 2);
    let mut consumer = app.follow(&sub.path("/events?consumer=consumer-1")).await;
    let blocks = consumer.blocks_until("caught-up").await;
    assert!(blocks.iter().all(|block| !block.is("message")), "{blocks:?}");
    assert_eq!(
        (&sub.get("/pending/summary").await["count"], &sub.status().await["committed_lag"]),
        (&json!(0), &json!(0))
    );
    app.stop().await;
}

/// `xread` from an id that is gone goes on with the rest; an event stream says how many are missing first.
#[tokio::test]
async fn a_simple_consumer_is_told_how_many_were_trimmed() {
    let (_database, app) = service().await;
    add(&app, "one", 0..20).await;
    add(&app, "two", 0..5).await;
    xtrim(&app, "one", &json!({ "keep_last": 4 })).await;
    let mut consumer = xconsumer(&app, "&from=beginning").await;
    let blocks = consumer.blocks_until("caught-up").await;
    let gone: Vec<_> = blocks.iter().filter(|block| block.is("trimmed")).map(Event::json).collect();
    assert_eq!((gone.len(), &gone[0]["count"]), (1, &json!(16)), "{gone:?}");
    let read: Vec<_> = blocks.iter().filter(|block| block.is("message")).map(|block| entry(&block.json())).collect();
    let of = |stream: &str, n: i64| (stream.to_owned(), n);
    let left: Vec<_> = (16..20).map(|n| of("one", n)).chain((0..5).map(|n| of("two", n))).collect();
    assert_eq!(read, left);
    app.stop().await;
}
