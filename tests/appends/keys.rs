//! Conditions with a key of a keyed aggregated stream: what is projected is looked up, the rest is looked at in the log.

use std::time::Duration;

use headwater::store::keyed_streams::INDEXED_KEY;
use tokio_postgres::SimpleQueryMessage;

use super::*;
use crate::aggregated::{define, delete, order, path_of, projected, put, until_state};
use crate::support::database::pages_touched;
use crate::support::proxy::FaultProxy;

/// Keys at `/sku`, of one type in two categories.
fn by_sku() -> Value {
    json!({
        "stream_wildcards": ["order-%"], "categories": ["return"], "types": ["Ordered", "Returned"],
        "partitioner": { "kind": "key", "of": "data", "pointer": "/sku" }, "on_error": "skip",
    })
}

fn key(key: &str, after: i64) -> Value {
    json!({ "aggregated_stream": "skus", "key": key, "after": after })
}

fn guarded(condition: &Value) -> Value {
    json!({ "appends": [to("out-1", None)], "conditions": [condition] })
}

/// The position of the first match.
async fn refused_at(app: &TestApp, condition: &Value) -> Value {
    let problem = appends(app, &guarded(condition)).await.problem(409, "condition-failed");
    assert_eq!(problem["condition"], 0);
    problem["position"].clone()
}

/// Each key has its first match after a position, or none, wherever the projection is.
async fn assert_matches(app: &TestApp, expected: &[(&str, i64, Option<i64>)]) {
    for (name, after, expected) in expected {
        let condition = key(name, *after);
        match expected {
            Some(position) => assert_eq!(refused_at(app, &condition).await, *position, "{condition}"),
            None => drop(written(app, &guarded(&condition)).await),
        }
    }
}

#[tokio::test]
async fn first_message_of_the_key_is_told_wherever_the_projection_is() {
    let (_database, app) = app().await;
    for (stream, kind, sku) in [
        ("order-1", "Ordered", json!("a")),
        ("return-1", "Returned", json!(["b", "a"])),
        ("order-1", "Other", json!("c")),
        ("order", "Ordered", json!("c")),
        ("order-2", "Ordered", json!(7)),
        ("other-1", "Ordered", json!("c")),
        ("order-2", "Ordered", json!({ "c": "c" })),
        ("order-2", "Ordered", json!("a")),
    ] {
        app.write(stream, kind, json!({ "sku": sku })).await;
    }
    let expected = [
        ("a", 0, Some(1)),
        ("a", 1, Some(2)),
        ("a", 2, Some(8)),
        ("a", 8, None),
        ("b", 1, Some(2)),
        ("b", 2, None),
        ("c", 0, None),
        ("7", 4, Some(5)),
        ("", 0, None),
        ("A", 0, None),
        ("%", 0, None),
    ];
    define(&app, "skus", &by_sku()).await;
    projected(&app, "skus", 8).await;
    assert_matches(&app, &expected).await;
    // Nothing more is projected: the rest is in the log alone.
    order(&app, "skus", "pause").await;
    let next = app.write("order-1", "Ordered", json!({ "sku": ["a", "d"] })).await;
    assert_matches(&app, &expected[..3]).await;
    assert_matches(&app, &[("a", 8, Some(next)), ("a", next, None), ("d", 0, Some(next)), ("b", 2, None)]).await;
    // As none of it is projected.
    delete(&app, "skus").await;
    let mut failing = by_sku();
    failing["on_error"] = json!("stop");
    app.write("order-9", "Ordered", json!({ "sku": {} })).await;
    define(&app, "skus", &failing).await;
    until_state(&app, "skus", "stopped").await;
    assert_matches(&app, &expected[..3]).await;
    assert_matches(&app, &expected[4..8]).await;
    assert_matches(&app, &[("a", 8, Some(next)), ("d", 0, Some(next)), ("e", 0, None)]).await;
}

