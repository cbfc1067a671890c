//! A stored message, with its JSON text made once and shared by all readers.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use super::expression::{MessageValues, ValuesOnce};
use super::stream_name::category;
use super::time::Timestamp;

/// A stored message. Its JSON is written once, around `data` and `metadata` exactly as PostgreSQL printed them.
#[derive(Debug)]
pub struct Message {
    /// The stream that it is in.
    pub stream_name: Box<str>,
    /// The type that its writer gave it.
    pub message_type: Box<str>,
    /// Counts from 0 in its stream.
    pub position: i64,
    /// Counts from 1 over the whole store, with holes.
    pub global_position: i64,
    /// When it was written, or the time that its writer gave it.
    pub time: Timestamp,
    /// Unique in the whole store.
    pub id: Uuid,
    /// Its data and metadata were erased.
    pub is_erased: bool,
    json: Bytes,
    data: Range<usize>,
    metadata: Range<usize>,
    erasure: Range<usize>,
    /// Whether `data` and `metadata` are stored, or NULL.
    is_stored: (bool, bool),
    values: ValuesOnce,
}

/// The columns of a message, borrowed from a row or from the request that wrote it.
pub struct MessageParts<'a> {
    /// As in [`Message`].
    pub id: Uuid,
    /// As in [`Message`].
    pub stream_name: &'a str,
    /// As in [`Message`].
    pub message_type: &'a str,
    /// As in [`Message`].
    pub position: i64,
    /// As in [`Message`].
    pub global_position: i64,
    /// jsonb as PostgreSQL prints it; `None` is SQL's NULL, which reads as `null`.
    pub data: Option<&'a str>,
    /// The same for `metadata`.
    pub metadata: Option<&'a str>,
    /// As in [`Message`].
    pub time: Timestamp,
    /// When and why its data and metadata were erased, as JSON text; `None`: they were not.
    pub erased: Option<&'a str>,
}

#[cfg(test)]
impl MessageParts<'_> {
    /// For tests: each changes what it is about.
    pub const EXAMPLE: Self = Self {
        id: Uuid::nil(),
        stream_name: "a-1",
        message_type: "T",
        position: 0,
        global_position: 1,
        data: Some("{}"),
        metadata: None,
        time: Timestamp(0),
        erased: None,
    };
}

impl Message {
    /// Writes the message's JSON.
    pub fn new(parts: MessageParts<'_>) -> Self {
        let is_stored = (parts.data.is_some(), parts.metadata.is_some());
        let data = parts.data.unwrap_or("null");
        let metadata = parts.metadata.unwrap_or("null");
        let names = parts.stream_name.len() + parts.message_type.len();
        let mut json = String::with_capacity(200 + names + data.len() + metadata.len());
        json.push_str("{\"id\":\"");
        json.push_str(parts.id.hyphenated().encode_lower(&mut Uuid::encode_buffer()));
        json.push_str("\",\"stream_name\":");
        push_json_string(&mut json, parts.stream_name);
        json.push_str(",\"type\":");
        push_json_string(&mut json, parts.message_type);
        json.push_str(",\"position\":");
        push_integer(&mut json, parts.position);
        json.push_str(",\"global_position\":");
        push_integer(&mut json, parts.global_position);
        json.push_str(",\"data\":");
        let data = push_range(&mut json, data);
        json.push_str(",\"metadata\":");
        let metadata = push_range(&mut json, metadata);
        json.push_str(",\"time\":\"");
        parts.time.write_rfc3339(&mut json);
        json.push('"');
        let mut erasure = 0..0;
        if let Some(erased) = parts.erased {
            json.push_str(",\"erased\":");
            erasure = push_range(&mut json, erased);
        }
        json.push('}');
        Self {
            stream_name: parts.stream_name.into(),
            message_type: parts.message_type.into(),
            position: parts.position,
            global_position: parts.global_position,
            time: parts.time,
            id: parts.id,
            is_erased: parts.erased.is_some(),
            json: Bytes::from(json),
            data,
            metadata,
            erasure,
            is_stored,
            values: ValuesOnce::default(),
        }
    }

    /// The message as one JSON object, without a raw newline in it.
    pub fn json(&self) -> &Bytes {
        &self.json
    }

    /// `data` as PostgreSQL prints it; `null` where it is NULL.
    pub fn data(&self) -> &str {
        self.slice(&self.data)
    }

    /// `metadata` as PostgreSQL prints it; `null` where it is NULL.
    pub fn metadata(&self) -> &str {
        self.slice(&self.metadata)
    }

