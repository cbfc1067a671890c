//! The database of the model: messages, what is projected of them, and pages that take their time or are lost.

use std::sync::Arc;

use fastrand::Rng;
use parking_lot::{Mutex, MutexGuard};

use crate::domain::aggregated_stream::AggregatedMessage;
use crate::domain::filter::Filter;
use crate::domain::keyed::Part;
use crate::domain::message::{Message, MessageParts};
use crate::domain::source::Source;
use crate::store::StoreError;
use crate::store::aggregated_streams::{AggregatedPage, Progress};
use crate::store::read::{FollowedPage, PageLimit};

/// So little is in a page at most that it seldom is all.
const PAGE_MAX: i64 = 5;

/// The database as both its reader and its writers have it. Cheap to clone.
#[derive(Clone)]
pub struct Script {
    rng: Arc<Mutex<Rng>>,
    stored: Arc<Mutex<Stored>>,
}

/// What is committed.
#[derive(Default)]
pub struct Stored {
    pub messages: Vec<Arc<Message>>,
    /// Where all live projections are.
    pub live_position: i64,
    /// The rounds up to here are on disk.
    pub on_disk: i64,
    /// Where all live projections were before rounds were lost.
    pub lost_up_to: i64,
    pub aggregated: Vec<Aggregated>,
    /// Counts the projections that there ever were, and the aggregated streams.
    pub ids: i64,
    pub history_number: i64,
    /// The log has gone back, and this instance has not seen that: what it reads of the log is not answered.
    pub is_away: bool,
}

pub struct Aggregated {
    pub id: i64,
    pub current: Projection,
    pub rebuild: Option<Projection>,
    /// By somebody's wish, or because a message could not be placed.
    pub is_paused: bool,
}

pub struct Projection {
    pub id: i64,
    pub position: i64,
    pub is_live: bool,
    links: Vec<AggregatedMessage>,
}

/// The partition of a message; `None`: it is not selected.
pub fn partition_of(message: &Message) -> Option<i32> {
    match &*message.stream_name {
        "a-1" => Some(0),
        "a-2" | "b-1" => Some(1),
        "b-2" => Some(2),
        _ => None,
    }
}

impl Projection {
    pub fn new(id: i64) -> Self {
        Self { id, position: 0, is_live: false, links: Vec::new() }
    }

    /// Projects what comes after its position, and gives that.
    pub fn project(&mut self, messages: &[Arc<Message>], up_to: i64) -> Vec<AggregatedMessage> {
        let begun = self.links.len();
        let new = messages.iter().filter(|one| (self.position + 1..=up_to).contains(&one.global_position));
        for message in new {
            let Some(partition) = partition_of(message) else { continue };
            let position = self.links.iter().filter(|link| link.partition == partition).count() as i64;
            self.links.push(AggregatedMessage { partition, position, keys: None, message: message.clone() });
        }
        self.position = self.position.max(up_to);
        self.links[begun..].to_vec()
    }

    /// What lies after the end of a log that went back, or in rounds that were lost, is gone.
    fn go_back_to(&mut self, end: i64) {
        self.links.retain(|link| link.message.global_position <= end);
        self.position = self.position.min(end);
    }
}

impl Stored {
    pub fn end(&self) -> i64 {
        self.messages.last().map_or(0, |last| last.global_position)
    }

    pub fn create(&mut self) {
        let (id, current) = (self.next_id(), Projection::new(self.next_id()));
        self.aggregated.push(Aggregated { id, current, rebuild: None, is_paused: false });
    }

    pub fn next_id(&mut self) -> i64 {
        self.ids += 1;
        self.ids
    }

    pub fn get(&self, id: i64) -> Option<&Aggregated> {
        self.aggregated.iter().find(|one| one.id == id)
    }

    pub fn progress(&self, id: i64) -> Option<Progress> {
        let Aggregated { current, is_paused, .. } = self.get(id)?;
        Some(Progress {
            aggregated_stream_id: id,
            projection_id: current.id,
            projected_position: if current.is_live { self.live_position } else { current.position },
            is_catching_up: !current.is_live && !is_paused,
            is_keyed: false,
        })
    }

    /// Rounds after a position are gone: what was committed without waiting for the disk.
    pub fn lose_rounds(&mut self, kept: i64) {
        self.lost_up_to = self.lost_up_to.max(self.live_position);
        self.live_position = kept;
        for one in self.aggregated.iter_mut().filter(|one| one.current.is_live) {
            one.current.go_back_to(kept);
        }
    }

    /// Something was committed that waits for the disk, and all that was before it is there then, too.
    pub fn write_to_disk(&mut self) {
        self.on_disk = self.live_position;
    }