#[tokio::test]
async fn aggregated_stream_must_be_one_whose_keys_can_be_guarded() {
    let (database, app) = app().await;
    appends(&app, &guarded(&key("a", 0))).await.problem(404, "not-found");
    let by_type = json!({ "kind": "key", "of": "type" });
    let many: Vec<String> = (0..100).map(|n| format!("c{n}")).collect();
    let of_many = (0..2).map(|n| format!("w{n}-%")).collect::<Vec<_>>();
    for definition in [
        json!({ "categories": ["order"], "partitioner": { "kind": "constant" } }),
        json!({ "partitioner": by_type }),
        json!({ "stream_wildcards": ["%"], "partitioner": by_type }),
        json!({ "stream_wildcards": ["order%"], "partitioner": by_type }),
        json!({ "stream_wildcards": ["order-%", "%-7"], "categories": ["a"], "partitioner": by_type }),
        json!({ "stream_wildcards": of_many, "categories": many, "partitioner": by_type }),
    ] {
        let answer = put(&app, "skus", &definition).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        let problem = appends(&app, &guarded(&key("T", 0))).await.problem(422, "invalid");
        assert_eq!(problem["errors"][0]["field"], "conditions[0].aggregated_stream", "{problem}");
        delete(&app, "skus").await;
    }
    for (definition, stream) in [
        (json!({ "stream_wildcards": ["order-%"], "partitioner": by_type }), "order-1"),
        (json!({ "stream_wildcards": ["order-7"], "partitioner": by_type }), "order-7"),
        (json!({ "stream_wildcards": ["plain"], "partitioner": by_type }), "plain"),
        (json!({ "stream_wildcards": ["-1%"], "partitioner": by_type }), "-12"),
        (json!({ "categories": many, "partitioner": by_type }), "c99"),
        (json!({ "categories": ["100%"], "partitioner": by_type }), "100%-1"),
    ] {
        let position = app.write(stream, "Here", json!(0)).await;
        define(&app, "skus", &definition).await;
        assert_eq!(refused_at(&app, &key("Here", position - 1)).await, position, "{definition}");
        written(&app, &guarded(&key("Here", position))).await;
        delete(&app, "skus").await;
    }
    let before = count(&database).await;
    let problem = appends(&app, &guarded(&key("T", i64::MAX))).await.problem(404, "not-found");
    assert!(problem["detail"].as_str().unwrap().contains("conditions[0].aggregated_stream"), "{problem}");
    define(&app, "skus", &by_sku()).await;
    let beyond = appends(&app, &guarded(&key("T", i64::MAX))).await.problem(409, "history-changed");
    assert_eq!(beyond["position"], i64::MAX);
    assert_eq!(count(&database).await, before);
}

#[tokio::test]
async fn same_request_is_recognised_whatever_became_of_its_key_and_lost_answers_are_found_out() {
    let database = TestDatabase::migrated().await;
    let proxy = FaultProxy::before(&database.url).await;
    let app = TestApp::with(&proxy.url, |settings| settings.append_commit_timeout = Duration::from_secs(5)).await;
    define(&app, "skus", &by_sku()).await;
    // Opens the session, so that what is lost is an append's answer.
    app.write("first-1", "T", json!(0)).await;
    for round in 1..=3_u128 {
        // Nothing is left to look at in the log, so that the first answer is the one of the commit.
        projected(&app, "skus", round as i64).await;
        proxy.lose_answers_of("headwater.append_batch", 1);
        let sku = format!("s{round}");
        let message = json!({ "type": "Ordered", "id": uuid::Uuid::from_u128(round), "data": { "sku": sku } });
        let body = json!({
            "appends": [{ "stream_name": format!("order-{round}"), "messages": [message] }],
            "conditions": [key(&sku, 0)],
        });
        let mut first = written(&app, &body).await;
        assert_eq!(proxy.lost_answers(), round as usize, "the answer was not lost");
        first["duplicate"] = json!(true);
        let is_same = async || {
            let again = appends(&app, &body).await;
            assert_eq!((again.status, again.json()), (200, first.clone()));
        };
        is_same().await;
        projected(&app, "skus", round as i64 + 1).await;
        is_same().await;
        delete(&app, "skus").await;
        is_same().await;
        define(&app, "skus", &json!({ "partitioner": { "kind": "key", "of": "type" } })).await;
        is_same().await;
        delete(&app, "skus").await;
        define(&app, "skus", &by_sku()).await;
        assert_eq!(refused_at(&app, &key(&sku, 0)).await, round as i64 + 1);
        assert_eq!(count(&database).await, round as i64 + 1);
    }
}

