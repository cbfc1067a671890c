//! What projects in the model: this instance or another one; the former tells its followers what it has committed.

use std::collections::{HashMap, HashSet, VecDeque};

use super::World;
use super::stored::{Projection, Stored};
use crate::domain::aggregated_stream::AggregatedMessage;
use crate::domain::keyed::Part;
use crate::store::aggregated_streams::{AggregatedPage, Progress};
use crate::store::read::PageLimit;

/// What a look reads at once: so little that there is often more.
const LOOK_MAX: PageLimit = PageLimit { messages: 4, bytes: 1 << 20 };

/// The projector, and the look of an instance that does not project.
#[derive(Default)]
pub struct Projecting {
    /// This instance has the lease.
    is_here: bool,
    /// What is committed and not told yet, in order.
    told_next: VecDeque<Tell>,
    /// The same of those that catch up, each in a task of its own: logs, streams and positions.
    past: VecDeque<(u64, i64, i64)>,
    look: Option<Look>,
}

enum Tell {
    Lead { history: u64, live: HashSet<i64>, position: i64 },
    Projected { history: u64, up_to: i64, messages: HashMap<i64, Vec<AggregatedMessage>>, stopped: HashMap<i64, i64> },
    Switched { history: u64, id: i64, projection_id: i64, position: i64 },
    Resign,
}

struct Look {
    /// The log that there was when it began.
    history: u64,
    /// Streams that were asked for and how far they are.
    found: VecDeque<(i64, Option<Progress>)>,
    /// A page that was read after a position, of one log.
    page: Option<(i64, i64, Option<AggregatedPage>, i64)>,
}

impl World {
    pub fn project(&mut self) {
        match self.rng.u32(0..20) {
            0..6 => self.tell(),
            6..8 => self.tell_past(),
            8 => self.change_hands(),
            9 => self.pause_or_resume(),
            10 => self.rebuild(),
            11 => self.delete(),
            12..15 => self.catch_up(),
            15 => self.go_live(),
            16 => self.lose_rounds(),
            _ => self.round(),
        }
    }

    fn tell(&mut self) {
        match self.projecting.told_next.pop_front() {
            Some(Tell::Lead { history, live, position }) => self.feeds.lead(history, live, position, position),
            Some(Tell::Projected { history, up_to, messages, stopped }) => {
                self.feeds.wrote(history, up_to);
                self.feeds.projected(history, up_to, messages, &stopped);
            }
            Some(Tell::Switched { history, id, projection_id, position }) => {
                self.feeds.switched(history, id, projection_id, position);
            }
            Some(Tell::Resign) => self.feeds.resign(),
            None => {}
        }
    }

    fn tell_past(&mut self) {
        if let Some((history, id, position)) = self.projecting.past.pop_front() {
            self.feeds.caught_up_to(history, id, position);
        }
    }

    /// A term does one thing after the other.
    fn tell_all(&mut self) {
        while !self.projecting.told_next.is_empty() {
            self.tell();
        }
    }

    /// Another one takes over: the one before may not have heard of it.
    pub fn change_hands(&mut self) {
        if std::mem::take(&mut self.projecting.is_here) {
            self.projecting.told_next.push_back(Tell::Resign);
        } else if !self.script.stored().is_away {
            self.tell_all();
            self.projecting.past.clear();
            self.projecting.is_here = true;
            self.lead();
        }
    }

    pub fn is_fenced(&mut self) {
        if self.projecting.is_here {
            self.change_hands();
        }
    }

    fn lead(&mut self) {
        if self.projecting.is_here {
            let stored = self.script.stored();
            let live = stored.aggregated.iter().filter(|one| one.current.is_live).map(|one| one.id).collect();
            let (history, position) = (self.tail.history(), stored.live_position);
            self.projecting.told_next.push_back(Tell::Lead { history, live, position });
        }
    }

