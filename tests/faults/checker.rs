//! Says what a history breaks of what was promised. It knows nothing of the service but the promises.

use std::collections::{BTreeMap, HashMap, HashSet};

use uuid::Uuid;

use super::history::{AckTold, Append, Consumed, History, Message, Moment, Span, Told};

/// Everything that is wrong, as sentences; empty where all promises were kept.
pub fn violations(history: &History) -> Vec<String> {
    let mut found = Vec::new();
    durability(history, &mut found);
    order_of_the_log(&history.log, &mut found);
    for stream in streams(history) {
        versions(history, stream, &mut found);
    }
    for (number, follower) in history.followers.iter().enumerate() {
        followed(number, &follower.messages, &history.log, &mut found);
    }
    for (name, consumed) in [("acked", &history.acked), ("made", &history.made)] {
        let mut own = Vec::new();
        one_holder_of_an_epoch(consumed, &mut own);
        in_order_without_gaps(consumed, &history.log, &mut own);
        fencing(consumed, &mut own);
        acked_stays_acked(consumed, &mut own);
        found.extend(own.into_iter().map(|text| format!("subscription {name}: {text}")));
    }
    made_exactly_once(history, &mut found);
    found
}

fn streams(history: &History) -> Vec<&str> {
    let mut streams: Vec<&str> = history.appends.iter().map(|append| append.stream.as_str()).collect();
    streams.sort_unstable();
    streams.dedup();
    streams
}

/// The requests that sent each message: one, or more if it was sent again.
fn by_id(appends: &[Append]) -> HashMap<Uuid, Vec<&Append>> {
    let mut by_id: HashMap<Uuid, Vec<&Append>> = HashMap::new();
    appends.iter().for_each(|append| by_id.entry(append.id).or_default().push(append));
    by_id
}

/// What was acknowledged is in the log once, where the answer said; what was refused is not; nothing else is.
fn durability(history: &History, found: &mut Vec<String>) {
    let mut log: HashMap<Uuid, &Message> = HashMap::new();
    for message in &history.log {
        if log.insert(message.id, message).is_some() {
            found.push(format!("{} is in the log twice", message.id));
        }
    }
    let sent = by_id(&history.appends);
    for (id, appends) in &sent {
        let there = log.get(id);
        for append in appends {
            if let Told::Written { position, global_position } = append.told {
                let expected = (append.stream.as_str(), position, global_position);
                let is_there = there.map(|there| (there.stream.as_str(), there.position, there.global_position));
                if is_there != Some(expected) {
                    found.push(format!("acknowledged as {expected:?}, and the log has {is_there:?}: {append:?}"));
                }
            }
        }
        let is_refused = |append: &&Append| matches!(append.told, Told::NotWritten | Told::WrongVersion { .. });
        if appends.iter().all(is_refused) && there.is_some() {
            found.push(format!("answered as not written, and the log has it: {appends:?}"));
        }
    }
    let made: HashSet<Uuid> = history.made_of.iter().map(|(id, _)| *id).collect();
    for message in history.log.iter().filter(|message| !sent.contains_key(&message.id) && !made.contains(&message.id)) {
        found.push(format!("nobody sent {message:?}"));
    }
}

/// Positions of each stream count from 0 without a hole, in the order of the log.
fn order_of_the_log(log: &[Message], found: &mut Vec<String>) {
    let mut next: HashMap<&str, i64> = HashMap::new();
    let mut last = 0;
    for message in log {
        if message.global_position <= last {
            found.push(format!("{message:?} does not come after {last}"));
        }
        last = message.global_position;
        let next = next.entry(&message.stream).or_default();
        if message.position != *next {
            found.push(format!("{message:?} is at another position than {next}"));
        }
        *next = message.position + 1;
    }
}

/// A stream's version is a register with compare-and-append: there is one moment for each write, within the time of its
/// request, in the order of positions; and each answer that names a version was true at some moment of its request.
///
/// The log gives the order of writes, so the earliest moment for each step in turn is enough: if those do not fit, none do.
fn versions(history: &History, stream: &str, found: &mut Vec<String>) {
    let requests = by_id(&history.appends);
    let mut seen: BTreeMap<i64, Vec<Span>> = BTreeMap::new();
    for read in history.reads.iter().filter(|read| read.stream == stream) {
        seen.entry(read.version).or_default().push(read.span);
    }
    for append in history.appends.iter().filter(|append| append.stream == stream) {
        match (append.told, append.expected) {
            (Told::WrongVersion { current }, expected) => {
                if expected.is_none_or(|expected| expected == current) {
                    found.push(format!("refused although the version was as expected: {append:?}"));
                }
                seen.entry(current).or_default().push(append.span);
            }
            (Told::Written { position, .. }, Some(expected)) if position != expected + 1 => {
                found.push(format!("written at another version than was expected: {append:?}"));
            }
            _ => {}
        }
    }
    let mut log: Vec<&Message> = history.log.iter().filter(|message| message.stream == stream).collect();
    log.sort_by_key(|message| message.position);
    let newest = log.last().map_or(-1, |message| message.position);
    if let Some((version, _)) = seen.range(newest + 1..).next() {
        found.push(format!("{stream} was seen at version {version}, and the log ends at {newest}"));
    }
    // The earliest moment at which all steps so far can have happened.
    let mut now: Moment = 0;
    now = at_version(stream, -1, now, &seen, found);
    for message in log {
        let Some(requests) = requests.get(&message.id) else { continue };
        let began = requests.iter().map(|append| append.span.began).min().unwrap_or(0);
        let is_written = |append: &&&Append| matches!(append.told, Told::Written { .. });
        let ended = requests.iter().filter(is_written).map(|append| append.span.ended).min();
        now = now.max(began);
        if ended.is_some_and(|ended| now > ended) {
            found
                .push(format!("{message:?} was acknowledged before what stands before it was written or seen missing"));
        }
        now = at_version(stream, message.position, now, &seen, found);
    }
}

