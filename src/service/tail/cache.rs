//! The newest messages, by topic: what followers read as long as they keep up.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use tokio::sync::watch;

use crate::domain::event_id::Check;
use crate::domain::message::Message;
use crate::domain::source::{Source, Topic};
use crate::service::log::suffix::{self, Suffix};
use crate::service::log::{Entry, Page, Place};
use crate::store::read::PageLimit;

/// The cache of one instance. Bounded in bytes; what is pushed out is read from the database by readers
/// that still want it.
pub struct Cache {
    settled: i64,
    /// By what the message at the settled position is recognised.
    check: Option<Check>,
    ring: VecDeque<Arc<Message>>,
    bytes: usize,
    bytes_max: usize,
    topics: HashMap<Topic, TopicState>,
    /// Those of the topics that select by patterns: each message is held against all of them.
    selected: Vec<Topic>,
    /// Counts the topics that were ever opened, so that a publication knows which came too late for it.
    opened: u64,
    /// A message up to here was erased before it was settled. What was read of it may be from before that.
    erased_up_to: i64,
}

struct TopicState {
    /// Up to the settled position.
    messages: Suffix<Arc<Message>>,
    followers: usize,
    opened: u64,
}

/// Of new messages, those that were read, and those that a follower has to read for itself.
#[derive(Default)]
pub struct Fetched {
    /// In order.
    pub messages: Vec<Arc<Message>>,
    /// Each with its stream's name.
    pub left_out: Vec<(i64, String)>,
}

impl Cache {
    pub fn new(bytes_max: usize) -> Self {
        Self {
            settled: 0,
            check: None,
            ring: VecDeque::new(),
            bytes: 0,
            bytes_max,
            topics: HashMap::new(),
            selected: Vec::new(),
            opened: 0,
            erased_up_to: 0,
        }
    }

    pub fn settled(&self) -> i64 {
        self.settled
    }

    /// By what the message at a position is recognised, if it is the settled one.
    pub fn check_at(&self, position: i64) -> Option<Check> {
        self.check.filter(|_| position == self.settled)
    }

    /// The message at the settled position is known.
    pub fn recognise(&mut self, position: i64, check: Check) {
        if position == self.settled {
            self.check = Some(check);
        }
    }

