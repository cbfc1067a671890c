//! Pages of partitions, long polls, positions, statistics, and waiting for what was just written.

use serde_json::json;

use super::*;
use crate::support::database::TestDatabase;

fn by_stream() -> Value {
    json!({ "categories": ["n"], "partitioner": { "kind": "stream", "partitions": 4 }, "max_partition": 3 })
}

const PARTITION: &str = "abs(message_store.hash_64(stream_name::varchar) % 4)";

#[tokio::test]
async fn pages_join_whatever_their_length() {
    let database = TestDatabase::migrated().await;
    let (app, sql) = (TestApp::on(&database).await, database.connect().await);
    define(&app, "numbers", &by_stream()).await;
    let last = write_many(&sql, 250, "'n-' || n % 7", "'T'", "json_build_object('num', n)").await;
    projected(&app, "numbers", last).await;
    let expected = expected(&sql, "true", PARTITION).await;
    for number in 0..4 {
        let of_it: Vec<(i64, i64)> =
            expected.iter().filter(|link| link.0 == number).map(|link| (link.1, link.2)).collect();
        let end = of_it.len() as i64;
        let base = format!("{}/partitions/{number}/messages", path_of("numbers"));
        for limit in [1, 7, end.max(1), 1000] {
            let (mut found, mut from) = (Vec::new(), 0);
            loop {
                let page = app.get(&format!("{base}?from={from}&limit={limit}")).await.json();
                let messages = page["messages"].as_array().unwrap();
                assert!(messages.len() as i64 <= limit);
                found.extend(messages.iter().map(|one| {
                    assert_eq!(
                        one["message"]["data"]["num"].as_i64().map(|_| 0),
                        Some(0),
                        "the whole message is there"
                    );
                    (one["position"].as_i64().unwrap(), one["message"]["global_position"].as_i64().unwrap())
                }));
                from = page["next"].as_i64().unwrap();
                assert_eq!(page["at_end"], from >= end, "{page}");
                if from >= end {
                    break;
                }
            }
            assert_eq!(found, of_it, "{limit} at a time");
        }
        let beyond = app.get(&format!("{base}?from={}", end + 5)).await.json();
        assert_eq!(beyond, json!({ "messages": [], "next": end + 5, "at_end": true }));
    }
    app.stop().await;
}

#[tokio::test]
async fn a_long_poll_is_answered_by_the_message_it_waits_for() {
    let database = TestDatabase::migrated().await;
    let apps = [TestApp::on(&database).await, TestApp::on(&database).await];
    define(&apps[0], "numbers", &json!({
        "categories": ["n"], "partitioner": { "kind": "data", "pointer": "/num", "method": "modulo", "partitions": 3 }
    }))
    .await;
    until_state(&apps[0], "numbers", "live").await;
    for round in 0..3 {
        let polls: Vec<_> = apps
            .iter()
            .map(|app| {
                let url = format!("{}{}/partitions/2/messages?from={round}&wait=20s", app.url, path_of("numbers"));
                let http = app.http.clone();
                tokio::spawn(async move { http.get(url).send().await.unwrap().json::<Value>().await.unwrap() })
            })
            .collect();
        let asked = Instant::now();
        apps[0].write("n-1", "T", json!({ "num": 1 })).await;
        apps[0].write("other-1", "T", json!({ "num": 2 })).await;
        let written = apps[0].write("n-1", "T", json!({ "num": 2 })).await;
        for poll in polls {
            let page = poll.await.unwrap();
            assert_eq!(page["messages"][0]["message"]["global_position"], written, "{page}");
            assert_eq!((&page["next"], &page["at_end"]), (&json!(round + 1), &json!(true)));
        }
        assert!(asked.elapsed() < Duration::from_secs(10), "it is woken, not timed out: {:?}", asked.elapsed());
    }
    for app in apps {
        app.stop().await;
    }
}

