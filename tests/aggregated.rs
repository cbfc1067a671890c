//! Aggregated streams: each partition holds what its definition says, densely and in global order, whatever happens.

mod bad_input;
mod definitions;
mod following;
mod instances;
mod keyed;
mod lost_rounds;
mod model;
mod projecting;
mod reads;
mod rebuilding;
mod scale;
mod several;

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::support::app::{Answer, PATIENCE, TestApp, encode};

const POLL: Duration = Duration::from_millis(10);

/// The path of an aggregated stream.
pub fn path_of(name: &str) -> String {
    format!("/v1/aggregated-streams/{}", encode(name))
}

pub async fn call(app: &TestApp, method: Method, path: &str, body: Option<&Value>) -> Answer {
    let request = app.http.request(method, format!("{}{path}", app.url));
    let request = match body {
        Some(body) => request.json(body),
        None => request,
    };
    Answer::of(request.send().await.unwrap()).await
}

pub async fn put(app: &TestApp, name: &str, definition: &Value) -> Answer {
    call(app, Method::PUT, &path_of(name), Some(definition)).await
}

/// Defines an aggregated stream that is not there yet.
pub async fn define(app: &TestApp, name: &str, definition: &Value) {
    let answer = put(app, name, definition).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
}

pub async fn delete(app: &TestApp, name: &str) {
    let answer = call(app, Method::DELETE, &path_of(name), None).await;
    assert_eq!((answer.status, answer.text.as_str()), (204, ""));
}

/// Pauses, resumes or rebuilds; gives the status in the answer.
pub async fn order(app: &TestApp, name: &str, verb: &str) -> Value {
    let answer = call(app, Method::POST, &format!("{}/{verb}", path_of(name)), None).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()["status"].clone()
}

pub async fn status(app: &TestApp, name: &str) -> Value {
    let answer = app.get(&path_of(name)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()["status"].clone()
}

/// Waits until the status is as it should be.
pub async fn until(app: &TestApp, name: &str, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = status(app, name).await;
        if is_it(&status) {
            return status;
        }
        assert!(Instant::now() < deadline, "waited in vain until {name} {what}: {status}");
        tokio::time::sleep(POLL).await;
    }
}

pub async fn until_state(app: &TestApp, name: &str, state: &str) -> Value {
    until(app, name, state, |status| status["state"] == state).await
}

/// Waits until everything up to a global position is projected.
pub async fn projected(app: &TestApp, name: &str, position: i64) -> Value {
    let answer = app.get(&format!("{}?min_position={position}&wait=20s", path_of(name))).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let status = answer.json()["status"].clone();
    assert!(status["projected_position"].as_i64().unwrap() >= position, "{name} to {position}: {status}");
    status
}

/// The `(position, global_position)` of a partition, read page by page.
pub async fn partition(app: &TestApp, name: &str, number: i64) -> Vec<(i64, i64)> {
    let (mut found, mut from) = (Vec::new(), 0);
    loop {
        let page = app.get(&format!("{}/partitions/{number}/messages?from={from}", path_of(name))).await.json();
        for one in page["messages"].as_array().unwrap_or_else(|| panic!("{page}")) {
            assert_eq!(one["partition"], number);
            found.push((one["position"].as_i64().unwrap(), one["message"]["global_position"].as_i64().unwrap()));
        }
        from = page["next"].as_i64().unwrap();
        if page["at_end"] == true {
            return found;
        }
    }
}

/// A place that was given to a message: partition, position there, global position.
pub type Link = (i32, i64, i64);

