//! Writers that remember the answer for every message, and the comparison of the answers with what was written.
#![allow(dead_code)]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::Client;
use serde_json::{Value, json};
use uuid::Uuid;

use super::app::{Answer, encode};

/// What a writer was told of a message.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Told {
    Written {
        position: i64,
        global_position: i64,
    },
    NotWritten,
    /// No answer, or one that leaves it open.
    Nothing,
}

/// A message that was sent.
#[derive(Debug, Clone)]
pub struct Sent {
    pub id: Uuid,
    pub stream: String,
    pub number: usize,
    pub told: Told,
}

impl Sent {
    pub fn body(&self) -> Value {
        json!({ "messages": [{ "id": self.id, "type": "Counted", "data": { "number": self.number } }] })
    }
}

/// Writers at work, each on a stream of its own (`{category}-{n}`) and on one that all share (`{category}-all`).
pub struct Writers {
    url: Arc<Mutex<String>>,
    written: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
    stopping: Arc<AtomicBool>,
    sent: Arc<Mutex<Vec<Sent>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

/// After an answer that is not 201.
const PAUSE: Duration = Duration::from_millis(5);

impl Writers {
    pub fn start(url: &str, category: &str, count: usize) -> Self {
        let mut writers = Self {
            url: Arc::new(Mutex::new(url.to_owned())),
            written: Arc::default(),
            refused: Arc::default(),
            stopping: Arc::default(),
            sent: Arc::default(),
            tasks: Vec::new(),
        };
        for number in 0..count {
            writers.tasks.push(tokio::spawn(writers.write(format!("{category}-{number}"), format!("{category}-all"))));
        }
        writers
    }

    fn write(&self, own: String, shared: String) -> impl Future<Output = ()> + Send + 'static {
        let (url, written, refused) = (self.url.clone(), self.written.clone(), self.refused.clone());
        let (stopping, all) = (self.stopping.clone(), self.sent.clone());
        async move {
            let http = super::http_client();
            let mut mine = Vec::new();
            while !stopping.load(Ordering::SeqCst) {
                let number = mine.len();
                let stream = if number % 3 == 2 { shared.clone() } else { own.clone() };
                let mut sent = Sent { id: Uuid::new_v4(), stream, number, told: Told::Nothing };
                let to = url.lock().clone();
                sent.told = send(&http, &to, &sent).await.map_or(Told::Nothing, |answer| told(&answer));
                match sent.told {
                    Told::Written { .. } => {
                        written.fetch_add(1, Ordering::SeqCst);
                    }
                    Told::NotWritten | Told::Nothing => {
                        refused.fetch_add(1, Ordering::SeqCst);
                        tokio::time::sleep(PAUSE).await;
                    }
                }
                mine.push(sent);
            }
            all.lock().append(&mut mine);
        }
    }

    /// Messages acknowledged so far.
    pub fn written(&self) -> usize {
        self.written.load(Ordering::SeqCst)
    }

    /// Messages that got another answer, or none, so far.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::SeqCst)
    }

    /// Waits until so many more are acknowledged.
    pub async fn progress(&self, more: usize) {
        let goal = self.written() + more;
        super::waiting::until("the writers get on", super::app::PATIENCE, || self.written() >= goal).await;
    }

    /// The service is somewhere else now.
    pub fn go_to(&self, url: &str) {
        url.clone_into(&mut self.url.lock());
    }

    /// Lets them finish what they are at; returns all that was sent.
    pub async fn stop(self) -> Vec<Sent> {
        self.stopping.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.expect("a writer does not fail");
        }
        std::mem::take(&mut self.sent.lock())
    }
}

/// Sends a message; `None` where no whole answer comes.
pub async fn send(http: &Client, url: &str, sent: &Sent) -> Option<Answer> {
    let path = format!("{url}/v1/streams/{}/messages", encode(&sent.stream));
    let response = http.post(path).json(&sent.body()).send().await.ok()?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Some(Answer { status, headers, text: response.text().await.ok()? })
}

/// What an answer says of the message. Only answers that the contract allows here are taken.
pub fn told(answer: &Answer) -> Told {
    let document = answer.json();
    match (answer.status, document["type"].as_str()) {
        (200 | 201, _) => Told::Written {
            position: document["messages"][0]["position"].as_i64().unwrap(),
            global_position: document["messages"][0]["global_position"].as_i64().unwrap(),
        },
        (503, Some("/problems/draining" | "/problems/overloaded")) => Told::NotWritten,
        (503, Some("/problems/database-unavailable")) => {
            assert!(answer.headers.contains_key("retry-after"), "{document}");
            match document["outcome"].as_str() {
                Some("not_written") => Told::NotWritten,
                Some("unknown") => Told::Nothing,
                other => panic!("outcome {other:?} in {document}"),
            }
        }
        (408, Some("/problems/request-timeout")) => Told::Nothing,
        _ => panic!("an append of a new message was answered with {document}"),
    }
}

/// Asserts that what was written is what the writers were told: each acknowledged message once, where the answer
/// said; none
/// that was answered as not written; nothing that was not sent; positions without holes, in the order of the log.
/// Returns those that were written though no writer was told.
pub async fn compare(database: &tokio_postgres::Client, sent: &[Sent]) -> Vec<Sent> {
    let rows = database
        .query(
            "SELECT id, stream_name, position, global_position, (data ->> 'number')::bigint \
             FROM message_store.messages ORDER BY global_position",
            &[],
        )
        .await
        .unwrap();
    let by_id: HashMap<Uuid, &Sent> = sent.iter().map(|sent| (sent.id, sent)).collect();
    assert_eq!(by_id.len(), sent.len());
    let mut standing = HashMap::new();
    let mut next: HashMap<String, i64> = HashMap::new();
    for row in &rows {
        let (id, stream, position, global_position): (Uuid, String, i64, i64) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        let sent = by_id.get(&id).unwrap_or_else(|| panic!("{id} in {stream} was never sent"));
        assert_eq!((&sent.stream, sent.number as i64), (&stream, row.get(4)), "{id}");
        let expected = next.entry(stream.clone()).or_default();
        assert_eq!(position, *expected, "{stream} has a hole, or is not in the order of the log");
        *expected += 1;
        assert!(standing.insert(id, (position, global_position)).is_none(), "{id} stands twice");
    }
    let mut untold = Vec::new();
    for sent in sent {
        match (sent.told, standing.get(&sent.id)) {
            (Told::Written { position, global_position }, stands) => {
                assert_eq!(stands, Some(&(position, global_position)), "acknowledged: {sent:?}");
            }
            (Told::NotWritten, stands) => assert_eq!(stands, None, "answered as not written: {sent:?}"),
            (Told::Nothing, Some(_)) => untold.push(sent.clone()),
            (Told::Nothing, None) => {}
        }
    }
    untold
}