    /// `data` as PostgreSQL prints it; `None` where it is SQL's NULL.
    pub fn stored_data(&self) -> Option<&str> {
        self.is_stored.0.then(|| self.data())
    }

    /// `metadata` as PostgreSQL prints it; `None` where it is SQL's NULL.
    pub fn stored_metadata(&self) -> Option<&str> {
        self.is_stored.1.then(|| self.metadata())
    }

    /// When and why its data and metadata were erased, as JSON text; `None`: they were not.
    pub fn erasure(&self) -> Option<&str> {
        self.is_erased.then(|| self.slice(&self.erasure))
    }

    /// The category of its stream.
    pub fn category(&self) -> &str {
        category(&self.stream_name)
    }

    /// What expressions see of this message.
    pub fn values(&self) -> Arc<MessageValues> {
        self.values.of(self)
    }

    /// The message as it is after its erasure, of which the JSON text says when and why.
    pub fn erased(&self, erasure: &str) -> Self {
        Self::new(MessageParts {
            id: self.id,
            stream_name: &self.stream_name,
            message_type: &self.message_type,
            position: self.position,
            global_position: self.global_position,
            data: None,
            metadata: None,
            time: self.time,
            erased: Some(erasure),
        })
    }

    /// Roughly what this message takes in memory, in bytes.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.json.len() + self.stream_name.len() + self.message_type.len()
    }

    fn slice(&self, range: &Range<usize>) -> &str {
        // The range was cut out of a `String` at the borders of another one.
        std::str::from_utf8(&self.json[range.clone()]).unwrap_or("null")
    }
}

/// Appends `text` as a JSON string, quotes included.
pub fn push_json_string(out: &mut String, text: &str) {
    out.push('"');
    let mut plain_from = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.push_str(&text[plain_from..at]);
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            control => {
                out.push_str("\\u00");
                out.push(char::from(b'0' + (control >> 4)));
                out.push(char::from_digit(u32::from(control & 15), 16).unwrap_or('0'));
            }
        }
        plain_from = at + 1;
    }
    out.push_str(&text[plain_from..]);
    out.push('"');
}

fn push_integer(out: &mut String, value: i64) {
    use std::fmt::Write;
    let _ = write!(out, "{value}"); // writing to a String cannot fail
}

fn push_range(out: &mut String, text: &str) -> Range<usize> {
    let start = out.len();
    out.push_str(text);
    start..out.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_and_metadata_pass_through_untouched() {
        let data = r#"{"n": 12345678901234567890.1234567890, "s": "é\n"}"#;
        let message = Message::new(MessageParts {
            stream_name: "it's \"q\"\\-1",
            global_position: 7,
            data: Some(data),
            time: Timestamp::parse_rfc3339("2026-11-20T12:00:00.123456Z").unwrap(),
            ..MessageParts::EXAMPLE
        });
        assert_eq!(message.data(), data);
        assert_eq!(message.metadata(), "null");
        assert_eq!(
            std::str::from_utf8(message.json()).unwrap(),
            format!(
                r#"{{"id":"00000000-0000-0000-0000-000000000000","stream_name":"it's \"q\"\\-1","type":"T","position":0,"global_position":7,"data":{data},"metadata":null,"time":"2026-11-20T12:00:00.123456Z"}}"#
            )
        );
    }

    #[test]
    fn an_erased_message_has_its_place_and_says_when_and_why() {
        let message = Message::new(MessageParts {
            position: 3,
            global_position: 7,
            data: Some(r#"{"secret": 1}"#),
            metadata: Some(r#"{"secret": 2}"#),
            ..MessageParts::EXAMPLE
        });
        let erased = message.erased(r#"{"at": "2026-11-20T12:00:00.000000Z", "reason": "asked for"}"#);
        assert!(erased.is_erased && !message.is_erased);
        let json: serde_json::Value = serde_json::from_slice(erased.json()).unwrap();
        assert_eq!((json["position"].as_i64(), json["global_position"].as_i64()), (Some(3), Some(7)));
        assert!(json["data"].is_null() && json["metadata"].is_null());
        assert_eq!(json["erased"]["reason"], "asked for");
    }

    #[test]
    fn strings_are_escaped_as_json_wants() {
        for text in ["", "plain", "a\"b\\c", "\u{1}\n\u{1f}", "日本 😀"] {
            let mut out = String::new();
            push_json_string(&mut out, text);
            assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text);
        }
    }
}
