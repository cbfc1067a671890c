//! Many who follow the same are told the same, whoever of them comes, goes, or does not read.

use std::time::Duration;

use headwater::domain::observation::Observation;
use reqwest::Version;
use serde_json::{Value, json};

use crate::support::app::{PATIENCE, TestApp};
use crate::support::database::TestDatabase;
use crate::support::events::{Events, position_of};
use crate::support::sql_writer;
use crate::support::waiting::until;

const PATH: &str = "/v1/streams/a-1/events";
/// A socket that is written to, and a body that hyper takes.
const WIRES: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

async fn live(app: &TestApp, path: &str) -> Events {
    let mut events = app.follow(path).await;
    events.next("caught-up").await;
    events
}

async fn live_ones(app: &TestApp, path: &str, count: usize) -> Vec<Events> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(live(app, path).await);
    }
    all
}

#[tokio::test]
async fn each_gets_every_message_once_and_in_order_with_its_own_options_while_others_come_and_go() {
    for wire in WIRES {
        let database = TestDatabase::migrated().await;
        let app = TestApp::on(&database).await.following_over(wire);
        // Whoever is the first to follow while a batch is under way is told that it fell behind.
        let _first = live(&app, PATH).await;
        let writing = async {
            for n in 0..300 {
                app.write("a-1", if n % 3 == 0 { "Third" } else { "Other" }, json!({ "n": n })).await;
            }
        };
        let coming_and_going = async {
            let mut stay = Vec::new();
            for round in 0..20 {
                for parameters in ["", "?types=Third", "?event_names=type", "?filter=data.n%20%25%202%20%3D%3D%200"] {
                    let mut events = app.follow(&format!("{PATH}{parameters}")).await;
                    let caught_up = events.next("caught-up").await;
                    let after = caught_up.place().unwrap().parse::<i64>().unwrap();
                    if round % 2 == 0 {
                        stay.push((parameters, after, events));
                    }
                }
            }
            stay
        };
        let ((), stay) = tokio::join!(writing, coming_and_going);
        // All of them want it.
        app.write("a-1", "Third", json!({ "n": 300 })).await;
        for (parameters, after, mut events) in stay {
            let is_wanted = |n: &i64| match parameters {
                "?types=Third" => n % 3 == 0,
                "" | "?event_names=type" => true,
                _ => n % 2 == 0,
            };
            let expected: Vec<i64> = (after + 1..=300).filter(is_wanted).collect();
            let mut seen = Vec::new();
            while seen.last() != Some(&300) {
                let event = events.next_event().await;
                let message = event.json();
                let name =
                    if parameters == "?event_names=type" { message["type"].as_str().unwrap() } else { "message" };
                assert!(event.is(name), "{event:?}");
                assert_eq!(event.place(), Some(message["position"].to_string().as_str()));
                seen.push(message["position"].as_i64().unwrap());
            }
            assert_eq!(seen, expected, "{parameters}");
        }
        app.stop().await;
    }
}

#[tokio::test]
async fn one_that_does_not_read_delays_no_other_and_gets_the_rest_where_it_was_cut() {
    for wire in WIRES {
        let database = TestDatabase::migrated().await;
        let app = TestApp::on(&database).await.following_over(wire);
        let mut slow = live(&app, PATH).await;
        let mut others = live_ones(&app, PATH, 3).await;
        // More than all buffers between the service and a client that does not read; not so much that it is not in memory.
        let text = "x".repeat(128 << 10);
        for n in 0..120 {
            let position = app.write("a-1", "Large", json!({ "n": n, "text": text })).await;
            for events in &mut others {
                assert_eq!(position_of(&events.next_event().await), position);
            }
        }
        let messages = slow.messages(120).await;
        assert!(messages.iter().enumerate().all(|(n, message)| message["data"] == json!({ "n": n, "text": text })));
        // It is one of them again.
        for _ in 0..3 {
            let position = app.write("a-1", "Small", json!({})).await;
            others.push(slow);
            for events in &mut others {
                assert_eq!(position_of(&events.next_event().await), position);
            }
            slow = others.remove(0);
        }
        app.stop().await;
    }
}

#[tokio::test]
async fn all_of_them_fall_behind_and_catch_up_without_gap_or_repeat() {
    for wire in WIRES {
        let database = TestDatabase::migrated().await;
        let app =
            TestApp::with(&database.url, |settings| settings.cache_bytes_max = 64 << 10).await.following_over(wire);
        let followers = live_ones(&app, PATH, 3).await;
        let text = "x".repeat(64 << 10);
        for _ in 0..4 {
            let messages: Vec<Value> = (0..10).map(|_| json!({ "type": "Large", "data": { "text": text } })).collect();
            assert_eq!(app.append("a-1", &json!({ "messages": messages })).await.status, 201);
        }
        let last = app.write("a-1", "Last", json!({})).await;
        let expected = sql_writer::standing(&database.connect().await, "true").await;
        for mut events in followers {
            let (mut seen, mut names) = (Vec::new(), Vec::new());
            while seen.last() != Some(&last) {
                let event = events.next_event().await;
                match event.name.as_deref() {
                    Some("message") => seen.push(position_of(&event)),
                    Some(name) => names.push(name.to_owned()),
                    None => panic!("{event:?}"),
                }
            }
            assert_eq!(seen, expected);
            assert_eq!(names.first().map(String::as_str), Some("fell-behind"));
            assert!(
                names
                    .chunks(2)
                    .all(|pair| pair[0] == "fell-behind" && pair.get(1).is_none_or(|next| next == "caught-up"))
            );
        }
        app.stop().await;
    }
}