#[tokio::test]
async fn positions_are_found_by_time_and_by_global_position() {
    let database = TestDatabase::migrated().await;
    let (app, sql) = (TestApp::on(&database).await, database.connect().await);
    define(&app, "numbers", &by_stream()).await;
    let empty = app.get(&format!("{}/positions?global_position=1", path_of("numbers"))).await.json();
    assert_eq!(empty, json!({ "positions": [] }));
    let last = write_many(&sql, 80, "'n-' || n % 7", "'T'", "'{}'").await;
    write_many(&sql, 10, "'other-1'", "'T'", "'{}'").await;
    // A minute apart each, so that every message is a moment of its own.
    sql.batch_execute(
        "UPDATE message_store.messages SET time = timestamp '2026-01-01' + global_position * interval '2 minutes'",
    )
    .await
    .unwrap();
    projected(&app, "numbers", last).await;
    let links = links(&sql, "numbers").await;
    let base = format!("{}/positions", path_of("numbers"));
    for global_position in [0, 1, 2, 17, 40, last, last + 1, last + 10, last + 1_000] {
        let mut expected: Vec<(i32, i64)> = Vec::new();
        for link in &links {
            match expected.last_mut().filter(|one| one.0 == link.0) {
                Some(one) => one.1 += i64::from(link.2 < global_position),
                None => expected.push((link.0, i64::from(link.2 < global_position))),
            }
        }
        let expected: Vec<Value> = expected
            .into_iter()
            .map(|(partition, position)| json!({ "partition": partition, "position": position }))
            .collect();
        let found = app.get(&format!("{base}?global_position={global_position}")).await.json();
        assert_eq!(found, json!({ "positions": expected }), "at {global_position}");
        if global_position > last + 10 {
            continue;
        }
        for (seconds, is_same) in [(0, true), (-60, true), (1, false)] {
            let time = "SELECT to_char(timestamp '2026-01-01' + $1 * interval '2 minutes' + $2 * interval '1 second', \
                'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')";
            let row = sql.query_one(time, &[&(global_position as f64), &f64::from(seconds)]).await.unwrap();
            let at = app.get(&format!("{base}?time={}", encode(row.get(0)))).await.json();
            let there = links.iter().any(|link| link.2 == global_position);
            assert_eq!(at == found, is_same || !there, "{global_position} and {seconds} s: {at}");
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn everybody_reads_their_own_writes() {
    let database = TestDatabase::migrated().await;
    let apps = [TestApp::on(&database).await, TestApp::on(&database).await];
    define(&apps[0], "numbers", &of_categories(&["n"])).await;
    until_state(&apps[0], "numbers", "live").await;
    for round in 0..6 {
        for app in &apps {
            // Also where what was written matches nothing.
            let stream = if round % 2 == 0 { "n-1" } else { "other-1" };
            let written = app.write(stream, "T", json!({})).await;
            let answer = app.get(&format!("{}?min_position={written}&wait=20s", path_of("numbers"))).await.json();
            let status = &answer["status"];
            assert!(status["projected_position"].as_i64().unwrap() >= written, "{status}");
            assert!(status["settled_position"].as_i64() >= status["projected_position"].as_i64());
            let lag = status["settled_position"].as_i64().unwrap() - status["projected_position"].as_i64().unwrap();
            assert_eq!(status["lag"], lag);
            if round % 2 == 0 {
                assert_eq!(partition(app, "numbers", 0).await.last().unwrap().1, written);
            }
        }
    }
    // What is not there yet is waited for as long as was asked, and the status says so.
    let asked = Instant::now();
    let answer = apps[1].get(&format!("{}?min_position=1000&wait=300ms", path_of("numbers"))).await;
    assert_eq!(answer.status, 200);
    assert!(answer.json()["status"]["projected_position"].as_i64().unwrap() < 1000);
    assert!((Duration::from_millis(300)..Duration::from_secs(10)).contains(&asked.elapsed()));
    let at_once = apps[1].get(&format!("{}?min_position=1000", path_of("numbers"))).await;
    assert_eq!(at_once.status, 200);
    apps[0].get(&format!("{}?min_position=1&wait=1s", path_of("nowhere"))).await.problem(404, "not-found");
    for app in apps {
        app.stop().await;
    }
}

#[tokio::test]
async fn who_waits_is_answered_when_the_stream_is_deleted_or_the_service_stops() {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    for name in ["deleted", "drained"] {
        define(&app, name, &of_categories(&["n"])).await;
        until_state(&app, name, "live").await;
    }
    let wait_on = |path: String| {
        let (http, url) = (app.http.clone(), format!("{}{path}", app.url));
        tokio::spawn(async move { http.get(url).send().await.unwrap().status().as_u16() })
    };
    let ends = |name: &str| {
        let base = path_of(name);
        [
            wait_on(format!("{base}?min_position=1000&wait=60s")),
            wait_on(format!("{base}/partitions/0/messages?wait=60s")),
        ]
    };
    let (deleted, drained) = (ends("deleted"), ends("drained"));
    delete(&app, "deleted").await;
    for waiting in deleted {
        let status = tokio::time::timeout(PATIENCE, waiting).await.expect("it is answered").unwrap();
        assert_eq!(status, 404);
    }
    app.drain();
    for waiting in drained {
        let status = tokio::time::timeout(PATIENCE, waiting).await.expect("it is answered").unwrap();
        assert!([200, 503].contains(&status), "{status}");
    }
    app.stop().await;
}

/// As in the other pages: what is dropped is passed over, and `next` says where to go on.
#[tokio::test]
async fn a_partition_is_read_by_time_type_and_filter() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    sql.batch_execute(
        "INSERT INTO message_store.messages (stream_name, position, type, data, time)
         SELECT 'day-1', n, 'T' || n % 2, jsonb_build_object('n', n), '2018-01-01'::timestamp + n * interval '1 day'
         FROM generate_series(0, 1199) AS n",
    )
    .await
    .unwrap();
    let app = TestApp::on(&database).await;
    define(&app, "days", &json!({ "categories": ["day"], "partitioner": { "kind": "constant" } })).await;
    until(&app, "days", "is projected", |status| status["projected_position"] == 1200).await;
    let read = async |parameters: &str| {
        let answer = app.get(&format!("{}/partitions/0/messages?{parameters}", path_of("days"))).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let page = answer.json();
        let numbers: Vec<i64> =
            page["messages"].as_array().unwrap().iter().map(|one| one["position"].as_i64().unwrap()).collect();
        (numbers, page["next"].as_i64().unwrap(), page["at_end"].as_bool().unwrap())
    };
    assert_eq!(read("from_time=2018-01-02T00:00:00Z&limit=3").await, (vec![1, 2, 3], 4, false));
    assert_eq!(read("from_time=2018-01-02T00:00:00Z&limit=3&from=4").await, (vec![4, 5, 6], 7, false));
    assert_eq!(read("from_time=2021-04-13T00:00:00Z").await, (vec![1198, 1199], 1200, true));
    let (numbers, _, _) = read("from_time=2018-01-03T00:00:00Z&to_time=2018-01-06T00:00:00Z").await;
    assert_eq!(numbers, [2, 3, 4]);
    assert_eq!(
        read("types=T1&filter=data.n%20%3E%201190&limit=10").await,
        (vec![1191, 1193, 1195, 1197, 1199], 1200, true)
    );
    assert_eq!(read("types=T2").await, (vec![], 1200, true));
    // Walked in small pages, each message comes once.
    let (mut from, mut all) = (0, Vec::new());
    loop {
        let (numbers, next, at_end) = read(&format!("types=T0&to_time=2020-01-01T00:00:00Z&limit=7&from={from}")).await;
        all.extend(numbers);
        from = next;
        if at_end {
            break;
        }
    }
    assert_eq!(all, (0..730).step_by(2).collect::<Vec<_>>());
    for wrong in ["from_time=yesterday", "to_time=", "filter=(", "until_time=x"] {
        let answer = app.get(&format!("{}/partitions/0/messages?{wrong}", path_of("days"))).await;
        assert!([400, 422].contains(&answer.status), "{wrong}: {}", answer.text);
    }
    app.stop().await;
}
