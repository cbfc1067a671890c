//! Writers, followers and consumers that go by what they are told, and note it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::app::{Answer, PATIENCE, TestClient};
use crate::support::events::Events;

/// So many more are written by each writer once another primary is there.
const AFTER: usize = 20;
/// A message: where it is, and which one.
pub type At = (i64, Uuid);

/// Everything that the clients of the test share.
#[derive(Default)]
pub struct World {
    /// Acknowledged so far; nobody has noticed a loss while it is collected.
    pub acknowledged: Mutex<Vec<At>>,
    /// Followers that have seen something.
    pub have_begun: AtomicUsize,
    pub is_promoted: AtomicBool,
    pub is_over: AtomicBool,
}

fn at(message: &Value) -> At {
    (message["global_position"].as_i64().unwrap(), message["id"].as_str().unwrap().parse().unwrap())
}

/// What an event or a delivery brings.
fn message_of(event: &Value) -> At {
    at(if event["message"].is_object() { &event["message"] } else { event })
}

impl World {
    /// Appends one message after the other, each until it is acknowledged. Answers what was acknowledged last of each.
    pub async fn write(self: Arc<Self>, client: TestClient, writer: usize) -> Vec<At> {
        let (mut written, mut after) = (Vec::new(), 0);
        let text = "x".repeat(400);
        while after < AFTER {
            let data = json!({ "n": written.len(), "text": text });
            let body = json!({ "messages": [{ "id": Uuid::now_v7(), "type": "Noted", "data": data }] });
            let deadline = Instant::now() + PATIENCE;
            let answer = loop {
                let answer = client.append(&format!("writer-{writer}"), &body).await;
                if [200, 201].contains(&answer.status) {
                    break answer;
                }
                assert_eq!(answer.status, 503, "{}", answer.text);
                assert!(Instant::now() < deadline, "{}", answer.text);
                tokio::time::sleep(Duration::from_millis(10)).await;
            };
            let message = at(&answer.json()["messages"][0]);
            written.push(message);
            self.acknowledged.lock().push(message);
            after += usize::from(self.is_promoted.load(Ordering::SeqCst));
        }
        written
    }

    pub fn acknowledged(&self) -> i64 {
        self.acknowledged.lock().len() as i64
    }
}

/// What one follower saw.
pub struct Seen {
    pub path: &'static str,
    /// Before it was told that the log is another one, with the cursor of each message.
    pub before: Vec<(At, String)>,
    /// What it has by the end: of the log as it is.
    pub whole: Vec<At>,
    /// What became of its last cursor.
    pub is_refused: bool,
}

/// An event stream, or why there is none.
pub type Opened = Result<Events, Answer>;

pub async fn open(client: &TestClient, path: &str, last_event_id: Option<&str>) -> Opened {
    let http = crate::support::http_client();
    let request = http.get(format!("{}{path}", client.url));
    let request = match last_event_id {
        Some(id) => request.header("last-event-id", id),
        None => request,
    };
    let response = request.send().await.unwrap();
    if response.status() == 200 { Ok(Events::of(response).await) } else { Err(Answer::of(response).await) }
}

/// Opens an event stream; while the database is away, again.
async fn open_when_there(client: &TestClient, path: &str, last_event_id: Option<&str>) -> Opened {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match open(client, path, last_event_id).await {
            Err(answer) if answer.status == 503 && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => return other,
        }
    }
}

/// Follows from the beginning until it is told that the log is another one, then as a client that goes by that.
pub async fn follow(client: TestClient, path: &'static str, world: Arc<World>) -> Seen {
    let from_beginning = format!("{path}{}from=beginning", if path.contains('?') { '&' } else { '?' });
    let mut before: Vec<(At, String)> = Vec::new();
    let mut events = open(&client, &from_beginning, None).await.unwrap();
    let reason = loop {
        let event = events.next_block(PATIENCE).await.unwrap_or_else(|| panic!("{path} ends and is not told"));
        if event.is("message") {
            world.have_begun.fetch_add(usize::from(before.is_empty()), Ordering::SeqCst);
            before.push((message_of(&event.json()), event.id.clone().unwrap()));
        } else if event.is("closing") {
            break event.json()["reason"].clone();
        }
    };
    assert_eq!(reason, "history-changed", "{path}");
    let (last, cursor) = before.last().expect("it has seen messages");
    let (mut whole, is_refused) = match open_when_there(&client, path, Some(cursor)).await {
        Ok(again) => {
            events = again;
            (before.iter().map(|(message, _)| *message).collect::<Vec<_>>(), false)
        }
        Err(answer) => {
            answer.problem(409, "history-changed");
            events =
                open_when_there(&client, &from_beginning, None).await.unwrap_or_else(|answer| panic!("{answer:?}"));
            (Vec::new(), true)
        }
    };
    let last = *last;
    loop {
        let event = events.next_block(PATIENCE).await.unwrap_or_else(|| panic!("{path} ends after {last:?}"));
        if event.is("message") {
            let event = event.json();
            whole.push(message_of(&event));
            let message = if event["message"].is_object() { &event["message"] } else { &event };
            if message["type"] == "End" {
                return Seen { path, before, whole, is_refused };
            }
        }
    }
}

/// What a consumer was given and has acked, in the order of the acks: a later one of the same place counts.
pub type Acked = Arc<Mutex<Vec<At>>>;

/// Acks until that is answered. Answers whether it was taken.
async fn ack(client: &TestClient, name: &str, consumer: &str, delivery: &Value) -> bool {
    let field = |name: &str| delivery[name].clone();
    let ack = json!({ "partition": field("partition"), "position": field("position"), "epoch": field("epoch") });
    let body = json!({ "consumer": consumer, "acks": [ack] });
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = client.post(&format!("/v1/subscriptions/{name}/acks"), &body).await;
        match answer.status {
            200 => return answer.json()["acked"] == 1,
            409 => return false,
            503 if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(10)).await,
            _ => panic!("{name}: {answer:?}"),
        }
    }
}

/// Fetches and acks, over and over.
pub async fn fetch(client: TestClient, name: &'static str, acked: Acked, world: Arc<World>) {
    while !world.is_over.load(Ordering::SeqCst) {
        let body = json!({ "consumer": "f", "limit": 20, "wait": "200ms" });
        let answer = client.post(&format!("/v1/subscriptions/{name}/fetch"), &body).await;
        if answer.status == 503 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        }
        assert_eq!(answer.status, 200, "{name}: {}", answer.text);
        for delivery in answer.json()["messages"].as_array().unwrap() {
            if ack(&client, name, "f", delivery).await {
                acked.lock().push(message_of(delivery));
            }
        }
    }
}

/// Consumes an event stream and acks. Answers why its connections were closed.
pub async fn consume(client: TestClient, name: &'static str, acked: Acked, world: Arc<World>) -> Vec<Value> {
    let (path, mut told) = (format!("/v1/subscriptions/{name}/events?consumer=e&heartbeat=1s"), Vec::new());
    while !world.is_over.load(Ordering::SeqCst) {
        let mut events = open_when_there(&client, &path, None).await.unwrap_or_else(|answer| panic!("{answer:?}"));
        while let Some(event) = events.next_block(PATIENCE).await {
            if world.is_over.load(Ordering::SeqCst) {
                return told;
            }
            if event.is("message") {
                let delivery = event.json();
                if ack(&client, name, "e", &delivery).await {
                    acked.lock().push(message_of(&delivery));
                }
            } else if event.is("closing") {
                told.push(event.json()["reason"].clone());
            }
        }
    }
    told
}
