//! A message as `headwater export` writes it and `headwater import` reads it: a line of NDJSON.

use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::json_text::{self, JsonTextError};
use super::message::{Message, push_json_string};
use super::time::Timestamp;

/// The room for messages that come after an import.
const POSITIONS_LEFT: i64 = 1 << 48;
/// The highest position that is taken, in a stream and in the whole log.
const POSITION_MAX: i64 = i64::MAX - POSITIONS_LEFT;

/// A message of a line, with everything that is stored of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportedMessage {
    /// As in [`Message`].
    pub id: Uuid,
    /// As in [`Message`].
    pub stream_name: String,
    /// As in [`Message`].
    pub message_type: String,
    /// As in [`Message`].
    pub position: i64,
    /// As in [`Message`].
    pub global_position: i64,
    /// JSON; `None` is SQL's NULL, for which the line has no such field.
    pub data: Option<String>,
    /// The same for `metadata`.
    pub metadata: Option<String>,
    /// As in [`Message`].
    pub time: Timestamp,
    /// `None`: its data and metadata were not erased.
    pub erased: Option<ExportedErasure>,
}

/// When and why data and metadata were erased.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportedErasure {
    /// By the clock of the database where it was done.
    pub at: Timestamp,
    /// The reason that was given.
    pub reason: Option<String>,
}

/// The rule that a line breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// No JSON, or not the fields of a message.
    #[error("not a message: {reason}")]
    NotAMessage {
        /// What the parser says.
        reason: String,
    },
    /// A field has a value that it must not have.
    #[error("{field} {rule}")]
    Field {
        /// The field's name.
        field: &'static str,
        /// The rule that it breaks.
        rule: String,
    },
}

/// The fields as they are written. An unknown one is refused: what it means would be lost.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields<'a> {
    id: Uuid,
    stream_name: String,
    r#type: String,
    position: i64,
    global_position: i64,
    #[serde(borrow, default, deserialize_with = "given")]
    data: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "given")]
    metadata: Option<&'a RawValue>,
    time: TimeField,
    #[serde(default)]
    erased: Option<ErasedField>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ErasedField {
    at: String,
    #[serde(default)]
    reason: Option<String>,
}

/// A time outside the years that RFC 3339 can write is a number of microseconds.
#[derive(Deserialize)]
#[serde(untagged)]
enum TimeField {
    Text(String),
    Micros(i64),
}

/// A field that is there has a value, if only `null`.
fn given<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Appends a message as a line. Unlike the JSON that clients get, the line tells SQL's NULL (no field) from JSON's `null`.
pub fn write_line(message: &Message, out: &mut String) {
    use std::fmt::Write;
    // Writing to a String cannot fail.
    let _ = write!(out, "{{\"id\":\"{}\",\"stream_name\":", message.id.hyphenated());
    push_json_string(out, &message.stream_name);
    out.push_str(",\"type\":");
    push_json_string(out, &message.message_type);
    let _ = write!(out, ",\"position\":{},\"global_position\":{}", message.position, message.global_position);
    for (name, value) in [("data", message.stored_data()), ("metadata", message.stored_metadata())] {
        if let Some(value) = value {
            let _ = write!(out, ",\"{name}\":{value}");
        }
    }
    out.push_str(",\"time\":");
    match message.time.is_rfc3339() {
        true => {
            out.push('"');
            message.time.write_rfc3339(out);
            out.push('"');
        }
        false => {
            let _ = write!(out, "{}", message.time.0);
        }
    }
    if let Some(erasure) = message.erasure() {
        let _ = write!(out, ",\"erased\":{erasure}");
    }
    out.push_str("}\n");
}

