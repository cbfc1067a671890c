//! A simulation of leases: consumers come, go, come back, are late and are cut off in any order, and acks arrive under
//! leases of all ages. The functions are called as the service calls them, and what they do is held against an account.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use tokio_postgres::Client;
use uuid::Uuid;

use super::assignment::{Partition, plan};
use crate::support::database::TestDatabase;
use crate::support::seeds::seeds;

const PARTITIONS: i32 = 7;
const CONSUMERS: usize = 4;
const STEPS: usize = 60;
const GRACE_MS: i64 = 3_600_000;

/// A partition as it is in the database.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    rule: Partition,
    epoch: i64,
    committed: i64,
    read_up_to: i64,
    rewind_generation: i64,
    in_flight: Vec<i64>,
}

/// A delivery that somebody remembers, and may ack at any time.
#[derive(Debug, Clone)]
struct Lease {
    consumer: String,
    partition: i32,
    epoch: i64,
    position: i64,
}

struct World {
    sql: Client,
    id: i64,
    random: Rng,
    leases: Vec<Lease>,
    /// Up to where each partition was acked.
    acked: BTreeMap<i32, i64>,
}

impl World {
    async fn new(sql: Client, seed: u64) -> Self {
        let create = "SELECT headwater.subscription_create('s', '{\"source\":{\"all\":true}}', true, NULL, 3600000, 3600000, 0, \
            ARRAY(SELECT generate_series(0, $1::integer - 1)), array_fill(0::bigint, ARRAY[$1::integer]), 10)";
        sql.batch_execute("SELECT headwater.subscription_delete('s')").await.unwrap();
        let id = sql.query_one(create, &[&PARTITIONS]).await.unwrap().get(0);
        let acked = (0..PARTITIONS).map(|partition| (partition, 0)).collect();
        Self { sql, id, random: Rng::with_seed(seed), leases: Vec::new(), acked }
    }

    async fn rows(&self) -> Vec<Row> {
        let select = "SELECT partition, consumer, next_owner, preferred_owner, epoch, committed, read_up_to, rewind_generation, unacked_positions \
            FROM headwater.subscription_partitions WHERE subscription_id = $1 ORDER BY partition";
        let read = |row: &tokio_postgres::Row| Row {
            rule: Partition {
                number: row.get(0),
                consumer: row.get(1),
                next_owner: row.get(2),
                preferred_owner: row.get(3),
            },
            epoch: row.get(4),
            committed: row.get(5),
            read_up_to: row.get(6),
            rewind_generation: row.get(7),
            in_flight: row.get(8),
        };
        self.sql.query(select, &[&self.id]).await.unwrap().iter().map(read).collect()
    }

