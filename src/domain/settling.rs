//! The rule of the settled position: up to there, nothing can appear any more.
//!
//! Global positions come from a sequence, and transactions commit in another order than they took their numbers. A
//! row's transaction holds `RowExclusiveLock` on the table from before it takes its number until after its commit is
//! visible. So when there is a hole, only the transactions that hold that lock *now* can still fill it: once each of them
//! has ended, a position that a new look does not show was rolled back and stays a hole for ever.

use std::collections::HashSet;

/// A transaction that may still fill a hole.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Holder {
    /// PostgreSQL's virtual transaction id (`3/45`); `-1/<xid>` for a prepared transaction.
    pub virtual_transaction: String,
    /// `None` for a prepared transaction, which belongs to no session.
    pub pid: Option<i32>,
}

impl Holder {
    fn is_prepared(&self) -> bool {
        self.pid.is_none()
    }
}

/// What the reader has to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// There is no hole: all that was seen is settled.
    Clear,
    /// There is a hole: ask which transactions hold the lock, then call [`Settling::on_holders`].
    AskHolders,
    /// Every transaction that could fill a hole has ended: read once more, then call [`Settling::on_decided`].
    ReadAgain {
        /// Holes up to this position are meant.
        up_to: i64,
    },
    /// Ask for the holders again in a moment.
    Wait,
}

/// The state of one reader of the log.
#[derive(Debug, Clone, Default)]
pub struct Settling {
    settled: i64,
    barrier: Option<Barrier>,
}

#[derive(Debug, Clone)]
struct Barrier {
    /// The highest position that had been seen when the holders were asked for: a transaction that took a lower number
    /// had taken its lock before.
    up_to: i64,
    /// `None` until they were asked for.
    holders: Option<HashSet<Holder>>,
}

impl Settling {
    /// Begins at a position that is known to be settled.
    pub fn at(settled: i64) -> Self {
        Self { settled, barrier: None }
    }

    /// The position up to which nothing can appear any more.
    pub fn settled(&self) -> i64 {
        self.settled
    }

    /// The transactions that may still fill a hole, as last asked.
    pub fn holders(&self) -> impl Iterator<Item = &Holder> {
        self.barrier.iter().filter_map(|barrier| barrier.holders.as_ref()).flatten()
    }

    /// The positions after the settled one, in order, as one snapshot shows them. Returns how many of them, those
    /// before the first hole, are settled at once.
    pub fn on_rows(&mut self, positions: &[i64]) -> (usize, Step) {
        let run = self.advance(positions);
        let Some(&last) = positions[run..].last() else {
            self.barrier = None;
            return (run, Step::Clear);
        };
        if self.barrier.as_ref().is_none_or(|barrier| barrier.holders.is_none()) {
            self.barrier = Some(Barrier { up_to: last, holders: None });
        }
        (run, Step::AskHolders)
    }

    /// Positions that this service itself has committed, in order. Returns how many of them are settled at once, because
    /// no hole is before them; the others wait until they are read.
    pub fn on_committed(&mut self, positions: &[i64]) -> usize {
        self.advance(positions)
    }

    /// Has everything up to `up_to` decided at once, without a look at the rows: at start, or far behind.
    pub fn jump_to(&mut self, up_to: i64) -> Step {
        if up_to <= self.settled {
            return Step::Clear;
        }
        if self.barrier.as_ref().is_none_or(|barrier| barrier.holders.is_none()) {
            self.barrier = Some(Barrier { up_to, holders: None });
        }
        Step::AskHolders
    }

    /// The transactions that hold the lock, asked for *after* the rows were read.
    pub fn on_holders(&mut self, current: HashSet<Holder>) -> Step {
        let Some(barrier) = &mut self.barrier else { return Step::Clear };
        let waiting_for = match barrier.holders.take() {
            None => current,
            Some(before) => still_there(before, current),
        };
        let decided = waiting_for.is_empty();
        barrier.holders = Some(waiting_for);
        if decided { Step::ReadAgain { up_to: barrier.up_to } } else { Step::Wait }
    }

