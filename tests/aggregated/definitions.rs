//! Defining, looking at, listing and deleting; what each part of a definition selects and where it puts it.

use serde_json::{Value, json};

use super::*;
use crate::support::database::TestDatabase;

#[tokio::test]
async fn a_definition_is_made_once_and_another_one_is_refused_with_what_differs() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let definition = json!({
        "stream_wildcards": ["a-%", "b-%"], "categories": ["c", "d"], "types": ["T", "U"], "filter": "data.n > 1",
        "partitioner": { "kind": "stream", "partitions": 3 }, "max_partition": 2, "on_error": "skip"
    });
    let answer = put(&app, "orders", &definition).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    assert_eq!(answer.json()["name"], "orders");
    let shown = app.get(&path_of("orders")).await.json();
    assert_eq!(shown["definition"], definition);
    let mut turned = definition.clone();
    (turned["categories"], turned["types"]) = (json!(["d", "c", "d"]), json!(["U", "T"]));
    turned["stream_wildcards"] = json!(["b-%", "a-%"]);
    for same in [&definition, &turned] {
        let answer = put(&app, "orders", same).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(answer.json()["definition"], definition, "as it was first said");
    }
    for (field, value) in [
        ("stream_wildcards", json!(["a-%"])),
        ("categories", json!([])),
        ("types", json!(["T"])),
        ("filter", json!("data.n > 2")),
        ("filter", json!(null)),
        ("partitioner", json!({ "kind": "stream", "partitions": 2 })),
        ("partitioner", json!({ "kind": "type", "partitions": 3 })),
        ("max_partition", json!(3)),
        ("on_error", json!("stop")),
        ("on_error", json!({ "partition": 0 })),
    ] {
        let mut other = definition.clone();
        other[field] = value;
        let problem = put(&app, "orders", &other).await.problem(409, "definition-differs");
        assert_eq!(problem["fields"], json!([field]), "{problem}");
    }
    let mut other = definition.clone();
    (other["types"], other["on_error"]) = (json!([]), json!("stop"));
    let problem = put(&app, "orders", &other).await.problem(409, "definition-differs");
    assert_eq!(problem["fields"], json!(["types", "on_error"]));
    assert_eq!(app.get(&path_of("orders")).await.json()["definition"], definition);
    app.stop().await;
}

#[tokio::test]
async fn of_many_who_define_the_same_one_makes_it() {
    let database = TestDatabase::migrated().await;
    let apps = [TestApp::on(&database).await, TestApp::on(&database).await];
    let definition = of_categories(&["n"]);
    let attempts = (0..20).map(|number| put(&apps[number % 2], "one", &definition));
    let mut statuses: Vec<u16> =
        futures_util::future::join_all(attempts).await.iter().map(|answer| answer.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [&[200; 19][..], &[201]].concat());
    for app in apps {
        app.stop().await;
    }
}

#[tokio::test]
async fn the_list_comes_in_pages_by_name() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    assert_eq!(app.get("/v1/aggregated-streams").await.json(), json!({ "aggregated_streams": [], "next": null }));
    let mut names = ["b", "a", "Z", "ä", "a b", "%", "c/d"];
    for name in names {
        define(&app, name, &of_categories(&["n"])).await;
    }
    // By the bytes of UTF-8, whatever the database's language.
    names.sort_unstable();
    for limit in [1, 2, 7, 100] {
        let (mut found, mut after) = (Vec::new(), String::new());
        loop {
            let page = app.get(&format!("/v1/aggregated-streams?limit={limit}&after={}", encode(&after))).await.json();
            let streams = page["aggregated_streams"].as_array().unwrap().clone();
            assert!(streams.len() <= limit);
            for stream in &streams {
                assert!(stream["status"].get("partitions").is_none(), "{stream}");
                assert_eq!(stream["definition"]["categories"], json!(["n"]));
            }
            found.extend(streams.iter().map(|stream| stream["name"].as_str().unwrap().to_owned()));
            match page["next"].as_str() {
                Some(next) => next.clone_into(&mut after),
                None => break,
            }
        }
        assert_eq!(found, names, "{limit} at a time");
    }
    for name in names {
        delete(&app, name).await;
    }
    call(&app, Method::DELETE, &path_of("a"), None).await.problem(404, "not-found");
    app.stop().await;
}

