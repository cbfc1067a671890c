//! What a file has said so far, for a check that writes nothing: an import refuses an id that comes twice, and a stream that
//! goes back.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use crate::domain::exported_message::ExportedMessage;

/// So many ids are remembered, and as many streams: some 350 MB for both. What comes after them is compared with them only.
const REMEMBERED_MAX: usize = 7_000_000;

/// The message of the batch (from 0) that an import would refuse, and why.
pub type Refusal = (usize, String);

/// Ids and ends of streams, as far as they are remembered.
pub struct Seen {
    remembered_max: usize,
    ids: HashSet<Uuid>,
    /// By names, which may be long, as hashes of 128 bits.
    ends: HashMap<Uuid, i64>,
}

impl Default for Seen {
    fn default() -> Self {
        Self { remembered_max: REMEMBERED_MAX, ids: HashSet::new(), ends: HashMap::new() }
    }
}

impl Seen {
    /// Takes a batch in, unless it does not go with what came before. `new`: which of its messages the store does not have.
    pub fn take(&mut self, batch: &[ExportedMessage], new: &[usize]) -> Result<(), Refusal> {
        for (nth, message) in batch.iter().enumerate() {
            if self.ids.contains(&message.id) {
                return Err((nth, format!("the id {} is that of a message before it", message.id)));
            }
            if self.ids.len() < self.remembered_max {
                self.ids.insert(message.id);
            }
        }
        for nth in new {
            let ExportedMessage { stream_name, position, .. } = &batch[*nth];
            let stream = Uuid::new_v5(&Uuid::NAMESPACE_URL, stream_name.as_bytes());
            let is_full = self.ends.len() >= self.remembered_max;
            match self.ends.get_mut(&stream) {
                Some(end) if *end >= *position => return Err((*nth, taken(stream_name, *position, *end))),
                Some(end) => *end = *position,
                None if is_full => {}
                None => {
                    self.ends.insert(stream, *position);
                }
            }
        }
        Ok(())
    }
}

/// Why a position of a stream cannot be had.
pub fn taken(stream_name: &str, position: i64, version: i64) -> String {
    format!("position {position} of stream {stream_name} is not free: before this message, its version is {version}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::Timestamp;

    fn message(id: u128, stream_name: &str, position: i64) -> ExportedMessage {
        ExportedMessage {
            id: Uuid::from_u128(id),
            stream_name: stream_name.into(),
            message_type: "T".into(),
            position,
            global_position: 1,
            data: None,
            metadata: None,
            time: Timestamp(0),
            erased: None,
        }
    }

    #[test]
    fn what_came_before_is_remembered_over_batches() {
        let mut seen = Seen::default();
        seen.take(&[message(1, "a-1", 0), message(2, "a-1", 2)], &[0, 1]).unwrap();
        assert_eq!(seen.take(&[message(3, "a-1", 3), message(2, "a-1", 4)], &[0, 1]).unwrap_err().0, 1);
        let (nth, reason) = seen.take(&[message(4, "a-2", 0), message(5, "a-1", 2)], &[0, 1]).unwrap_err();
        assert!(nth == 1 && reason.contains("position 2 of stream a-1 is not free"), "{reason}");
        // What the store has was judged by the store.
        seen.take(&[message(6, "a-1", 1)], &[]).unwrap();
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut seen = Seen { remembered_max: 1, ..Seen::default() };
        seen.take(&[message(1, "a-1", 0), message(2, "a-2", 0)], &[0, 1]).unwrap();
        assert!(seen.take(&[message(1, "a-3", 0)], &[0]).is_err());
        assert!(seen.take(&[message(3, "a-1", 0)], &[0]).is_err());
        seen.take(&[message(2, "a-2", 0)], &[0]).unwrap();
        assert_eq!((seen.ids.len(), seen.ends.len()), (1, 1));
    }
}
