//! Fencing: what was lost is lost, and says so.

use super::*;

#[tokio::test]
async fn an_ack_under_an_old_epoch_changes_nothing() {
    let (_database, app) = filled(1, 4).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "stream_name": "a-1" } })).await;
    let old = sub.fetch("w1", 4).await;
    assert_eq!(app.delete(&sub.path("/consumers/w1")).await.status, 204);
    let new = sub.fetch("w2", 4).await;
    assert_eq!((positions(&new), &new[0]["delivery_count"]), (vec![0], &json!(2)), "what may have failed comes alone");
    let fenced = sub.ack("w1", &old[3..]).await.problem(409, "fenced");
    assert_eq!((&fenced["partition"], &fenced["epoch"], &fenced["current_epoch"]), (&json!(0), &json!(1), &json!(2)));
    sub.nack("w1", &old[3], json!({ "action": "skip" })).await.problem(409, "fenced");
    let extension = json!({ "consumer": "w1", "extensions": [place(&old[3])] });
    sub.post("/extensions", &extension).await.problem(409, "fenced");
    assert_eq!(sub.status().await["partitions"][0]["committed_position"], -1);
    sub.acked("w2", &new).await;
    assert_eq!(positions(&sub.fetch("w2", 4).await), [1, 2, 3]);
    app.stop().await;
}

#[tokio::test]
async fn what_is_good_among_fenced_ones_is_done() {
    let (_database, app) = filled(8, 16).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "category": "a" }, "partitions": 2 })).await;
    let all = sub.fetch("w1", 100).await;
    assert_eq!(all.len(), 16);
    let of = |partition: i64| all.iter().rfind(|message| message["partition"] == partition).unwrap().clone();
    assert_eq!(sub.post("/seek", &json!({ "to": "beginning", "partitions": [0] })).await.status, 200);
    let answer = sub.ack("w1", &[of(0), of(1)]).await;
    assert_eq!((answer.status, answer.json()), (200, counts("acked", 1, 1, 0)));
    app.stop().await;
}

#[tokio::test]
async fn the_last_acks_of_who_has_left_are_good_while_nobody_has_taken_over() {
    let (_database, app) = filled(1, 2).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "stream_name": "a-1" } })).await;
    let mut events = app.follow(&sub.path("/events?consumer=w1")).await;
    let mut found = Vec::new();
    while found.len() < 2 {
        found.push(events.next("message").await.json());
    }
    drop(events);
    sub.until("it has left", |status| status["consumers"] == json!([])).await;
    sub.acked("w1", &found[1..]).await;
    assert_eq!(sub.fetch("w2", 2).await.len(), 0);
    app.stop().await;
}

/// A partition may change hands between the look of a consumer at what it holds and its taking of what is replayed there.
#[tokio::test]
async fn a_replay_goes_to_a_consumer_that_knows_its_partition_under_the_epoch_it_knows() {
    let (database, app) = filled(1, 1).await;
    let sub = Sub::new(&app, "s", json!({ "source": { "stream_name": "a-1" } })).await;
    let message = sub.fetch("w1", 1).await.remove(0);
    sub.nacked("w1", &message, json!({ "action": "park" })).await;
    assert_eq!(sub.post("/parked/replay", &json!({ "all": true })).await.json(), json!({ "replayed": 1 }));
    let sql = database.connect().await;
    let known = message["epoch"].as_i64().unwrap();
    let take = "SELECT epoch FROM headwater.subscription_take_replays(\
        (SELECT id FROM headwater.subscriptions), $1, $2, $3, 10, 100, 1000000)";
    let take = async |consumer: &str, partitions: &[i32], epochs: &[i64]| {
        let rows = sql.query(take, &[&consumer, &partitions, &epochs]).await.unwrap();
        rows.iter().map(|row| row.get::<_, i64>(0)).collect::<Vec<_>>()
    };
    assert_eq!(take("w1", &[], &[]).await, [0; 0]);
    assert_eq!(take("w1", &[0], &[known + 1]).await, [0; 0]);
    assert_eq!(take("w2", &[0], &[known]).await, [0; 0]);
    assert_eq!(take("w1", &[0], &[known]).await, [known]);
    assert_eq!(take("w1", &[0], &[known]).await, [0; 0], "it has it");
    app.stop().await;
}