const HASH: &str = "abs(message_store.hash_64";

/// Definitions, each with the same in SQL: which messages, and which partition of each.
fn table() -> Vec<(Value, String, String)> {
    let category = "message_store.category(stream_name)";
    let constant = json!({ "kind": "constant" });
    let by = |partitioner: Value| json!({ "partitioner": partitioner, "on_error": "skip" });
    let of = |rest: Value| {
        let mut definition = json!({ "partitioner": constant });
        definition.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        definition
    };
    let hashed = |text: &str, partitions: i64| format!("{HASH}({text}) % {partitions})");
    let number = "CASE WHEN jsonb_typeof(data -> 'num') = 'number' THEN (data ->> 'num')::numeric END";
    let whole = format!("(SELECT CASE WHEN n % 1 = 0 THEN mod(mod(n, 3) + 3, 3) END FROM (SELECT {number} AS n) AS x)");
    let text = "nullif(data #>> '{deep,1}', NULL)";
    let tenant = "metadata ->> 'tenant'";
    let everything = "true".to_owned();
    let all = |definition: Value, partition: String| (definition, "true".to_owned(), partition);
    vec![
        all(by(constant.clone()), "0".into()),
        all(by(json!({ "kind": "stream", "partitions": 5 })), hashed("stream_name::varchar", 5)),
        all(
            by(json!({ "kind": "cardinal_id", "partitions": 4 })),
            hashed("coalesce(message_store.cardinal_id(stream_name), stream_name)::varchar", 4),
        ),
        all(by(json!({ "kind": "category", "partitions": 3 })), hashed(&format!("{category}::varchar"), 3)),
        all(by(json!({ "kind": "type", "partitions": 10_000 })), hashed("type::varchar", 10_000)),
        all(by(json!({ "kind": "data", "pointer": "/num", "method": "modulo", "partitions": 3 })), whole),
        all(
            by(json!({ "kind": "data", "pointer": "/deep/1", "method": "hash", "partitions": 7, "missing": 6 })),
            format!("CASE WHEN {text} IS NULL THEN 6 ELSE {} END", hashed(&format!("({text})::varchar"), 7)),
        ),
        all(
            by(json!({ "kind": "metadata", "pointer": "/tenant", "method": "hash", "partitions": 9 })),
            hashed(&format!("({tenant})::varchar"), 9),
        ),
        all(
            by(json!({ "kind": "cel", "expression": "type == 'EventA' ? global_position % 3 : 0" })),
            "CASE WHEN type = 'EventA' THEN global_position % 3 ELSE 0 END".into(),
        ),
        all(
            by(json!({ "kind": "cel", "expression": "size(category) + (position > 1 ? 1 : 0)" })),
            format!("char_length({category}) + (position > 1)::int"),
        ),
        all(
            by(json!({ "kind": "cel", "expression": "metadata.tenant == 'ö' ? 1 : 2" })),
            format!("CASE WHEN {tenant} IS NULL THEN NULL WHEN {tenant} = 'ö' THEN 1 ELSE 2 END"),
        ),
        (of(json!({ "stream_wildcards": ["order-%"] })), "stream_name LIKE 'order-%'".into(), "0".into()),
        (of(json!({ "stream_wildcards": ["%-1"] })), "stream_name LIKE '%-1'".into(), "0".into()),
        (of(json!({ "stream_wildcards": ["o%d%r%1%"] })), "stream_name LIKE 'o%d%r%1%'".into(), "0".into()),
        (of(json!({ "stream_wildcards": ["order"] })), "stream_name = 'order'".into(), "0".into()),
        (of(json!({ "stream_wildcards": ["order_-%"] })), r"stream_name LIKE 'order\_-%'".into(), "0".into()),
        (of(json!({ "stream_wildcards": ["%"] })), everything.clone(), "0".into()),
        (
            of(json!({ "stream_wildcards": ["ord%", "%-2+x"] })),
            "stream_name LIKE 'ord%' OR stream_name LIKE '%-2+x'".into(),
            "0".into(),
        ),
        (of(json!({ "categories": ["order", "nothing"] })), format!("{category} = 'order'"), "0".into()),
        (
            of(json!({ "categories": ["order:cmd"], "stream_wildcards": ["bank%"] })),
            format!("{category} = 'order:cmd' OR stream_name LIKE 'bank%'"),
            "0".into(),
        ),
        (of(json!({ "types": ["EventB", "größe"] })), "type IN ('EventB', 'größe')".into(), "0".into()),
        (
            of(json!({ "types": ["EventA"], "categories": ["order"] })),
            format!("type = 'EventA' AND {category} = 'order'"),
            "0".into(),
        ),
        (of(json!({ "filter": "data.num > 5" })), format!("({number}) > 5"), "0".into()),
        (
            of(json!({ "filter": "stream_name.startsWith('order') && type != 'EventA'" })),
            "stream_name LIKE 'order%' AND type <> 'EventA'".into(),
            "0".into(),
        ),
        (
            of(
                json!({ "partitioner": { "kind": "cel", "expression": "data.num" }, "max_partition": 7, "on_error": { "partition": 3 } }),
            ),
            everything,
            format!(
                "(SELECT CASE WHEN scale(n) = 0 AND n BETWEEN 0 AND 7 THEN n ELSE 3 END FROM (SELECT {number} AS n) AS x)"
            ),
        ),
    ]
}

