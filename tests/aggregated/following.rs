//! Following an aggregated stream: sets of partitions on one cursor, resumed after every event.

use serde_json::json;

use super::*;
use crate::support::database::TestDatabase;
use crate::support::events::Events;

fn by_number(partitions: i64) -> Value {
    json!({ "categories": ["n"],
        "partitioner": { "kind": "data", "pointer": "/num", "method": "modulo", "partitions": partitions } })
}

#[tokio::test]
async fn any_set_of_partitions_is_resumed_after_every_single_event() {
    let database = TestDatabase::migrated().await;
    let apps = [TestApp::on(&database).await, TestApp::on(&database).await];
    let sql = database.connect().await;
    define(&apps[0], "numbers", &by_number(4)).await;
    let history = write_many(&sql, 12, "'n-' || n % 5", "'T'", "json_build_object('num', (n * 7) % 11)").await;
    projected(&apps[0], "numbers", history).await;
    until_state(&apps[0], "numbers", "live").await;
    for number in 0..8 {
        apps[0].write("n-1", "T", json!({ "num": number })).await;
        apps[1].write("other-1", "T", json!({ "num": number })).await;
    }
    let last = apps[0].write("n-1", "T", json!({ "num": 0 })).await;
    projected(&apps[0], "numbers", last).await;
    let all = in_global_order(links(&sql, "numbers").await);
    assert_eq!(all.len(), 21);
    for set in [&[][..], &[0], &[3, 1], &[0, 1, 2, 3], &[2, 9]] {
        let expected: Vec<Link> = all.iter().filter(|link| set.is_empty() || set.contains(&link.0)).copied().collect();
        let parameters: String = set.iter().map(|partition| format!("&partition={partition}")).collect();
        let path = format!("{}/events?heartbeat=15s{parameters}", path_of("numbers"));
        let mut events = apps[0].follow(&format!("{path}&from=beginning")).await;
        for (number, link) in expected.iter().enumerate() {
            let event = events.next("message").await;
            assert_eq!(link_of(&event.json()), *link, "{set:?}");
            assert_eq!(event.json()["aggregated_stream"], "numbers");
            assert_eq!(event.place(), Some(link.2.to_string().as_str()), "the id is the global position");
            // By the header and by the parameter, on this instance and on the other.
            let id = event.id.unwrap();
            events = match number % 3 {
                0 => Events::resume(&format!("{}{path}", apps[1].url), &id).await,
                1 => apps[0].follow(&format!("{path}&last_event_id={id}&from=beginning")).await,
                _ => Events::resume(&format!("{}{path}&last_event_id=1", apps[0].url), &id).await,
            };
        }
        events.next("caught-up").await;
    }
    for app in apps {
        app.stop().await;
    }
}