/// A projection that is far behind makes a long look, which has its limit.
#[tokio::test]
async fn projection_that_is_behind_is_looked_past_up_to_a_limit() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| settings.append_condition_messages_max = 2_000).await;
    define(&app, "skus", &by_sku()).await;
    until_state(&app, "skus", "live").await;
    order(&app, "skus", "pause").await;
    let client = database.connect().await;
    let sql = "INSERT INTO message_store.messages (stream_name, position, type, data) \
        SELECT 'order-' || $1::int, n, 'Ordered', jsonb_build_object('sku', 'k' || n) FROM generate_series(0, $2::int - 1) AS s (n)";
    client.execute(sql, &[&1_i32, &1_500_i32]).await.unwrap();
    assert_matches(&app, &[("k1400", 0, Some(1_401)), ("k1400", 1_401, None), ("never", 0, None)]).await;
    client.execute(sql, &[&2_i32, &20_000_i32]).await.unwrap();
    let problem = appends(&app, &guarded(&key("never", 0))).await.problem(422, "invalid");
    assert_eq!(problem["errors"][0]["field"], "conditions[0]");
    assert_matches(&app, &[("k5", 1_500, Some(1_508))]).await;
    order(&app, "skus", "resume").await;
    let status = app.get(&format!("{}?min_position=21000&wait=20s", path_of("skus"))).await;
    assert_eq!(status.status, 200, "{}", status.text);
    until_state(&app, "skus", "live").await;
    assert_matches(&app, &[("never", 0, None), ("k19999", 0, Some(21_502))]).await;
}

/// 500 keys of ever more messages, as they are when they have been projected: `$1` to `$2`.
const PROJECTED: [&str; 4] = [
    "INSERT INTO message_store.messages (global_position, stream_name, position, type, data) \
     SELECT n, 'order-' || n, 0, 'Ordered', jsonb_build_object('sku', 'k' || n % 500) FROM generate_series($1::int, $2::int) AS n",
    "INSERT INTO headwater.aggregated_keys (projection_id, key, partition) \
     SELECT p.id, 'k' || n % 500, n % 500 FROM headwater.projections AS p, generate_series($1::int, $2::int) AS n \
     ON CONFLICT DO NOTHING",
    "INSERT INTO headwater.aggregated_messages (projection_id, partition, position, global_position) \
     SELECT p.id, n % 500, (n - 1) / 500, n FROM headwater.projections AS p, generate_series($1::int, $2::int) AS n",
    "UPDATE headwater.projections SET projected_position = m.global_position, last_position = m.global_position, \
     last_id = m.id, key_count = 500 FROM message_store.messages AS m WHERE m.global_position = $2::int AND $1::int > 0",
];

/// The pages that a look at a key touches, and the position that it finds.
async fn look(sql: &tokio_postgres::Client, key: &str, after: i64) -> (i64, Option<i64>) {
    let values = format!("('skus', '{key}', {after}, 200000, {})", after + 1);
    let statement = format!("EXECUTE look {values}");
    let rows = sql.simple_query(&statement).await.unwrap();
    let row = rows.into_iter().find_map(|row| match row {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let found = row.unwrap().get(3).map(|text| text.parse().unwrap());
    (pages_touched(sql, &statement).await, found)
}

#[tokio::test]
async fn what_a_key_costs_does_not_grow_with_the_store() {
    let (database, app) = app().await;
    define(&app, "skus", &by_sku()).await;
    order(&app, "skus", "pause").await;
    app.stop().await;
    let sql = database.connect().await;
    let prepare = format!("PREPARE look (text, text, bigint, bigint, bigint) AS {INDEXED_KEY}");
    // As sessions have it after some uses.
    sql.batch_execute(&format!("{prepare}; SET plan_cache_mode = force_generic_plan")).await.unwrap();
    let mut pages = Vec::new();
    let mut first = 1;
    for last in [20_000_i32, 200_000] {
        for text in PROJECTED {
            sql.execute(text, &[&first, &last]).await.unwrap();
        }
        let settled = format!(
            "UPDATE headwater.settled_position SET message_position = {last}, \
             message_id = (SELECT id FROM message_store.messages WHERE global_position = {last})"
        );
        sql.batch_execute(&settled).await.unwrap();
        sql.batch_execute("VACUUM ANALYZE").await.unwrap();
        first = last + 1;
        let mut most = 0;
        for n in 0..20 {
            let (name, newest, second) = (format!("k{n}"), i64::from(last) - 500 + n, 500 + n);
            for (key, after, expected) in [
                (&*name, newest.max(1), (n == 0).then_some(i64::from(last))),
                (&*name, second, Some(second + 500)),
                ("never", 0, None),
            ] {
                let (pages, found) = look(&sql, key, after).await;
                assert_eq!(found, expected, "{key} after {after} of {last}");
                most = most.max(pages);
            }
        }
        pages.push(most);
    }
    // A place in the index of keys, one in that of links, and a search in the key's links: with ten times as many of them
    // it takes three or four steps more.
    assert!(pages[0] < 100 && pages[1] < pages[0] + 40, "{pages:?}");
}
