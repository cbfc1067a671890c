//! Subscriptions: messages are delivered until somebody has acked them, in order where order is promised.

mod aggregated;
mod another_log;
mod assignment;
mod changes;
mod competing;
mod definitions;
mod events;
mod fencing;
mod gone;
mod instances;
mod lag;
mod leases;
mod partitioned;
mod poison;
mod progress;
mod seeking;
mod sharing;
mod status;
mod walk;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::app::{Answer, PATIENCE, TestApp, encode};
use crate::support::database::TestDatabase;

/// Calls on one subscription.
pub struct Sub<'a> {
    pub app: &'a TestApp,
    pub name: String,
}

impl<'a> Sub<'a> {
    /// Makes a subscription.
    pub async fn new(app: &'a TestApp, name: &str, definition: Value) -> Sub<'a> {
        let answer = app.put(&format!("/v1/subscriptions/{}", encode(name)), &definition).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        Sub { app, name: name.to_owned() }
    }

    /// The same subscription by another instance.
    fn on<'b>(&self, app: &'b TestApp) -> Sub<'b> {
        Sub { app, name: self.name.clone() }
    }

    pub fn path(&self, rest: &str) -> String {
        format!("/v1/subscriptions/{}{rest}", encode(&self.name))
    }

    pub async fn post(&self, rest: &str, body: &Value) -> Answer {
        self.app.post(&self.path(rest), body).await
    }

    pub async fn get(&self, rest: &str) -> Value {
        let answer = self.app.get(&self.path(rest)).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()
    }

    pub async fn status(&self) -> Value {
        self.get("").await["status"].clone()
    }

    /// What a fetch of new messages answers at once.
    pub async fn fetch(&self, consumer: &str, limit: usize) -> Vec<Value> {
        self.fetch_with(json!({ "consumer": consumer, "limit": limit, "backlog": false })).await
    }

    /// Waits for new messages as long as a test may.
    pub async fn fetch_some(&self, consumer: &str, limit: usize) -> Vec<Value> {
        let found =
            self.fetch_with(json!({ "consumer": consumer, "limit": limit, "wait": "20s", "backlog": false })).await;
        assert!(!found.is_empty(), "nothing came");
        found
    }

    pub async fn fetch_with(&self, body: Value) -> Vec<Value> {
        let answer = self.post("/fetch", &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()["messages"].as_array().unwrap().clone()
    }

    /// Fetches, acks nothing, until so many have come.
    async fn fetch_count(&self, consumer: &str, count: usize) -> Vec<Value> {
        let mut all = Vec::new();
        while all.len() < count {
            all.extend(self.fetch_some(consumer, count - all.len()).await);
        }
        all
    }

    pub async fn ack(&self, consumer: &str, messages: &[Value]) -> Answer {
        let acks: Vec<Value> = messages.iter().map(place).collect();
        self.post("/acks", &json!({ "consumer": consumer, "acks": acks })).await
    }

    /// Acks, and asserts that all are good.
    pub async fn acked(&self, consumer: &str, messages: &[Value]) {
        let answer = self.ack(consumer, messages).await;
        assert_eq!((answer.status, answer.json()), (200, counts("acked", messages.len(), 0, 0)), "{}", answer.text);
    }

    pub async fn nack(&self, consumer: &str, message: &Value, more: Value) -> Answer {
        let mut nack = place(message);
        nack.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.post("/nacks", &json!({ "consumer": consumer, "nacks": [nack] })).await
    }

    /// Nacks, and asserts that it is good.
    async fn nacked(&self, consumer: &str, message: &Value, more: Value) {
        let answer = self.nack(consumer, message, more).await;
        assert_eq!((answer.status, answer.json()), (200, counts("nacked", 1, 0, 0)), "{}", answer.text);
    }

    /// Fetches and acks everything until nothing is left; what came, in order.
    pub async fn drain(&self, consumer: &str) -> Vec<Value> {
        let mut all = Vec::new();
        loop {
            let found = self.fetch(consumer, 100).await;
            if found.is_empty() {
                return all;
            }
            self.acked(consumer, &found).await;
            all.extend(found);
        }
    }

    /// Waits until the status is as it should be.
    pub async fn until(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status().await;
            if is_it(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "waited in vain until {what}: {status}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// What an ack says of a delivery.
pub fn place(message: &Value) -> Value {
    json!({ "partition": message["partition"], "position": message["position"], "epoch": message["epoch"] })
}

pub fn counts(done: &str, count: usize, fenced: usize, missing: usize) -> Value {
    json!({ done: count, "fenced": fenced, "missing": missing })
}

pub fn positions(messages: &[Value]) -> Vec<i64> {
    messages.iter().map(|message| message["position"].as_i64().unwrap()).collect()
}

pub fn numbers(messages: &[Value]) -> Vec<i64> {
    messages.iter().map(|message| message["message"]["data"]["n"].as_i64().unwrap()).collect()
}

/// A service with so many messages in streams `a-1` to `a-{streams}`, in turn.
async fn filled(streams: usize, messages: usize) -> (TestDatabase, TestApp) {
    let database = TestDatabase::migrated().await;
    let app = TestApp::on(&database).await;
    write(&app, "a", streams, messages).await;
    (database, app)
}

/// Writes messages `{n}` to streams of a category in turn.
pub async fn write(app: &TestApp, category: &str, streams: usize, messages: usize) {
    for n in 0..messages {
        app.write(&format!("{category}-{}", n % streams + 1), "T", json!({ "n": n })).await;
    }
}

/// Those of the partitions whose consumer this is.
pub fn held(status: &Value, consumer: &str) -> Vec<i64> {
    let partitions = status["partitions"].as_array().unwrap();
    let own = partitions.iter().filter(|partition| partition["consumer"] == consumer);
    own.map(|partition| partition["partition"].as_i64().unwrap()).collect()
}
