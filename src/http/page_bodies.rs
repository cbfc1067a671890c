//! Bodies with messages: one message, and pages of a stream or of several.

use bytes::Bytes;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::page_cache::Interval;
use crate::service::read::PageRead;

/// A stored message.
#[derive(Serialize, ToSchema)]
pub struct Message {
    pub id: Uuid,
    #[schema(example = "order-1")]
    pub stream_name: String,
    #[schema(example = "OrderPlaced")]
    pub r#type: String,
    /// Counts from 0 in its stream.
    #[schema(example = 4, minimum = 0)]
    pub position: i64,
    /// Counts from 1 over the whole store, with holes.
    #[schema(example = 1017, minimum = 1)]
    pub global_position: i64,
    /// Any JSON, as PostgreSQL's jsonb prints it.
    #[schema(value_type = Value, example = json!({"amount": 5}))]
    pub data: serde_json::Value,
    /// Any JSON, as PostgreSQL's jsonb prints it.
    #[schema(value_type = Value, example = json!({"correlationStreamName": "transfer-9"}))]
    pub metadata: serde_json::Value,
    /// When it was written: UTC, with microseconds.
    #[schema(format = DateTime, example = "2026-11-20T12:00:00.123456Z")]
    pub time: String,
    /// Only of a message whose data and metadata were erased: both are null then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub erased: Option<Erased>,
}

/// When and why a message was erased.
#[derive(Serialize, ToSchema)]
pub struct Erased {
    #[schema(format = DateTime)]
    pub at: String,
    /// Null if none was given.
    #[schema(required = true)]
    pub reason: Option<String>,
}

/// A page of a stream.
#[derive(Serialize, ToSchema)]
pub struct StreamPage {
    pub messages: Vec<Message>,
    /// What to pass as `from` to go on; null if nothing can follow (backward, at the beginning).
    #[schema(required = true)]
    pub next: Option<i64>,
    /// True: nothing followed when this page was read.
    pub at_end: bool,
    /// The position of the stream's last message, -1 for an empty stream: the `expected_version` of a next append.
    ///
    /// A page that a cache has kept has the version of when it was read: if it is not `at_end`, read on for the present one.
    #[schema(minimum = -1)]
    pub version: i64,
    /// Only if the request had one: what to pass as `cursor` with `next`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    pub cursor: Option<i64>,
}

/// A page of a category or of all messages.
#[derive(Serialize, ToSchema)]
pub struct Page {
    pub messages: Vec<Message>,
    /// What to pass as `from` to go on; null where nothing can follow (backward, at the beginning).
    #[schema(required = true)]
    pub next: Option<i64>,
    /// True: nothing followed when this page was read.
    pub at_end: bool,
    /// Only if the request had one: what to pass as `cursor` with `next`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    pub cursor: Option<i64>,
}

/// The body of a page. The JSON of messages is put in as it is, never parsed and printed again.
pub fn page_body(page: &PageRead, version: Option<i64>, interval: Option<Interval>) -> Bytes {
    let size: usize = page.messages.iter().map(|message| message.json().len() + 1).sum();
    let mut body = Vec::with_capacity(size + 80);
    body.extend_from_slice(b"{\"messages\":[");
    for (at, message) in page.messages.iter().enumerate() {
        if at > 0 {
            body.push(b',');
        }
        body.extend_from_slice(message.json());
    }
    let next = page.next.map_or_else(|| "null".to_owned(), |next| next.to_string());
    body.extend_from_slice(format!("],\"next\":{next},\"at_end\":{}", page.at_end).as_bytes());
    if let Some(version) = version {
        body.extend_from_slice(format!(",\"version\":{version}").as_bytes());
    }
    if let Some(interval) = interval {
        body.extend_from_slice(format!(",\"cursor\":{}", interval.next(page.messages.is_empty())).as_bytes());
    }
    body.push(b'}');
    body.into()
}
