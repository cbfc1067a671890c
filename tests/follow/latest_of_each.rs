//! `from=latest_of_each`: the newest message of every stream, then what comes, with no gap and no repeat between the two.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::support::app::{PATIENCE, TestApp};
use crate::support::database::TestDatabase;
use crate::support::events::{Event, Events, position_of};
use crate::support::seeds::seeds;
use crate::support::sql_writer;
use crate::support::writers::Writers;

const PATH: &str = "/v1/categories/account/events?from=latest_of_each";

/// What comes before `caught-up`, and that.
async fn opening(events: &mut Events) -> (Vec<Event>, Event) {
    let mut blocks = events.blocks_until("caught-up").await;
    let caught_up = blocks.pop().unwrap();
    blocks.retain(|block| block.is("message"));
    (blocks, caught_up)
}

fn places(messages: &[Event]) -> Vec<(String, i64)> {
    let place = |event: &Event| {
        let message = event.json();
        (message["stream_name"].as_str().unwrap().to_owned(), message["position"].as_i64().unwrap())
    };
    messages.iter().map(place).collect()
}

fn named(places: &[(&str, i64)]) -> Vec<(String, i64)> {
    places.iter().map(|(name, position)| ((*name).to_owned(), *position)).collect()
}

#[tokio::test]
async fn the_newest_of_every_stream_comes_in_global_order_without_ids() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    for stream in [
        "account-2",
        "account-1",
        "accounts-1",
        "account",
        "acc-1",
        "account-1",
        "account-é+x",
        "account-",
        "account-2",
    ] {
        app.write(stream, "Changed", json!({})).await;
    }
    let last = app.write("other-1", "Changed", json!({})).await;
    let mut events = app.follow(PATH).await;
    let (messages, caught_up) = opening(&mut events).await;
    let expected = [("account", 0), ("account-1", 1), ("account-é+x", 0), ("account-", 0), ("account-2", 1)];
    assert_eq!(places(&messages), named(&expected));
    assert!(messages.iter().all(|message| message.id.is_none()));
    assert_eq!(caught_up.place(), Some(&*last.to_string()));
    let next = app.write("account-1", "Changed", json!({})).await;
    let message = events.next("message").await;
    assert_eq!((position_of(&message), message.place()), (next, Some(&*next.to_string())));
    // The twin says the same.
    let lines =
        app.http.get(format!("{}{PATH}", app.url)).header("accept", "application/x-ndjson").send().await.unwrap();
    let mut lines = lines;
    let mut text = String::new();
    while !text.contains("caught-up") {
        text.push_str(std::str::from_utf8(&lines.chunk().await.unwrap().unwrap()).unwrap());
    }
    let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&first["event"], &first["id"], &first["data"]["stream_name"]),
        (&json!("message"), &Value::Null, &json!("account"))
    );
    assert_eq!(text.lines().count(), 6);
    app.stop().await;
}

#[tokio::test]
async fn a_filter_says_which_of_the_newest_come() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    for (stream, message_type) in
        [("account-1", "Opened"), ("account-2", "Opened"), ("account-1", "Closed"), ("account-3", "Opened")]
    {
        app.write(stream, message_type, json!({ "n": 1 })).await;
    }
    for (filter, expected) in [
        ("types=Opened", &[("account-2", 0), ("account-3", 0)][..]),
        ("filter=type%20!%3D%20'Closed'", &[("account-2", 0), ("account-3", 0)]),
        ("types=Closed", &[("account-1", 1)]),
        ("types=None", &[]),
        ("to_time=2000-01-01T00:00:00Z", &[]),
        ("event_names=type&types=Missing,Closed", &[("account-1", 1)]),
    ] {
        let mut events = app.follow(&format!("{PATH}&{filter}")).await;
        let mut blocks = events.blocks_until("caught-up").await;
        blocks.retain(|block| block.is("message") || block.is("Closed"));
        assert_eq!(places(&blocks), named(expected), "{filter}");
    }
    let mut events = app.follow(&format!("{PATH}&types=Closed")).await;
    opening(&mut events).await;
    app.write("account-2", "Opened", json!({})).await;
    let closed = app.write("account-2", "Closed", json!({})).await;
    assert_eq!(position_of(&events.next("message").await), closed);
    app.stop().await;
}

