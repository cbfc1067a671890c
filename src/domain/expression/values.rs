//! `data` and `metadata` of a message as expressions see them: read once for all expressions that ask at about the same time.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Weak};

use cel::Value;
use cel::objects::{Key, Map};
use parking_lot::Mutex;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::domain::message::Message;

/// Values are kept for the last messages whose texts have so many bytes together. Values take several times as much as
/// their text, of many small ones twenty times; a message that waits in a cache for hours is not to have them all that time.
/// Several batches of what followers are handed at once; more would be out of the processor's caches when it is freed.
const KEPT_TEXT_BYTES_MAX: usize = 256 << 10;

/// `data` and `metadata` of one message as CEL values.
pub struct MessageValues {
    pub(super) data: Value,
    pub(super) metadata: Value,
}

/// Where a message finds its values again, as long as they are kept.
#[derive(Default)]
pub struct ValuesOnce(Mutex<Weak<MessageValues>>);

impl ValuesOnce {
    /// The values of the message that this belongs to.
    pub fn of(&self, message: &Message) -> Arc<MessageValues> {
        let mut found = self.0.lock();
        if let Some(values) = found.upgrade() {
            return values;
        }
        let values = Arc::new(MessageValues::read(message));
        *found = Arc::downgrade(&values);
        drop(found);
        Kept::keep(values.clone(), message.data().len() + message.metadata().len());
        values
    }
}

impl fmt::Debug for ValuesOnce {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ValuesOnce")
    }
}

/// The values that were read last, with the bytes of their texts.
struct Kept {
    values: VecDeque<(Arc<MessageValues>, usize)>,
    text_bytes: usize,
}

static KEPT: Mutex<Kept> = Mutex::new(Kept { values: VecDeque::new(), text_bytes: 0 });

impl Kept {
    fn keep(values: Arc<MessageValues>, text_bytes: usize) {
        let mut gone = Vec::new();
        let mut kept = KEPT.lock();
        kept.values.push_back((values, text_bytes));
        kept.text_bytes += text_bytes;
        while kept.text_bytes > KEPT_TEXT_BYTES_MAX {
            let Some((values, text_bytes)) = kept.values.pop_front() else { break };
            kept.text_bytes -= text_bytes;
            gone.push(values);
        }
        // Large ones take a while to go: not while others wait for the lock.
        drop(kept);
        drop(gone);
    }
}

impl MessageValues {
    /// Reads `data` and `metadata`. JSON that is nested deeper than serde_json reads (128 levels) is null.
    pub fn read(message: &Message) -> Self {
        Self { data: read_json(message.data()), metadata: read_json(message.metadata()) }
    }
}

fn read_json(text: &str) -> Value {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    CelValue.deserialize(&mut deserializer).unwrap_or(Value::Null)
}

/// Reads JSON straight into CEL values. An integer is an `int` wherever it fits one, so that `data.num % 3` works for
/// every JSON integer; the crate's own conversion makes unsigned ones of some.
struct CelValue;

impl<'de> DeserializeSeed<'de> for CelValue {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for CelValue {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or(Value::UInt(value), Value::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(CelValue)? {
            list.push(item);
        }
        Ok(Value::List(Arc::new(list)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = HashMap::new();
        while let Some(key) = entries.next_key::<String>()? {
            map.insert(Key::String(Arc::new(key)), entries.next_value_seed(CelValue)?);
        }
        Ok(Value::Map(Map { map: Arc::new(map) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::message::MessageParts;

    fn message(data: &str) -> Message {
        Message::new(MessageParts { data: Some(data), ..MessageParts::EXAMPLE })
    }

    #[test]
    fn values_are_read_once_and_go_when_others_come() {
        let message = message(r#"{"n": 1}"#);
        let first = {
            let first = message.values();
            assert!(Arc::ptr_eq(&first, &message.values()));
            Arc::downgrade(&first)
        };
        let large = self::message(&format!("\"{}\"", "x".repeat(KEPT_TEXT_BYTES_MAX)));
        assert!(matches!(&large.values().data, Value::String(text) if text.len() == KEPT_TEXT_BYTES_MAX));
        assert!(first.upgrade().is_none(), "what takes memory is not kept beyond its bound");
        let single = Arc::downgrade(&large.values());
        assert!(single.upgrade().is_none(), "nor is a single one that is larger than that");
        assert!(matches!(&message.values().data, Value::Map(_)), "they are read again");
    }
}
