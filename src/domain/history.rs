//! Decides whether the log is still the one that was read. A log goes back when a backup is restored, when a replica takes
//! over that had not received everything, or when a test truncates the table: positions that were seen are then given to
//! other messages.

use uuid::Uuid;

/// A message by which a place in the log is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Landmark {
    /// Its global position.
    pub position: i64,
    /// The message's id: another message at the same position has another one.
    pub id: Uuid,
}

/// What is known of the log that was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// Counts the histories of this database; the instance that notices a change first raises it.
    pub number: i64,
    /// The last settled message that is known.
    pub checkpoint: Option<Landmark>,
    /// The last one that a look has shown, where the checkpoint was committed after that: what is written to another log
    /// says nothing of this one.
    pub looked: Option<Landmark>,
    /// The oldest message there was.
    pub first: Option<Landmark>,
    /// Where the log was.
    pub ground: Ground,
}

/// Where the log is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ground {
    /// The server's system identifier and timeline, the database, and when the server was started. `None`: the server does
    /// not tell.
    pub server: Option<String>,
    /// The file of the sequence that gives out positions. `TRUNCATE … RESTART IDENTITY` makes a new one.
    pub sequence_file: Option<i64>,
}

/// What one look at the log shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// As in [`Known`].
    pub number: i64,
    /// The id of the message at the checkpoint's position; `None`: there is none.
    pub at_checkpoint: Option<Uuid>,
    /// The id of the message at the position of [`Known::looked`].
    pub at_looked: Option<Uuid>,
    /// One of both is not there because it was trimmed, as this log knows: it is the log that had it.
    pub is_trimmed: bool,
    /// The oldest message; `None`: the log is empty.
    pub first: Option<Landmark>,
    /// The newest message at or below the settled position.
    pub newest: Option<Landmark>,
    /// The highest position of a message, 0 if there is none. It may be the settled position instead of a higher one, if
    /// the sequence has given that.
    pub head: i64,
    /// The last position that the sequence gave out; `None`: there is no sequence.
    pub given: Option<i64>,
    /// Where the log is.
    pub ground: Ground,
}

/// The log is another one than it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryChange {
    /// What gave it away.
    pub reason: Reason,
    /// Nothing of the former log is left, because it was truncated.
    pub is_anew: bool,
}

/// By what a change was noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// There is another message at the checkpoint's position.
    OtherMessage,
    /// Positions that were settled are given out again.
    WentBack,
    /// The sequence was made anew, and the checkpoint's message is gone.
    OtherSequence,
    /// The server is another one, or was promoted or started anew, and the checkpoint's message is gone.
    OtherServer,
    /// Another instance has noticed a change.
    Told,
}

impl Reason {
    /// The name in the log and in `/readyz`.
    pub fn name(self) -> &'static str {
        match self {
            Reason::OtherMessage => "other_message",
            Reason::WentBack => "went_back",
            Reason::OtherSequence => "other_sequence",
            Reason::OtherServer => "other_server",
            Reason::Told => "told",
        }
    }
}

impl Known {
    /// What a first look makes known.
    pub fn of(seen: &Seen) -> Self {
        let Seen { number, newest: checkpoint, first, ref ground, .. } = *seen;
        Self { number, checkpoint, looked: None, first, ground: ground.clone() }
    }

    /// The first and the last message that were just settled: the last is the checkpoint from here on. If it were not until
    /// the next look, a server that lacks it would show all that the log is known by.
    pub fn settled(&mut self, first: Landmark, last: Landmark) {
        self.looked = self.looked.or(self.checkpoint);
        self.checkpoint = Some(last);
        self.first.get_or_insert(first);
    }

