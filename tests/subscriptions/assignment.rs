//! Which consumer holds which partition: the rule of `subscription_plan.sql` against a plain account of it, and its
//! purpose.
//! The account is also what the simulation of leases goes by.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use proptest::prelude::*;
use tokio_postgres::Client;

use crate::support::database::TestDatabase;
use crate::support::seeds::seeds;

/// A partition as the rule sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Partition {
    pub number: i32,
    pub consumer: Option<String>,
    /// It is about to go to this one.
    pub next_owner: Option<String>,
    /// Who gets it back on returning.
    pub preferred_owner: Option<String>,
}

pub type Plan = BTreeMap<i32, String>;

impl Partition {
    /// The consumer that has it as far as the rule is concerned.
    fn owner<'a>(&'a self, alive: &BTreeSet<String>) -> Option<&'a String> {
        let is_alive = |name: &&'a String| alive.contains(*name);
        self.next_owner.as_ref().filter(is_alive).or(self.consumer.as_ref().filter(is_alive))
    }
}

/// The rule: an even spread over those who are alive, with as few moves as possible; a partition goes back to the
/// consumer it was taken from, when that one comes back.
pub fn plan(alive: &BTreeSet<String>, partitions: &[Partition]) -> Plan {
    let held = |name: &String| partitions.iter().filter(|one| one.owner(alive) == Some(name)).count();
    let mut by_held: Vec<&String> = alive.iter().collect();
    by_held.sort_by_key(|name| std::cmp::Reverse(held(name)));
    let mut room: BTreeMap<&String, usize> = BTreeMap::new();
    for (rank, name) in by_held.into_iter().enumerate() {
        let one_more = usize::from(rank < partitions.len() % alive.len());
        room.insert(name, partitions.len() / alive.len() + one_more);
    }
    let mut plan = Plan::new();
    let mut give = |partition: &Partition, name: &String, plan: &mut Plan| {
        if let Some(left @ 1..) = room.get_mut(name) {
            *left -= 1;
            plan.insert(partition.number, name.clone());
        }
    };
    // Each consumer keeps what it has: first partitions that prefer it, last those that prefer another one that is
    // alive.
    let mut kept: Vec<&Partition> = partitions.iter().collect();
    kept.sort_by_key(|one| {
        let is_preferred = one.preferred_owner.as_ref() == one.owner(alive);
        (
            !is_preferred,
            one.preferred_owner.as_ref().is_some_and(|preferred_owner| alive.contains(preferred_owner)),
            one.number,
        )
    });
    for partition in kept {
        if let Some(owner) = partition.owner(alive) {
            give(partition, owner, &mut plan);
        }
    }
    // The others go to their preferred owners, if those have room.
    for partition in partitions {
        if let (false, Some(preferred_owner)) = (plan.contains_key(&partition.number), &partition.preferred_owner) {
            give(partition, preferred_owner, &mut plan);
        }
    }
    // The rest fills up what room there is, in turns.
    let rest: Vec<i32> = partitions.iter().map(|one| one.number).filter(|number| !plan.contains_key(number)).collect();
    let turns = (1..=partitions.len()).flat_map(|turn| room.iter().filter(move |(_, room)| turn <= **room));
    let slots: Vec<String> = turns.map(|(name, _)| (*name).clone()).collect();
    plan.extend(rest.into_iter().zip(slots));
    plan
}

fn partitions() -> impl Strategy<Value = Vec<Partition>> {
    let name = || prop::option::of((0..6).prop_map(|n| format!("w{n}")));
    prop::collection::vec((name(), name(), name()), 0..60).prop_map(|all| {
        (0..)
            .zip(all)
            .map(|(number, (consumer, next_owner, preferred_owner))| Partition {
                number,
                consumer,
                next_owner,
                preferred_owner,
            })
            .collect()
    })
}

fn alive() -> impl Strategy<Value = BTreeSet<String>> {
    prop::collection::btree_set((0..6).prop_map(|n| format!("w{n}")), 1..6)
}

fn spread(alive: &BTreeSet<String>, plan: &Plan) -> Vec<usize> {
    alive.iter().map(|name| plan.values().filter(|target| *target == name).count()).collect()
}

/// As if the plan had been carried out and everything acked.
fn carried_out(partitions: &[Partition], alive: &BTreeSet<String>, plan: &Plan) -> Vec<Partition> {
    let moved = |one: &Partition| {
        let target = plan.get(&one.number);
        let is_taken = one.owner(alive).is_some() && one.owner(alive) != target;
        let preferred_owner = if is_taken { target.cloned() } else { one.preferred_owner.clone().or(target.cloned()) };
        Partition { number: one.number, consumer: target.cloned(), next_owner: None, preferred_owner }
    };
    partitions.iter().map(moved).collect()
}