impl ExportedMessage {
    /// Reads a line.
    pub fn parse(line: &str) -> Result<Self, LineError> {
        let fields: Fields<'_> =
            serde_json::from_str(line).map_err(|error| LineError::NotAMessage { reason: reason_of(&error) })?;
        let time = match fields.time {
            TimeField::Micros(micros) => Timestamp(micros),
            TimeField::Text(text) => Timestamp::parse_rfc3339(&text)
                .ok_or_else(|| field("time", "must be RFC 3339, or microseconds since 1970"))?,
        };
        for (name, text) in [("stream_name", &fields.stream_name), ("type", &fields.r#type)] {
            if text.contains('\0') {
                return Err(field(name, "must not contain the character U+0000: PostgreSQL cannot store it"));
            }
        }
        if fields.position < 0 {
            return Err(field("position", "must be 0 or more"));
        }
        if fields.global_position < 1 {
            return Err(field("global_position", "must be 1 or more"));
        }
        for (name, position) in [("position", fields.position), ("global_position", fields.global_position)] {
            if position > POSITION_MAX {
                return Err(field(
                    name,
                    format!("must be at most {POSITION_MAX}: what comes after it needs positions too"),
                ));
            }
        }
        if fields.erased.is_some() && (fields.data.is_some() || fields.metadata.is_some()) {
            return Err(field("erased", "must not be there beside data or metadata"));
        }
        Ok(Self {
            id: fields.id,
            stream_name: fields.stream_name,
            message_type: fields.r#type,
            position: fields.position,
            global_position: fields.global_position,
            data: checked("data", fields.data)?,
            metadata: checked("metadata", fields.metadata)?,
            time,
            erased: fields.erased.map(ExportedErasure::parse).transpose()?,
        })
    }

    /// Roughly what it takes in memory, in bytes.
    pub fn memory_bytes(&self) -> usize {
        let json = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        size_of::<Self>() + self.stream_name.len() + self.message_type.len() + json(&self.data) + json(&self.metadata)
    }
}

impl ExportedErasure {
    fn parse(erased: ErasedField) -> Result<Self, LineError> {
        if erased.reason.as_ref().is_some_and(|reason| reason.contains('\0')) {
            return Err(field("erased.reason", "must not contain the character U+0000: PostgreSQL cannot store it"));
        }
        let at = Timestamp::parse_rfc3339(&erased.at).ok_or_else(|| field("erased.at", "must be RFC 3339"))?;
        Ok(Self { at, reason: erased.reason })
    }
}

/// The parser counts lines from the beginning of the text, which is one line of many.
fn reason_of(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    match text.strip_suffix(&place) {
        Some(reason) => format!("{reason} (at character {})", error.column()),
        None => text,
    }
}

fn field(field: &'static str, rule: impl Into<String>) -> LineError {
    LineError::Field { field, rule: rule.into() }
}

/// What other programs have stored may nest deeper, and have longer numbers, than the service takes: PostgreSQL decides.
fn checked(name: &'static str, json: Option<&RawValue>) -> Result<Option<String>, LineError> {
    let Some(json) = json else { return Ok(None) };
    match json_text::check(json.get()) {
        Err(error @ (JsonTextError::NulCharacter { .. } | JsonTextError::LoneSurrogate { .. })) => {
            Err(field(name, error.to_string()))
        }
        Ok(_) | Err(JsonTextError::TooDeep { .. } | JsonTextError::NumberTooLong { .. }) => {
            Ok(Some(json.get().to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::message::MessageParts;

    const LINE: &str = r#"{"id":"00000000-0000-0000-0000-000000000007","stream_name":"a-1","type":"T","position":3,"global_position":9,"data":{"n": 1.50},"time":"2026-11-20T12:00:00.123456Z"}"#;

    fn message<'a>(data: Option<&'a str>, metadata: Option<&'a str>, time: Timestamp) -> Message {
        let (id, stream_name) = (Uuid::from_u128(7), "a-1");
        let (message_type, position, global_position) = ("T", 3, 9);
        Message::new(MessageParts {
            id,
            stream_name,
            message_type,
            position,
            global_position,
            data,
            metadata,
            time,
            ..MessageParts::EXAMPLE
        })
    }

    fn line(message: &Message) -> String {
        let mut line = String::new();
        write_line(message, &mut line);
        line
    }

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let time = Timestamp::parse_rfc3339("2026-11-20T12:00:00.123456Z").unwrap();
        assert_eq!(line(&message(Some(r#"{"n": 1.50}"#), None, time)), format!("{LINE}\n"));
        for data in [None, Some("null"), Some("\"\\u0001 \\\" é\""), Some("1e400")] {
            for metadata in [None, Some("null"), Some("{}")] {
                for time in [time, Timestamp(i64::MAX), Timestamp(-62_135_596_800_000_001), Timestamp(0)] {
                    let read = ExportedMessage::parse(&line(&message(data, metadata, time))).unwrap();
                    assert_eq!((read.data.as_deref(), read.metadata.as_deref(), read.time), (data, metadata, time));
                }
            }
        }
    }

    #[test]
    fn an_erasure_is_read_as_it_was_written() {
        let erased =
            message(Some("1"), None, Timestamp(0)).erased(r#"{"at": "2026-11-20T12:00:00.000000Z", "reason": "é"}"#);
        let read = ExportedMessage::parse(&line(&erased)).unwrap();
        assert_eq!((read.data, read.erased.unwrap().reason.as_deref()), (None, Some("é")));
        for (from, to, part) in [
            ("\"time\"", "\"data\":1,\"time\"", "erased must not be there beside data"),
            ("2026-11", "2026-13", "erased.at must be RFC 3339"),
            ("reason", "because", "unknown field"),
            ("\"é\"", "\"\\u0000\"", "erased.reason must not contain"),
        ] {
            let text = ExportedMessage::parse(&line(&erased).replacen(from, to, 1)).unwrap_err().to_string();
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn what_is_no_message_is_refused_with_the_field_and_the_rule() {
        for (from, to, parts) in [
            ("\"type\":\"T\",", "", ["missing field", "type"]),
            ("\"type\"", "\"typ\"", ["unknown field", "typ"]),
            ("\"type\"", "\"id\"", ["duplicate field", "id"]),
            (":3,", ":-1,", ["position", "0 or more"]),
            (":3,", ":9223372036854775808,", ["not a message", "9223372036854775808"]),
            (":9,", ":0,", ["global_position", "1 or more"]),
            (":9,", ":9223372036854775807,", ["global_position", "at most"]),
            (":3,", ":9223372036854775807,", ["position", "at most"]),
            (":9,", ":\"9\",", ["not a message", "i64"]),
            ("2026-11-20T12:00:00.123456Z", "yesterday", ["time", "RFC 3339"]),
            ("1.50", "\"\\u0000\"", ["data", "U+0000"]),
            ("1.50", "\"\\ud800\"", ["data", "surrogate"]),
            ("1.50", "1.5.0", ["not a message", "character"]),
            ("a-1", "a\\u0000", ["stream_name", "U+0000"]),
            ("0007", "000x", ["not a message", "id"]),
            ("{\"id\"", "[{\"id\"", ["not a message", "character"]),
        ] {
            let text = ExportedMessage::parse(&LINE.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(parts.iter().all(|part| text.contains(part)), "{from} -> {to}: {text}");
        }
    }
}
