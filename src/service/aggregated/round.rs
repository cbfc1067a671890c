//! One round of projecting: gives messages their partitions, as rows to write and as messages for followers.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::json;

use crate::domain::aggregated_stream::{AggregatedMessage, Aggregation, Placement};
use crate::domain::keyed::KeyPlace;
use crate::domain::message::Message;
use crate::domain::time::Timestamp;
use crate::store::projector::RoundRows;

/// How many characters of a projection's error are kept.
const REASON_CHARS_MAX: usize = 1_000;

/// A projection as the projector has it. The projector alone writes, so it knows each partition's next position.
#[derive(Debug)]
pub struct Projection {
    pub id: i64,
    pub aggregated_stream_id: i64,
    pub name: Arc<str>,
    pub aggregation: Arc<Aggregation>,
    /// Whether this is the projection that readers see, and not a rebuild.
    pub is_current: bool,
    /// How many messages each partition has that has any.
    pub message_counts: HashMap<i32, i64>,
}

/// What placing some messages gave.
#[derive(Debug, Default)]
pub struct Round {
    pub rows: RoundRows,
    /// The messages for the followers of each aggregated stream, in order.
    pub messages: HashMap<i64, Vec<AggregatedMessage>>,
    /// Messages of keyed projections that readers see, in the order of their links: those that wait for their places.
    keyed: Vec<Keyed>,
    /// Projections that cannot go on.
    pub stopped: Vec<Stopped>,
}

/// A message of a keyed projection. Its places are known once the round is written: keys are too many to count in memory.
#[derive(Debug)]
struct Keyed {
    aggregated_stream_id: i64,
    message: Arc<Message>,
    keys: Vec<Arc<str>>,
}

/// A projection that cannot go on.
#[derive(Debug)]
pub struct Stopped {
    pub projection_id: i64,
    pub aggregated_stream_id: i64,
    /// The global position before the message.
    pub position: i64,
    pub reason: String,
}

struct Counted {
    message_count: i64,
    last_global_position: i64,
    last_time: Timestamp,
}

impl Round {
    /// Places these messages, which are in global order, in each of these projections. The projections' counts go up with
    /// that: if the round is not written, they have to be read again.
    pub fn of<'a>(projections: impl IntoIterator<Item = &'a mut Projection>, messages: &[Arc<Message>]) -> Self {
        let mut round = Self::default();
        for projection in projections {
            round.project(projection, messages);
        }
        round
    }

    pub fn is_empty(&self) -> bool {
        self.messages_placed() == 0 && self.stopped.is_empty() && self.rows.failing_projections.is_empty()
    }

    /// How many places it gives to messages.
    pub fn messages_placed(&self) -> usize {
        self.rows.projections.len() + self.rows.keyed_projections.len()
    }

    /// Takes the partitions and positions of keyed links, in the order of these.
    pub fn number(&mut self, places: Vec<(i32, i64)>) {
        let mut places = places.into_iter();
        for Keyed { aggregated_stream_id, message, keys } in std::mem::take(&mut self.keyed) {
            let place = |(key, (partition, position))| KeyPlace { key, partition, position };
            let mut keys: Vec<KeyPlace> = keys.into_iter().zip(places.by_ref()).map(place).collect();
            keys.sort_unstable_by_key(|place| place.partition);
            let Some(&KeyPlace { partition, position, .. }) = keys.first() else { continue };
            let one = AggregatedMessage { partition, position, keys: Some(keys.into()), message };
            self.messages.entry(aggregated_stream_id).or_default().push(one);
        }
    }

    fn project(&mut self, projection: &mut Projection, messages: &[Arc<Message>]) {
        let mut counted: HashMap<i32, Counted> = HashMap::new();
        let (mut skipped, mut substituted) = (0, 0);
        for message in messages {
            let partition = match projection.aggregation.place(message) {
                Placement::NotSelected => continue,
                Placement::Skipped => {
                    skipped += 1;
                    continue;
                }
                // Without its data it has no place, and nobody can mend that.
                Placement::Stop(_) if message.is_erased => {
                    skipped += 1;
                    continue;
                }
                Placement::Stop(reason) => {
                    self.stop(projection, message, reason);
                    break;
                }
                Placement::Substituted(partition) => {
                    substituted += 1;
                    partition
                }
                Placement::Keys(keys) => {
                    self.link_keys(projection, message, keys);
                    continue;
                }
                Placement::Partition(partition) => partition,
            };
            let count = projection.message_counts.entry(partition).or_insert(0);
            let position = *count;
            *count += 1;
            counted.insert(
                partition,
                Counted {
                    message_count: *count,
                    last_global_position: message.global_position,
                    last_time: message.time,
                },
            );
            self.rows.projections.push(projection.id);
            self.rows.partitions.push(partition);
            self.rows.positions.push(position);
            self.rows.global_positions.push(message.global_position);
            if projection.is_current {
                let one = AggregatedMessage { partition, position, keys: None, message: message.clone() };
                self.messages.entry(projection.aggregated_stream_id).or_default().push(one);
            }
        }
        for (partition, counted) in counted {
            self.rows.counted_projections.push(projection.id);
            self.rows.counted_partitions.push(partition);
            self.rows.message_counts.push(counted.message_count);
            self.rows.last_global_positions.push(counted.last_global_position);
            self.rows.last_times.push(counted.last_time);
        }
        if skipped + substituted > 0 {
            self.rows.failing_projections.push(projection.id);
            self.rows.skipped.push(skipped);
            self.rows.substituted.push(substituted);
        }
    }

    fn link_keys(&mut self, projection: &Projection, message: &Arc<Message>, keys: Vec<Arc<str>>) {
        for key in &keys {
            self.rows.keyed_projections.push(projection.id);
            self.rows.keyed_keys.push(key.clone());
            self.rows.keyed_global_positions.push(message.global_position);
        }
        let (aggregated_stream_id, message) = (projection.aggregated_stream_id, message.clone());
        self.keyed.push(Keyed { aggregated_stream_id, message, keys });
    }

    fn stop(&mut self, projection: &Projection, message: &Message, reason: String) {
        // The reason may have texts of a message in it, and PostgreSQL's JSON cannot have NUL.
        let reason: String = reason.chars().filter(|c| *c != '\0').take(REASON_CHARS_MAX).collect();
        let error = json!({
            "global_position": message.global_position,
            "message_id": message.id,
            "stream_name": message.stream_name,
            "reason": reason,
        });
        let position = message.global_position - 1;
        self.rows.stopped_projections.push(projection.id);
        self.rows.stopped_positions.push(position);
        self.rows.stopped_errors.push(Some(error.to_string()));
        let (projection_id, aggregated_stream_id) = (projection.id, projection.aggregated_stream_id);
        self.stopped.push(Stopped { projection_id, aggregated_stream_id, position, reason });
    }
}