/// Fits in all who saw a version, from a moment on; answers the moment after which the next write may come.
fn at_version(
    stream: &str,
    version: i64,
    from: Moment,
    seen: &BTreeMap<i64, Vec<Span>>,
    found: &mut Vec<String>,
) -> Moment {
    let mut last = from;
    for span in seen.get(&version).into_iter().flatten() {
        let moment = from.max(span.began);
        if moment > span.ended {
            found.push(format!("{stream} was seen at version {version} when that was not its version yet: {span:?}"));
        }
        last = last.max(moment);
    }
    last
}

/// A follower gets each message of the log once, in order, up to the end.
fn followed(number: usize, got: &[Message], log: &[Message], found: &mut Vec<String>) {
    let at = got.iter().zip(log).position(|(got, log)| got != log);
    match at {
        Some(at) => found.push(format!("follower {number} got {:?} in place of {:?}", got[at], log[at])),
        None if got.len() != log.len() => {
            found.push(format!("follower {number} got {} messages, and the log has {}", got.len(), log.len()));
        }
        None => {}
    }
}

/// No two consumers hold one partition's epoch.
fn one_holder_of_an_epoch(consumed: &Consumed, found: &mut Vec<String>) {
    let mut holders: HashMap<(i64, i64), &str> = HashMap::new();
    for delivery in &consumed.deliveries {
        let holder = holders.entry((delivery.partition, delivery.epoch)).or_insert(&delivery.consumer);
        if *holder != delivery.consumer {
            found.push(format!("{holder} holds the epoch of {delivery:?}, too"));
        }
    }
}

/// Under one epoch messages come in order, without a gap; each message comes, in one partition.
fn in_order_without_gaps(consumed: &Consumed, log: &[Message], found: &mut Vec<String>) {
    let mut partitions: HashMap<&str, i64> = HashMap::new();
    for delivery in &consumed.deliveries {
        let partition = partitions.entry(&delivery.message.stream).or_insert(delivery.partition);
        if *partition != delivery.partition {
            found.push(format!("{delivery:?} is of a stream that is in partition {partition}"));
        }
    }
    let mut of_partition: HashMap<i64, Vec<i64>> = HashMap::new();
    for message in log {
        if let Some(partition) = partitions.get(message.stream.as_str()) {
            of_partition.entry(*partition).or_default().push(message.global_position);
        }
    }
    let mut last: HashMap<(i64, i64), i64> = HashMap::new();
    let mut came: HashSet<Uuid> = HashSet::new();
    for delivery in &consumed.deliveries {
        came.insert(delivery.message.id);
        let all = of_partition.get(&delivery.partition).map_or(&[][..], Vec::as_slice);
        if let Some(last) = last.insert((delivery.partition, delivery.epoch), delivery.position) {
            let next = all.get(all.partition_point(|position| *position <= last));
            if next != Some(&delivery.position) {
                found.push(format!("after {last} comes {next:?}, not {delivery:?}"));
            }
        }
    }
    // Only of streams that a subscription has: those of which it delivered something.
    for message in log.iter().filter(|message| partitions.contains_key(message.stream.as_str())) {
        if !came.contains(&message.id) {
            found.push(format!("{message:?} never came"));
        }
    }
}

/// An ack under an epoch moves nothing once a later one has delivered.
fn fencing(consumed: &Consumed, found: &mut Vec<String>) {
    let mut began: HashMap<i64, BTreeMap<i64, Moment>> = HashMap::new();
    for delivery in &consumed.deliveries {
        let first = began.entry(delivery.partition).or_default().entry(delivery.epoch).or_insert(delivery.at);
        *first = (*first).min(delivery.at);
    }
    for ack in consumed.acks.iter().filter(|ack| ack.told == AckTold::Acked) {
        let later = began.get(&ack.partition).and_then(|epochs| {
            epochs.range(ack.epoch + 1..).find(|(_, first)| **first < ack.span.began).map(|(epoch, _)| *epoch)
        });
        if let Some(later) = later {
            found.push(format!("{ack:?} moved something although epoch {later} had delivered before"));
        }
    }
}

/// What was acked does not come again under a later epoch.
fn acked_stays_acked(consumed: &Consumed, found: &mut Vec<String>) {
    let mut acked: HashMap<i64, BTreeMap<i64, i64>> = HashMap::new();
    for ack in consumed.acks.iter().filter(|ack| ack.told == AckTold::Acked) {
        let highest = acked.entry(ack.partition).or_default().entry(ack.epoch).or_insert(ack.position);
        *highest = (*highest).max(ack.position);
    }
    for delivery in &consumed.deliveries {
        let before = acked
            .get(&delivery.partition)
            .and_then(|epochs| epochs.range(..delivery.epoch).find(|(_, acked)| **acked >= delivery.position));
        if let Some((epoch, acked)) = before {
            found.push(format!("{delivery:?} came after it was acked up to {acked} under epoch {epoch}"));
        }
    }
}

/// Of each message that came something was made once.
fn made_exactly_once(history: &History, found: &mut Vec<String>) {
    let mut times: HashMap<Uuid, usize> = HashMap::new();
    history.made_of.iter().for_each(|(_, of)| *times.entry(*of).or_default() += 1);
    let came: HashSet<Uuid> = history.made.deliveries.iter().map(|delivery| delivery.message.id).collect();
    for id in &came {
        let times = times.remove(id).unwrap_or(0);
        if times != 1 {
            found.push(format!("of {id} something was made {times} times"));
        }
    }
    for id in times.keys() {
        found.push(format!("something was made of {id}, which never came"));
    }
}
