//! How far each aggregated stream is, as this instance knows it, and its newest messages for its followers.

mod looking;
mod members;
#[cfg(test)]
mod tests;

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
    /// PostgreSQL has answered that it has the rounds up to here. Those beyond had no message.
    written: i64,
    /// PostgreSQL has been seen without them: until it has answered the projector again, nothing of this is known.
    is_doubted: bool,
}

/// How far an aggregated stream is, as it is known here.
#[derive(Debug, Clone, Copy, Default)]
pub struct Known {
    /// Everything up to here has been projected.
    up_to: i64,
    /// Up to here PostgreSQL has said so.
    written: i64,
}

/// One aggregated stream that is followed.
struct Feed {
    projection_id: i64,
    /// Everything up to this global position has been projected.
    up_to: i64,
    messages: Suffix<AggregatedMessage>,
    is_catching_up: bool,
    is_deleted: bool,
    /// A message up to here was erased before it came here. What comes of it may have been read before that.
    erased_up_to: i64,
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
        let led = state.led(id).map(|led| led.position);
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
                match *position > feed.up_to {
                    true => feed.erased_up_to = feed.erased_up_to.max(*position),
                    false => feed.messages.erase(*position),
                }
            }
        }
    }

    /// There is another log now: what is known here is of one that is gone.
    pub fn forget(&self, history: u64) {
        drop(self.state_of(history));
    }

    /// How far this instance knows an aggregated stream to be.
    pub fn known(&self, id: i64) -> Known {
        self.state().known(id)
    }

    /// The same in one log.
    pub(super) fn known_in(&self, history: u64, id: i64) -> Known {
        let state = self.state();
        if state.history == history { state.known(id) } else { Known::default() }
    }

    /// This instance projects now: these aggregated streams are live, at this position, and PostgreSQL has the rounds up to
    /// `written`.
    pub fn lead(&self, history: u64, live: HashSet<i64>, position: i64, written: i64) {
        let Some(mut state) = self.state_of(history) else { return };
        state.led = Some(Led { live, position, written, is_doubted: false });
        state.go_on_as_led(self.inner.bytes_max);
    }

    /// PostgreSQL has answered that it has the rounds up to a position.
    pub fn wrote(&self, history: u64, up_to: i64) {
        let Some(mut state) = self.state_of(history) else { return };
        let Some(led) = &mut state.led else { return };
        led.written = up_to;
        if std::mem::take(&mut led.is_doubted) {
            state.go_on_as_led(self.inner.bytes_max);
        }
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
            if led.leads(*id) {
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
        let is_led = state.led(id).is_some();
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

    /// A page was read by a follower: what it saw of the stream's state is news here, too. `asked`: what was known here when
    /// it was asked for.
    pub fn saw(&self, history: u64, id: i64, asked: Known, page: &AggregatedPage) {
        let Some(mut state) = self.state_of(history) else { return };
        let is_lost = asked.is_lost_at(page.projected_position);
        if is_lost {
            // PostgreSQL was killed before its last rounds were on disk. The projector finds that out at its next statement.
            state.led.iter_mut().filter(|led| led.live.contains(&id)).for_each(|led| led.is_doubted = true);
            self.kick();
        }
        let is_led = state.led(id).is_some();
        let Some(feed) = state.feeds.get_mut(&id).filter(|_| !is_led) else { return };
        feed.goes_on_at((page.projection_id, page.projected_position), page.is_catching_up, is_lost);
    }

    /// It is gone.
    pub fn deleted(&self, history: u64, id: i64) {
        let Some(mut state) = self.state_of(history) else { return };
        if let Some(feed) = state.feeds.get_mut(&id) {
            feed.delete();
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

    /// Where the live ones are, if it is one of them and this instance projects them.
    fn led(&self, id: i64) -> Option<&Led> {
        self.led.as_ref().filter(|led| led.leads(id))
    }

    fn known(&self, id: i64) -> Known {
        let feed = self.feeds.get(&id).filter(|feed| feed.messages.is_known()).map_or(0, |feed| feed.up_to);
        match self.led(id) {
            Some(led) => Known { up_to: led.position.max(feed), written: led.written },
            None => Known { up_to: feed, written: feed },
        }
    }

    /// Those that this instance projects go on from where it is. That may be before what was told here: rounds that
    /// PostgreSQL has lost are made again, and their messages are new to followers that were not told.
    fn go_on_as_led(&mut self, bytes_max: usize) {
        let Self { feeds, led: Some(led), .. } = self else { return };
        for (_, feed) in feeds.iter_mut().filter(|(id, _)| led.leads(**id)) {
            if led.position < feed.up_to {
                feed.begin_anew(led.position);
            }
            feed.advance(led.position, Vec::new(), led.position, bytes_max);
            if std::mem::take(&mut feed.is_catching_up) {
                feed.messages.wake();
            }
        }
    }
}

impl Led {
    fn leads(&self, id: i64) -> bool {
        self.live.contains(&id) && !self.is_doubted
    }
}

impl Known {
    /// Whether the database has lost rounds, if it is at this position there.
    fn is_lost_at(self, projected_position: i64) -> bool {
        projected_position < self.written
    }

    /// Up to where it is projected, if it was at this position in the database after this was known.
    pub fn or(self, projected_position: i64) -> i64 {
        if self.is_lost_at(projected_position) { projected_position } else { projected_position.max(self.up_to) }
    }

    /// Up to where it is projected.
    pub fn up_to(self) -> i64 {
        self.up_to
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
            erased_up_to: 0,
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
            let at = one.message.global_position;
            if at <= self.erased_up_to {
                // Its followers read it from the database.
                self.messages.forget_up_to(at);
                is_new = true;
            } else {
                is_new |= self.messages.push(one);
            }
        }
        self.messages.keep(bytes_max);
        self.up_to = self.up_to.max(up_to);
        if is_new {
            self.messages.wake();
        }
        self.progress.send_replace(self.up_to);
    }

    /// Takes what the database says: the projection, how far that is, and its state. Answers whether it goes on from what is
    /// here; else, or if that is void, it begins anew.
    fn goes_on_at(&mut self, (projection_id, position): (i64, i64), is_catching_up: bool, is_void: bool) -> bool {
        let was_catching_up = std::mem::replace(&mut self.is_catching_up, is_catching_up);
        let projection_before = std::mem::replace(&mut self.projection_id, projection_id);
        // Those that wait where history ended have to be woken, and find out what is left of it.
        let has_gone_live = was_catching_up && !is_catching_up;
        let is_same = self.messages.is_known() && projection_before == projection_id;
        let goes_on = is_same && !has_gone_live && !is_void;
        if !goes_on {
            self.begin_anew(position);
        }
        goes_on
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
