//! The wire format of event streams: frames of server-sent events, or lines of JSON.

use std::fmt::Write;
use std::time::Duration;

use axum::http::{HeaderMap, header};
use bytes::BytesMut;
use serde::Serialize;

use crate::domain::event_id::EventId;
use crate::domain::keyed::KeyPlace;
use crate::domain::message::{Message, push_json_string};
use crate::service::log::Entry;
use crate::service::subscriptions::Delivery;

/// The format in which events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wire {
    /// `text/event-stream`, as browsers read it.
    EventStream,
    /// `application/x-ndjson`: one object a line.
    Ndjson,
}

impl Wire {
    /// The format that the client accepts: lines, if it names them and would not rather have the other one.
    pub fn accepted(headers: &HeaderMap) -> Self {
        let lines = Wire::Ndjson.quality(headers);
        match lines > 0.0 && lines >= Wire::EventStream.quality(headers) {
            true => Wire::Ndjson,
            false => Wire::EventStream,
        }
    }

    /// How much the client wants this format, from 0 to 1; 0 if it does not name it.
    fn quality(self, headers: &HeaderMap) -> f32 {
        let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let qualities = accepted.flat_map(|value| value.split(',')).filter_map(|range| {
            let (media_type, parameters) = range.split_once(';').unwrap_or((range, ""));
            media_type.trim().eq_ignore_ascii_case(self.media_type()).then_some(())?;
            let parameters = parameters.split(';').filter_map(|parameter| parameter.split_once('='));
            let mut given = parameters.filter(|(name, _)| name.trim().eq_ignore_ascii_case("q"));
            given.next().map_or(Some(1.0), |(_, quality)| quality.trim().parse().ok())
        });
        qualities.fold(0.0, f32::max)
    }

    fn media_type(self) -> &'static str {
        match self {
            Wire::EventStream => "text/event-stream",
            Wire::Ndjson => "application/x-ndjson",
        }
    }
}

/// The names of events that are no messages: the service's own, and those of `EventSource`. A message is not named as one
/// of them is: whoever may append could tell followers that their stream ends.
const OTHER_EVENTS: [&str; 8] =
    ["caught-up", "trimmed", "fell-behind", "heartbeat", "closing", "progress", "error", "open"];

/// Writes events into a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Frames {
    wire: Wire,
    named_by_type: bool,
}

impl Frames {
    pub fn new(wire: Wire, named_by_type: bool) -> Self {
        Self { wire, named_by_type }
    }

    pub fn media_type(self) -> &'static str {
        self.wire.media_type()
    }

    /// A message of a log. Its JSON text is put in as it is: it has no raw newline, so it is one line. A message of an
    /// aggregated stream is put into an object with its partition and position.
    pub fn entry(self, out: &mut BytesMut, entry: &Entry) {
        self.entry_with(out, entry, Some(entry.id));
    }

    /// The newest message of a stream, without an id: a client that comes back has not seen what is before it.
    pub fn latest(self, out: &mut BytesMut, entry: &Entry) {
        self.entry_with(out, entry, None);
    }

    fn entry_with(self, out: &mut BytesMut, entry: &Entry, id: Option<EventId>) {
        let message = &*entry.message;
        out.reserve(message.json().len() + message.message_type.len() + 160);
        self.head(out, self.name(message), id);
        let Some(link) = &entry.link else {
            out.extend_from_slice(message.json());
            return self.end(out);
        };
        let mut place = String::from("{\"aggregated_stream\":");
        push_json_string(&mut place, &link.aggregated_stream);
        let _ = write!(place, ",\"partition\":{},\"position\":{}", link.partition, link.position);
        if let Some(keys) = &link.keys {
            push_keys(&mut place, keys);
        }
        place.push_str(",\"message\":");
        out.extend_from_slice(place.as_bytes());
        out.extend_from_slice(message.json());
        out.extend_from_slice(b"}");
        self.end(out);
    }

    /// A message of a subscription, in an object with its partition, position and epoch. The event has no id, because the
    /// service keeps the cursor.
    pub fn delivery(self, out: &mut BytesMut, delivery: &Delivery) {
        out.reserve(delivery.message.json().len() + 200);
        self.head(out, "message", None);
        push_delivery(out, delivery);
        self.end(out);
    }

    /// Another event.
    pub fn event(self, out: &mut BytesMut, name: &str, id: Option<EventId>, data: &impl Serialize) {
        self.head(out, name, id);
        out.extend_from_slice(&serde_json::to_vec(data).unwrap_or_else(|_| b"null".to_vec()));
        self.end(out);
    }

    /// Moves the client's cursor on without an event.
    pub fn progress(self, out: &mut BytesMut, id: EventId) {
        // Writing to a BytesMut cannot fail.
        let _ = match self.wire {
            Wire::EventStream => write!(out, "id: {id}\n\n"),
            Wire::Ndjson => writeln!(out, r#"{{"event":"progress","id":"{id}","data":null}}"#),
        };
    }

    /// How long a client is to wait before it connects again. NDJSON has no such line.
    pub fn retry(self, out: &mut BytesMut, delay: Duration) {
        if self.wire == Wire::EventStream {
            let _ = write!(out, "retry: {}\n\n", delay.as_millis());
        }
    }

    fn name(self, message: &Message) -> &str {
        if self.named_by_type && !OTHER_EVENTS.contains(&&*message.message_type) {
            &message.message_type
        } else {
            "message"
        }
    }

    fn head(self, out: &mut BytesMut, name: &str, id: Option<EventId>) {
        match self.wire {
            Wire::EventStream => {
                if let Some(id) = id {
                    let _ = writeln!(out, "id: {id}");
                }
                out.extend_from_slice(b"event: ");
                // A type that was written in SQL may have a line break, which would end the field.
                if name.contains(['\r', '\n']) {
                    out.extend_from_slice(name.replace(['\r', '\n'], " ").as_bytes());
                } else {
                    out.extend_from_slice(name.as_bytes());
                }
                out.extend_from_slice(b"\ndata: ");
            }
            Wire::Ndjson => {
                let mut head = String::from("{\"event\":");
                push_json_string(&mut head, name);
                let _ = match id {
                    Some(id) => write!(head, ",\"id\":\"{id}\",\"data\":"),
                    None => write!(head, ",\"id\":null,\"data\":"),
                };
                out.extend_from_slice(head.as_bytes());
            }
        }
    }

    fn end(self, out: &mut BytesMut) {
        out.extend_from_slice(match self.wire {
            Wire::EventStream => b"\n\n",
            Wire::Ndjson => b"}\n",
        });
    }
}

