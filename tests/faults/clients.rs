//! Clients that write down what they see: writers with expected versions, readers, followers, and consumers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reqwest::Client;
use serde_json::{Value, json};
use uuid::Uuid;

use super::history::{Ack, AckTold, Append, Consumed, Delivery, History, Message, Read, Recorder, Told};
use super::stage::Urls;
use crate::support::app::PATIENCE;
use crate::support::events::Events;
use crate::support::http_client;

pub const STREAMS: usize = 6;
pub const ACKED: &str = "acked";
pub const MADE: &str = "made";
/// A request without an answer is given up after this time.
const ANSWER_WAIT: Duration = Duration::from_secs(4);
/// An event stream on which not even a heartbeat comes is given up after this time.
const QUIET_MAX: Duration = Duration::from_secs(4);
/// Between two requests of one client, and after one that failed.
const PAUSE: Duration = Duration::from_millis(15);

/// What a client needs. Cheap to clone.
#[derive(Clone)]
pub struct Clients {
    pub urls: Urls,
    pub recorder: Recorder,
    http: Client,
    /// Writers and readers stop first.
    pub writing_ends: Arc<AtomicBool>,
    pub ends: Arc<AtomicBool>,
}

impl Clients {
    pub fn new(urls: Urls, followers: usize) -> Self {
        let (writing_ends, ends) = (Arc::default(), Arc::default());
        Self { urls, recorder: Recorder::new(followers), http: http_client(), writing_ends, ends }
    }

    fn has_ended(&self) -> bool {
        self.ends.load(Ordering::SeqCst)
    }

    fn has_written(&self) -> bool {
        self.writing_ends.load(Ordering::SeqCst)
    }

    /// Status and document of an answer; `None`: none came, or not a whole one.
    async fn post(&self, path: &str, body: &Value) -> Option<(u16, Value)> {
        let request = self.http.post(format!("{}{path}", self.urls.some())).json(body).timeout(ANSWER_WAIT);
        whole(request.send().await.ok()?).await
    }

    async fn get(&self, path: &str) -> Option<(u16, Value)> {
        let request = self.http.get(format!("{}{path}", self.urls.some())).timeout(ANSWER_WAIT);
        whole(request.send().await.ok()?).await
    }