#[tokio::test]
async fn those_that_go_give_their_places_back_at_once_and_the_last_one_the_topic() {
    for wire in WIRES {
        let database = TestDatabase::migrated().await;
        let app = TestApp::on(&database).await.following_over(wire);
        let mut followers = live_ones(&app, PATH, 5).await;
        let mut watcher = app.service.observer.watch();
        let mut left = async || {
            TestApp::observed(&mut watcher, "a follower to leave", |what| matches!(what, Observation::FollowerLeft))
                .await
        };
        // Nothing is written meanwhile.
        for _ in 0..2 {
            drop(followers.pop());
            left().await;
        }
        assert_eq!(app.metric("headwater_followers").await, 3.0);
        let position = app.write("a-1", "Written", json!({})).await;
        for events in &mut followers {
            assert_eq!(position_of(&events.next_event().await), position);
        }
        for events in followers {
            drop(events);
            left().await;
        }
        // What nobody follows is not kept.
        let mut kept = -1.0;
        while kept != app.metric("headwater_cache_messages").await {
            kept = app.metric("headwater_cache_messages").await;
            app.write("a-1", "Written", json!({})).await;
            app.service.tail.refresh().await;
        }
        app.stop().await;
    }
}

#[tokio::test]
async fn heartbeats_come_to_all_of_them() {
    for wire in WIRES {
        let database = TestDatabase::migrated().await;
        let app = TestApp::on(&database).await.following_over(wire);
        app.write("a-1", "Written", json!({})).await;
        let mut followers = live_ones(&app, &format!("{PATH}?heartbeat=1s"), 3).await;
        for _ in 0..3 {
            for events in &mut followers {
                let beat = events.next_event().await;
                assert!(beat.is("heartbeat"), "{beat:?}");
                assert_eq!(beat.place(), Some("0"));
            }
        }
        app.stop().await;
    }
}

#[tokio::test]
async fn one_from_beyond_the_end_beside_live_ones_gets_only_what_it_asked_for() {
    for wire in WIRES {
        let database = TestDatabase::migrated().await;
        let app = TestApp::on(&database).await.following_over(wire);
        let mut live_ones = live_ones(&app, PATH, 2).await;
        let mut beyond = live(&app, &format!("{PATH}?from=3")).await;
        for n in 0..5 {
            app.write("a-1", "Written", json!({ "n": n })).await;
        }
        for (events, from) in [(&mut live_ones[0], 0), (&mut beyond, 3)] {
            for n in from..5 {
                assert_eq!(events.next_event().await.json()["data"]["n"], n);
            }
        }
        app.stop().await;
    }
}

#[tokio::test]
async fn one_that_has_seen_a_message_that_was_deleted_goes_on_after_it_and_the_others_after_what_is_left() {
    for wire in WIRES {
        let database = TestDatabase::migrated().await;
        let sql = database.connect().await;
        let app = TestApp::on(&database).await.following_over(wire);
        app.write("a-1", "Written", json!({})).await;
        let mut before = live_ones(&app, PATH, 2).await;
        let deleted = app.write("a-1", "Deleted", json!({})).await;
        for events in &mut before {
            assert_eq!(position_of(&events.next_event().await), deleted);
        }
        sql.execute("DELETE FROM message_store.messages WHERE global_position = $1", &[&deleted]).await.unwrap();
        let mut after = live_ones(&app, PATH, 2).await;
        // The position is given again: those who have seen it pass over it.
        let (again, next) = (app.write("a-1", "Again", json!({})).await, app.write("a-1", "Next", json!({})).await);
        for events in &mut after {
            assert_eq!(events.positions_until(next).await, [again, next]);
        }
        for events in &mut before {
            assert_eq!(events.positions_until(next).await, [next]);
        }
        app.stop().await;
    }
}

