//! How far each aggregated stream is, as this instance knows it, and its newest messages for its followers.

mod looking;
mod members;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, watch};

use crate::domain::aggregated_stream::AggregatedMessage;
use crate::domain::keyed::Part;
use crate::service::log::suffix::{self, Suffix};
use crate::service::log::{Entry, Page, Place, Read};
use crate::store::aggregated_streams::AggregatedPage;
use crate::store::read::PageLimit;

pub use members::{FeedMember, ProgressInterest};

/// What is known here of the aggregated streams that somebody follows. Cheap to clone.
#[derive(Clone)]
pub struct Feeds {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    /// There may be something new that another instance has projected.
    kick: Notify,
    /// How many readers wait for progress as such, not for messages: they are told of it at once.
    progress_interests: AtomicUsize,
    interest_registered: Notify,
    bytes_max: usize,
}

#[derive(Default)]
struct State {
    /// The log that all this is of.
    history: u64,
    feeds: HashMap<i64, Feed>,
    /// Where the live projections are, while this instance projects them.
    led: Option<Led>,
}

struct Led {
    live: HashSet<i64>,
    position: i64,
}

/// One aggregated stream that is followed.
struct Feed {
    projection_id: i64,
    /// Everything up to this global position has been projected.
    up_to: i64,
    messages: Suffix<AggregatedMessage>,
    is_catching_up: bool,
    is_deleted: bool,
    followers: usize,
    /// Changes with every step forward, also one without a message.
    progress: watch::Sender<i64>,
}

impl Feeds {
    pub fn new(bytes_max: usize) -> Self {
        let inner = Inner {
            state: Mutex::default(),
            kick: Notify::new(),
            progress_interests: AtomicUsize::new(0),
            interest_registered: Notify::new(),
            bytes_max,
        };
        Self { inner: Arc::new(inner) }
    }

    /// There may be something new: look soon.
    pub fn kick(&self) {
        self.inner.kick.notify_one();
    }

    /// Joins the followers of an aggregated stream.
    pub fn join(&self, id: i64) -> FeedMember {
        let mut state = self.state();
        let led = state.led.as_ref().filter(|led| led.live.contains(&id)).map(|led| led.position);
        let feed = state.feeds.entry(id).or_insert_with(|| Feed::new(led));
        feed.followers += 1;
        let (newest, progress) = (feed.messages.waker(), feed.progress.subscribe());
        drop(state);
        self.kick();
        FeedMember { feeds: self.clone(), id, newest, progress }
    }

    /// How many follow an aggregated stream here.
    pub(super) fn followers(&self, id: i64) -> usize {
        self.state().feeds.get(&id).map_or(0, |feed| feed.followers)
    }

    pub fn register_progress_interest(&self) -> ProgressInterest {
        self.inner.progress_interests.fetch_add(1, Ordering::SeqCst);
        self.inner.interest_registered.notify_one();
        ProgressInterest { feeds: self.clone() }
    }

    pub(super) fn is_progress_awaited(&self) -> bool {
        self.inner.progress_interests.load(Ordering::SeqCst) > 0
    }

    /// Waits until the next one is registered.
    pub(super) async fn interest_registered(&self) {
        self.inner.interest_registered.notified().await;
    }

    /// Messages at these positions were erased: what is here of them is forgotten, and what comes yet may have been read
    /// before that.
    pub fn erase(&self, positions: &[i64]) {
        for feed in self.state().feeds.values_mut() {
            for position in positions {
                match *position > feed.up_to && feed.messages.is_known() {
                    true => feed.messages.forget_up_to(*position),
                    false => feed.messages.erase(*position),
                }
            }
        }
    }

    /// There is another log now: what is known here is of one that is gone.
    pub fn forget(&self, history: u64) {
        drop(self.state_of(history));
    }

    /// Up to where this instance knows an aggregated stream to be projected.
    pub fn up_to(&self, id: i64) -> Option<i64> {
        let state = self.state();
        let led = state.led.as_ref().filter(|led| led.live.contains(&id)).map(|led| led.position);
        led.max(state.feeds.get(&id).filter(|feed| feed.messages.is_known()).map(|feed| feed.up_to))
    }

    /// The same in one log.
    pub(super) fn up_to_in(&self, history: u64, id: i64) -> Option<i64> {
        let is_of_it = self.state().history == history;
        self.up_to(id).filter(|_| is_of_it)
    }

    /// This instance projects now: these aggregated streams are live, at this position.
    pub fn lead(&self, history: u64, live: HashSet<i64>, position: i64) {
        let Some(mut state) = self.state_of(history) else { return };
        for (id, feed) in &mut state.feeds {
            if live.contains(id) {
                feed.advance(position, Vec::new(), position, self.inner.bytes_max);
                if std::mem::take(&mut feed.is_catching_up) {
                    feed.messages.wake();
                }
            }
        }
        state.led = Some(Led { live, position });
    }

    /// This instance does not project any more.
    pub fn resign(&self) {
        self.state().led = None;
        self.kick();
    }