    /// Reads a version, and writes after it; now and then without a look, or on an old look.
    pub async fn write(self) {
        let mut version = -1;
        while !self.has_written() {
            let stream = some_stream();
            if fastrand::u8(..10) < 8 {
                match self.read_version(&stream).await {
                    Some(read) => version = read,
                    None => continue,
                }
            }
            let expected = (fastrand::u8(..10) < 8).then_some(version);
            let id = Uuid::new_v4();
            let told = self.append(&stream, id, expected).await;
            // What is not known is sent again: sometimes, so that both are tried.
            if told == Told::Unknown && fastrand::bool() {
                self.append(&stream, id, expected).await;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    pub async fn read(self) {
        while !self.has_written() {
            self.read_version(&some_stream()).await;
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn read_version(&self, stream: &str) -> Option<i64> {
        let began = self.recorder.now();
        let Some((200, page)) = self.get(&format!("/v1/streams/{stream}/messages?direction=backward&limit=1")).await
        else {
            tokio::time::sleep(PAUSE).await;
            return None;
        };
        let version = page["version"].as_i64().unwrap();
        let read = Read { stream: stream.to_owned(), version, span: self.recorder.since(began) };
        self.recorder.write(|history| history.reads.push(read));
        Some(version)
    }

    async fn append(&self, stream: &str, id: Uuid, expected: Option<i64>) -> Told {
        let body = json!({ "expected_version": expected, "messages": [{ "id": id, "type": "Counted", "data": {} }] });
        let began = self.recorder.now();
        let told = match self.post(&format!("/v1/streams/{stream}/messages"), &body).await {
            None => Told::Unknown,
            Some((status, answer)) => told(status, &answer),
        };
        let span = self.recorder.since(began);
        let append = Append { id, stream: stream.to_owned(), expected, span, told };
        self.recorder.write(|history| history.appends.push(append));
        told
    }

    /// Follows everything, and goes on after each end with the last event's id, at any instance.
    pub async fn follow(self, number: usize) {
        let mut last_id: Option<String> = None;
        while !self.has_ended() {
            let request = self.http.get(format!("{}/v1/all/events?from=beginning&heartbeat=1s", self.urls.some()));
            let request = last_id.iter().fold(request, |request, id| request.header("last-event-id", id));
            let Some(mut events) = opened(request).await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            while let Some(event) = self.next(&mut events).await {
                if event.is("message") {
                    let message = message_of(&event.json());
                    self.recorder.write(|history| history.followers[number].messages.push(message));
                }
            }
            last_id = events.last_id.clone().or(last_id);
        }
    }

    /// The next event; `None`: the connection is of no use any more, or all is over.
    async fn next(&self, events: &mut Events) -> Option<crate::support::events::Event> {
        let quiet = Instant::now();
        while quiet.elapsed() < QUIET_MAX && !self.has_ended() {
            // Cut short only where nothing was read: what has come stays in the buffer.
            if let Ok(next) = tokio::time::timeout(Duration::from_millis(200), events.next_block(PATIENCE)).await {
                return next;
            }
        }
        None
    }

    /// Acks what it gets, by long polls. Whoever does not know what it was given, or what became of an ack, goes, and comes
    /// again under another name: what it had comes again under another epoch.
    pub async fn consume(self, subscription: &'static str, number: usize) {
        let mut lives = 0;
        while !self.has_ended() {
            lives += 1;
            let consumer = format!("w{number}.{lives}");
            while !self.has_ended() {
                let body = json!({ "consumer": consumer, "limit": 20, "wait": "500ms", "backlog": false });
                let Some((200, answer)) = self.post(&format!("/v1/subscriptions/{subscription}/fetch"), &body).await
                else {
                    break;
                };
                let deliveries: Vec<Delivery> =
                    answer["messages"].as_array().unwrap().iter().map(|one| self.delivery(one, &consumer)).collect();
                self.note(subscription, |consumed| consumed.deliveries.extend(deliveries.iter().cloned()));
                if !self.work(subscription, &deliveries).await {
                    break;
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The same over an event stream.
    pub async fn consume_events(self, subscription: &'static str, number: usize) {
        let mut lives = 0;
        while !self.has_ended() {
            lives += 1;
            let consumer = format!("e{number}.{lives}");
            let path = format!("/v1/subscriptions/{subscription}/events?consumer={consumer}&heartbeat=1s");
            let Some(mut events) = opened(self.http.get(format!("{}{path}", self.urls.some()))).await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            while let Some(event) = self.next(&mut events).await {
                if event.is("message") {
                    let delivery = self.delivery(&event.json(), &consumer);
                    self.note(subscription, |consumed| consumed.deliveries.push(delivery.clone()));
                    if !self.work(subscription, &[delivery]).await {
                        break;
                    }
                }
            }
        }
    }

    /// Works on what came. Answers whether it is known what became of it.
    async fn work(&self, subscription: &'static str, deliveries: &[Delivery]) -> bool {
        for (at, delivery) in deliveries.iter().enumerate() {
            let is_last = deliveries[at + 1..].iter().all(|later| later.partition != delivery.partition);
            let told = match subscription {
                MADE => self.make(delivery).await,
                // An ack is of all up to it.
                _ if is_last => self.ack(delivery).await,
                _ => continue,
            };
            // What comes after it in the partition would be acked with it.
            if told != AckTold::Acked {
                return false;
            }
        }
        true
    }

    async fn ack(&self, delivery: &Delivery) -> AckTold {
        let body = json!({ "consumer": delivery.consumer, "acks": [place(delivery)] });
        let began = self.recorder.now();
        let told = match self.post(&format!("/v1/subscriptions/{ACKED}/acks"), &body).await {
            Some((200, answer)) if answer["acked"] == 1 => AckTold::Acked,
            Some((200 | 409, _)) => AckTold::Refused,
            _ => AckTold::Unknown,
        };
        self.acked(ACKED, delivery, began, told)
    }

    /// Appends what is made of a message, and acks in the same transaction.
    async fn make(&self, delivery: &Delivery) -> AckTold {
        let mut ack = place(delivery);
        ack["subscription"] = json!(MADE);
        ack["consumer"] = json!(delivery.consumer);
        // A new id each time: what keeps it from being made twice is the ack alone.
        let message = json!({ "id": Uuid::new_v4(), "type": "Made", "data": { "of": delivery.message.id } });
        let stream = format!("made-{}", delivery.partition);
        let body = json!({ "appends": [{ "stream_name": stream, "messages": [message] }], "ack": ack });
        let began = self.recorder.now();
        let told = match self.post("/v1/appends", &body).await {
            Some((200 | 201, _)) => AckTold::Acked,
            Some((409, _)) => AckTold::Refused,
            Some((503, answer)) if is_not_written(&answer) => AckTold::Refused,
            _ => AckTold::Unknown,
        };
        self.acked(MADE, delivery, began, told)
    }

    fn acked(&self, subscription: &str, delivery: &Delivery, began: u64, told: AckTold) -> AckTold {
        let (partition, position, epoch) = (delivery.partition, delivery.position, delivery.epoch);
        let ack = Ack { partition, position, epoch, span: self.recorder.since(began), told };
        self.note(subscription, |consumed| consumed.acks.push(ack));
        told
    }

    fn note(&self, subscription: &str, note: impl FnOnce(&mut Consumed)) {
        self.recorder.write(|history: &mut History| {
            note(if subscription == MADE { &mut history.made } else { &mut history.acked });
        });
    }

    fn delivery(&self, document: &Value, consumer: &str) -> Delivery {
        let number = |name: &str| document[name].as_i64().unwrap();
        Delivery {
            consumer: consumer.to_owned(),
            partition: number("partition"),
            position: number("position"),
            epoch: number("epoch"),
            message: message_of(&document["message"]),
            at: self.recorder.now(),
        }
    }
}

/// Whatever is broken, it is never the service that is.
async fn whole(answer: reqwest::Response) -> Option<(u16, Value)> {
    let (status, document) = (answer.status().as_u16(), answer.json().await.ok()?);
    assert!(matches!(status, 200 | 201 | 408 | 409 | 503), "answered {status}: {document}");
    Some((status, document))
}

fn some_stream() -> String {
    format!("a-{}", fastrand::usize(..STREAMS))
}

fn place(delivery: &Delivery) -> Value {
    json!({ "partition": delivery.partition, "position": delivery.position, "epoch": delivery.epoch })
}

fn message_of(document: &Value) -> Message {
    Message {
        id: document["id"].as_str().unwrap().parse().unwrap(),
        stream: document["stream_name"].as_str().unwrap().to_owned(),
        position: document["position"].as_i64().unwrap(),
        global_position: document["global_position"].as_i64().unwrap(),
    }
}

/// An event stream, if one is opened in time.
async fn opened(request: reqwest::RequestBuilder) -> Option<Events> {
    let answer = tokio::time::timeout(ANSWER_WAIT, request.send()).await.ok()?.ok()?;
    match answer.status().as_u16() {
        200 => Some(Events::of(answer).await),
        503 => None,
        status => panic!("an event stream is answered {status}: {:?}", answer.text().await),
    }
}

fn is_not_written(answer: &Value) -> bool {
    matches!(answer["type"].as_str(), Some("/problems/draining" | "/problems/overloaded"))
        || answer["outcome"] == "not_written"
}

/// Only answers that the contract allows here are taken.
fn told(status: u16, answer: &Value) -> Told {
    match (status, answer["type"].as_str()) {
        (200 | 201, _) => Told::Written {
            position: answer["messages"][0]["position"].as_i64().unwrap(),
            global_position: answer["messages"][0]["global_position"].as_i64().unwrap(),
        },
        (409, Some("/problems/wrong-expected-version")) => {
            Told::WrongVersion { current: answer["current_version"].as_i64().unwrap() }
        }
        (503, _) if is_not_written(answer) => Told::NotWritten,
        (503, Some("/problems/database-unavailable")) if answer["outcome"] == "unknown" => Told::Unknown,
        (408, Some("/problems/request-timeout")) => Told::Unknown,
        _ => panic!("an append of a new message was answered {status}: {answer}"),
    }
}