/// The field `keys`: all places that a keyed aggregated stream has given to a message.
fn push_keys(out: &mut String, places: &[KeyPlace]) {
    out.push_str(",\"keys\":[");
    for (at, KeyPlace { key, partition, position }) in places.iter().enumerate() {
        out.push_str(if at > 0 { ",{\"key\":" } else { "{\"key\":" });
        push_json_string(out, key);
        // Writing to a String cannot fail.
        let _ = write!(out, ",\"partition\":{partition},\"position\":{position}}}");
    }
    out.push(']');
}

/// A delivered message as one JSON object, around the message's text.
pub fn push_delivery(out: &mut BytesMut, delivery: &Delivery) {
    let Delivery { partition, position, epoch, delivery_count, message } = delivery;
    // Writing to a BytesMut cannot fail.
    let _ = write!(
        out,
        "{{\"partition\":{partition},\"position\":{position},\"epoch\":{epoch},\"delivery_count\":{delivery_count},\"message\":"
    );
    out.extend_from_slice(message.json());
    out.extend_from_slice(b"}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::message::MessageParts;

    #[test]
    fn the_script_of_browsers_knows_the_same_names() {
        let names = OTHER_EVENTS.map(|name| format!("'{name}'")).join(", ");
        let list = format!("const OTHER_EVENTS = [{names}]\n");
        assert!(include_str!("../../console/headwater.js").contains(&list), "{list}");
    }

    fn entry(id: i64, message_type: &str) -> Entry {
        let message = Message::new(MessageParts {
            message_type,
            global_position: 7,
            data: Some(r#"{"n": 1}"#),
            ..MessageParts::EXAMPLE
        });
        Entry { id: id.into(), ..Entry::of(message.into(), false) }
    }

    fn text(write: impl Fn(&mut BytesMut)) -> String {
        let mut out = BytesMut::new();
        write(&mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn lines_are_written_to_clients_that_would_rather_have_them() {
        for (accepted, wire) in [
            (&[][..], Wire::EventStream),
            (&["*/*"], Wire::EventStream),
            (&["text/event-stream"], Wire::EventStream),
            (&["application/x-ndjson"], Wire::Ndjson),
            (&["Application/X-NDJSON; charset=utf-8; Q=0.5"], Wire::Ndjson),
            (&["text/event-stream, application/x-ndjson"], Wire::Ndjson),
            (&["text/event-stream", "application/x-ndjson"], Wire::Ndjson),
            (&["text/event-stream;q=0.5, application/x-ndjson;q=0.8, */*;q=0.1"], Wire::Ndjson),
            (&["application/x-ndjson;q=0"], Wire::EventStream),
            (&["application/x-ndjson; q=0.000"], Wire::EventStream),
            (&["text/event-stream, application/x-ndjson;q=0.1"], Wire::EventStream),
            (&["application/x-ndjson-seq"], Wire::EventStream),
            (&["application/x-ndjson;q=NaN", "application/x-ndjson;q=some"], Wire::EventStream),
        ] {
            let mut headers = HeaderMap::new();
            for value in accepted {
                headers.append(header::ACCEPT, value.parse().unwrap());
            }
            assert_eq!(Wire::accepted(&headers), wire, "{accepted:?}");
        }
    }

    #[test]
    fn a_message_is_one_frame_with_its_cursor() {
        let entry = entry(7, "Deposited");
        let json = std::str::from_utf8(entry.message.json()).unwrap();
        let frames = Frames::new(Wire::EventStream, false);
        assert_eq!(text(|out| frames.entry(out, &entry)), format!("id: 7\nevent: message\ndata: {json}\n\n"));
        let named = Frames::new(Wire::EventStream, true);
        assert_eq!(text(|out| named.entry(out, &entry)), format!("id: 7\nevent: Deposited\ndata: {json}\n\n"));
        let lines = Frames::new(Wire::Ndjson, false);
        assert_eq!(
            text(|out| lines.entry(out, &entry)),
            format!("{{\"event\":\"message\",\"id\":\"7\",\"data\":{json}}}\n")
        );
    }

    #[test]
    fn a_type_cannot_break_out_of_its_field() {
        let frames = Frames::new(Wire::EventStream, true);
        assert!(text(|out| frames.entry(out, &entry(1, "a\ndata: x"))).starts_with("id: 1\nevent: a data: x\ndata: {"));
        let lines = Frames::new(Wire::Ndjson, true);
        assert!(text(|out| lines.entry(out, &entry(1, "a\n\"b"))).starts_with(r#"{"event":"a\u000a\"b","id":"1""#));
    }

    #[test]
    fn progress_moves_the_cursor_without_an_event() {
        assert_eq!(text(|out| Frames::new(Wire::EventStream, false).progress(out, 9.into())), "id: 9\n\n");
    }
}
