//! How far a replica may be read.
//!
//! A replica shows transactions in another order than its primary does, so having a row says nothing about the rows before
//! it. It may be read up to a position once it has replayed beyond the end that the primary's log had after that position
//! was settled. Places in the logs of two timelines cannot be compared: so the replica must have replayed something that
//! the primary in use has written.

/// A position, and the end of the primary's log afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayMark {
    /// Everything up to here is settled.
    pub settled: i64,
    /// How far a replica has to have replayed.
    pub end: i64,
    /// The primary, with its timeline, as it names itself.
    pub primary: String,
    /// The log went back so often before.
    pub history: u64,
}

/// What a replica says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaReport {
    /// It replays; otherwise it was promoted.
    pub is_replica: bool,
    /// How far it has replayed.
    pub replayed: i64,
    /// When it was started: one that was started anew may have older data.
    pub started: String,
    /// The primary that has written what it replayed last of the service's own bookkeeping.
    pub primary: Option<String>,
}

/// Whether a replica is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It is.
    Used,
    /// For old messages only: it replays far behind.
    Lagging,
    /// It takes writes.
    Promoted,
    /// It has replayed nothing yet of what the primary in use has written.
    OtherPrimary,
    /// It has not replayed far enough for anything.
    Behind,
    /// It does not answer, or not as it should.
    Failed,
}

impl Use {
    /// Whether anything is read from it.
    pub fn is_used(self) -> bool {
        matches!(self, Use::Used | Use::Lagging)
    }

    /// For the log.
    pub fn reason(self) -> &'static str {
        match self {
            Use::Used => "it keeps up",
            Use::Lagging => "it replays far behind the primary",
            Use::Promoted => "it is no replica any more",
            Use::OtherPrimary => "it has replayed nothing of the primary in use yet",
            Use::Behind => "it has not replayed far enough yet",
            Use::Failed => "it does not answer as it should",
        }
    }
}

/// So many looks in a row at which it had not replayed far enough make a replica one that lags.
const LAGGING_LOOKS: u32 = 5;

/// What is known of one replica.
#[derive(Debug, Default)]
pub struct ReplicaProgress {
    /// What it has replayed.
    reached: Option<ReplayMark>,
    /// What it has to replay next. One is enough: the next one is taken when this one is reached.
    wanted: Option<ReplayMark>,
    looks_waited: u32,
    started: String,
    has_failed: bool,
}

impl ReplicaProgress {
    /// Takes in what it says, after a mark was made.
    pub fn on_look(&mut self, mark: ReplayMark, seen: &ReplicaReport) -> Use {
        let is_other = |known: &ReplayMark| known.primary != mark.primary || known.history != mark.history;
        let is_same = self.started == seen.started && !self.reached.iter().chain(&self.wanted).any(is_other);
        if !seen.is_replica || seen.primary.as_ref() != Some(&mark.primary) || !is_same {
            *self = Self { started: seen.started.clone(), ..Self::default() };
        }
        self.has_failed = false;
        if !seen.is_replica {
            return Use::Promoted;
        }
        if seen.primary.as_ref() != Some(&mark.primary) {
            return Use::OtherPrimary;
        }
        if seen.replayed >= mark.end {
            (self.reached, self.wanted, self.looks_waited) = (Some(mark), None, 0);
            return Use::Used;
        }
        match self.wanted.take() {
            Some(wanted) if seen.replayed < wanted.end => {
                self.wanted = Some(wanted);
                self.looks_waited = self.looks_waited.saturating_add(1);
            }
            before => {
                self.reached = before.or(self.reached.take());
                (self.wanted, self.looks_waited) = (Some(mark), 0);
            }
        }
        match self.reached {
            None => Use::Behind,
            Some(_) if self.looks_waited >= LAGGING_LOOKS => Use::Lagging,
            Some(_) => Use::Used,
        }
    }

    /// It did not answer, or a read of it failed: it is not read before it has answered again.
    pub fn on_failure(&mut self) {
        self.has_failed = true;
    }