proptest! {
    /// Each is held by one who is there; no two hold numbers that differ by more than one; no even spread moves less.
    #[test]
    fn the_spread_is_even_and_moves_are_fewest(alive in alive(), partitions in partitions()) {
        let plan = plan(&alive, &partitions);
        prop_assert_eq!(plan.len(), partitions.len());
        prop_assert!(plan.values().all(|name| alive.contains(name)));
        let spread = spread(&alive, &plan);
        prop_assert!(spread.iter().max().unwrap() - spread.iter().min().unwrap() <= 1, "{:?}", spread);

        let stay = partitions.iter().filter(|one| one.owner(&alive) == plan.get(&one.number)).count();
        let (base, more) = (partitions.len() / alive.len(), partitions.len() % alive.len());
        let held = alive.iter().map(|name| partitions.iter().filter(|one| one.owner(&alive) == Some(name)).count());
        let held: Vec<usize> = held.collect();
        let above = held.iter().filter(|held| **held > base).count();
        prop_assert_eq!(stay, held.iter().map(|held| *held.min(&base)).sum::<usize>() + above.min(more));
    }

    /// Where nothing has changed nothing moves.
    #[test]
    fn a_plan_that_was_carried_out_is_the_next_one(alive in alive(), partitions in partitions()) {
        let first = plan(&alive, &partitions);
        prop_assert_eq!(&plan(&alive, &carried_out(&partitions, &alive, &first)), &first);
    }

    /// Of a consumer that goes and comes back, all that it holds then was its own.
    #[test]
    fn who_comes_back_gets_its_own(alive in alive(), count in 0i32..60) {
        let new: Vec<Partition> = (0..count).map(|number| Partition { number, ..Partition::default() }).collect();
        let before = plan(&alive, &new);
        let settled = carried_out(&new, &alive, &before);
        for gone in &alive {
            let mut others = alive.clone();
            others.remove(gone);
            if others.is_empty() {
                continue;
            }
            let meanwhile = carried_out(&settled, &others, &plan(&others, &settled));
            let after = plan(&alive, &meanwhile);
            for (number, name) in &after {
                prop_assert!(name != gone || &before[number] == gone, "{} went to {}", number, name);
            }
        }
    }
}

/// The rows of one subscription, made as random as the rule can meet them.
async fn shuffle(sql: &Client, id: i64, random: &mut Rng) -> (BTreeSet<String>, Vec<Partition>) {
    let names: Vec<String> = (0..random.usize(1..7)).map(|n| format!("w{n}")).collect();
    let alive: BTreeSet<String> = names.iter().filter(|_| random.u8(..) > 60).cloned().collect();
    let count = random.i32(0..40);
    let mut name = || (random.u8(..) > 50).then(|| format!("w{}", random.usize(0..7)));
    let draw = |number| Partition { number, consumer: name(), next_owner: name(), preferred_owner: name() };
    let partitions: Vec<Partition> = (0..count).map(draw).collect();
    sql.execute("DELETE FROM headwater.subscription_consumers WHERE subscription_id = $1", &[&id]).await.unwrap();
    sql.execute("DELETE FROM headwater.subscription_partitions WHERE subscription_id = $1", &[&id]).await.unwrap();
    for name in &names {
        let insert = "INSERT INTO headwater.subscription_consumers (subscription_id, name, session, is_connected, expires_at) \
            VALUES ($1, $2, gen_random_uuid(), false, clock_timestamp() + CASE WHEN $3 THEN interval '1 h' ELSE '-1 s' END)";
        sql.execute(insert, &[&id, name, &alive.contains(name)]).await.unwrap();
    }
    for one in &partitions {
        let insert = "INSERT INTO headwater.subscription_partitions \
            (subscription_id, partition, committed, delivered, read_up_to, consumer, next_owner, preferred_owner) \
            VALUES ($1, $2, 0, 0, 0, $3, $4, $5)";
        sql.execute(insert, &[&id, &one.number, &one.consumer, &one.next_owner, &one.preferred_owner]).await.unwrap();
    }
    (alive, partitions)
}

#[tokio::test]
async fn the_rule_in_sql_is_the_rule() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    for seed in seeds(100) {
        let mut random = Rng::with_seed(seed);
        let (alive, partitions) = shuffle(&sql, 1, &mut random).await;
        let rows = sql.query("SELECT partition, consumer FROM headwater.subscription_plan(1)", &[]).await.unwrap();
        let planned: Plan = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let expected = if alive.is_empty() { Plan::new() } else { plan(&alive, &partitions) };
        assert_eq!(planned, expected, "{alive:?} {partitions:?}");
    }
}

/// Calls of functions, and rows that were changed: by this session, of late.
async fn work_done(sql: &Client) -> (i64, i64) {
    let work = "SELECT (SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_xact_user_functions \
        WHERE funcname <> 'subscription_acked_up_to'), \
        (SELECT coalesce(sum(n_tup_upd), 0)::bigint FROM pg_stat_xact_user_tables)";
    let row = sql.query_one(work, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

/// A statement for each partition takes seconds where there are many.
#[tokio::test]
async fn a_join_takes_few_statements_however_many_partitions_there_are() {
    const PARTITIONS: i32 = 9_000;
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    sql.batch_execute("SET track_functions = 'all'").await.unwrap();
    let create = "SELECT headwater.subscription_create('s', '{}', true, NULL, 30000, 10000, 0, \
        ARRAY(SELECT generate_series(1, $1)::integer), array_fill(0::bigint, ARRAY[$1::integer]), 10)";
    let id: i64 = sql.query_one(create, &[&PARTITIONS]).await.unwrap().get(0);
    // A row changes when its partition goes to somebody, and once more where it was taken from one who is there.
    for (name, rows_max) in [("w1", PARTITIONS), ("w2", 2 * PARTITIONS / 2), ("w3", 2 * PARTITIONS / 3)] {
        // In a transaction, so that nothing is moved away from what is counted meanwhile.
        sql.batch_execute("BEGIN").await.unwrap();
        let (calls_before, changed_before) = work_done(&sql).await;
        let join = "SELECT headwater.subscription_join($1, $2, gen_random_uuid(), true, 10, 500)";
        assert_eq!(sql.query_one(join, &[&id, &name]).await.unwrap().get::<_, &str>(0), "done");
        let (calls, changed) = work_done(&sql).await;
        sql.batch_execute("COMMIT").await.unwrap();
        let (calls, changed) = (calls - calls_before, changed - changed_before);
        assert!(calls < 20, "{name}: {calls} calls of functions");
        assert!(changed <= i64::from(rows_max) + 10, "{name}: {changed} rows changed");
    }
}