#[tokio::test]
async fn several_categories_and_streams_open_together() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    for stream in ["a-1", "b-1", "c-1", "a-1", "b-2", "c-2", "a-2"] {
        app.write(stream, "T", json!({})).await;
    }
    let mut events = app
        .follow("/v1/events?category=a&stream_name=b-1&stream_name=a-1&stream_name=none-1&from=latest_of_each")
        .await;
    let (messages, _) = opening(&mut events).await;
    assert_eq!(places(&messages), named(&[("b-1", 0), ("a-1", 1), ("a-2", 0)]));
    let mut nothing = app.follow("/v1/categories/none/events?from=latest_of_each").await;
    assert_eq!(opening(&mut nothing).await.0, []);
    let next = app.write("none-7", "T", json!({})).await;
    assert_eq!(position_of(&nothing.next("message").await), next);
    app.stop().await;
}

#[tokio::test]
async fn what_has_no_streams_to_look_at_refuses_it() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    let definition = json!({ "categories": ["a"], "partitioner": { "kind": "constant" } });
    assert_eq!(app.put("/v1/aggregated-streams/everything", &definition).await.status, 201);
    for path in [
        "/v1/all/events?",
        "/v1/streams/a-1/events?",
        "/v1/aggregated-streams/everything/events?",
        "/v1/events?aggregated_stream=everything&",
        "/v1/events?aggregated_stream=everything&category=a&",
    ] {
        let answer = app.get(&format!("{path}from=latest_of_each")).await;
        let problem = answer.problem(400, "malformed-request");
        assert_eq!(problem["errors"][0]["field"], "from", "{path}");
    }
    app.get("/v1/categories/a/events?from=latest_of_all").await.problem(400, "malformed-request");
    app.stop().await;
}

/// What is not settled is no newest message yet: it comes live.
#[tokio::test]
async fn an_open_transaction_holds_back_what_comes_after_it() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    app.write("account-1", "T", json!({})).await;
    let open = database.connect().await;
    open.batch_execute("BEGIN").await.unwrap();
    sql_writer::write(&open, "account-2", "{}").await;
    let sql = database.connect().await;
    // In another category, so that the lock of this one is not waited for.
    sql_writer::write(&sql, "other-1", "{}").await;
    let insert = "INSERT INTO message_store.messages (stream_name, position, type) VALUES ('account-1', 1, 'T')";
    sql.batch_execute(insert).await.unwrap();
    let mut events = app.follow(PATH).await;
    assert_eq!(places(&opening(&mut events).await.0), named(&[("account-1", 0)]));
    open.batch_execute("COMMIT").await.unwrap();
    let live = [events.next("message").await, events.next("message").await];
    assert_eq!(places(&live), named(&[("account-2", 0), ("account-1", 1)]));
    app.stop().await;
}