    /// The log goes back to `kept` messages: what followed is given to other messages.
    pub fn go_back(&mut self, kept: usize) {
        self.messages.truncate(kept);
        let end = self.end();
        self.live_position = self.live_position.min(end);
        self.on_disk = self.live_position;
        self.lost_up_to = self.lost_up_to.min(end);
        self.history_number += 1;
        for one in &mut self.aggregated {
            one.current.go_back_to(end);
            one.rebuild.iter_mut().for_each(|rebuild| rebuild.go_back_to(end));
        }
    }

    /// What a source has, by its own positions where it is one stream.
    fn followed(&self, source: &Source, after: i64, up_to: i64, limit: PageLimit, filter: &Filter) -> FollowedPage {
        let place = |one: &Message| if source.single_stream().is_some() { one.position } else { one.global_position };
        let in_source = self.messages.iter().filter(|one| source.topics().iter().any(|topic| topic.has(one)));
        let next = in_source.filter(|one| place(one) > after && one.global_position <= up_to && filter.passes(one));
        let (chosen, is_full) = fill(next, limit, |one| one.memory_bytes());
        FollowedPage { messages: chosen.into_iter().map(|one| copy(one)).collect(), is_full }
    }

    pub fn page(&self, id: i64, part: &Part, after: i64, limit: PageLimit) -> Option<AggregatedPage> {
        let progress = self.progress(id)?;
        let is_next = |link: &&AggregatedMessage| link.message.global_position > after && part.has(link);
        let links = self.get(id)?.current.links.iter().filter(is_next);
        let (chosen, is_full) = fill(links, limit, |link| link.message.memory_bytes());
        Some(AggregatedPage {
            history_number: self.history_number,
            projection_id: progress.projection_id,
            projected_position: progress.projected_position,
            is_catching_up: progress.is_catching_up,
            more_after: chosen.last().filter(|_| is_full).map(|last| last.message.global_position),
            messages: chosen.into_iter().cloned().collect(),
        })
    }
}

/// As many as there is room for, the first in any case; and whether there may be more.
fn fill<'a, T>(
    next: impl Iterator<Item = &'a T>,
    limit: PageLimit,
    bytes_of: impl Fn(&T) -> usize,
) -> (Vec<&'a T>, bool) {
    let (mut chosen, mut bytes) = (Vec::new(), 0);
    for one in next {
        bytes += bytes_of(one);
        chosen.push(one);
        if chosen.len() as i64 >= limit.messages.min(PAGE_MAX) || bytes >= limit.bytes {
            return (chosen, true);
        }
    }
    (chosen, false)
}

fn copy(message: &Message) -> Message {
    Message::new(MessageParts {
        id: message.id,
        stream_name: &message.stream_name,
        message_type: &message.message_type,
        position: message.position,
        global_position: message.global_position,
        data: None,
        metadata: None,
        time: message.time,
        erased: None,
    })
}

impl Script {
    pub fn new(seed: u64) -> Self {
        Self { rng: Arc::new(Mutex::new(Rng::with_seed(seed))), stored: Arc::default() }
    }

    pub fn stored(&self) -> MutexGuard<'_, Stored> {
        self.stored.lock()
    }

    pub async fn messages(
        &self,
        source: &Source,
        after: i64,
        up_to: i64,
        limit: PageLimit,
        filter: &Filter,
    ) -> Result<FollowedPage, StoreError> {
        let read = |stored: &Stored| (!stored.is_away).then(|| stored.followed(source, after, up_to, limit, filter));
        self.answer(read).await?.ok_or_else(lost)
    }

    pub async fn aggregated(
        &self,
        id: i64,
        part: &Part,
        after: i64,
        limit: PageLimit,
    ) -> Result<Option<AggregatedPage>, StoreError> {
        self.answer(|stored| stored.page(id, part, after, limit)).await
    }

    /// Some time passes before the database is asked, and some before its answer is there, if it comes at all.
    async fn answer<T>(&self, read: impl Fn(&Stored) -> T) -> Result<T, StoreError> {
        self.dawdle().await;
        let answer = read(&self.stored());
        self.dawdle().await;
        if self.below(8) == 0 { Err(lost()) } else { Ok(answer) }
    }

    /// The others have up to so many turns.
    async fn dawdle(&self) {
        for _ in 0..self.below(3) {
            let mut is_over = false;
            std::future::poll_fn(|_| match std::mem::replace(&mut is_over, true) {
                true => std::task::Poll::Ready(()),
                false => std::task::Poll::Pending,
            })
            .await;
        }
    }

    fn below(&self, end: u32) -> u32 {
        self.rng.lock().u32(0..end)
    }
}

fn lost() -> StoreError {
    StoreError::Unavailable("the answer was lost".into())
}