#[tokio::test]
async fn each_is_told_of_the_end_by_itself() {
    for wire in WIRES {
        let database = TestDatabase::migrated().await;
        let sql = database.connect().await;
        let app = TestApp::on(&database).await.following_over(wire);
        let definition = json!({ "stream_wildcards": ["%"], "partitioner": { "kind": "constant" } });
        assert_eq!(app.put("/v1/aggregated-streams/everything", &definition).await.status, 201);
        app.write("a-1", "Written", json!({})).await;
        let ends = async |followers: Vec<Events>, reason: &str| {
            let mut retries = Vec::new();
            for mut events in followers {
                let blocks = events.blocks_until("closing").await;
                assert_eq!(blocks.last().unwrap().json(), json!({ "reason": reason }));
                retries.extend(blocks.iter().filter_map(|block| block.retry));
                assert_eq!(events.next_block(PATIENCE).await, None);
            }
            assert!(retries.len() >= 8 && retries.iter().any(|retry| *retry != retries[0]), "{retries:?}");
        };
        let aggregated = live_ones(&app, "/v1/aggregated-streams/everything/events", 8).await;
        assert_eq!(app.delete("/v1/aggregated-streams/everything").await.status, 204);
        ends(aggregated, "deleted").await;
        let followers = live_ones(&app, "/v1/all/events", 8).await;
        sql.batch_execute("TRUNCATE message_store.messages RESTART IDENTITY").await.unwrap();
        ends(followers, "history-changed").await;
        until("the log is read again", Duration::from_secs(5), || app.service.tail.is_reading()).await;
        app.write("a-1", "Written", json!({})).await;
        let followers = live_ones(&app, "/v1/all/events", 8).await;
        app.drain();
        ends(followers, "draining").await;
        app.stop().await;
    }
}

/// One instance tells of messages before another has heard of them. Whoever moves to the other one with that cursor is ahead
/// of those who are told together there.
#[tokio::test]
async fn one_who_comes_from_an_instance_that_is_ahead_gets_nothing_twice_and_nothing_is_left_out() {
    for wire in WIRES {
        let database = TestDatabase::migrated().await;
        let ahead = TestApp::on(&database).await.following_over(wire);
        let definition = json!({ "stream_wildcards": ["a-%"], "partitioner": { "kind": "constant" } });
        assert_eq!(ahead.put("/v1/aggregated-streams/x", &definition).await.status, 201);
        let behind = TestApp::on(&database).await.following_over(wire);
        let path = "/v1/aggregated-streams/x/events";
        let mut source = live(&ahead, path).await;
        let mut together = live_ones(&behind, path, 3).await;
        let mut last = 0;
        for _ in 0..80 {
            ahead.write("a-1", "T", json!({})).await;
            let first = source.next("message").await;
            let mut joiner = Events::resume(&format!("{}{path}", behind.url), first.id.as_ref().unwrap()).await;
            joiner.next("caught-up").await;
            last = ahead.write("a-1", "T", json!({})).await;
            source.next("message").await;
            assert_eq!(joiner.next("message").await.json()["message"]["global_position"], last);
        }
        for events in &mut together {
            let seen = events.messages(160).await;
            assert_eq!(seen.last().unwrap()["message"]["global_position"], last);
        }
        behind.stop().await;
        ahead.stop().await;
    }
}

#[tokio::test]
async fn those_that_come_at_once_share_pages_of_history_and_get_nothing_that_was_erased_or_trimmed_before() {
    const MESSAGES: i64 = 1_500;
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let mut id = String::new();
    for first in (0..MESSAGES).step_by(500) {
        let messages: Vec<Value> = (first..first + 500).map(|n| json!({ "type": "T", "data": { "n": n } })).collect();
        let answer = app.append("a-1", &json!({ "messages": messages })).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        id = answer.json()["messages"][250]["id"].as_str().unwrap().to_owned();
    }
    let path = "/v1/categories/a/events?from=beginning";
    let history = async |path: String| {
        let mut events = app.follow(&path).await;
        let mut seen = Vec::new();
        loop {
            let event = events.next_event().await;
            match event.name.as_deref() {
                Some("message") => seen.push(event.json()["data"]["n"].as_i64()),
                Some("trimmed") => seen.push(Some(-1)),
                Some("caught-up") => return seen,
                _ => panic!("{event:?}"),
            }
        }
    };
    let all = async |path: &str| futures_util::future::join_all((0..12).map(|_| history(path.to_owned()))).await;
    let wanted: Vec<Option<i64>> = (0..MESSAGES).map(Some).collect();
    assert!(all(path).await.iter().all(|seen| *seen == wanted));
    assert_eq!(app.delete(&format!("/v1/messages/{id}?reason=asked")).await.status, 200);
    let with_hole: Vec<Option<i64>> = wanted.iter().map(|n| n.filter(|n| *n != 1_250)).collect();
    assert!(all(path).await.iter().all(|seen| *seen == with_hole), "what was erased is shown");
    let trim = app.post("/v1/streams/a-1/trim", &json!({ "before_position": 1_000 })).await;
    assert_eq!(trim.status, 200, "{}", trim.text);
    let left: Vec<Option<i64>> = std::iter::once(Some(-1)).chain(with_hole[1_000..].iter().copied()).collect();
    for seen in all(path).await {
        assert_eq!(seen, left, "what was trimmed is shown");
    }
    // Of those that want one type, each gets that.
    assert!(all(&format!("{path}&types=None")).await.iter().all(|seen| !seen.iter().any(|n| *n > Some(-1))));
    app.stop().await;
}
