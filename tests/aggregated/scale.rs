//! Many partitions, many definitions, much history: the order of facts, not their speed.

use futures_util::future::join_all;
use serde_json::json;

use super::*;
use crate::support::database::TestDatabase;

#[tokio::test]
async fn two_hundred_partitions_of_everything() {
    let database = TestDatabase::migrated().await;
    let (app, sql) = (TestApp::on(&database).await, database.connect().await);
    define(&app, "all", &json!({ "partitioner": { "kind": "stream", "partitions": 200 } })).await;
    let last = write_many(&sql, 6_000, "'s' || n % 7 || '-' || n % 900", "'T'", "'{}'").await;
    projected(&app, "all", last).await;
    holds(&app, &sql, "all", "true", "abs(message_store.hash_64(stream_name::varchar) % 200)").await;
    let partitions = status(&app, "all").await["partitions"].as_array().unwrap().len();
    assert!(partitions > 150, "{partitions}");
    app.stop().await;
}

#[tokio::test]
async fn fifty_definitions_before_and_after_five_thousand_messages() {
    let database = TestDatabase::migrated().await;
    let (app, sql) = (TestApp::on(&database).await, database.connect().await);
    let definition = |number: usize| {
        json!({
            "categories": [format!("c{}", number % 10)],
            "partitioner": { "kind": "cardinal_id", "partitions": 1 + number % 6 }
        })
    };
    let write = || write_many(&sql, 2_500, "'c' || n % 12 || '-' || n % 31", "'T'", "'{}'");
    let define_all = |kind: &'static str| {
        let app = &app;
        join_all((0..25).map(move |number| async move {
            define(app, &format!("{kind}{number}"), &definition(number)).await;
        }))
    };
    define_all("before").await;
    write().await;
    define_all("after").await;
    let last = write().await;
    for kind in ["before", "after"] {
        for number in 0..25 {
            let name = format!("{kind}{number}");
            projected(&app, &name, last).await;
            let condition = format!("message_store.category(stream_name) = 'c{}'", number % 10);
            let partition =
                format!("abs(message_store.hash_64(message_store.cardinal_id(stream_name)) % {})", 1 + number % 6);
            holds(&app, &sql, &name, &condition, &partition).await;
        }
    }
    join_all((0..25).map(|number| {
        let app = &app;
        async move { delete(app, &format!("after{number}")).await }
    }))
    .await;
    let last = app.write("c1-1", "T", json!({})).await;
    projected(&app, "before1", last).await;
    assert_eq!(app.get("/v1/aggregated-streams").await.json()["aggregated_streams"].as_array().unwrap().len(), 25);
    app.stop().await;
}

#[tokio::test]
async fn history_is_projected_beside_the_live_ones_and_not_before_them() {
    let database = TestDatabase::migrated().await;
    let (app, sql) = (TestApp::on(&database).await, database.connect().await);
    define(&app, "live", &of_categories(&["now"])).await;
    until_state(&app, "live", "live").await;
    let data = "json_build_object('filler', repeat('x', 200))";
    write_many(&sql, 20_000, "'n-' || n % 50", "'T'", data).await;
    let mut events = app.follow(&format!("{}/events", path_of("live"))).await;
    events.next("caught-up").await;
    define(
        &app,
        "history",
        &json!({ "categories": ["n", "now"], "partitioner": { "kind": "stream", "partitions": 5 } }),
    )
    .await;
    let (mut beside, mut last, mut before) = (0, 0, 0);
    loop {
        last = app.write("now-1", "T", json!({})).await.max(last);
        assert_eq!(link_of(&events.next("message").await.json()).2, last, "the live one keeps its pace");
        let status = status(&app, "history").await;
        let projected = status["projected_position"].as_i64().unwrap();
        assert!(projected >= before, "it goes forward only: {status}");
        before = projected;
        if status["state"] == "live" {
            break;
        }
        assert_eq!(status["state"], "catching_up");
        beside += usize::from(projected < last);
    }
    assert!(beside > 0, "some came while history was being projected");
    let partition = "abs(message_store.hash_64(stream_name::varchar) % 5)";
    projected(&app, "history", last).await;
    holds(&app, &sql, "history", "true", partition).await;
    app.stop().await;
}