    /// The positions up to `up_to`, which is not beyond the barrier, have been read with a snapshot newer than the last
    /// holder's end: they are final.
    pub fn on_decided(&mut self, up_to: i64) {
        self.settled = self.settled.max(up_to);
        if self.barrier.as_ref().is_some_and(|barrier| barrier.up_to <= self.settled) {
            self.barrier = None;
        }
    }

    /// The connection was lost, or leads to another server: what was known of the holders is void.
    pub fn forget_holders(&mut self) {
        self.barrier = None;
    }

    fn advance(&mut self, positions: &[i64]) -> usize {
        let run = positions.iter().zip(self.settled + 1..).take_while(|(seen, next)| *seen == next).count();
        self.settled += run as i64;
        if self.barrier.as_ref().is_some_and(|barrier| barrier.up_to <= self.settled) {
            self.barrier = None;
        }
        run
    }
}

/// A session that prepares its transaction holds the lock under another name from then on. So if a session is gone, a
/// prepared transaction that was not there before may be its transaction; if none is gone, it cannot be.
fn still_there(before: HashSet<Holder>, current: HashSet<Holder>) -> HashSet<Holder> {
    let a_session_is_gone = before.iter().any(|holder| !holder.is_prepared() && !current.contains(holder));
    current
        .into_iter()
        .filter(|holder| before.contains(holder) || (a_session_is_gone && holder.is_prepared()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn session(number: usize) -> Holder {
        Holder { virtual_transaction: format!("3/{number}"), pid: Some(number as i32) }
    }

    fn prepared(number: usize) -> Holder {
        Holder { virtual_transaction: format!("-1/{number}"), pid: None }
    }

    #[test]
    fn a_run_without_holes_is_settled_as_it_is() {
        let mut settling = Settling::at(4);
        assert_eq!(settling.on_rows(&[5, 6, 7]), (3, Step::Clear));
        assert_eq!(settling.settled(), 7);
    }

    #[test]
    fn what_is_before_a_hole_is_settled_at_once() {
        let mut settling = Settling::at(0);
        assert_eq!(settling.on_rows(&[1, 2, 4]), (2, Step::AskHolders));
        assert_eq!(settling.on_holders(HashSet::from([session(1)])), Step::Wait);
        assert_eq!(settling.settled(), 2);
    }

    #[test]
    fn a_hole_that_nobody_can_fill_stays_one() {
        let mut settling = Settling::at(0);
        settling.on_rows(&[2, 3]);
        assert_eq!(settling.on_holders(HashSet::new()), Step::ReadAgain { up_to: 3 });
        settling.on_decided(3);
        assert_eq!(settling.settled(), 3);
    }

    #[test]
    fn a_transaction_that_came_after_the_hole_was_seen_is_not_waited_for() {
        let mut settling = Settling::at(0);
        settling.on_rows(&[2]);
        settling.on_holders(HashSet::from([session(1)]));
        settling.on_rows(&[2, 5]);
        assert_eq!(settling.on_holders(HashSet::from([session(2)])), Step::ReadAgain { up_to: 2 });
    }

    #[test]
    fn a_transaction_that_is_prepared_meanwhile_is_waited_for() {
        let mut settling = Settling::at(0);
        settling.on_rows(&[2]);
        settling.on_holders(HashSet::from([session(1)]));
        assert_eq!(settling.on_holders(HashSet::from([prepared(1)])), Step::Wait);
        assert_eq!(settling.on_holders(HashSet::from([prepared(1), prepared(2)])), Step::Wait);
        assert_eq!(settling.on_holders(HashSet::from([prepared(2)])), Step::ReadAgain { up_to: 2 });
    }

    #[test]
    fn a_hole_is_not_judged_by_the_holders_of_another_server() {
        let mut settling = Settling::at(0);
        settling.on_rows(&[2]);
        settling.on_holders(HashSet::from([session(1)]));
        settling.forget_holders();
        assert_eq!(settling.on_rows(&[2]), (0, Step::AskHolders));
        assert_eq!(settling.on_holders(HashSet::from([session(2)])), Step::Wait);
        assert_eq!(settling.on_holders(HashSet::new()), Step::ReadAgain { up_to: 2 });
    }

    #[derive(Debug, Clone, Copy)]
    enum Act {
        Take(usize),
        Commit(usize),
        RollBack(usize),
        Prepare(usize),
        Read,
        Ask,
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let writer = 0..6usize;
        prop::collection::vec(
            prop_oneof![
                4 => writer.clone().prop_map(Act::Take),
                2 => writer.clone().prop_map(Act::Commit),
                1 => writer.clone().prop_map(Act::RollBack),
                1 => writer.prop_map(Act::Prepare),
                3 => Just(Act::Read),
                3 => Just(Act::Ask),
            ],
            0..200,
        )
    }

    /// A model of the database: writers take numbers under a lock, and commit, roll back or prepare in any order.
    #[derive(Default)]
    struct Model {
        next: i64,
        transactions: usize,
        open: [Option<(usize, bool, Vec<i64>)>; 6],
        committed: BTreeSet<i64>,
    }

    impl Model {
        fn holders(&self) -> HashSet<Holder> {
            let holder = |(number, is_prepared, _): &(usize, bool, Vec<i64>)| {
                if *is_prepared { prepared(*number) } else { session(*number) }
            };
            self.open.iter().flatten().map(holder).collect()
        }

        fn act(&mut self, act: Act) {
            match act {
                Act::Take(writer) => {
                    let slot = &mut self.open[writer];
                    if slot.as_ref().is_some_and(|(_, is_prepared, _)| *is_prepared) {
                        return;
                    }
                    if slot.is_none() {
                        self.transactions += 1;
                        *slot = Some((self.transactions, false, Vec::new()));
                    }
                    self.next += 1;
                    slot.as_mut().unwrap().2.push(self.next);
                }
                Act::Commit(writer) => {
                    if let Some((_, _, numbers)) = self.open[writer].take() {
                        self.committed.extend(numbers);
                    }
                }
                Act::RollBack(writer) => self.open[writer] = None,
                Act::Prepare(writer) => {
                    if let Some((_, is_prepared, _)) = &mut self.open[writer] {
                        *is_prepared = true;
                    }
                }
                Act::Read | Act::Ask => {}
            }
        }
    }

    proptest! {
        #[test]
        fn every_committed_message_is_delivered_once_and_in_order(acts in acts()) {
            let mut model = Model::default();
            let mut settling = Settling::default();
            let mut delivered: Vec<i64> = Vec::new();
            let end = (0..6).map(Act::Commit).chain([Act::Read, Act::Ask, Act::Read, Act::Ask, Act::Read]);
            let mut asked_after_read = false;
            for act in acts.into_iter().chain(end) {
                model.act(act);
                let after: Vec<i64> = model.committed.range(settling.settled() + 1..).copied().collect();
                match act {
                    Act::Read => {
                        let (run, step) = settling.on_rows(&after);
                        delivered.extend(&after[..run]);
                        asked_after_read = step == Step::AskHolders;
                    }
                    Act::Ask if asked_after_read => {
                        if let Step::ReadAgain { up_to } = settling.on_holders(model.holders()) {
                            delivered.extend(model.committed.range(settling.settled() + 1..=up_to));
                            settling.on_decided(up_to);
                            asked_after_read = false;
                        }
                    }
                    _ => {}
                }
            }
            prop_assert_eq!(delivered, model.committed.into_iter().collect::<Vec<_>>());
        }
    }
}
