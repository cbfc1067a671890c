//! Where two rules meet: retries beside what is in flight, replays beside the cursor and beside the credit, room that
//! is made at another instance, and leases that end between two statements.

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::support::app::TestApp;
use crate::support::database::TestDatabase;

/// A fetch that does not wait answers at once: also while all that comes next waits for what is in flight.
#[tokio::test]
async fn what_failed_before_waits_for_what_is_in_flight_and_so_does_nobody_else() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    write(&database.connect().await, "a", 1, 3_000).await;
    let definition = json!({ "source": { "stream_name": "a-1" }, "backoff": ["0s"] });
    let group = Group::new(&app.url, "s", definition).await;
    let two = group.fetch("w", 2).await;
    group.nacked("w", &two[1], json!({ "action": "retry", "delay": "0s" })).await;
    let fetching = group.fetch("w", 2);
    let nothing = tokio::time::timeout(Duration::from_secs(5), fetching).await.expect("a fetch without a wait answers");
    assert_eq!(positions(&nothing), Vec::<i64>::new(), "it goes alone, once the first is acked");
    group.acked("w", &two[..1]).await;
    assert_eq!(positions(&group.fetch_some("w", 10).await), [1]);
    app.stop().await;
}

/// What is replayed is in flight as anything else.
#[tokio::test]
async fn replays_are_within_the_credit() {
    for mode in ["partitioned", "competing"] {
        let database = TestDatabase::migrated().await;
        let app = TestApp::on(&database).await;
        write(&database.connect().await, "a", 1, 30).await;
        let definition = json!({ "source": { "stream_name": "a-1" }, "mode": mode, "max_in_flight": 4 });
        let group = Group::new(&app.url, "s", definition).await;
        for _ in 0..20 {
            let one = group.fetch("w", 1).await;
            group.nacked("w", &one[0], json!({ "action": "park" })).await;
        }
        assert_eq!(group.done("/parked/replay", &json!({ "all": true })).await["replayed"], 20);
        let mut flying = Vec::new();
        for _ in 0..8 {
            flying.extend(group.fetch("w", 100).await);
        }
        assert_eq!(flying.len(), 4, "{mode}: {:?}", positions(&flying));
        // All of them come, and what is new after them.
        let mut seen = std::collections::BTreeSet::new();
        while !flying.is_empty() {
            group.acked("w", &flying).await;
            seen.extend(positions(&flying));
            flying = group.fetch("w", 100).await;
            assert!(flying.len() <= 4, "{mode}: {:?}", positions(&flying));
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), (0..30).collect::<Vec<_>>(), "{mode}");
        app.stop().await;
    }
}

/// A replayed message that the cursor has yet to come to is one message, not two.
#[tokio::test]
async fn what_is_replayed_before_the_cursor_comes_to_it_comes_once() {
    for mode in ["partitioned", "competing"] {
        let database = TestDatabase::migrated().await;
        let app = TestApp::on(&database).await;
        write(&database.connect().await, "a", 1, 3).await;
        let group = Group::new(&app.url, "s", json!({ "source": { "stream_name": "a-1" }, "mode": mode })).await;
        let all = group.fetch("w1", 3).await;
        group.nacked("w1", &all[1], json!({ "action": "park" })).await;
        group.done("/seek", &json!({ "to": "beginning" })).await;
        group.done("/parked/replay", &json!({ "all": true })).await;
        let mut seen = Vec::new();
        for consumer in ["w1", "w2", "w1", "w2"] {
            // In partitioned mode the second has no partition, and gets nothing.
            let some = group.fetch(consumer, if seen.is_empty() { 1 } else { 10 }).await;
            seen.extend(positions(&some));
        }
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2], "{mode}");
        app.stop().await;
    }
}

/// A consumer whose requests have gone to one instance, and whose event stream is at another.
#[tokio::test]
async fn acks_at_one_instance_make_room_at_another() {
    for mode in ["partitioned", "competing"] {
        let database = TestDatabase::migrated().await;
        let (one, two) = (TestApp::on(&database).await, TestApp::on(&database).await);
        write(&database.connect().await, "a", 1, 60).await;
        let definition = json!({ "source": { "stream_name": "a-1" }, "mode": mode, "max_in_flight": 2 });
        let group = Group::new(&one.url, "s", definition).await;
        let first = group.fetch("w", 1).await;
        group.acked("w", &first).await;
        let mut events = group.on(&two.url).events("w").await;
        let mut next = 1;
        while next < 60 {
            let message = tokio::time::timeout(Duration::from_secs(3), events.next("message")).await;
            let message = message.unwrap_or_else(|_| panic!("{mode}: nobody told it of the room after {next}")).json();
            assert_eq!(message["position"], next, "{mode}");
            group.acked("w", &[message]).await;
            next += 1;
        }
        drop(events);
        one.stop().await;
        two.stop().await;
    }
}