/// Messages of many shapes, also ones that only SQL can write.
async fn write_shapes(sql: &Client) -> i64 {
    let streams =
        ["order-1", "order-2+x", "order:cmd-1", "order", "order_-1", "orderX-1", "bank-größe", "bank:a+b-7-8", "x-1"];
    let types = ["EventA", "EventB", "größe", "a b"];
    let shapes: [Option<&str>; 14] = [
        Some(r#"{"num": 7, "deep": [0, "ö"]}"#),
        Some(r#"{"num": -7}"#),
        Some(r#"{"num": 4.00, "deep": [1, 1.50]}"#),
        Some(r#"{"num": 4.5}"#),
        Some(r#"{"num": "4"}"#),
        Some(r#"{"num": 123456789012345678901234567890}"#),
        Some(r#"{"num": null, "deep": [1, null]}"#),
        Some("[]"),
        Some("null"),
        Some("3"),
        Some(r#""text""#),
        Some(r#"{"deep": {"1": "object"}}"#),
        Some(r#"{"deep": [1, {"a": [1, 2]}], "num": 8}"#),
        None,
    ];
    let metadata: [Option<&str>; 4] = [None, Some(r#"{"tenant": "ö"}"#), Some(r#"{"tenant": "b"}"#), Some("[1]")];
    let text = "INSERT INTO message_store.messages (stream_name, position, type, data, metadata) \
        SELECT $1, coalesce(max(position), -1) + 1, $2, $3::text::jsonb, $4::text::jsonb \
        FROM message_store.messages WHERE stream_name = $1 RETURNING global_position";
    let statement = sql.prepare(text).await.unwrap();
    let mut last = 0;
    for number in 0..160 {
        let (stream, kind) = (streams[number % streams.len()], types[number % types.len()]);
        let (data, metadata) = (shapes[number % shapes.len()], metadata[(number / 3) % metadata.len()]);
        last = sql.query_one(&statement, &[&stream, &kind, &data, &metadata]).await.unwrap().get(0);
    }
    last
}

#[tokio::test]
async fn every_selection_and_every_partitioner_does_what_its_plain_sql_says() {
    let database = TestDatabase::migrated().await;
    let (app, sql) = (TestApp::on(&database).await, database.connect().await);
    let table = table();
    let mut last = write_shapes(&sql).await;
    // Half as history, half live.
    for (number, (definition, _, _)) in table.iter().enumerate() {
        define(&app, &format!("d{number}"), definition).await;
    }
    for number in 0..table.len() {
        until_state(&app, &format!("d{number}"), "live").await;
    }
    last = last.max(write_shapes(&sql).await);
    for (number, (definition, condition, partition)) in table.iter().enumerate() {
        let name = format!("d{number}");
        let status = projected(&app, &name, last).await;
        let (found, expected) = (links(&sql, &name).await, expected(&sql, condition, partition).await);
        assert!(!expected.is_empty(), "{definition} matches something");
        assert!(found == expected, "{definition}: {}", difference(&found, &expected));
        counters_agree(&status, &found);
    }
    app.stop().await;
}
