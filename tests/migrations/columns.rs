//! What was kept under former names of columns is there under the new ones.
use super::migrate_to;
use crate::conformance::Session;
use crate::support::app::TestApp;
use crate::support::database::TestDatabase;
use headwater::store::migrate::{Function, Schema};
use serde_json::json;

/// The schema as of a migration. Without our functions, whose texts have the columns' names of today.
fn former(version: i32) -> Schema {
    let mut schema = Schema::embedded();
    schema.migrations.retain(|migration| migration.version <= version);
    schema.functions.retain(Function::is_of_message_store);
    schema.functions_version = 1;
    schema
}

const DEFINITION: &str = r#"{"source": {"categories": ["account"]}, "from": "beginning", "types": [], "filter": null,
    "mode": "partitioned", "partitions": 1, "ack": "explicit", "ack_timeout_ms": 30000, "consumer_timeout_ms": 10000,
    "max_in_flight": 100, "max_deliveries": 5, "backoff_ms": [1000], "on_exhausted": "park"}"#;

#[tokio::test]
async fn a_subscription_goes_on_where_it_was_before_its_columns_were_renamed() {
    let database = TestDatabase::empty().await;
    migrate_to(&database, &former(8)).await.unwrap();
    let session = Session::open(&database.url).await;
    for _ in 0..5 {
        session.write("account-1").await;
    }
    session
        .run(&format!(
            "INSERT INTO headwater.subscriptions (name, definition, is_partitioned, ack_timeout, consumer_timeout)
             VALUES ('s', '{DEFINITION}', true, '30 s', '10 s');
             INSERT INTO headwater.subscription_consumers (subscription_id, name, session, is_connected, expires_at)
             SELECT id, 'w1', gen_random_uuid(), false, now() + interval '1 hour' FROM headwater.subscriptions;
             INSERT INTO headwater.subscription_partitions (
               subscription_id, partition, committed, delivered, read_upto, rewinds, known_positions, known_counts,
               known_failures, known_times, consumer, epoch, home
             )
             SELECT id, 0, 1, 3, 3, 7, '{{2, 3}}', '{{1, 2}}', '{{0, 0}}', ARRAY[now(), now()], 'w1', 4, 'w1'
             FROM headwater.subscriptions"
        ))
        .await;

    let app = TestApp::on(&database).await;
    let partition = app.get("/v1/subscriptions/s").await.json()["status"]["partitions"][0].clone();
    for (field, expected) in [("in_flight", 2), ("committed_position", 1), ("delivered_position", 3), ("epoch", 4)] {
        assert_eq!(partition[field], expected, "{partition}");
    }
    let ack = json!({ "consumer": "w1", "acks": [{ "partition": 0, "position": 3, "epoch": 4 }] });
    assert_eq!(app.post("/v1/subscriptions/s/acks", &ack).await.json()["acked"], 1);
    let fetched = app.post("/v1/subscriptions/s/fetch", &json!({ "consumer": "w1", "wait": "10s" })).await.json();
    let positions: Vec<_> = fetched["messages"].as_array().unwrap().iter().map(|one| one["position"].clone()).collect();
    assert_eq!(positions, [4, 5], "{fetched}");
    app.stop().await;
}