    /// All live ones go on; perhaps one of them stops before a message.
    fn round(&mut self) {
        self.tell_all();
        let script = self.script.clone();
        let mut stored = script.stored();
        // Another instance may have settled more than this one.
        let end = if self.projecting.is_here { self.tail.settled() } else { stored.end() };
        let from = stored.live_position;
        if end <= from {
            return;
        }
        let up_to = self.rng.i64(from + 1..=end);
        let Stored { messages: log, aggregated, .. } = &mut *stored;
        let (mut messages, mut stopped) = (HashMap::new(), HashMap::new());
        for one in aggregated.iter_mut().filter(|one| one.current.is_live) {
            let is_stopped = self.rng.u32(0..12) == 0;
            let own = if is_stopped { self.rng.i64(from..up_to) } else { up_to };
            messages.insert(one.id, one.current.project(log, own));
            if is_stopped {
                (one.is_paused, one.current.is_live) = (true, false);
                stopped.insert(one.id, own);
            }
        }
        stored.live_position = up_to;
        if !stopped.is_empty() {
            stored.write_to_disk();
        }
        drop(stored);
        if self.projecting.is_here {
            let some_stopped = !stopped.is_empty();
            self.projecting.told_next.push_back(Tell::Projected {
                history: self.tail.history(),
                up_to,
                messages,
                stopped,
            });
            if some_stopped {
                self.lead();
            }
        }
    }

    /// PostgreSQL is killed before its last rounds are on disk. Who projects has lost its session with that, and others may
    /// read before that is known.
    fn lose_rounds(&mut self) {
        if self.script.stored().is_away {
            return;
        }
        self.project_all();
        self.write();
        self.publish();
        self.round();
        for _ in 0..self.rng.usize(0..10) {
            self.tell();
            self.look();
        }
        {
            let mut stored = self.script.stored();
            let kept = self.rng.i64(stored.on_disk..=stored.live_position);
            stored.lose_rounds(kept);
        }
        self.is_fenced();
        for _ in 0..self.rng.usize(0..20) {
            match self.rng.u32(0..4) {
                0 => self.begin_somewhere(),
                _ => self.step_one(),
            }
        }
    }

    fn catch_up(&mut self) {
        let script = self.script.clone();
        let mut stored = script.stored();
        let Stored { messages, aggregated, live_position, on_disk, .. } = &mut *stored;
        let Some(one) = self.rng.choice(aggregated.iter_mut()) else { return };
        let is_rebuild = one.rebuild.is_some() && (one.current.is_live || one.is_paused || self.rng.bool());
        if !is_rebuild && (one.current.is_live || one.is_paused) {
            return;
        }
        let projection = if is_rebuild { one.rebuild.as_mut().unwrap() } else { &mut one.current };
        if projection.position < *live_position {
            let up_to = self.rng.i64(projection.position + 1..=*live_position);
            projection.project(messages, up_to);
            *on_disk = *live_position;
            if self.projecting.is_here && !is_rebuild {
                self.projecting.past.push_back((self.tail.history(), one.id, up_to));
            }
        }
    }

    /// Those that have come to the position of the live ones join them.
    fn go_live(&mut self) {
        self.tell_all();
        let script = self.script.clone();
        let mut stored = script.stored();
        let position = stored.live_position;
        let mut switched = Vec::new();
        let mut joined = HashSet::new();
        for one in &mut stored.aggregated {
            if let Some(rebuild) = one.rebuild.take_if(|rebuild| rebuild.position >= position) {
                (one.current, one.is_paused) = (rebuild, false);
                one.current.is_live = true;
                let (history, id, projection_id) = (self.tail.history(), one.id, one.current.id);
                switched.push(Tell::Switched { history, id, projection_id, position });
            } else if !one.is_paused && !one.current.is_live && one.current.position >= position {
                one.current.is_live = true;
                joined.insert(one.id);
            }
        }
        if !switched.is_empty() || !joined.is_empty() {
            stored.write_to_disk();
        }
        drop(stored);
        // The task of one that has arrived has ended, and told what it had to tell.
        let Self { feeds, projecting, .. } = self;
        projecting.past.retain(|(history, id, position)| {
            if joined.contains(id) {
                feeds.caught_up_to(*history, *id, *position);
            }
            !joined.contains(id)
        });
        self.lead();
        if self.projecting.is_here {
            self.projecting.told_next.extend(switched);
        }
    }