#[tokio::test]
async fn its_frames_its_lines_and_its_names_say_the_same() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    define(&app, "numbers", &by_number(2)).await;
    for (number, kind) in ["Deposited", "Withdrawn", "Deposited"].into_iter().enumerate() {
        app.write("n-1", kind, json!({ "num": number, "text": "ö\n\u{2028}" })).await;
    }
    projected(&app, "numbers", 3).await;
    let path = format!("{}/events?from=beginning", path_of("numbers"));
    let mut plain = app.follow(&path).await;
    assert_eq!(plain.headers["content-type"], "text/event-stream");
    assert_eq!(plain.headers["cache-control"], "no-store, no-transform");
    assert!(plain.next_block(PATIENCE).await.unwrap().retry.is_some(), "the first frame");
    let events = plain.blocks_until("caught-up").await;
    let messages: Vec<Value> = events[..3].iter().map(super::super::support::events::Event::json).collect();
    let mut named = app.follow(&format!("{path}&event_names=type")).await;
    for (message, name) in messages.iter().zip(["Deposited", "Withdrawn", "Deposited"]) {
        let event = named.next_event().await;
        assert!(event.is(name), "{event:?}");
        assert_eq!(event.json(), *message);
    }
    let request = app.http.get(format!("{}{path}", app.url)).header("accept", "application/x-ndjson");
    let mut response = request.send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    let mut text = String::new();
    while text.lines().count() < 4 || !text.ends_with('\n') {
        text.push_str(std::str::from_utf8(&response.chunk().await.unwrap().unwrap()).unwrap());
    }
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (line, event) in lines.iter().zip(&events) {
        let name = event.name.as_deref().unwrap();
        assert_eq!((&line["event"], &line["id"]), (&json!(name), &json!(event.id)));
        if name == "message" {
            assert_eq!(line["data"], event.json());
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn filters_pass_what_they_should_and_the_cursor_moves_on_all_the_same() {
    let database = TestDatabase::migrated().await;
    let (app, sql) = (TestApp::on(&database).await, database.connect().await);
    define(&app, "numbers", &by_number(3)).await;
    let kind = "CASE WHEN n % 2 = 0 THEN 'Even' ELSE 'Odd' END";
    let last = write_many(&sql, 3_000, "'n-1'", kind, "json_build_object('num', n)").await;
    projected(&app, "numbers", last).await;
    let all = in_global_order(links(&sql, "numbers").await);
    let base = format!("{}/events?from=beginning", path_of("numbers"));
    for (parameters, is_it) in [
        ("&types=Odd", (|n: i64| n % 2 == 1) as fn(i64) -> bool),
        ("&types=Odd,Even,Other", |_| true),
        ("&filter=data.num%20%3E%202990", |n| n > 2990),
        ("&partition=2&filter=data.num%20%3C%20100&types=Even", |n| n % 3 == 2 && n < 100 && n % 2 == 0),
    ] {
        let expected: Vec<Link> =
            all.iter().enumerate().filter(|(number, _)| is_it(*number as i64)).map(|(_, link)| *link).collect();
        let mut events = app.follow(&format!("{base}{parameters}")).await;
        let found: Vec<Link> = events.messages(expected.len()).await.iter().map(link_of).collect();
        assert!(found == expected, "{parameters}: {}", difference(&found, &expected));
        let end = events.next("caught-up").await;
        assert!(end.place().unwrap().parse::<i64>().unwrap() >= last, "{parameters}");
    }
    let mut nothing = app.follow(&format!("{base}&types=Nothing")).await;
    let blocks = nothing.blocks_until("caught-up").await;
    let silent = blocks.iter().filter(|event| event.id.is_some() && event.data.is_none()).count();
    assert!(silent >= 2, "ids without an event, now and then: {silent}");
    app.stop().await;
}

#[tokio::test]
async fn who_falls_out_of_the_cache_reads_on_without_a_gap() {
    let database = TestDatabase::migrated().await;
    let small = |settings: &mut headwater::config::Settings| settings.aggregated_cache_bytes_max = 64 << 10;
    let apps = [TestApp::with(&database.url, small).await, TestApp::with(&database.url, small).await];
    let sql = database.connect().await;
    define(&apps[0], "numbers", &by_number(3)).await;
    until_state(&apps[0], "numbers", "live").await;
    let mut followers = Vec::new();
    for app in &apps {
        for parameters in ["", "?partition=1", "?filter=data.num%20%3D%3D%201"] {
            let mut events = app.follow(&format!("{}/events{parameters}", path_of("numbers"))).await;
            events.next("caught-up").await;
            followers.push((events, parameters));
        }
    }
    let data = "json_build_object('num', n, 'filler', repeat('x', 400))";
    let mut last = 0;
    for _ in 0..4 {
        last = write_many(&sql, 1_500, "'n-1'", "'T'", data).await;
    }
    let end = apps[0].write("n-1", "T", json!({ "num": 1 })).await;
    assert!(end > last);
    projected(&apps[0], "numbers", end).await;
    let all = in_global_order(links(&sql, "numbers").await);
    assert_eq!(all.len(), 6_001);
    for (mut events, parameters) in followers {
        let expected: Vec<i64> = match parameters {
            "?partition=1" => all.iter().filter(|link| link.0 == 1).map(|link| link.2).collect(),
            "" => all.iter().map(|link| link.2).collect(),
            _ => vec![all[1].2, all[1501].2, all[3001].2, all[4501].2, end],
        };
        // The last message may come live, after a follower that had fallen behind was told that it has caught up.
        let (mut found, mut is_live, mut fell_behind) = (Vec::new(), true, false);
        while found.len() < expected.len() || !is_live {
            let event = events.next_event().await;
            match event.name.as_deref() {
                Some("message") => found.push(link_of(&event.json()).2),
                Some("fell-behind") => (is_live, fell_behind) = (false, true),
                Some("caught-up") => is_live = true,
                _ => {}
            }
        }
        assert!(found == expected, "{parameters}");
        assert!(fell_behind, "{parameters}: it never left the cache");
    }
    for app in apps {
        app.stop().await;
    }
}

#[tokio::test]
async fn it_begins_where_it_is_told_to_also_beyond_the_end() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    define(&app, "numbers", &by_number(1)).await;
    let path = format!("{}/events", path_of("numbers"));
    let mut early = app.follow(&format!("{path}?from=beginning")).await;
    early.next("caught-up").await;
    let first = app.write("n-1", "T", json!({ "num": 0 })).await;
    assert_eq!(link_of(&early.next("message").await.json()), (0, 0, first));
    let mut beyond = app.follow(&format!("{path}?from={}", first + 3)).await;
    let mut zero = app.follow(&format!("{path}?from=0")).await;
    let mut future = app.follow(&format!("{path}?from=2100-01-01T00:00:00Z")).await;
    let mut past = app.follow(&format!("{path}?from=1970-01-01T00:00:00Z")).await;
    for events in [&mut zero, &mut past] {
        assert_eq!(link_of(&events.next("message").await.json()).2, first);
    }
    future.next("caught-up").await;
    let written = [
        app.write("n-1", "T", json!({ "num": 0 })).await,
        app.write("n-1", "T", json!({ "num": 0 })).await,
        app.write("n-1", "T", json!({ "num": 0 })).await,
    ];
    assert_eq!(link_of(&beyond.next("message").await.json()), (0, 3, written[2]));
    assert_eq!(link_of(&future.next("message").await.json()), (0, 1, written[0]));
    app.stop().await;
}