/// A consumer that asks for its messages again has not failed with them, and gets no more time for them: a message that
/// kills its consumer, which is made again at once, ends all the same.
#[tokio::test]
async fn the_backlog_is_no_way_around_the_deliveries_that_there_may_be() {
    for mode in ["partitioned", "competing"] {
        let database = TestDatabase::migrated().await;
        let app = TestApp::on(&database).await;
        write(&database.connect().await, "a", 1, 2).await;
        let definition = json!({
            "source": { "stream_name": "a-1" }, "mode": mode, "max_deliveries": 3, "ack_timeout": "400ms"
        });
        let group = Group::new(&app.url, "s", definition).await;
        let mut counts = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while group.get("/parked").await["parked"] == json!([]) {
            let backlog = group.fetch_with("w", json!({ "limit": 1 })).await;
            let first = backlog.iter().filter(|one| one["position"] == 0);
            counts.extend(first.map(|one| one["delivery_count"].as_i64().unwrap()));
            counts.dedup();
            assert!(Instant::now() < deadline, "{mode}: {counts:?}");
        }
        // The third delivery is asked for once more, where there was time for it.
        assert!(counts[0] == 1 && matches!(counts.iter().max(), Some(3 | 4)), "{mode}: {counts:?}");
        let parked = group.get("/parked").await;
        assert_eq!(parked["parked"][0]["position"], 0, "{mode}: {parked}");
        assert_eq!(parked["parked"][0]["deliveries"], 3, "{mode}: {parked}");
        app.stop().await;
    }
}

/// No client has to know of a backlog: a consumer that fetches again gets what it has not acked, whatever became of
/// the answer that
/// gave it, and an ack counts whichever answer it was that arrived.
#[tokio::test]
async fn a_fetch_begins_with_what_was_not_acked() {
    for mode in ["partitioned", "competing"] {
        let database = TestDatabase::migrated().await;
        let (one, two) = (TestApp::on(&database).await, TestApp::on(&database).await);
        write(&database.connect().await, "a", 1, 8).await;
        let definition =
            json!({ "source": { "stream_name": "a-1" }, "mode": mode, "max_deliveries": 1, "max_in_flight": 5 });
        let group = Group::new(&one.url, "s", definition).await;
        let lost = group.fetch_with("w", json!({ "limit": 3 })).await;
        assert_eq!(positions(&lost), [0, 1, 2], "{mode}");
        // At any instance, as often as need be, within a limit.
        let again = group.on(&two.url).fetch_with("w", json!({ "limit": 2 })).await;
        assert_eq!((positions(&again), &again[0]["delivery_count"]), (vec![0, 1], &json!(2)), "{mode}");
        let again = group.fetch_with("w", json!({ "wait": "20s" })).await;
        assert_eq!((positions(&again), &again[0]["delivery_count"]), (vec![0, 1, 2], &json!(2)), "{mode}");
        assert_eq!(lost.iter().map(place).collect::<Vec<_>>(), again.iter().map(place).collect::<Vec<_>>(), "{mode}");
        group.acked("w", &lost[..1]).await;
        group.acked("w", &again[1..2]).await;
        // Who says that it wants what is new has room for the rest.
        assert_eq!(positions(&group.fetch("w", 10).await), [3, 4, 5, 6], "{mode}");
        let mut rest = group.fetch_with("w", json!({})).await;
        assert_eq!(positions(&rest), [2, 3, 4, 5, 6], "{mode}");
        group.acked("w", &rest).await;
        rest = group.fetch_with("w", json!({})).await;
        assert_eq!(positions(&rest), [7], "{mode}");
        group.acked("w", &rest).await;
        assert_eq!(group.fetch_with("w", json!({})).await.len(), 0, "{mode}");
        assert_eq!(group.get("/parked").await["parked"], json!([]), "{mode}: an answer that was lost is no failure");
        one.stop().await;
        two.stop().await;
    }
}

