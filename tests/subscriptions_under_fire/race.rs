//! Many fetch at the same moment, at two instances: each message goes to one of them.

use std::collections::HashMap;

use futures_util::future::join_all;
use serde_json::json;

use super::*;
use crate::support::app::TestApp;
use crate::support::database::TestDatabase;

const MESSAGES: i64 = 1_500;
const FETCHERS: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_goes_to_two() {
    let database = TestDatabase::migrated().await;
    let apps = [TestApp::on(&database).await, TestApp::on(&database).await];
    let sql = database.connect().await;
    write(&sql, "a", 13, MESSAGES / 2).await;
    let definition = json!({ "source": { "category": "a" }, "mode": "competing", "ack_timeout": "10m" });
    let group = Group::new(&apps[0].url, "s", definition).await;
    let fetchers = (0..FETCHERS).map(|number| {
        let group = group.on(&apps[number % 2].url);
        async move {
            let name = format!("w{number}");
            let mut mine = Vec::new();
            let mut nothing = 0;
            while nothing < 3 {
                let limit = fastrand::usize(1..20);
                let some = group.fetch_with(&name, json!({ "limit": limit, "wait": "400ms", "backlog": false })).await;
                assert!(some.len() <= limit);
                nothing = if some.is_empty() { nothing + 1 } else { 0 };
                // Some are acked by another instance, some much later, some never.
                let mut some = some;
                if fastrand::u8(..8) == 0
                    && let Some(refused) = some.pop()
                {
                    group.nacked(&name, &refused, json!({ "delay": "0s" })).await;
                }
                if fastrand::u8(..3) > 0 && !some.is_empty() {
                    group.acked(&name, &some).await;
                }
                mine.extend(some);
            }
            mine
        }
    });
    let (found, ()) = tokio::join!(join_all(fetchers), write(&sql, "a", 13, MESSAGES / 2));
    let mut seen: HashMap<i64, usize> = HashMap::new();
    for position in found.iter().flat_map(|mine| positions(mine)) {
        *seen.entry(position).or_default() += 1;
    }
    let twice: Vec<_> = seen.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    assert!(found.iter().filter(|mine| !mine.is_empty()).count() > FETCHERS / 2, "they share");
    for app in apps {
        app.stop().await;
    }
}

/// The epoch of a delivery is its own: a consumer that had the message before has lost it, on whichever instance.
#[tokio::test]
async fn an_ack_of_an_older_delivery_is_fenced() {
    let database = TestDatabase::migrated().await;
    let (one, two) = (TestApp::on(&database).await, TestApp::on(&database).await);
    write(&database.connect().await, "a", 1, 3).await;
    for mode in ["competing", "partitioned"] {
        let definition = json!({
            "source": { "stream_name": "a-1" }, "mode": mode, "ack_timeout": "250ms", "consumer_timeout": "500ms"
        });
        let group = Group::new(&one.url, mode, definition).await;
        let other = group.on(&two.url);
        let first = group.fetch("w1", 3).await;
        assert_eq!(positions(&first), [0, 1, 2]);
        // The second one gets them once the time of the first is over.
        let mut again = other.fetch_some("w2", 3).await;
        assert!(again[0]["epoch"].as_i64() > first[0]["epoch"].as_i64(), "{mode}");
        assert_eq!(again[0]["delivery_count"], 2);
        let problem = other.ack("w1", &first[..1]).await.problem(409, "fenced");
        assert_eq!(problem["current_epoch"], again[0]["epoch"], "{mode}");
        for action in ["retry", "park", "skip", "stop"] {
            let mut nack = place(&first[0]);
            nack["action"] = json!(action);
            group.post("/nacks", &json!({ "consumer": "w1", "nacks": [nack] })).await.problem(409, "fenced");
        }
        let extension = json!({ "consumer": "w1", "extensions": [place(&first[0])], "ack_timeout": "1h" });
        group.post("/extensions", &extension).await.problem(409, "fenced");
        assert_eq!(group.status().await["state"], "running");
        assert_eq!(group.get("/parked").await["parked"], json!([]));
        while !again.is_empty() {
            other.acked("w2", &again).await;
            again = other.fetch("w2", 3).await;
        }
        group.until_all_is_acked().await;
        // Acked: there is nothing to be fenced from, and nothing to ack.
        let late = group.ack("w1", &first[..1]).await;
        assert!(late.status == 409 || late.json()["acked"] == 0, "{mode}: {}", late.text);
    }
    one.stop().await;
    two.stop().await;
}
