//! What a fetch has passed over is kept, also if its consumer does not wait for the end.

use super::*;
use crate::support::proxy::FaultProxy;
use crate::support::waiting::eventually;

const MESSAGES: i64 = 6_000;

/// Pages of a keyed aggregated stream have messages of all types, and those that are not wanted count too.
#[tokio::test]
async fn a_fetch_that_finds_nothing_for_long_keeps_its_place() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let fill = "INSERT INTO message_store.messages (stream_name, position, type, data) \
        SELECT 'a-1', n, 'Other', '{}' FROM generate_series(0, $1::bigint - 1) AS n";
    sql.execute(fill, &[&MESSAGES]).await.unwrap();
    let proxy = FaultProxy::before(&database.url).await;
    let app = TestApp::with(&proxy.url, |_| {}).await;
    let keyed = json!({ "categories": ["a"], "partitioner": { "kind": "key", "of": "cardinal_id" } });
    assert_eq!(app.put("/v1/aggregated-streams/x", &keyed).await.status, 201);
    let done = app.get(&format!("/v1/aggregated-streams/x?min_position={MESSAGES}&wait=60s")).await.json();
    assert_eq!(done["status"]["projected_position"], MESSAGES);
    let definition = json!({ "source": { "aggregated_stream": "x" }, "mode": "competing", "types": ["Wanted"] });
    let sub = Sub::new(&app, "s", definition).await;
    // The consumer goes long before a fetch of so many pages could come to the end.
    proxy.delay(Duration::from_millis(40));
    let fetch = sub.fetch("w1", 50);
    let kept = eventually("a place is kept", || async {
        let place = sql.query_one("SELECT read_up_to FROM headwater.subscription_partitions", &[]).await.unwrap();
        Some(place.get::<_, i64>(0)).filter(|place| *place > 0)
    });
    let kept = tokio::select! {
        kept = kept => kept,
        _ = fetch => panic!("the fetch came to the end"),
    };
    assert!(kept < MESSAGES, "{kept}: only the end was kept");
    proxy.delay(Duration::ZERO);
    app.stop().await;
}