    fn pause_or_resume(&mut self) {
        let script = self.script.clone();
        let mut stored = script.stored();
        stored.write_to_disk();
        let position = stored.live_position;
        let Some(one) = self.rng.choice(stored.aggregated.iter_mut()) else { return };
        one.is_paused = !one.is_paused;
        if std::mem::take(&mut one.current.is_live) {
            one.current.position = position;
        }
        drop(stored);
        self.lead();
    }

    fn rebuild(&mut self) {
        let mut stored = self.script.stored();
        stored.write_to_disk();
        let id = stored.next_id();
        if let Some(one) = self.rng.choice(stored.aggregated.iter_mut()) {
            one.rebuild.get_or_insert_with(|| Projection::new(id));
        }
    }

    /// One is deleted now and then, and another one made.
    fn delete(&mut self) {
        if self.rng.u32(0..4) > 0 {
            return;
        }
        let script = self.script.clone();
        let mut stored = script.stored();
        let at = self.rng.usize(0..stored.aggregated.len());
        stored.write_to_disk();
        stored.aggregated.remove(at);
        stored.create();
        drop(stored);
        self.lead();
    }

    /// One step of the look at what another instance has projected.
    pub fn look(&mut self) {
        let stored = self.script.stored();
        let Some(mut look) = self.projecting.look.take() else {
            let followed = self.feeds.followed_from_afar().into_iter();
            let found: VecDeque<_> = followed.map(|id| (id, stored.progress(id))).collect();
            self.projecting.look =
                (!found.is_empty()).then_some(Look { history: self.tail.history(), found, page: None });
            return;
        };
        if let Some((id, from, page, history_number)) = look.page.take() {
            self.feeds.on_page(look.history, id, from, page, history_number);
        } else if let Some((id, progress)) = look.found.pop_front() {
            match progress {
                None => self.feeds.deleted(look.history, id),
                Some(progress) => {
                    if let Some(from) = self.feeds.on_progress(look.history, &progress) {
                        match self.rng.u32(0..8) {
                            0 => self.feeds.on_failed_page(look.history, &progress),
                            _ => {
                                look.page = Some((
                                    id,
                                    from,
                                    stored.page(id, &Part::All, from, LOOK_MAX),
                                    self.tail.history_number(),
                                ));
                            }
                        }
                    }
                }
            }
        }
        self.projecting.look = Some(look).filter(|look| !look.found.is_empty() || look.page.is_some());
    }

    /// Everything that is settled is projected, and told.
    pub fn project_all(&mut self) {
        let script = self.script.clone();
        {
            let mut stored = script.stored();
            stored.aggregated.iter_mut().for_each(|one| one.is_paused = false);
            let Stored { messages, aggregated, live_position, .. } = &mut *stored;
            for one in aggregated.iter_mut().filter(|one| !one.current.is_live) {
                one.current.project(messages, *live_position);
            }
        }
        self.go_live();
        while self.script.stored().live_position < self.tail.settled() {
            self.round();
            let mut stored = script.stored();
            stored.aggregated.iter_mut().for_each(|one| one.is_paused = false);
            let Stored { messages, aggregated, live_position, .. } = &mut *stored;
            for one in aggregated.iter_mut().filter(|one| !one.current.is_live) {
                one.current.project(messages, *live_position);
            }
            drop(stored);
            self.go_live();
        }
        self.tell_all();
        while !self.projecting.past.is_empty() {
            self.tell_past();
        }
    }
}
