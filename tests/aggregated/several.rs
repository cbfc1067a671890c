//! Several sources on one connection: global order, and a cursor that is right after every single event.

use serde_json::json;

use super::*;
use crate::support::database::TestDatabase;
use crate::support::events::{Event, Events};

/// What an event is: its id, the aggregated stream that it is from (none: the log), and its global position.
type Seen = (String, Option<String>, i64);

fn seen(event: &Event) -> Seen {
    let data = event.json();
    let stream = data["aggregated_stream"].as_str().map(str::to_owned);
    let message = if stream.is_some() { &data["message"] } else { &data };
    (event.place().unwrap().to_owned(), stream, message["global_position"].as_i64().unwrap())
}

struct Several {
    apps: [TestApp; 2],
    sql: Client,
    _database: TestDatabase,
}

impl Several {
    /// `evens` and `all` hold some of the same messages as the category `n`.
    async fn new() -> Self {
        let database = TestDatabase::migrated().await;
        let apps = [TestApp::on(&database).await, TestApp::on(&database).await];
        let evens =
            json!({ "categories": ["n"], "filter": "data.num % 2 == 0", "partitioner": { "kind": "constant" } });
        define(&apps[0], "evens", &evens).await;
        define(&apps[0], "all", &of_categories(&["n", "m"])).await;
        let sql = database.connect().await;
        Self { apps, sql, _database: database }
    }

    /// What a follower of `sources` is to see: the log's selection first, then the aggregated streams as they are named.
    async fn expected(&self, log: &str, aggregated: &[&str]) -> Vec<Seen> {
        let mut all: Vec<(i64, usize, Option<String>)> = Vec::new();
        let standing = crate::support::sql_writer::standing(&self.sql, log).await;
        all.extend(standing.into_iter().map(|position| (position, 0, None)));
        for (at, name) in aggregated.iter().enumerate() {
            let links = links(&self.sql, name).await;
            all.extend(links.into_iter().map(|link| (link.2, at + 1, Some((*name).to_owned()))));
        }
        all.sort();
        let sources_before = usize::from(log == "false");
        let next_position = |number: usize| all.get(number + 1).map(|one| one.0);
        let with_id = |(number, one): (usize, &(i64, usize, Option<String>))| {
            let is_split = next_position(number) == Some(one.0);
            let id = if is_split { format!("{}.{}", one.0, one.1 + 1 - sources_before) } else { one.0.to_string() };
            (id, one.2.clone(), one.0)
        };
        all.iter().enumerate().map(with_id).collect()
    }

    async fn stop(self) {
        for app in self.apps {
            app.stop().await;
        }
    }
}

#[tokio::test]
async fn every_event_of_several_sources_is_a_place_to_go_on_from() {
    let several = Several::new().await;
    let app = &several.apps[0];
    write_many(
        &several.sql,
        15,
        "CASE n % 3 WHEN 0 THEN 'n-1' WHEN 1 THEN 'm-1' ELSE 'x-1' END",
        "'T'",
        "json_build_object('num', n)",
    )
    .await;
    let mut last = 0;
    for number in 0..5 {
        last = app.write("n-2", "T", json!({ "num": number })).await;
    }
    for name in ["evens", "all"] {
        projected(app, name, last).await;
    }
    for (query, log, aggregated) in [
        ("category=n&aggregated_stream=evens&aggregated_stream=all", "stream_name LIKE 'n-%'", &["evens", "all"][..]),
        (
            "aggregated_stream=all&category=n&category=x&aggregated_stream=evens",
            "stream_name LIKE 'n-%' OR stream_name LIKE 'x-%'",
            &["all", "evens"],
        ),
        ("aggregated_stream=evens&aggregated_stream=all", "false", &["evens", "all"]),
        ("aggregated_stream=evens", "false", &["evens"]),
        ("stream_name=x-1&aggregated_stream=evens&aggregated_stream=evens", "stream_name = 'x-1'", &["evens"]),
    ] {
        let expected = several.expected(log, aggregated).await;
        assert!(expected.len() > 5);
        if aggregated.len() > 1 {
            assert!(expected.iter().any(|one| one.0.ends_with(".1")), "{expected:?}");
        }
        let path = format!("/v1/events?{query}");
        let mut whole = app.follow(&format!("{path}&from=beginning")).await;
        let mut resumed = several.apps[1].follow(&format!("{path}&from=beginning")).await;
        for (number, one) in expected.iter().enumerate() {
            assert_eq!(seen(&whole.next("message").await), *one, "{query}");
            let event = resumed.next("message").await;
            assert_eq!(seen(&event), *one, "{query}, resumed after {number}");
            let app = &several.apps[number % 2];
            resumed = Events::resume(&format!("{}{path}", app.url), &event.id.unwrap()).await;
        }
        whole.next("caught-up").await;
        resumed.next("caught-up").await;
    }
    several.stop().await;
}

#[tokio::test]
async fn what_comes_live_from_several_sources_is_in_global_order_on_every_instance() {
    let several = Several::new().await;
    for name in ["evens", "all"] {
        until_state(&several.apps[0], name, "live").await;
    }
    let path = "/v1/events?category=n&category=x&aggregated_stream=evens&aggregated_stream=all";
    let mut followers = Vec::new();
    for app in &several.apps {
        let mut events = app.follow(path).await;
        events.next("caught-up").await;
        followers.push(events);
    }
    let mut last = 0;
    for number in 0..60 {
        let stream = ["n-1", "m-1", "x-1", "other-1"][number % 4];
        last = several.apps[number % 2].write(stream, "T", json!({ "num": number / 4 })).await;
    }
    for name in ["evens", "all"] {
        projected(&several.apps[0], name, last).await;
    }
    let expected = several.expected("stream_name LIKE 'n-%' OR stream_name LIKE 'x-%'", &["evens", "all"]).await;
    for events in &mut followers {
        for one in &expected {
            let (id, stream, position) = seen(&events.next("message").await);
            assert_eq!((&stream, position), (&one.1, one.2));
            assert_eq!(id, one.0);
        }
    }
    several.stop().await;
}

#[tokio::test]
async fn a_source_that_is_held_holds_the_others_back_until_it_goes_on() {
    let several = Several::new().await;
    let app = &several.apps[0];
    for name in ["evens", "all"] {
        until_state(app, name, "live").await;
    }
    let path = "/v1/events?category=n&aggregated_stream=evens&aggregated_stream=all&heartbeat=1s";
    let mut events = app.follow(path).await;
    events.next("caught-up").await;
    order(app, "evens", "pause").await;
    let last = app.write("n-1", "T", json!({ "num": 2 })).await;
    projected(app, "all", last).await;
    let beat = events.next_event().await;
    assert!(beat.is("heartbeat"), "nothing before the paused one is there: {beat:?}");
    order(app, "evens", "resume").await;
    projected(app, "evens", last).await;
    for one in several.expected("stream_name LIKE 'n-%'", &["evens", "all"]).await {
        assert_eq!(seen(&events.next("message").await), one);
    }
    several.stop().await;
}