    /// Judges by what a look shows, when everything up to `settled` was settled.
    ///
    /// The checkpoint's message at its position proves that the log is the same up to there, whatever server has it. If
    /// there is no message at that position, it may have been deleted, which makes no other history as long as its
    /// position is not given out again.
    pub fn judge(&self, settled: i64, seen: &Seen) -> Option<HistoryChange> {
        let is_other = |(known, found): (Landmark, Uuid)| known.id != found;
        if self.looked.zip(seen.at_looked).is_some_and(is_other)
            || self.checkpoint.zip(seen.at_checkpoint).is_some_and(is_other)
        {
            return Some(self.change(Reason::OtherMessage, seen));
        }
        // What was committed since the last look may be in another log, unless that is there as well which the look showed.
        let is_proof = self.looked.is_none() || seen.at_looked.is_some();
        let is_there = match (self.checkpoint, seen.at_checkpoint) {
            (Some(known), Some(_)) if is_proof && known.position >= settled => return self.told(seen),
            (Some(_), Some(_)) => is_proof,
            _ => false,
        };
        if seen.given.is_some_and(|given| given.max(seen.head) < settled) {
            return Some(self.change(Reason::WentBack, seen));
        }
        if is_there || settled == 0 {
            return self.told(seen);
        }
        if differ(&self.ground.server, &seen.ground.server) && !seen.is_trimmed {
            return Some(self.change(Reason::OtherServer, seen));
        }
        if differ(&self.ground.sequence_file, &seen.ground.sequence_file) {
            return Some(self.change(Reason::OtherSequence, seen));
        }
        self.told(seen)
    }

    /// The log is the same: notes what a look has shown.
    pub fn take_in(&mut self, seen: &Seen) {
        *self = Self::of(seen);
    }

    fn told(&self, seen: &Seen) -> Option<HistoryChange> {
        (seen.number > self.number).then(|| self.change(Reason::Told, seen))
    }

    fn change(&self, reason: Reason, seen: &Seen) -> HistoryChange {
        let is_same_server = !differ(&self.ground.server, &seen.ground.server);
        let is_anew = match (self.first, seen.first) {
            (_, None) => true,
            _ if is_same_server && differ(&self.ground.sequence_file, &seen.ground.sequence_file) => true,
            // The log begins where it began, with another message.
            (Some(known), Some(first)) => first.position <= known.position && first.id != known.id,
            (None, Some(_)) => false,
        };
        HistoryChange { reason, is_anew }
    }
}