/// A lease that has run out is over, whether or not somebody has come to take it away: its partitions may be planned
/// for others already, and nobody would plan again.
#[tokio::test]
async fn a_lease_that_has_run_out_is_not_renewed() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    // No instance is there that would take leases away.
    let id = create(&sql).await;
    let join = "SELECT headwater.subscription_join($1, $2, gen_random_uuid(), $3, 10, 500)";
    for is_connected in [false, true] {
        for consumer in ["w1", "w2"] {
            sql.query_one(join, &[&id, &consumer, &is_connected]).await.unwrap();
        }
        let expire = "UPDATE headwater.subscription_consumers SET expires_at = clock_timestamp() WHERE name = 'w1' \
            RETURNING session";
        let session: uuid::Uuid = sql.query_one(expire, &[]).await.unwrap().get(0);
        // Another one comes: for it, the first is gone.
        sql.query_one(join, &[&id, &"w3", &is_connected]).await.unwrap();
        assert!(!holders(&sql, id).await.contains(&"w1".to_owned()));
        // The first one was only late.
        let session = is_connected.then_some(session);
        let renewed = renew(&sql, id, "w1", session).await;
        assert_eq!(renewed, 0, "what has run out is not renewed");
        // It comes again as if it were new, and gets its share.
        sql.query_one(join, &[&id, &"w1", &is_connected]).await.unwrap();
        assert!(holders(&sql, id).await.contains(&"w1".to_owned()), "it holds nothing, and nobody will look again");
        for consumer in ["w1", "w2", "w3"] {
            let remove = "SELECT headwater.subscription_remove($1, $2, NULL, false, 500)";
            sql.query_one(remove, &[&id, &consumer]).await.unwrap();
        }
    }
}

async fn create(sql: &tokio_postgres::Client) -> i64 {
    let create = "SELECT headwater.subscription_create('s', '{}', true, NULL, 30000, 10000, 0, \
        ARRAY(SELECT generate_series(0, 5)), array_fill(0::bigint, ARRAY[6]), 10)";
    sql.query_one(create, &[]).await.unwrap().get(0)
}

async fn renew(sql: &tokio_postgres::Client, id: i64, consumer: &str, session: Option<uuid::Uuid>) -> i64 {
    let renew = "SELECT count(*) FROM headwater.subscription_renew(ARRAY[$1::bigint], ARRAY[$2::text], ARRAY[$3::uuid], ARRAY[0::bigint])";
    sql.query_one(renew, &[&id, &consumer, &session]).await.unwrap().get(0)
}

/// The consumers that hold partitions, or are about to.
async fn holders(sql: &tokio_postgres::Client, id: i64) -> Vec<String> {
    let holders = "SELECT DISTINCT coalesce(next_owner, consumer) FROM headwater.subscription_partitions \
        WHERE subscription_id = $1";
    sql.query(holders, &[&id]).await.unwrap().iter().filter_map(|row| row.get(0)).collect()
}

/// A filter that passes nothing is no work that comes again and again: the cursor moves on.
#[tokio::test]
async fn a_filter_that_passes_nothing_moves_on() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    write(&database.connect().await, "a", 7, 12_000).await;
    for mode in ["partitioned", "competing"] {
        for (name, filter) in [("types", json!({ "types": ["U"] })), ("cel", json!({ "filter": "data.n < 0" }))] {
            let mut definition = json!({ "source": { "category": "a" }, "mode": mode });
            definition.as_object_mut().unwrap().extend(filter.as_object().unwrap().clone());
            let group = Group::new(&app.url, &format!("{mode}-{name}"), definition).await;
            // The pages that are read are as large as what is asked for.
            let fetching = group.fetch("w", 1_000);
            let found = tokio::time::timeout(Duration::from_secs(20), fetching).await.expect("it comes to the end");
            assert_eq!(found.len(), 0);
            let status = group.status().await;
            assert_eq!((&status["committed_lag"], &status["delivered_lag"]), (&json!(0), &json!(0)), "{status}");
            let behind = "SELECT count(*) FROM headwater.subscription_partitions AS p \
                JOIN headwater.subscriptions AS s ON s.id = p.subscription_id WHERE s.name = $1 AND p.read_up_to < 8000";
            let sql = database.connect().await;
            let behind: i64 = sql.query_one(behind, &[&group.name]).await.unwrap().get(0);
            assert_eq!(behind, 0, "{mode} {name}: another instance would read all of it again");
        }
    }
    app.stop().await;
}

