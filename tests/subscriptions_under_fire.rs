//! Subscriptions under fire: what was acked stays acked, and the rest comes again, whatever is killed, paused or cut.

mod cuts;
mod doubt;
mod edges;
mod hand_over;
mod judge;
mod late_doubt;
mod load;
mod locks;
mod model;
mod model_http;
mod poison;
mod race;

use std::time::{Duration, Instant};

use reqwest::Client;
use serde_json::{Value, json};

use crate::support::app::{Answer, PATIENCE, encode};
use crate::support::events::Events;
use crate::support::http_client;

/// A request that may have no answer is given up after this time.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// A subscription as one instance serves it.
#[derive(Clone)]
struct Group {
    http: Client,
    url: String,
    name: String,
}

impl Group {
    /// Makes a subscription.
    async fn new(url: &str, name: &str, definition: Value) -> Self {
        let group = Self { http: http_client(), url: url.to_owned(), name: name.to_owned() };
        let answer = Answer::of(group.http.put(group.path("")).json(&definition).send().await.unwrap()).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        group
    }

    /// The same by another instance.
    fn on(&self, url: &str) -> Self {
        Self { url: url.to_owned(), ..self.clone() }
    }

    fn path(&self, rest: &str) -> String {
        format!("{}/v1/subscriptions/{}{rest}", self.url, encode(&self.name))
    }

    /// `None`: no answer in time, or not a whole one.
    async fn try_post(&self, rest: &str, body: &Value) -> Option<(u16, Value)> {
        let request = self.http.post(self.path(rest)).json(body).timeout(ANSWER_WAIT);
        let answer = request.send().await.ok()?;
        let status = answer.status().as_u16();
        Some((status, answer.json().await.ok()?))
    }

    /// `None`: no answer in time, or not a whole one.
    async fn try_get(&self, rest: &str) -> Option<(u16, Value)> {
        let answer = self.http.get(self.path(rest)).timeout(ANSWER_WAIT).send().await.ok()?;
        let status = answer.status().as_u16();
        Some((status, answer.json().await.ok()?))
    }

    async fn post(&self, rest: &str, body: &Value) -> Answer {
        Answer::of(self.http.post(self.path(rest)).json(body).send().await.unwrap()).await
    }

    async fn done(&self, rest: &str, body: &Value) -> Value {
        let answer = self.post(rest, body).await;
        assert_eq!(answer.status, 200, "{rest}: {}", answer.text);
        answer.json()
    }

    async fn get(&self, rest: &str) -> Value {
        let answer = Answer::of(self.http.get(self.path(rest)).send().await.unwrap()).await;
        assert_eq!(answer.status, 200, "{rest}: {}", answer.text);
        answer.json()
    }

    async fn status(&self) -> Value {
        self.get("").await["status"].clone()
    }

    /// New messages.
    async fn fetch(&self, consumer: &str, limit: usize) -> Vec<Value> {
        self.fetch_with(consumer, json!({ "limit": limit, "backlog": false })).await
    }

    /// Waits until something new comes.
    async fn fetch_some(&self, consumer: &str, limit: usize) -> Vec<Value> {
        let found = self.fetch_with(consumer, json!({ "limit": limit, "wait": "20s", "backlog": false })).await;
        assert!(!found.is_empty(), "nothing came for {consumer}");
        found
    }

    async fn fetch_with(&self, consumer: &str, mut body: Value) -> Vec<Value> {
        body["consumer"] = json!(consumer);
        self.done("/fetch", &body).await["messages"].as_array().unwrap().clone()
    }

    async fn ack(&self, consumer: &str, messages: &[Value]) -> Answer {
        let acks: Vec<Value> = messages.iter().map(place).collect();
        self.post("/acks", &json!({ "consumer": consumer, "acks": acks })).await
    }

    async fn acked(&self, consumer: &str, messages: &[Value]) {
        let answer = self.ack(consumer, messages).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(answer.json()["acked"], messages.len(), "{}", answer.text);
    }

    async fn nacked(&self, consumer: &str, message: &Value, more: Value) {
        let mut nack = place(message);
        nack.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = self.done("/nacks", &json!({ "consumer": consumer, "nacks": [nack] })).await;
        assert_eq!(answer["nacked"], 1, "{answer}");
    }

    /// An event stream with a consumer's name and whatever else it is asked for.
    async fn events(&self, query: &str) -> Events {
        Events::open(&self.path(&format!("/events?consumer={query}")), &[]).await
    }

    /// Waits until the status is as it should be.
    async fn until(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status().await;
            if is_it(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "waited in vain until {what}: {status}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until nothing is open, however much there is to do: for as long as less and less is behind.
    async fn until_all_is_acked(&self) -> Value {
        let (mut least, mut since) = (i64::MAX, Instant::now());
        loop {
            let status = self.status().await;
            let behind = status["committed_lag"].as_i64().unwrap();
            if behind == 0 {
                return status;
            }
            // A lag that is still being counted may only seem to be less.
            if behind < least && status["lag_exact"] == true {
                (least, since) = (behind, Instant::now());
            }
            assert!(since.elapsed() < PATIENCE, "nothing is acked any more: {status}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// What an ack says of a delivery.
fn place(message: &Value) -> Value {
    json!({ "partition": message["partition"], "position": message["position"], "epoch": message["epoch"] })
}

fn positions(messages: &[Value]) -> Vec<i64> {
    messages.iter().map(|message| message["position"].as_i64().unwrap()).collect()
}

/// The partitions of a status that a consumer holds.
fn held(status: &Value, consumer: &str) -> Vec<i64> {
    let own = status["partitions"].as_array().unwrap().iter().filter(|one| one["consumer"] == consumer);
    own.map(|one| one["partition"].as_i64().unwrap()).collect()
}

/// Writes messages `{n}` to streams `{category}-1` to `{category}-{streams}` in turn, in one transaction.
async fn write(sql: &tokio_postgres::Client, category: &str, streams: i64, messages: i64) {
    let write = "SELECT count(message_store.write_message(gen_random_uuid()::varchar, $1 || '-' || (n % $2::bigint + 1), 'T', \
        jsonb_build_object('n', n))) FROM generate_series(0, $3::bigint - 1) AS g (n)";
    sql.query_one(write, &[&category, &streams, &messages]).await.unwrap();
}

/// Deadlocks of the test's database: PostgreSQL counts them. None is anybody's luck.
async fn deadlocks(sql: &tokio_postgres::Client) -> i64 {
    // A backend reports what it has seen when it has been idle for a moment, or ends.
    sql.batch_execute("SELECT pg_stat_clear_snapshot()").await.unwrap();
    let row = sql.query_one("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()", &[]).await;
    row.unwrap().get(0)
}