/// Whether both are known and differ.
fn differ<T: PartialEq>(one: &Option<T>, other: &Option<T>) -> bool {
    matches!((one, other), (Some(one), Some(other)) if one != other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(position: i64, id: u128) -> Landmark {
        Landmark { position, id: Uuid::from_u128(id) }
    }

    fn ground(sequence_file: i64) -> Ground {
        Ground { server: Some("one".into()), sequence_file: Some(sequence_file) }
    }

    /// Ten messages, settled.
    fn known() -> Known {
        Known { number: 0, checkpoint: Some(mark(10, 10)), looked: None, first: Some(mark(1, 1)), ground: ground(7) }
    }

    /// The same log, as it is seen again.
    fn same() -> Seen {
        Seen {
            number: 0,
            at_checkpoint: Some(Uuid::from_u128(10)),
            at_looked: None,
            is_trimmed: false,
            first: Some(mark(1, 1)),
            newest: Some(mark(10, 10)),
            head: 12,
            given: Some(12),
            ground: ground(7),
        }
    }

    fn reason(settled: i64, seen: Seen) -> Option<Reason> {
        known().judge(settled, &seen).map(|change| change.reason)
    }

    #[test]
    fn what_goes_on_as_it_was_is_the_same() {
        assert_eq!(reason(10, same()), None);
        // Moved to another server whole, by a sequence with another file, and written to with explicit positions.
        let moved = Ground { server: Some("two".into()), sequence_file: Some(9) };
        assert_eq!(reason(10, Seen { ground: moved, given: Some(3), ..same() }), None);
    }

    #[test]
    fn what_was_committed_to_another_log_does_not_prove_that_it_is_the_same() {
        let mut known = known();
        for at in [11, 12] {
            known.settled(mark(at, at as u128), mark(at, at as u128));
        }
        let look = |at_looked| Seen { at_checkpoint: Some(Uuid::from_u128(12)), at_looked, ..same() };
        assert_eq!(known.judge(12, &look(Some(Uuid::from_u128(10)))), None);
        // Deleted; where the sequence is another one, too, the log is.
        assert_eq!(known.judge(12, &look(None)), None);
        let anew = Seen { ground: ground(9), ..look(None) };
        assert_eq!(known.judge(12, &anew).map(|change| change.reason), Some(Reason::OtherSequence));
        // Trimmed, and the server was started anew.
        let elsewhere = Ground { server: Some("two".into()), sequence_file: Some(7) };
        let trimmed = Seen { ground: elsewhere.clone(), is_trimmed: true, ..look(None) };
        assert_eq!(known.judge(12, &trimmed), None);
        assert!(known.judge(12, &Seen { ground: elsewhere, ..look(None) }).is_some());
        let change = known.judge(12, &look(Some(Uuid::from_u128(99)))).unwrap();
        assert_eq!(change.reason, Reason::OtherMessage);
        known.take_in(&look(Some(Uuid::from_u128(10))));
        assert_eq!(known.looked, None);
    }

    #[test]
    fn deleting_the_newest_is_no_other_history_while_their_positions_stay_used_up() {
        let deleted = Seen { at_checkpoint: None, newest: Some(mark(6, 6)), head: 6, ..same() };
        assert_eq!(reason(10, deleted.clone()), None);
        assert_eq!(reason(10, Seen { given: Some(6), ..deleted.clone() }), Some(Reason::WentBack));
        // Everything, without the sequence.
        assert_eq!(reason(10, Seen { first: None, newest: None, head: 0, ..deleted }), None);
    }

    #[test]
    fn a_settled_end_that_is_given_out_again_is_noticed_though_the_checkpoint_stands() {
        assert_eq!(reason(11, Seen { head: 10, given: Some(10), ..same() }), Some(Reason::WentBack));
        assert_eq!(reason(11, Seen { head: 11, given: Some(11), ..same() }), None);
    }

    #[test]
    fn a_log_that_has_grown_past_the_place_again_is_noticed() {
        let grown = Seen { at_checkpoint: Some(Uuid::from_u128(99)), ..same() };
        assert_eq!(known().judge(10, &grown), Some(HistoryChange { reason: Reason::OtherMessage, is_anew: false }));
        let hole = Seen { at_checkpoint: None, first: Some(mark(1, 91)), ground: ground(8), ..same() };
        assert_eq!(known().judge(10, &hole), Some(HistoryChange { reason: Reason::OtherSequence, is_anew: true }));
        let other = Ground { server: Some("two".into()), sequence_file: Some(7) };
        assert_eq!(reason(10, Seen { at_checkpoint: None, ground: other, ..same() }), Some(Reason::OtherServer));
    }

    #[test]
    fn a_checkpoint_that_was_trimmed_is_no_sign_of_another_server_but_hides_no_other_sign() {
        let restarted = Ground { server: Some("two".into()), sequence_file: Some(7) };
        let trimmed = Seen { at_checkpoint: None, is_trimmed: true, ground: restarted, ..same() };
        assert_eq!(reason(10, trimmed.clone()), None);
        assert_eq!(reason(10, Seen { is_trimmed: false, ..trimmed.clone() }), Some(Reason::OtherServer));
        assert_eq!(reason(10, Seen { given: Some(6), head: 6, ..trimmed.clone() }), Some(Reason::WentBack));
        assert_eq!(reason(10, Seen { ground: ground(8), ..trimmed }), Some(Reason::OtherSequence));
    }

    #[test]
    fn truncated_is_told_from_gone_back() {
        let is_anew = |seen| known().judge(10, &seen).map(|change| change.is_anew);
        let empty = Seen { at_checkpoint: None, first: None, newest: None, head: 0, given: Some(0), ..same() };
        assert_eq!(is_anew(empty), Some(true));
        let regrown = Seen { at_checkpoint: None, first: Some(mark(1, 91)), head: 2, given: Some(2), ..same() };
        assert_eq!(is_anew(regrown), Some(true));
        let restored = Seen { at_checkpoint: None, newest: Some(mark(4, 4)), head: 4, given: Some(4), ..same() };
        assert_eq!(is_anew(restored.clone()), Some(false));
        let elsewhere = Ground { server: Some("two".into()), sequence_file: Some(8) };
        assert_eq!(is_anew(Seen { ground: elsewhere, ..restored }), Some(false));
    }

    #[test]
    fn an_empty_log_has_no_history_to_lose() {
        let seen = Seen { first: None, newest: None, at_checkpoint: None, head: 0, given: Some(0), ..same() };
        assert_eq!(Known::of(&seen).judge(0, &same()), None);
    }

    #[test]
    fn what_another_instance_has_noticed_is_noticed_here() {
        assert_eq!(reason(10, Seen { number: 1, ..same() }), Some(Reason::Told));
    }
}