/// A dashboard keeps the newest message of each stream. However often it is cut, and wherever, it ends with what is stored,
/// and on each connection every stream goes on from where it was told to be.
#[tokio::test(flavor = "multi_thread")]
async fn a_dashboard_that_is_cut_at_any_frame_loses_nothing() {
    for seed in seeds(2) {
        let mut random = fastrand::Rng::with_seed(seed);
        let database = TestDatabase::migrated().await;
        let app = TestApp::on(&database).await;
        for n in 0..40 {
            app.write(&format!("account-old{n}"), "T", json!({})).await;
        }
        let writers = Writers::start(&app.url, "account", 4);
        let url = format!("{}{PATH}", app.url);
        let mut newest: BTreeMap<String, i64> = BTreeMap::new();
        let (mut last_id, mut resumed) = (None::<String>, 0);
        // One that has come through the opening once and is cut often enough has tried both.
        for round in 0..60 {
            let mut events = match &last_id {
                Some(id) => Events::resume(&url, id).await,
                None => Events::open(&url, &[]).await,
            };
            resumed += usize::from(last_id.is_some());
            let mut here: BTreeMap<String, i64> = if last_id.is_some() { newest.clone() } else { BTreeMap::new() };
            for _ in 0..random.usize(1..80) {
                let block = events.next_block(PATIENCE).await.expect("it goes on");
                if !block.is("message") {
                    continue;
                }
                let (stream, position) = places(std::slice::from_ref(&block)).remove(0);
                if let Some(before) = here.insert(stream.clone(), position) {
                    assert_eq!(position, before + 1, "{stream} in round {round}");
                } else if block.id.is_some() {
                    assert_eq!(position, 0, "{stream} was not told of at first");
                }
            }
            last_id = events.last_id.clone();
            if last_id.is_some() {
                newest = here;
            }
            if resumed > 10 && random.usize(0..4) == 0 {
                // A new page.
                (last_id, newest) = (None, BTreeMap::new());
                resumed = 0;
            }
        }
        writers.stop().await;
        let last = app.write("account-last", "T", json!({})).await;
        let mut events = match &last_id {
            Some(id) => Events::resume(&url, id).await,
            None => Events::open(&url, &[]).await,
        };
        let mut here = if last_id.is_some() { newest } else { BTreeMap::new() };
        loop {
            let message = events.next("message").await;
            here.extend(places(std::slice::from_ref(&message)));
            if position_of(&message) == last {
                break;
            }
        }
        let sql = database.connect().await;
        let stored = "SELECT stream_name, max(position) FROM message_store.messages GROUP BY 1";
        let stored = sql.query(stored, &[]).await.unwrap();
        assert_eq!(here, stored.iter().map(|row| (row.get(0), row.get(1))).collect());
        app.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_streams_than_a_page_and_a_reader_that_takes_its_time() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    sql.batch_execute(
        "INSERT INTO message_store.messages (stream_name, position, type, data)
         SELECT 'account-' || n % 3000, n / 3000, 'T', jsonb_build_object('n', n, 'filling', repeat('x', 200))
         FROM generate_series(0, 8999) AS n",
    )
    .await
    .unwrap();
    let app = TestApp::with(&database.url, |settings| settings.latest_of_each_streams_max = 3_500).await;
    let mut all = BTreeSet::new();
    let mut open = Vec::new();
    // One after the other: what was told is not counted any more, though the connections stay open.
    for _ in 0..3 {
        let mut events = app.follow(PATH).await;
        let first = events.next("message").await;
        let next = app.write("account-7", "Meanwhile", json!({})).await;
        let (messages, caught_up) = opening(&mut events).await;
        let told: Vec<i64> = std::iter::once(&first).chain(&messages).map(position_of).collect();
        assert!(told.is_sorted_by(|one, other| one < other));
        let (of_each, live): (Vec<&Event>, Vec<&Event>) =
            std::iter::once(&first).chain(&messages).partition(|message| message.id.is_none());
        assert_eq!(of_each.len(), 3_000);
        // What was written meanwhile came before `caught-up`, or comes after it.
        if live.is_empty() {
            assert_eq!(position_of(&events.next("message").await), next);
        } else {
            assert_eq!((live.len(), position_of(live[0])), (1, next));
        }
        assert!(caught_up.id.is_some());
        all.extend(told);
        open.push(events);
    }
    drop(open);
    app.stop().await;
    let app = TestApp::with(&database.url, |settings| settings.latest_of_each_streams_max = 2_999).await;
    let problem = app.get(PATH).await.problem(422, "invalid");
    let text = problem["errors"][0]["message"].as_str().unwrap();
    assert!(text.contains("2999") && text.contains("latest_of_each_streams_max"), "{text}");
    // The next one is not refused because of it.
    let mut events = app.follow("/v1/categories/none/events?from=latest_of_each").await;
    assert_eq!(opening(&mut events).await.0, []);
    app.stop().await;
}

/// Once live, connections that began differently are told the same.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_live_is_like_the_others() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    for n in 0..5 {
        app.write(&format!("account-{n}"), "T", json!({})).await;
    }
    let mut events = Vec::new();
    for from in ["latest_of_each", "end", "latest_of_each", "beginning"] {
        let mut one = app.follow(&format!("/v1/categories/account/events?from={from}")).await;
        one.next("caught-up").await;
        events.push(one);
    }
    for n in 0..200 {
        app.write(&format!("account-{}", n % 7), "T", json!({})).await;
    }
    let mut told = Vec::new();
    for one in &mut events {
        let mut blocks = Vec::new();
        while blocks.len() < 200 {
            blocks.push(one.next("message").await);
        }
        told.push(blocks);
    }
    assert!(told.windows(2).all(|pair| pair[0] == pair[1]));
    assert!(told[0].iter().all(|block| block.id.is_some()));
    app.stop().await;
}