/// What the database holds for the readers of an aggregated stream, in order of partition and position.
pub async fn links(sql: &Client, name: &str) -> Vec<Link> {
    let text = "SELECT a.partition, a.position, a.global_position FROM headwater.aggregated_messages AS a \
        JOIN headwater.projections AS p ON p.id = a.projection_id AND p.is_current \
        JOIN headwater.aggregated_streams AS s ON s.id = p.aggregated_stream_id WHERE s.name = $1 ORDER BY 1, 2";
    let rows = sql.query(text, &[&name]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

/// What it should hold, by SQL alone: the messages for which `condition` is true, each in the partition that the
/// expression `partition` gives (NULL: none).
pub async fn expected(sql: &Client, condition: &str, partition: &str) -> Vec<Link> {
    let text = format!(
        "SELECT part, row_number() OVER (PARTITION BY part ORDER BY global_position) - 1, global_position \
         FROM (SELECT ({partition})::int AS part, global_position FROM message_store.messages WHERE {condition}) AS m \
         WHERE part IS NOT NULL ORDER BY 1, 2"
    );
    let rows = sql.query(&text, &[]).await.unwrap_or_else(|error| panic!("{error:?} in {text}"));
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

/// Asserts that a stream holds exactly that, and that its counters agree.
pub async fn holds(app: &TestApp, sql: &Client, name: &str, condition: &str, partition: &str) {
    let (found, expected) = (links(sql, name).await, expected(sql, condition, partition).await);
    assert!(found == expected, "{name}: {}", difference(&found, &expected));
    counters_agree(&status(app, name).await, &found);
}

fn difference(found: &[Link], expected: &[Link]) -> String {
    let at = found.iter().zip(expected).position(|(found, expected)| found != expected);
    let at = at.unwrap_or(found.len().min(expected.len()));
    let around = |links: &[Link]| links[at.min(links.len())..].iter().take(3).copied().collect::<Vec<_>>();
    let (found, expected, lengths) = (around(found), around(expected), (found.len(), expected.len()));
    format!("at {at} of {lengths:?} there is {found:?} in place of {expected:?}")
}

/// Asserts what a status says of each partition.
pub fn counters_agree(status: &Value, links: &[Link]) {
    let partitions = status["partitions"].as_array().unwrap();
    let mut last: Vec<Link> = Vec::new();
    for link in links {
        match last.last_mut().filter(|last| last.0 == link.0) {
            Some(last) => *last = *link,
            None => last.push(*link),
        }
    }
    let said: Vec<Value> = partitions
        .iter()
        .map(|one| json!([one["partition"], one["message_count"], one["last_position"], one["last_global_position"]]))
        .collect();
    let expected: Vec<Value> = last.iter().map(|(part, at, global)| json!([part, at + 1, at, global])).collect();
    assert_eq!(said, expected);
}

/// Writes many messages in one statement; `row` gives stream, type and data from `n`. Returns the last global position.
pub async fn write_many(sql: &Client, count: i64, stream: &str, message_type: &str, data: &str) -> i64 {
    let text = format!(
        "INSERT INTO message_store.messages (stream_name, position, type, data) \
         SELECT stream_name, coalesce((SELECT max(m.position) + 1 FROM message_store.messages AS m \
         WHERE m.stream_name = new.stream_name), 0) + row_number() OVER (PARTITION BY stream_name ORDER BY n) - 1, \
         type, data FROM (SELECT n, ({stream})::text AS stream_name, ({message_type})::text AS type, \
         ({data})::jsonb AS data FROM generate_series(0, {count} - 1) AS n) AS new ORDER BY n"
    );
    sql.batch_execute(&text).await.unwrap_or_else(|error| panic!("{error:?} in {text}"));
    sql.query_one("SELECT max(global_position) FROM message_store.messages", &[]).await.unwrap().get(0)
}

/// The partition, position and global position that an event of an aggregated stream gives.
pub fn link_of(data: &Value) -> Link {
    let number = |value: &Value| value.as_i64().unwrap_or_else(|| panic!("{data}"));
    (number(&data["partition"]) as i32, number(&data["position"]), number(&data["message"]["global_position"]))
}

/// Links as a follower sees them.
pub fn in_global_order(mut links: Vec<Link>) -> Vec<Link> {
    links.sort_by_key(|link| link.2);
    links
}

/// A constant partitioner over some categories.
pub fn of_categories(categories: &[&str]) -> Value {
    json!({ "categories": categories, "partitioner": { "kind": "constant" } })
}