    /// All live ones have been projected up to a position, with these messages; but for those that have stopped before
    /// it, which are live no more.
    pub fn projected(
        &self,
        history: u64,
        up_to: i64,
        mut messages: HashMap<i64, Vec<AggregatedMessage>>,
        stopped: &HashMap<i64, i64>,
    ) {
        let Some(mut state) = self.state_of(history) else { return };
        let State { feeds, led: Some(led), .. } = &mut *state else { return };
        let from = std::mem::replace(&mut led.position, up_to);
        for (id, feed) in feeds {
            if led.live.contains(id) {
                // A follower that were moved past the stop would miss what comes there once it goes on.
                let up_to = stopped.get(id).copied().unwrap_or(up_to);
                feed.advance(from, messages.remove(id).unwrap_or_default(), up_to, self.inner.bytes_max);
            }
        }
        led.live.retain(|id| !stopped.contains_key(id));
    }

    /// One that catches up has come this far; its messages are for its followers to read.
    pub fn caught_up_to(&self, history: u64, id: i64, up_to: i64) {
        let Some(mut state) = self.state_of(history) else { return };
        // A rebuild may have taken its place since the step was written.
        let is_led = state.is_led(id);
        if let Some(feed) = state.feeds.get_mut(&id).filter(|_| !is_led) {
            feed.is_catching_up = true;
            feed.begin_anew(up_to);
        }
    }

    /// A rebuild has taken the place of what readers saw.
    pub fn switched(&self, history: u64, id: i64, projection_id: i64, position: i64) {
        let Some(mut state) = self.state_of(history) else { return };
        if let Some(feed) = state.feeds.get_mut(&id) {
            feed.projection_id = projection_id;
            feed.begin_anew(position);
        }
    }

    /// What is in memory of an aggregated stream, or of a part of it, after a place.
    pub(super) fn newest(&self, (id, name): (i64, &Arc<str>), part: &Part, place: Place, limit: PageLimit) -> Read {
        let state = self.state();
        let Some(feed) = state.feeds.get(&id).filter(|_| state.history == place.history) else { return Read::Miss };
        if feed.is_deleted {
            return Read::Deleted;
        }
        let Some(next) = feed.messages.read(place.after) else { return Read::Miss };
        let next = next.filter(|one| part.has(one));
        let entry = |one: &AggregatedMessage| Entry::aggregated(name, part.of(one));
        let page = suffix::page(next, limit, feed.up_to.max(place.after), entry);
        // While history is being projected, its end has not been seen.
        Read::Page(Page { is_end: page.is_end && !feed.is_catching_up, ..page })
    }

    /// A page was read by a follower: what it saw of the stream's state is news here, too.
    pub fn saw(&self, history: u64, id: i64, page: Option<&AggregatedPage>) {
        let Some(mut state) = self.state_of(history) else { return };
        let is_led = state.is_led(id);
        let Some(feed) = state.feeds.get_mut(&id) else { return };
        let Some(page) = page else { return feed.delete() };
        if is_led {
            return;
        }
        let is_other = feed.projection_id != page.projection_id;
        feed.projection_id = page.projection_id;
        feed.is_catching_up = page.is_catching_up;
        if !feed.messages.is_known() || is_other {
            feed.begin_anew(page.projected_position);
        }
    }

    /// The state, unless it is of a later log than this one; what is known of an earlier log is forgotten.
    fn state_of(&self, history: u64) -> Option<MutexGuard<'_, State>> {
        let mut state = self.state();
        state.forget(history);
        Some(state).filter(|state| state.history == history)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock()
    }
}

impl State {
    fn forget(&mut self, history: u64) {
        if history > self.history {
            self.history = history;
            self.led = None;
            self.feeds.values_mut().for_each(Feed::forget);
        }
    }

    /// Whether this instance projects it, as one of the live ones.
    fn is_led(&self, id: i64) -> bool {
        self.led.as_ref().is_some_and(|led| led.live.contains(&id))
    }
}

impl Feed {
    /// `led`: how far it is, if this instance projects it.
    fn new(led: Option<i64>) -> Self {
        Self {
            projection_id: 0,
            up_to: led.unwrap_or(0),
            messages: led.map_or_else(Suffix::unknown, Suffix::after),
            is_catching_up: false,
            is_deleted: false,
            followers: 0,
            progress: watch::Sender::new(led.unwrap_or(0)),
        }
    }

    /// Takes in the messages between two positions.
    fn advance(&mut self, from: i64, messages: Vec<AggregatedMessage>, up_to: i64, bytes_max: usize) {
        if !self.messages.is_known() || from > self.up_to {
            // What lies between is not known here.
            self.begin_anew(from);
        }
        let known = self.up_to;
        let mut is_new = false;
        for one in messages.into_iter().filter(|one| one.message.global_position > known) {
            is_new |= self.messages.push(one);
        }
        self.messages.keep(bytes_max);
        self.up_to = self.up_to.max(up_to);
        if is_new {
            self.messages.wake();
        }
        self.progress.send_replace(self.up_to);
    }

    /// Nothing before this position is here any more.
    fn begin_anew(&mut self, position: i64) {
        self.up_to = position;
        self.messages.begin_after(position);
        self.progress.send_replace(position);
    }

    fn forget(&mut self) {
        self.begin_anew(0);
        self.messages.begin_after(i64::MAX);
        self.projection_id = 0;
    }

    fn delete(&mut self) {
        self.is_deleted = true;
        self.messages.wake();
        self.progress.send_replace(self.up_to);
    }
}
