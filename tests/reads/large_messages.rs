//! Messages of a megabyte each: what a page costs is bounded where it is read, whatever its filter drops.

use std::collections::HashSet;

use futures_util::future::join_all;
use serde_json::Value;

use crate::support::app::{Answer, TestApp};
use crate::support::database::TestDatabase;
use crate::support::http_client;
use crate::support::service_process::ServiceProcess;

const MESSAGES: i64 = 400;

/// So many messages of a megabyte. They are stored in a hundredth of that, so their size shows only when they are read.
async fn fill(database: &TestDatabase, messages: i64) {
    let sql = "INSERT INTO message_store.messages (stream_name, type, position, data) \
        SELECT 'large-1', 'T', n, jsonb_build_object('n', n, 'text', repeat('0123456789abcdef', 65536)) \
        FROM generate_series(0, $1::bigint - 1) AS n";
    database.connect().await.execute(sql, &[&messages]).await.unwrap();
}

/// A line of the process's status, in kB.
fn status_kb(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
}

/// The highest memory counts anew from here on.
fn forget_peak(pid: u32) {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
}

/// Reads all pages of a path to the end.
async fn walk(url: &str, path: &str) -> Vec<Value> {
    let mut messages = Vec::new();
    let mut from = 0;
    loop {
        let answer = http_client().get(format!("{url}{path}&from={from}")).send().await.unwrap();
        let page = Answer::of(answer).await;
        assert_eq!(page.status, 200, "{}", page.text);
        let mut page = page.json();
        messages.append(page["messages"].as_array_mut().unwrap());
        if page["at_end"] == true {
            return messages;
        }
        let next = page["next"].as_i64().unwrap();
        assert!(next > from, "it goes on");
        from = next;
    }
}

#[tokio::test]
async fn a_page_whose_filter_drops_large_messages_holds_few_of_them_at_a_time() {
    let database = TestDatabase::migrated().await;
    fill(&database, MESSAGES).await;
    let service = ServiceProcess::start(&["--database-url", &database.url, "--listen", "127.0.0.1:0"]);
    let pid = service.id();
    for (at_once, growth_max_mb) in [(1, 64), (8, 256)] {
        forget_peak(pid);
        let before = status_kb(pid, "VmRSS");
        let paths = ["/v1/streams/large-1/messages", "/v1/categories/large/messages", "/v1/all/messages"];
        let walks = paths.iter().cycle().take(at_once).map(async |path| {
            let none = walk(&service.url, &format!("{path}?limit=1000&filter=data.n%3C0")).await;
            assert!(none.is_empty());
        });
        join_all(walks).await;
        let growth = status_kb(pid, "VmHWM").saturating_sub(before) / 1024;
        assert!(growth <= growth_max_mb, "{at_once} at once: {growth} MB more");
    }
}

#[tokio::test]
async fn pages_that_end_early_leave_nothing_out_and_repeat_nothing() {
    let database = TestDatabase::migrated().await;
    fill(&database, 30).await;
    let app = TestApp::with(&database.url, |settings| settings.page_bytes_max = 2_500_000).await;
    for path in ["/v1/streams/large-1/messages", "/v1/categories/large/messages", "/v1/all/messages"] {
        for filter in ["", "&filter=data.n%20%25%202%20==%200"] {
            let messages = walk(&app.url, &format!("{path}?limit=1000{filter}")).await;
            let positions: Vec<i64> = messages.iter().map(|message| message["position"].as_i64().unwrap()).collect();
            let step = if filter.is_empty() { 1 } else { 2 };
            assert_eq!(positions, (0..30).step_by(step).collect::<Vec<_>>(), "{path} {filter}");
        }
    }
    // Towards the beginning.
    let mut seen = HashSet::new();
    let mut from = String::new();
    loop {
        let page = app.get(&format!("/v1/streams/large-1/messages?direction=backward&limit=1000{from}")).await.json();
        for message in page["messages"].as_array().unwrap() {
            assert!(seen.insert(message["position"].as_i64().unwrap()));
        }
        let Some(next) = page["next"].as_i64() else { break };
        from = format!("&from={next}");
    }
    assert_eq!(seen.len(), 30);
}

#[tokio::test]
async fn followers_of_large_messages_get_all_of_them() {
    let database = TestDatabase::migrated().await;
    fill(&database, 30).await;
    let app = TestApp::on(&database).await;
    let definition = serde_json::json!({ "categories": ["large"], "partitioner": { "kind": "constant" } });
    assert_eq!(app.put("/v1/aggregated-streams/large", &definition).await.status, 201);
    for path in [
        "/v1/streams/large-1/events?",
        "/v1/categories/large/events?",
        "/v1/all/events?",
        "/v1/events?category=large&stream_name=other-1&",
        "/v1/aggregated-streams/large/events?",
    ] {
        let mut events = app.follow(&format!("{path}from=beginning")).await;
        for position in 0..30 {
            let mut message = events.messages(1).await.remove(0);
            if message.get("message").is_some() {
                message = message["message"].take();
            }
            assert_eq!(message["position"], position, "{path}");
        }
    }
    let page = app.get("/v1/aggregated-streams/large/partitions/0/messages?limit=1000").await.json();
    let read = page["messages"].as_array().unwrap().len();
    assert!((1..30).contains(&read) && page["next"] == read, "a page of a partition ends early too: {read}");
}