    /// Begins with another log: what was kept belongs to none any more.
    pub fn begin_at(&mut self, settled: i64) {
        (self.settled, self.check, self.erased_up_to) = (settled, None, 0);
        self.skip_to(settled);
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn messages(&self) -> usize {
        self.ring.len()
    }

    /// Which topics are open by now; to be given to [`publish`](Self::publish) with what was read for them.
    pub fn opened(&self) -> u64 {
        self.opened
    }

    pub fn has_topics(&self) -> bool {
        !self.topics.is_empty()
    }

    /// Whether anybody follows a topic by name that this stream belongs to.
    pub fn follows(&self, stream_name: &str) -> bool {
        named_topics(stream_name).iter().any(|topic| self.topics.contains_key(topic))
    }

    /// Whether a follower's patterns take a message of this stream; of this type, where it is known.
    pub fn selects(&self, stream_name: &str, message_type: Option<&str>) -> bool {
        self.selected.iter().any(|topic| is_selected(topic, stream_name, message_type))
    }

    /// Joins a topic: from now on its messages are kept.
    pub fn join(&mut self, topic: &Topic) -> watch::Receiver<()> {
        if matches!(topic, Topic::Selected(_)) && !self.topics.contains_key(topic) {
            self.selected.push(topic.clone());
        }
        let state = self.topics.entry(topic.clone()).or_insert_with(|| {
            self.opened += 1;
            TopicState { messages: Suffix::after(self.settled), followers: 0, opened: self.opened }
        });
        state.followers += 1;
        state.messages.waker()
    }

    /// How many follow a topic.
    pub fn followers(&self, topic: &Topic) -> usize {
        self.topics.get(topic).map_or(0, |state| state.followers)
    }

    pub fn leave(&mut self, topic: &Topic) {
        if let Some(state) = self.topics.get_mut(topic) {
            state.followers -= 1;
            if state.followers == 0 {
                self.topics.remove(topic);
                self.selected.retain(|selected| selected != topic);
            }
        }
    }

    /// Settles everything up to `settled`. `new` holds all messages up to there that belong to a topic which was open
    /// when `opened` was asked for. A topic that was opened later begins after them; one of which a message was left
    /// out begins after that, and its followers read what they miss from the database.
    pub fn publish(&mut self, new: Fetched, settled: i64, opened: u64) {
        let Fetched { mut messages, mut left_out } = new;
        let fresh = messages.split_off(messages.partition_point(|one| one.global_position <= self.erased_up_to));
        let stale = std::mem::replace(&mut messages, fresh);
        left_out.extend(stale.iter().map(|stale| (stale.global_position, stale.stream_name.to_string())));
        self.move_to(settled);
        let last = messages.last().map(|message| (message.global_position, message.id));
        let mut touched = HashSet::new();
        if self.opened > opened {
            for (topic, state) in self.topics.iter_mut().filter(|(_, state)| state.opened > opened) {
                state.messages.forget_up_to(settled);
                // Its followers may have looked at the database before these were there, and wait since.
                touched.insert(topic.clone());
            }
        }
        for (global_position, stream_name) in left_out {
            for topic in self.topics_of(&stream_name, None) {
                let Some(state) = self.topics.get_mut(&topic) else { continue };
                state.messages.forget_up_to(global_position);
                touched.insert(topic);
            }
        }
        for message in messages {
            let mut kept = false;
            for topic in self.topics_of(&message.stream_name, Some(&message.message_type)) {
                let Some(state) = self.topics.get_mut(&topic).filter(|state| state.opened <= opened) else { continue };
                let is_in = state.messages.push(message.clone());
                kept |= is_in;
                if is_in {
                    touched.insert(topic);
                }
            }
            if kept {
                self.bytes += message.memory_bytes();
                self.ring.push_back(message);
            }
        }
        self.check = self.check.or(last.filter(|(at, _)| *at == self.settled).map(|(_, id)| Check::of(id)));
        self.evict();
        for topic in touched {
            if let Some(state) = self.topics.get(&topic) {
                state.messages.wake();
            }
        }
    }

    /// Settles everything up to a position without having read it: all topics begin there, and their followers read
    /// what lies between from the database.
    pub fn skip_to(&mut self, settled: i64) {
        self.move_to(settled);
        for state in self.topics.values_mut() {
            state.messages.begin_after(self.settled);
        }
        self.ring.clear();
        self.bytes = 0;
    }

    /// A message was erased: what is here of it is forgotten. Followers that have not seen it yet read it from the database,
    /// and so do those of a message that is not settled yet, because it may have been read before that.
    pub fn erase(&mut self, global_position: i64) {
        if global_position > self.settled {
            self.erased_up_to = self.erased_up_to.max(global_position);
        }
        let Ok(at) = self.ring.binary_search_by_key(&global_position, |one| one.global_position) else { return };
        let Some(message) = self.ring.remove(at) else { return };
        self.bytes -= message.memory_bytes();
        for topic in self.topics_of(&message.stream_name, Some(&message.message_type)) {
            if let Some(state) = self.topics.get_mut(&topic) {
                state.messages.erase(global_position);
            }
        }
    }

    /// As much as fits of what comes after a place. `None`: not all of that is here.
    pub fn read(&self, source: &Source, place: Place, limit: PageLimit) -> Option<Page> {
        let open = source.topics().iter().map(|topic| self.topics.get(topic)?.messages.read(place.after));
        let is_new = |message: &&Arc<Message>| place.stream_after.is_none_or(|seen| message.position > seen);
        let nexts = suffix::merge(open.collect::<Option<_>>()?).filter(is_new);
        let entry = |message: &Arc<Message>| Entry::of(message.clone(), place.stream_after.is_some());
        let page = suffix::page(nexts, limit, self.settled.max(place.after), entry);
        let check = self.check_at(page.up_to);
        Some(Page { check, ..page })
    }

    fn move_to(&mut self, settled: i64) {
        if settled > self.settled {
            self.settled = settled;
            self.check = None;
        }
    }

    fn topics_of(&self, stream_name: &str, message_type: Option<&str>) -> impl Iterator<Item = Topic> + use<> {
        let selected = self.selected.iter().filter(|topic| is_selected(topic, stream_name, message_type));
        let selected: Vec<Topic> = selected.cloned().collect();
        named_topics(stream_name).into_iter().chain(selected)
    }

    fn evict(&mut self) {
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.ring.pop_front() else { break };
            self.bytes -= oldest.memory_bytes();
            for topic in self.topics_of(&oldest.stream_name, Some(&oldest.message_type)) {
                let Some(state) = self.topics.get_mut(&topic) else { continue };
                state.messages.forget_up_to(oldest.global_position);
            }
        }
    }
}

