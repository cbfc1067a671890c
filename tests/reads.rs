//! Reading pages: nothing is left out, nothing comes twice, and what was answered is seen.

mod by_time;
mod categories;
mod filters;
mod freshness;
mod gone;
mod indexes;
mod large_messages;
mod odd_content;
mod rare;
mod streams;

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::database::TestDatabase;

/// Walks over all pages from the first on, as a client would, and checks each page's form.
async fn walk(app: &TestApp, path: &str, limit: usize) -> Vec<Value> {
    let mut all = Vec::new();
    let mut from = None;
    loop {
        let separator = if path.contains('?') { '&' } else { '?' };
        let from_parameter = from.map_or(String::new(), |from: i64| format!("&from={from}"));
        let answer = app.get(&format!("{path}{separator}limit={limit}{from_parameter}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let page = answer.json();
        let messages = page["messages"].as_array().unwrap();
        assert!(messages.len() <= limit);
        assert!(all.len() < 100_000, "the walk has no end");
        all.extend(messages.iter().cloned());
        if page["at_end"] == true {
            return all;
        }
        from = Some(page["next"].as_i64().expect("a page that is not the last says where to go on"));
    }
}

fn numbers(messages: &[Value], field: &str) -> Vec<i64> {
    messages.iter().map(|message| message[field].as_i64().unwrap()).collect()
}

fn ids(messages: &[Value]) -> HashSet<String> {
    let ids: HashSet<_> = messages.iter().map(|message| message["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), messages.len(), "a message came twice");
    ids
}

/// A service on a store with `streams` streams of `each` messages in one category, and as many of another between them.
async fn filled(category: &str, streams: usize, each: usize) -> (TestDatabase, TestApp) {
    let database = TestDatabase::migrated().await;
    let fill = format!(
        "INSERT INTO message_store.messages (stream_name, position, type, data, metadata) \
         SELECT kind || '-' || s, p, CASE p % 3 WHEN 0 THEN 'Opened' WHEN 1 THEN 'Deposited' ELSE 'Withdrawn' END, \
         jsonb_build_object('n', p, 's', s), jsonb_build_object('correlationStreamName', 'transfer-' || s) \
         FROM generate_series(0, {each} - 1) AS p, generate_series(1, {streams}) AS s, \
         (VALUES ('{category}'), ('other')) AS k (kind) ORDER BY p, s, kind"
    );
    database.connect().await.batch_execute(&fill).await.unwrap();
    let app = TestApp::on(&database).await;
    (database, app)
}

fn one(message_type: &str) -> Value {
    json!({ "messages": [{ "type": message_type, "data": {} }] })
}
