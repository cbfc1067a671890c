//! What consumers saw of a subscription, and whether that is what was promised.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A delivery, as a consumer saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub partition: i64,
    pub position: i64,
    pub epoch: i64,
    pub stream: String,
    pub stream_position: i64,
    pub consumer: String,
    /// It was not delivered before this moment, and not after that one.
    pub not_before: Instant,
    pub at: Instant,
    /// By a request of its own, so that `not_before` says something.
    pub is_fetched: bool,
}

impl Seen {
    pub fn of(message: &Value, consumer: &str, not_before: Instant, is_fetched: bool) -> Self {
        let number = |name: &str| message[name].as_i64().unwrap();
        Self {
            partition: number("partition"),
            position: number("position"),
            epoch: number("epoch"),
            stream: message["message"]["stream_name"].as_str().unwrap().to_owned(),
            stream_position: message["message"]["position"].as_i64().unwrap(),
            consumer: consumer.to_owned(),
            not_before,
            at: Instant::now(),
            is_fetched,
        }
    }

    fn place(&self) -> (i64, i64) {
        (self.partition, self.position)
    }
}

/// Everything that the consumers of one subscription saw and did.
#[derive(Default)]
pub struct Judge {
    pub seen: Vec<Seen>,
    /// Acks that were said to be done: partition, position, epoch.
    pub acked: Vec<(i64, i64, i64)>,
    /// Acks without an answer: done, or not.
    pub unknown: Vec<(i64, i64, i64)>,
    pub nacked: BTreeSet<(i64, i64, i64)>,
    pub fenced: usize,
    pub missing: usize,
}

impl Judge {
    /// Every message came, and was acked.
    pub fn none_is_lost(&self, standing: &BTreeMap<i64, (String, i64)>, is_partitioned: bool) {
        let seen: BTreeSet<(&str, i64)> =
            self.seen.iter().map(|seen| (seen.stream.as_str(), seen.stream_position)).collect();
        let lost: Vec<_> = standing.values().filter(|(stream, at)| !seen.contains(&(stream.as_str(), *at))).collect();
        assert!(lost.is_empty(), "{} of {} never came: {lost:?}", lost.len(), standing.len());
        let mut up_to: HashMap<i64, i64> = HashMap::new();
        let mut each = BTreeSet::new();
        for (partition, position, _) in self.acked.iter().chain(&self.unknown) {
            let up_to = up_to.entry(*partition).or_default();
            *up_to = (*up_to).max(*position);
            each.insert((*partition, *position));
        }
        let is_acked = |seen: &&Seen| match is_partitioned {
            true => up_to.get(&seen.partition).is_some_and(|up_to| seen.position <= *up_to),
            false => each.contains(&seen.place()),
        };
        let open: Vec<_> = self.seen.iter().filter(|seen| !is_acked(seen)).map(Seen::place).collect();
        assert!(open.is_empty(), "nobody has acked {open:?}, and they count as acked");
    }

    /// What was acked for sure under one epoch does not come under a later one.
    pub fn what_is_acked_stays_acked(&self, is_partitioned: bool) {
        for seen in &self.seen {
            let before = self.acked.iter().find(|(partition, position, epoch)| {
                *partition == seen.partition
                    && *epoch < seen.epoch
                    && if is_partitioned { seen.position <= *position } else { seen.position == *position }
            });
            assert!(before.is_none(), "it came after the ack {before:?}: {seen:?}");
        }
    }

    /// Competing: it comes again only when its time is over, it was nacked, or the connection that had it has ended
    /// (which a consumer that fetches has not).
    pub fn repeats_are_allowed(&self, ack_timeout: Duration) -> usize {
        let mut deliveries: BTreeMap<(i64, i64), Vec<&Seen>> = BTreeMap::new();
        self.seen.iter().for_each(|seen| deliveries.entry(seen.place()).or_default().push(seen));
        let mut repeats = 0;
        for all in deliveries.values_mut() {
            all.sort_by_key(|seen| seen.epoch);
            for pair in all.windows(2) {
                let [before, after] = pair else { unreachable!() };
                assert_ne!(before.epoch, after.epoch, "an epoch is one delivery's: {before:?}, {after:?}");
                repeats += 1;
                let is_nacked = self.nacked.contains(&(before.partition, before.position, before.epoch));
                let between = after.at.saturating_duration_since(before.not_before);
                let is_allowed = !before.is_fetched || is_nacked || between >= ack_timeout;
                assert!(is_allowed, "after {between:?}: {before:?}, then {after:?}");
            }
        }
        repeats
    }

    /// Partitioned: under one epoch, which is one consumer's, messages come in order and without a gap, and go back
    /// only to what has failed.
    pub fn streams_are_in_order(&self, ack_timeout: Duration) -> usize {
        let mut leases: BTreeMap<(i64, i64), Vec<&Seen>> = BTreeMap::new();
        self.seen.iter().for_each(|seen| leases.entry((seen.partition, seen.epoch)).or_default().push(seen));
        let mut came: HashMap<&str, i64> = HashMap::new();
        let mut steps_back = 0;
        for ((partition, epoch), lease) in &leases {
            assert!(lease.iter().all(|seen| seen.consumer == lease[0].consumer), "{partition} {epoch} has two holders");
            let mut streams: HashMap<&str, i64> = HashMap::new();
            for (at, seen) in lease.iter().enumerate() {
                let stream = seen.stream.as_str();
                // The first message under a lease is right after those that came before, or among them.
                let next = streams.get(stream).or(came.get(stream)).map_or(0, |last| last + 1);
                assert!(seen.stream_position <= next, "there is a gap before {next} of {stream}: {seen:?}");
                streams.insert(stream, seen.stream_position);
                let highest = came.entry(stream).or_insert(-1);
                *highest = (*highest).max(seen.stream_position);
                if at > 0 && seen.position <= lease[at - 1].position {
                    steps_back += 1;
                    self.may_step_back(seen, &lease[..at], ack_timeout);
                }
            }
        }
        steps_back
    }

    fn may_step_back(&self, to: &Seen, before: &[&Seen], ack_timeout: Duration) {
        let is_nacked = self.nacked.contains(&(to.partition, to.position, to.epoch));
        let last = before.iter().rev().find(|seen| seen.position == to.position);
        let is_over = last.is_none_or(|last| to.at.saturating_duration_since(last.not_before) >= ack_timeout);
        assert!(is_nacked || is_over, "it came again too early: {last:?}, then {to:?}");
    }
}