    /// Up to which position it may be read, by a reader that knows the log of this history; and when it was started.
    pub fn readable(&self, history: u64) -> Option<(i64, &str)> {
        let reached = self.reached.as_ref().filter(|mark| !self.has_failed && mark.history == history)?;
        Some((reached.settled, &self.started))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(settled: i64, end: i64) -> ReplayMark {
        ReplayMark { settled, end, primary: "p/1".into(), history: 0 }
    }

    fn seen(replayed: i64) -> ReplicaReport {
        ReplicaReport { is_replica: true, replayed, started: "then".into(), primary: Some("p/1".into()) }
    }

    fn readable(progress: &ReplicaProgress) -> Option<i64> {
        progress.readable(0).map(|(up_to, _)| up_to)
    }

    #[test]
    fn a_replica_is_read_up_to_what_was_settled_before_the_end_that_it_has_replayed() {
        let mut progress = ReplicaProgress::default();
        assert_eq!(progress.on_look(mark(10, 100), &seen(100)), Use::Used);
        assert_eq!(readable(&progress), Some(10));
        assert_eq!(progress.on_look(mark(20, 200), &seen(199)), Use::Used);
        assert_eq!(readable(&progress), Some(10));
        // What it had to replay was noted a look ago; meanwhile there is more.
        assert_eq!(progress.on_look(mark(30, 300), &seen(200)), Use::Used);
        assert_eq!(readable(&progress), Some(20));
    }

    #[test]
    fn one_that_replays_late_is_read_up_to_an_old_position_and_one_that_pauses_never_further() {
        let mut progress = ReplicaProgress::default();
        assert_eq!(progress.on_look(mark(10, 100), &seen(50)), Use::Behind);
        assert_eq!(readable(&progress), None);
        for look in 2..20 {
            let used = progress.on_look(mark(10 * look, 100 * look), &seen(100));
            assert_eq!(used, if look < 7 { Use::Used } else { Use::Lagging }, "{look}");
            assert_eq!(readable(&progress), Some(10));
        }
        assert_eq!(progress.on_look(mark(300, 3000), &seen(3000)), Use::Used);
        assert_eq!(readable(&progress), Some(300));
    }

    #[test]
    fn what_was_replayed_counts_on_the_same_line_only() {
        let used = || {
            let mut progress = ReplicaProgress::default();
            progress.on_look(mark(10, 100), &seen(100));
            progress
        };
        let mut progress = used();
        assert_eq!(progress.on_look(mark(11, 110), &ReplicaReport { is_replica: false, ..seen(500) }), Use::Promoted);
        assert_eq!(readable(&progress), None);
        // It was ahead of the one that was promoted.
        let mut progress = used();
        let promoted = ReplayMark { primary: "p/2".into(), ..mark(8, 90) };
        assert_eq!(progress.on_look(promoted.clone(), &seen(500)), Use::OtherPrimary);
        assert_eq!(readable(&progress), None);
        let follows = ReplicaReport { primary: Some("p/2".into()), ..seen(95) };
        assert_eq!(progress.on_look(promoted, &follows), Use::Used);
        assert_eq!(readable(&progress), Some(8));
        // Made anew, from an older copy.
        let mut progress = used();
        assert_eq!(
            progress.on_look(mark(11, 110), &ReplicaReport { started: "later".into(), ..seen(60) }),
            Use::Behind
        );
        assert_eq!(readable(&progress), None);
        // The log went back.
        let mut progress = used();
        assert_eq!(progress.on_look(ReplayMark { history: 1, ..mark(5, 120) }, &seen(110)), Use::Behind);
        assert_eq!((readable(&progress), progress.readable(1)), (None, None));
    }

    #[test]
    fn one_that_fails_is_read_again_once_it_answers() {
        let mut progress = ReplicaProgress::default();
        progress.on_look(mark(10, 100), &seen(100));
        progress.on_failure();
        assert_eq!(readable(&progress), None);
        assert_eq!(progress.on_look(mark(20, 200), &seen(150)), Use::Used);
        assert_eq!(readable(&progress), Some(10));
    }
}