    async fn alive(&self) -> BTreeSet<String> {
        let select = "SELECT name FROM headwater.subscription_consumers WHERE subscription_id = $1 AND expires_at > clock_timestamp()";
        self.sql.query(select, &[&self.id]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    fn any_consumer(&mut self) -> String {
        format!("w{}", self.random.usize(0..CONSUMERS))
    }

    async fn act(&mut self) {
        let before = self.rows().await;
        match self.random.u8(0..20) {
            0..3 => self.join(&before).await,
            3..5 => self.leave(&before).await,
            5..7 => self.expire(&before).await,
            7 => self.end_a_grace().await,
            8 => self.end_an_ack_timeout().await,
            9..14 => self.consume().await,
            _ => self.ack(&before).await,
        }
        self.check(&before).await;
    }

    async fn join(&mut self, before: &[Row]) {
        let consumer = self.any_consumer();
        let (session, is_connected) = (Uuid::from_u128(self.random.u128(..)), self.random.bool());
        let select = "SELECT expires_at > clock_timestamp() FROM headwater.subscription_consumers \
            WHERE subscription_id = $1 AND name = $2";
        let was_alive: Option<bool> =
            self.sql.query_opt(select, &[&self.id, &consumer]).await.unwrap().map(|row| row.get(0));
        let join = "SELECT headwater.subscription_join($1, $2, $3, $4, 10, $5)";
        let answer: String =
            self.sql.query_one(join, &[&self.id, &consumer, &session, &is_connected, &GRACE_MS]).await.unwrap().get(0);
        assert_eq!(answer, "done");
        // One whose lease had run out goes first, and then comes.
        if was_alive.is_none() {
            self.planned(before).await;
        }
    }

    async fn leave(&mut self, before: &[Row]) {
        let consumer = self.any_consumer();
        let remove = "SELECT headwater.subscription_remove($1, $2, NULL, false, $3)";
        let answer: String = self.sql.query_one(remove, &[&self.id, &consumer, &GRACE_MS]).await.unwrap().get(0);
        if answer == "done" {
            self.planned(before).await;
        }
    }

    /// A lease runs out; whether that is noticed before something else happens is chance.
    async fn expire(&mut self, before: &[Row]) {
        let consumer = self.any_consumer();
        let expire = "UPDATE headwater.subscription_consumers SET expires_at = clock_timestamp() \
            WHERE subscription_id = $1 AND name = $2";
        self.sql.execute(expire, &[&self.id, &consumer]).await.unwrap();
        let renew = "SELECT count(*) FROM headwater.subscription_renew(ARRAY[$1::bigint], ARRAY[$2::text], ARRAY[NULL::uuid], ARRAY[0::bigint])";
        let renewed: i64 = self.sql.query_one(renew, &[&self.id, &consumer]).await.unwrap().get(0);
        assert_eq!(renewed, 0, "what has run out is not renewed");
        if self.random.bool() {
            let gone = self.sql.query("SELECT * FROM headwater.subscription_expire($1)", &[&GRACE_MS]).await.unwrap();
            // If there are several, they go one after the other.
            if gone.len() == 1 {
                self.planned(before).await;
            }
        }
    }

    /// Every consumer that is alive has what the rule says, or is about to have it.
    async fn planned(&self, before: &[Row]) {
        let alive = self.alive().await;
        let rows = self.rows().await;
        let targets = rows.iter().filter_map(|row| {
            let target = row.rule.next_owner.clone().or(row.rule.consumer.clone())?;
            Some((row.rule.number, target))
        });
        let partitions: Vec<Partition> = before.iter().map(|row| row.rule.clone()).collect();
        let expected = if alive.is_empty() { BTreeMap::new() } else { plan(&alive, &partitions) };
        assert_eq!(targets.collect::<BTreeMap<_, _>>(), expected, "{alive:?} {partitions:?}");
    }

    async fn end_a_grace(&mut self) {
        let end = "UPDATE headwater.subscription_partitions SET revoke_at = clock_timestamp() \
            WHERE subscription_id = $1 AND revoke_at IS NOT NULL";
        self.sql.execute(end, &[&self.id]).await.unwrap();
    }

    async fn end_an_ack_timeout(&mut self) {
        let partition = self.random.i32(0..PARTITIONS);
        let end = "UPDATE headwater.subscription_partitions SET ack_due_at = clock_timestamp() \
            WHERE subscription_id = $1 AND partition = $2 AND ack_due_at IS NOT NULL";
        self.sql.execute(end, &[&self.id, &partition]).await.unwrap();
    }

    /// Looks at what it holds, and takes some messages of one of its partitions.
    async fn consume(&mut self) {
        let consumer = self.any_consumer();
        let sync = "SELECT partition, epoch, read_up_to, rewind_generation \
            FROM headwater.subscription_sync($1, $2, NULL, $3) WHERE partition IS NOT NULL ORDER BY partition";
        let held = self.sql.query(sync, &[&self.id, &consumer, &GRACE_MS]).await.unwrap();
        let Some(row) = (!held.is_empty()).then(|| &held[self.random.usize(0..held.len())]) else { return };
        let (partition, epoch, read_up_to, rewind_generation): (i32, i64, i64, i64) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        let positions: Vec<i64> = (read_up_to + 1..=read_up_to + self.random.i64(1..5)).collect();
        let up_to = positions[positions.len() - 1];
        // Now and then it has not heard of what has happened since it looked.
        let stale = i64::from(self.random.u8(..) < 25);
        let deliver = "SELECT partition FROM headwater.subscription_deliver($1, $2, 0, ARRAY[$3::integer], ARRAY[$4::bigint], \
            ARRAY[$5::bigint], ARRAY[$6::bigint], ARRAY[$7::bigint], ARRAY[$8::integer], $9, ARRAY[0::bigint], ARRAY[NULL::uuid], false)";
        let delivered = self
            .sql
            .query(
                deliver,
                &[
                    &self.id,
                    &consumer,
                    &partition,
                    &(epoch - stale),
                    &rewind_generation,
                    &read_up_to,
                    &up_to,
                    &(positions.len() as i32),
                    &positions,
                ],
            )
            .await
            .unwrap();
        assert!(stale == 0 || delivered.is_empty(), "delivered under a lease that is over");
        if !delivered.is_empty() {
            let lease = |position| Lease { consumer: consumer.clone(), partition, epoch, position };
            self.leases.extend(positions.into_iter().map(lease));
        }
    }

    /// Any delivery there ever was is acked, by its consumer, under its lease.
    async fn ack(&mut self, before: &[Row]) {
        if self.leases.is_empty() {
            return;
        }
        let lease = self.leases[self.random.usize(0..self.leases.len())].clone();
        let row = before.iter().find(|row| row.rule.number == lease.partition).unwrap();
        let ack = "SELECT outcome, current_epoch FROM headwater.subscription_ack_up_to(ARRAY[$1::bigint], ARRAY[$2::text], \
            ARRAY[$3::integer], ARRAY[$4::bigint], ARRAY[$5::bigint])";
        let answer = self
            .sql
            .query_one(ack, &[&self.id, &lease.consumer, &lease.partition, &lease.position, &lease.epoch])
            .await
            .unwrap();
        let (outcome, current): (String, Option<i64>) = (answer.get(0), answer.get(1));
        let is_held = row.epoch == lease.epoch && row.rule.consumer.as_ref().is_none_or(|name| *name == lease.consumer);
        let expected = match is_held {
            false => "fenced",
            true if lease.position > row.read_up_to => "missing",
            true => "done",
        };
        assert_eq!(outcome, expected, "{lease:?} {row:?}");
        if is_held {
            let acked = self.acked.get_mut(&lease.partition).unwrap();
            *acked = if expected == "done" { lease.position.max(*acked) } else { *acked };
        } else {
            assert_eq!(current, Some(row.epoch));
            assert_eq!(self.rows().await, before, "a fenced ack changes nothing");
        }
    }

    async fn check(&self, before: &[Row]) {
        for (before, row) in before.iter().zip(self.rows().await) {
            let what = format!("{before:?} {row:?}");
            let (was, is) = (&before.rule.consumer, &row.rule.consumer);
            assert!(row.epoch >= before.epoch, "{what}");
            // Nobody comes to hold a partition under a lease that somebody else may remember.
            assert!(is.is_none() || is == was || row.epoch > before.epoch, "{what}");
            assert_eq!(row.committed, self.acked[&row.rule.number], "{what}");
            // What is delivered and not acked is in flight, or comes again: nothing between the two is lost.
            let next = row.in_flight.first().copied().unwrap_or(row.read_up_to + 1);
            assert_eq!(next.min(row.read_up_to + 1), row.committed + 1, "{what}");
            if row.epoch > before.epoch {
                // In the same step its holder may have been given some already.
                let is_of_it = |lease: &&Lease| lease.partition == row.rule.number && lease.epoch == row.epoch;
                let given = self.leases.iter().filter(is_of_it).count() as i64;
                assert_eq!(row.read_up_to - given, row.committed, "a new lease begins behind what was acked: {what}");
            }
        }
    }

    /// The last one takes all, from where each partition was acked.
    async fn come_to_the_end(&mut self) {
        for consumer in 0..CONSUMERS {
            let remove = "SELECT headwater.subscription_remove($1, $2, NULL, false, $3)";
            self.sql.query_one(remove, &[&self.id, &format!("w{consumer}"), &GRACE_MS]).await.unwrap();
        }
        let join = "SELECT headwater.subscription_join($1, 'last', gen_random_uuid(), true, 10, $2)";
        self.sql.query_one(join, &[&self.id, &GRACE_MS]).await.unwrap();
        for row in self.rows().await {
            assert_eq!(row.rule.consumer.as_deref(), Some("last"));
            assert_eq!((row.committed, row.read_up_to), (self.acked[&row.rule.number], self.acked[&row.rule.number]));
        }
    }
}

#[tokio::test]
async fn leases_fence_whoever_has_lost_them_and_lose_nothing() {
    let database = TestDatabase::migrated().await;
    for seed in seeds(15) {
        let mut world = World::new(database.connect().await, seed).await;
        for _ in 0..STEPS {
            world.act().await;
        }
        world.come_to_the_end().await;
    }
}