fn named_topics(stream_name: &str) -> [Topic; 3] {
    let category = crate::domain::stream_name::category(stream_name);
    [Topic::All, Topic::Category(category.into()), Topic::Stream(stream_name.into())]
}

fn is_selected(topic: &Topic, stream_name: &str, message_type: Option<&str>) -> bool {
    match topic {
        Topic::Selected(selections) => selections.take(stream_name, message_type),
        Topic::All | Topic::Category(_) | Topic::Stream(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::message::MessageParts;

    fn message(stream_name: &str, position: i64, global_position: i64) -> Arc<Message> {
        Arc::new(Message::new(MessageParts { stream_name, position, global_position, ..MessageParts::EXAMPLE }))
    }

    fn read(messages: Vec<Arc<Message>>) -> Fetched {
        Fetched { messages, left_out: Vec::new() }
    }

    fn at(after: i64) -> Place {
        Place::global(after, 0)
    }

    fn most(messages: i64, bytes: usize) -> PageLimit {
        PageLimit { messages, bytes }
    }

    fn hit(cache: &Cache, source: &Source, place: Place) -> Option<(Vec<i64>, i64)> {
        let page = cache.read(source, place, most(100, 1 << 20))?;
        Some((page.entries.iter().map(Entry::global_position).collect(), page.up_to))
    }

    #[test]
    fn a_topic_serves_what_came_since_it_was_joined() {
        let mut cache = Cache::new(1 << 20);
        cache.publish(read(vec![]), 5, 0);
        let all = Source::all();
        assert!(hit(&cache, &all, at(5)).is_none(), "nobody follows it");
        cache.join(&Topic::All);
        cache.publish(read(vec![message("a-1", 0, 6), message("b-1", 0, 8)]), 8, cache.opened());
        assert_eq!(hit(&cache, &all, at(5)), Some((vec![6, 8], 8)));
        assert_eq!(hit(&cache, &all, at(6)), Some((vec![8], 8)));
        assert!(hit(&cache, &all, at(4)).is_none(), "what came before it was joined is not in it");
    }

    #[test]
    fn several_topics_come_in_global_order() {
        let mut cache = Cache::new(1 << 20);
        let source = Source::several(&["a-1".into()], &["b".into()]).unwrap();
        for topic in source.topics() {
            cache.join(topic);
        }
        let opened = cache.opened();
        cache.publish(read(vec![message("a-1", 0, 1), message("b-7", 0, 2), message("a-1", 1, 3)]), 4, opened);
        assert_eq!(hit(&cache, &source, at(0)), Some((vec![1, 2, 3], 4)));
    }

    #[test]
    fn a_topic_opened_while_others_were_read_begins_after_them() {
        let mut cache = Cache::new(1 << 20);
        let opened = cache.opened();
        cache.join(&Topic::All);
        cache.publish(read(vec![]), 3, opened);
        assert!(hit(&cache, &Source::all(), at(0)).is_none());
        assert_eq!(hit(&cache, &Source::all(), at(3)), Some((vec![], 3)));
    }

    #[test]
    fn what_is_pushed_out_is_a_miss_and_memory_stays_bounded() {
        // The last is the longest: its positions have the most digits.
        let one = message("a-1", 99, 100).memory_bytes();
        let mut cache = Cache::new(one * 10);
        cache.join(&Topic::All);
        let opened = cache.opened();
        for n in 1..=100 {
            cache.publish(read(vec![message("a-1", n - 1, n)]), n, opened);
        }
        assert!(cache.bytes() <= one * 10);
        assert!(hit(&cache, &Source::all(), at(89)).is_none());
        assert_eq!(hit(&cache, &Source::all(), at(90)).unwrap().0.len(), 10);
    }

    #[test]
    fn a_stream_s_place_counts_its_own_positions_too() {
        let mut cache = Cache::new(1 << 20);
        let source = Source::stream("a-1");
        cache.join(&source.topics()[0]);
        cache.publish(read(vec![message("a-1", 0, 1), message("a-1", 1, 2)]), 2, cache.opened());
        assert_eq!(hit(&cache, &source, Place { stream_after: Some(0), ..at(0) }), Some((vec![2], 2)));
    }

    #[test]
    fn only_who_follows_the_topic_is_woken() {
        let mut cache = Cache::new(1 << 20);
        let (mut one, mut other) = (cache.join(&Topic::Stream("a-1".into())), cache.join(&Topic::Stream("a-2".into())));
        one.mark_unchanged();
        other.mark_unchanged();
        cache.publish(read(vec![message("a-1", 0, 1)]), 1, cache.opened());
        assert!(one.has_changed().unwrap());
        assert!(!other.has_changed().unwrap());
    }

    #[test]
    fn a_read_is_bounded_and_goes_on_where_it_stopped() {
        let mut cache = Cache::new(1 << 20);
        cache.join(&Topic::All);
        cache.publish(read((1..=5).map(|n| message("a-1", n - 1, n)).collect()), 5, cache.opened());
        let page = cache.read(&Source::all(), at(0), most(2, 1 << 20)).unwrap();
        assert_eq!((page.entries.len(), page.up_to), (2, 2));
        let page = cache.read(&Source::all(), at(2), most(100, 1)).unwrap();
        assert_eq!((page.entries.len(), page.up_to), (1, 3));
    }

    #[test]
    fn what_was_erased_is_a_miss_also_if_it_was_read_before_and_settled_after() {
        let mut cache = Cache::new(1 << 20);
        cache.join(&Topic::All);
        let opened = cache.opened();
        cache.publish(read(vec![message("a-1", 0, 1), message("a-1", 1, 2), message("a-1", 2, 3)]), 3, opened);
        cache.erase(2);
        assert!(hit(&cache, &Source::all(), at(1)).is_none());
        assert_eq!(hit(&cache, &Source::all(), at(2)), Some((vec![3], 3)), "those that have passed are not disturbed");
        assert_eq!(cache.messages(), 2);
        cache.erase(4);
        cache.publish(read(vec![message("a-1", 3, 4), message("a-1", 4, 5)]), 5, opened);
        assert!(hit(&cache, &Source::all(), at(3)).is_none());
        assert_eq!(hit(&cache, &Source::all(), at(4)), Some((vec![5], 5)));
    }

    #[test]
    fn a_follower_that_comes_while_a_message_is_written_is_woken_to_read_it() {
        let mut cache = Cache::new(1 << 20);
        cache.publish(read(vec![]), 5, 0);
        // Asked before the message was sent; the follower comes, looks, and waits before it is published.
        let opened = cache.opened();
        let woken = cache.join(&Topic::All);
        assert_eq!(hit(&cache, &Source::all(), at(5)), Some((vec![], 5)));
        assert!(!woken.has_changed().unwrap());
        cache.publish(read(vec![]), 6, opened);
        assert!(woken.has_changed().unwrap());
        assert!(hit(&cache, &Source::all(), at(5)).is_none(), "it is read from the database");
    }

    #[test]
    fn who_follows_what_was_left_out_reads_it_for_itself_and_nobody_else_does() {
        let mut cache = Cache::new(1 << 20);
        let (large, small) = (Source::stream("large-1"), Source::stream("small-1"));
        let mut woken = cache.join(&large.topics()[0]);
        cache.join(&small.topics()[0]);
        woken.mark_unchanged();
        let messages = vec![message("large-1", 0, 1), message("small-1", 0, 2), message("large-1", 2, 4)];
        let opened = cache.opened();
        cache.publish(Fetched { messages, left_out: vec![(3, "large-1".into())] }, 4, opened);
        assert_eq!(hit(&cache, &small, at(0)), Some((vec![2], 4)));
        assert!(hit(&cache, &large, at(2)).is_none());
        assert_eq!(hit(&cache, &large, at(3)), Some((vec![4], 4)));
        assert!(woken.has_changed().unwrap());
    }
}