/// A message that is gone from the log while it waits for its retry is over.
#[tokio::test]
async fn a_message_that_is_gone_holds_nobody_up() {
    for mode in ["partitioned", "competing"] {
        let database = TestDatabase::migrated().await;
        let app = TestApp::on(&database).await;
        let sql = database.connect().await;
        write(&sql, "a", 1, 4).await;
        let definition = json!({
            "source": { "stream_name": "a-1" }, "mode": mode, "ack_timeout": "200ms", "max_deliveries": 2, "backoff": ["0s"]
        });
        let group = Group::new(&app.url, "s", definition).await;
        let two = group.fetch("w", 2).await;
        group.nacked("w", &two[1], json!({})).await;
        sql.batch_execute("DELETE FROM message_store.messages WHERE position = 1").await.unwrap();
        group.acked("w", &two[..1]).await;
        let rest = group.fetch_some("w", 10).await;
        assert_eq!(positions(&rest), [2, 3], "{mode}");
        group.acked("w", &rest).await;
        group.until_all_is_acked().await;
        write(&sql, "a", 1, 1).await;
        let last = group.fetch_some("w", 10).await;
        assert_eq!(positions(&last), [4], "{mode}");
        // The last of all, so that nothing after it is acked in its place.
        group.nacked("w", &last[0], json!({})).await;
        sql.batch_execute("DELETE FROM message_store.messages WHERE position = 4").await.unwrap();
        let none = group.fetch_with("w", json!({ "limit": 10, "wait": "1s" })).await;
        assert_eq!(none.len(), 0, "{mode}");
        group.until_all_is_acked().await;
        app.stop().await;
    }
}

/// Deleted and made again under its name: nothing of the old one reaches the new one, at whichever instance.
#[tokio::test]
async fn a_name_that_is_used_again_is_another_subscription() {
    for mode in ["partitioned", "competing"] {
        let database = TestDatabase::migrated().await;
        let (one, two) = (TestApp::on(&database).await, TestApp::on(&database).await);
        write(&database.connect().await, "a", 1, 10).await;
        let definition = json!({ "source": { "stream_name": "a-1" }, "mode": mode });
        let group = Group::new(&one.url, "s", definition.clone()).await;
        let other = group.on(&two.url);
        let old = other.fetch("w", 5).await;
        let mut events = other.events("v").await;
        assert_eq!(one.delete("/v1/subscriptions/s").await.status, 204);
        Group::new(&one.url, "s", definition).await;
        assert_eq!(events.next("closing").await.json()["reason"], "deleted");
        // An ack of the old one changes nothing in the new one, or is of nothing that is there.
        let late = other.ack("w", &old).await;
        assert_ne!(late.json()["acked"], 5, "{mode}: {}", late.text);
        let all = group.fetch_some("w", 10).await;
        assert_eq!(positions(&all), (0..10).collect::<Vec<_>>(), "{mode}");
        other.acked("w", &all).await;
        assert_eq!(group.status().await["committed_lag"], 0);
        one.stop().await;
        two.stop().await;
    }
}

/// What was tried too often is not in the way of what is due behind it.
#[tokio::test]
async fn what_ends_is_not_in_the_way_of_what_is_due() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let sql = database.connect().await;
    write(&sql, "a", 1, 2).await;
    let definition = json!({ "source": { "stream_name": "a-1" }, "mode": "competing", "max_deliveries": 2 });
    let group = Group::new(&app.url, "s", definition).await;
    let expire =
        "UPDATE headwater.subscription_deliveries SET due_at = '2000-01-01'::timestamptz + position * interval '1 s'";
    group.fetch("w", 1).await;
    sql.batch_execute(expire).await.unwrap();
    // Once more the first, and then the second for the first time.
    assert_eq!(positions(&group.fetch_some("w", 1).await), [0]);
    assert_eq!(positions(&group.fetch_some("w", 1).await), [1]);
    // Both are due, the first for the last time.
    sql.batch_execute(expire).await.unwrap();
    assert_eq!(positions(&group.fetch("w", 1).await), [1]);
    assert_eq!(group.get("/parked").await["parked"][0]["position"], 0);
    app.stop().await;
}

/// What is remembered as parked does not use up the credit of a consumer that has less of it.
#[tokio::test]
async fn what_was_parked_ahead_of_its_turn_leaves_room_for_what_it_waits_for() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    write(&database.connect().await, "a", 1, 8).await;
    let group = Group::new(&app.url, "s", json!({ "source": { "stream_name": "a-1" }, "backoff": ["0s"] })).await;
    let six = group.fetch("w", 6).await;
    for message in &six[1..] {
        group.nacked("w", message, json!({ "action": "park" })).await;
    }
    group.nacked("w", &six[0], json!({})).await;
    let answer = group.http.delete(group.path("/consumers/w")).send().await.unwrap();
    assert_eq!(answer.status(), 204);
    let mut events = group.events("v&max_in_flight=2").await;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let next = tokio::time::timeout(Duration::from_secs(5), events.next("message")).await;
        let message = next.unwrap_or_else(|_| panic!("it has no room after {seen:?}")).json();
        group.acked("v", std::slice::from_ref(&message)).await;
        seen.push(message["position"].as_i64().unwrap());
    }
    assert_eq!(seen, [0, 6, 7]);
    drop(events);
    app.stop().await;
}
