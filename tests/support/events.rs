//! A client of server-sent events that reads as the standard says, and NDJSON lines.
#![allow(dead_code)]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::Value;

use super::app::PATIENCE;

/// The longest that is waited for one event, whatever others come meanwhile.
const NEXT_WITHIN: Duration = Duration::from_secs(90);

/// One block of an event stream: what a browser would dispatch, or (without data) only remember.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub id: Option<String>,
    pub name: Option<String>,
    pub data: Option<String>,
    pub retry: Option<u64>,
}

impl Event {
    pub fn json(&self) -> Value {
        serde_json::from_str(self.data.as_deref().unwrap_or("null")).expect("data is JSON")
    }

    /// The position in its id, without the check of the message there.
    pub fn place(&self) -> Option<&str> {
        self.id.as_deref().map(|id| id.split('~').next().unwrap_or(id))
    }

    pub fn is(&self, name: &str) -> bool {
        self.name.as_deref() == Some(name)
    }
}

/// The global position of a message's event.
pub fn position_of(event: &Event) -> i64 {
    event.json()["global_position"].as_i64().expect("a message has a global position")
}

/// An open event stream.
pub struct Events {
    pub headers: reqwest::header::HeaderMap,
    body: std::pin::Pin<Box<dyn futures_util::Stream<Item = reqwest::Result<bytes::Bytes>> + Send>>,
    buffer: Vec<u8>,
    ready: VecDeque<Event>,
    /// What a browser would send as `Last-Event-ID`.
    pub last_id: Option<String>,
}

impl Events {
    pub async fn open(url: &str, headers: &[(&str, &str)]) -> Self {
        let mut request = super::http_client().get(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Self::of(request.send().await.expect("the service answers")).await
    }

    /// Goes on where another connection of the same client ended, as a browser does.
    pub async fn resume(url: &str, last_event_id: &str) -> Self {
        Self::open(url, &[("last-event-id", last_event_id)]).await
    }

    /// What an answer brings.
    pub async fn of(response: reqwest::Response) -> Self {
        assert_eq!(response.status(), 200, "{}", response.text().await.unwrap_or_default());
        Self {
            headers: response.headers().clone(),
            body: Box::pin(response.bytes_stream()),
            buffer: Vec::new(),
            ready: VecDeque::new(),
            last_id: None,
        }
    }

    /// The next block, of whatever kind; `None` at the end of the stream or when the connection breaks.
    pub async fn next_block(&mut self, within: Duration) -> Option<Event> {
        let reading = async {
            loop {
                if let Some(event) = self.ready.pop_front() {
                    if event.id.is_some() {
                        self.last_id.clone_from(&event.id);
                    }
                    return Some(event);
                }
                match self.body.next().await {
                    Some(Ok(bytes)) => self.take_in(&bytes),
                    Some(Err(_)) | None => return None,
                }
            }
        };
        tokio::time::timeout(within, reading).await.unwrap_or_else(|_| panic!("no event within {within:?}"))
    }

    /// The next event with this name, passing over all others.
    pub async fn next(&mut self, name: &str) -> Event {
        // Heartbeats come all the time: without an end of its own this would wait for ever.
        let deadline = Instant::now() + NEXT_WITHIN;
        loop {
            assert!(Instant::now() < deadline, "no {name} within {NEXT_WITHIN:?}");
            let event = self.next_block(PATIENCE).await.unwrap_or_else(|| panic!("the stream ended before {name}"));
            if event.is(name) {
                return event;
            }
        }
    }

    /// The next event with data, whatever its name.
    pub async fn next_event(&mut self) -> Event {
        loop {
            let event = self.next_block(PATIENCE).await.expect("the stream goes on");
            if event.data.is_some() {
                return event;
            }
        }
    }

    /// All blocks up to and with the next event of this name.
    pub async fn blocks_until(&mut self, name: &str) -> Vec<Event> {
        let mut blocks = Vec::new();
        loop {
            blocks.push(self.next_block(PATIENCE).await.unwrap_or_else(|| panic!("the stream ended before {name}")));
            if blocks.last().is_some_and(|event| event.is(name)) {
                return blocks;
            }
        }
    }

    /// The global positions of the messages up to and with this one, in the order in which they come.
    pub async fn positions_until(&mut self, global_position: i64) -> Vec<i64> {
        let mut positions = Vec::new();
        while positions.last() != Some(&global_position) {
            positions.push(position_of(&self.next("message").await));
        }
        positions
    }

    /// The next messages, as JSON.
    pub async fn messages(&mut self, count: usize) -> Vec<Value> {
        let mut messages = Vec::with_capacity(count);
        while messages.len() < count {
            messages.push(self.next("message").await.json());
        }
        messages
    }

    fn take_in(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        // Blocks are split as text, because that is quick without optimisation too.
        let Some(end) = self.buffer.windows(2).rposition(|pair| pair == b"\n\n") else { return };
        let whole: Vec<u8> = self.buffer.drain(..end + 2).collect();
        let whole = String::from_utf8(whole).expect("event streams are UTF-8");
        for text in whole.split_terminator("\n\n") {
            let mut event = Event { id: None, name: None, data: None, retry: None };
            for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with(':')) {
                let (field, value) = line.split_once(':').unwrap_or((line, ""));
                let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
                match field {
                    "id" => event.id = Some(value),
                    "event" => event.name = Some(value),
                    "data" => match &mut event.data {
                        Some(data) => {
                            data.push('\n');
                            data.push_str(&value);
                        }
                        None => event.data = Some(value),
                    },
                    "retry" => event.retry = value.parse().ok(),
                    other => panic!("an unknown field {other:?} in an event stream"),
                }
            }
            self.ready.push_back(event);
        }
    }
}
