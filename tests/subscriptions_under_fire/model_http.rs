//! Competing consumers through HTTP against a plain account of what becomes of each message. Time passes in SQL.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;

use super::*;
use crate::support::app::TestApp;
use crate::support::database::TestDatabase;

const MESSAGES: i64 = 8;
const MAX_DELIVERIES: i64 = 3;
const CASES: u32 = 16;

#[derive(Debug, Clone)]
enum Op {
    Fetch {
        consumer: usize,
        limit: usize,
        backlog: bool,
    },
    Claim {
        consumer: usize,
        limit: usize,
    },
    /// Of any delivery that ever was: the newest is 0.
    Ack(usize),
    Nack {
        which: usize,
        action: &'static str,
        delay: &'static str,
    },
    Extend(usize),
    /// Every consumer that has something has had it for too long.
    Expire,
    /// What waits for its retry has waited long enough.
    Wait,
    Replay,
    Seek(i64),
    Resume,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let which = 0..6usize;
    let nack =
        (which.clone(), prop::sample::select(vec!["retry", "retry", "retry", "park", "skip", "stop"]), any::<bool>());
    let op = prop_oneof![
        10 => (0..2usize, 1..5usize, prop::bool::weighted(0.2))
            .prop_map(|(consumer, limit, backlog)| Op::Fetch { consumer, limit, backlog }),
        2 => (0..2usize, 1..5usize).prop_map(|(consumer, limit)| Op::Claim { consumer, limit }),
        6 => which.clone().prop_map(Op::Ack),
        7 => nack.prop_map(|(which, action, is_long)| {
            Op::Nack { which, action, delay: if is_long { "1h" } else { "0s" } }
        }),
        2 => which.prop_map(Op::Extend),
        4 => Just(Op::Expire),
        3 => Just(Op::Wait),
        2 => Just(Op::Replay),
        1 => (0..=MESSAGES).prop_map(Op::Seek),
        2 => Just(Op::Resume),
    ];
    prop::collection::vec(op, 1..60)
}

/// A message that was delivered, or is to be delivered again.
#[derive(Debug, Clone)]
struct Row {
    /// `None`: nobody has seen it.
    epoch: Option<i64>,
    attempts: i64,
    deliveries: i64,
    consumer: Option<usize>,
    was_delivered: bool,
    is_due: bool,
}

#[derive(Debug, Default)]
struct Model {
    cursor: i64,
    rows: BTreeMap<i64, Row>,
    parked: BTreeMap<i64, i64>,
    is_stopped: bool,
}

/// What comes of an ack and its like.
#[derive(Debug, PartialEq)]
enum Outcome {
    Done,
    Fenced,
    Missing,
}

impl Model {
    /// Delivers some of the rows once more; those that were delivered too often are parked.
    /// A claim takes what is not due too, however often it was delivered.
    fn take(&mut self, consumer: usize, places: &[i64], is_claim: bool) -> Vec<(i64, i64)> {
        let mut taken = Vec::new();
        for place in places {
            let row = self.rows.get_mut(place).unwrap();
            if row.attempts >= MAX_DELIVERIES && (row.is_due || !is_claim) {
                self.parked.insert(*place, row.deliveries);
                self.rows.remove(place);
                continue;
            }
            row.attempts += 1;
            row.deliveries += 1;
            (row.consumer, row.was_delivered, row.is_due) = (Some(consumer), true, false);
            taken.push((*place, row.deliveries));
        }
        taken
    }

    fn places(&self, limit: usize, is_wanted: impl Fn(&Row) -> bool) -> Vec<i64> {
        self.rows.iter().filter(|(_, row)| is_wanted(row)).map(|(place, _)| *place).take(limit).collect()
    }

    fn fetch(&mut self, consumer: usize, limit: usize, backlog: bool) -> Vec<(i64, i64)> {
        if self.is_stopped {
            return Vec::new();
        }
        // What it was given, as it was given: only the count of deliveries says that it comes again.
        let own = self.places(limit, |row| backlog && row.consumer == Some(consumer) && !row.is_due);
        if !own.is_empty() {
            return own.iter().map(|place| (*place, self.rows[place].deliveries + 1)).collect();
        }
        loop {
            let due = self.places(limit, |row| row.is_due);
            if due.is_empty() {
                break;
            }
            let taken = self.take(consumer, &due, false);
            if !taken.is_empty() {
                return taken;
            }
        }
        let up_to = (self.cursor + limit as i64).min(MESSAGES);
        let new = (self.cursor..up_to).map(|place| {
            let consumer = Some(consumer);
            let row = Row { epoch: None, attempts: 1, deliveries: 1, consumer, was_delivered: true, is_due: false };
            assert!(self.rows.insert(place, row).is_none());
            (place, 1)
        });
        let new = new.collect();
        self.cursor = self.cursor.max(up_to);
        new
    }

    fn claim(&mut self, consumer: usize, limit: usize) -> Vec<(i64, i64)> {
        if self.is_stopped {
            return Vec::new();
        }
        let left = self.places(limit, |row| row.was_delivered);
        self.take(consumer, &left, true)
    }

    fn find(&self, place: i64, epoch: i64) -> Outcome {
        match self.rows.get(&place) {
            Some(row) if row.epoch == Some(epoch) => Outcome::Done,
            Some(_) => Outcome::Fenced,
            None => Outcome::Missing,
        }
    }

    fn nack(&mut self, place: i64, action: &str, is_due: bool) {
        let row = self.rows.get_mut(&place).unwrap();
        match action {
            "retry" if row.attempts >= MAX_DELIVERIES => self.park(place),
            "retry" => (row.consumer, row.epoch, row.is_due) = (None, None, is_due),
            "park" => self.park(place),
            "skip" => drop(self.rows.remove(&place)),
            _ => {
                (row.consumer, row.epoch, row.is_due) = (None, None, true);
                self.is_stopped = true;
            }
        }
    }

    fn park(&mut self, place: i64) {
        let row = self.rows.remove(&place).unwrap();
        self.parked.insert(place, row.deliveries);
    }

    fn replay(&mut self) {
        for place in std::mem::take(&mut self.parked).into_keys().filter(|place| *place < self.cursor) {
            let row =
                Row { epoch: None, attempts: 0, deliveries: 0, consumer: None, was_delivered: false, is_due: true };
            self.rows.entry(place).or_insert(row);
        }
    }

    fn resume(&mut self) {
        if std::mem::take(&mut self.is_stopped) {
            let ended = self.rows.values_mut().filter(|row| row.attempts >= MAX_DELIVERIES);
            ended.for_each(|row| (row.attempts, row.deliveries) = (0, 0));
        }
    }
}

/// The real thing beside the model.
struct Run<'a> {
    group: Group,
    sql: &'a tokio_postgres::Client,
    model: Model,
    /// Place, epoch and consumer.
    deliveries: Vec<(i64, i64, usize)>,
}

impl Run<'_> {
    async fn apply(&mut self, op: &Op) {
        match op {
            Op::Fetch { consumer, limit, backlog } => {
                let expected = self.model.fetch(*consumer, *limit, *backlog);
                let body = json!({ "limit": limit, "backlog": backlog });
                let found = self.group.fetch_with(&format!("w{consumer}"), body).await;
                self.came(*consumer, &found, &expected);
            }
            Op::Claim { consumer, limit } => {
                let expected = self.model.claim(*consumer, *limit);
                let body = json!({ "consumer": format!("w{consumer}"), "min_idle": "0s", "limit": limit });
                let found = self.group.done("/claims", &body).await;
                self.came(*consumer, found["messages"].as_array().unwrap(), &expected);
            }
            Op::Ack(which) => {
                if self.say(*which, "acks", json!({})).await == Some(Outcome::Done) {
                    let (place, ..) = self.delivery(*which).unwrap();
                    self.model.rows.remove(&place);
                }
            }
            Op::Nack { which, action, delay } => {
                let more = if *action == "retry" {
                    json!({ "action": action, "delay": delay })
                } else {
                    json!({ "action": action })
                };
                if self.say(*which, "nacks", more).await == Some(Outcome::Done) {
                    let (place, ..) = self.delivery(*which).unwrap();
                    self.model.nack(place, action, *delay == "0s");
                }
            }
            Op::Extend(which) => {
                if self.say(*which, "extensions", json!({})).await == Some(Outcome::Done) {
                    let (place, ..) = self.delivery(*which).unwrap();
                    self.model.rows.get_mut(&place).unwrap().is_due = false;
                }
            }
            Op::Expire => {
                self.model.rows.values_mut().filter(|row| row.consumer.is_some()).for_each(|row| row.is_due = true);
                self.set_due("consumer IS NOT NULL").await;
            }
            Op::Wait => {
                self.model.rows.values_mut().filter(|row| row.consumer.is_none()).for_each(|row| row.is_due = true);
                self.set_due("consumer IS NULL").await;
            }
            Op::Replay => {
                let count = self.model.parked.len();
                self.model.replay();
                assert_eq!(self.group.done("/parked/replay", &json!({ "all": true })).await["replayed"], count);
            }
            Op::Seek(to) => {
                self.model.rows.clear();
                self.model.cursor = *to;
                self.group.done("/seek", &json!({ "to": to })).await;
            }
            Op::Resume => {
                self.model.resume();
                self.group.done("/resume", &json!({})).await;
            }
        }
        // What is due comes in the order of its time: here, of its position.
        self.set_due("due_at <= clock_timestamp()").await;
    }

    fn came(&mut self, consumer: usize, found: &[Value], expected: &[(i64, i64)]) {
        let number = |message: &Value, field: &str| message[field].as_i64().unwrap();
        let seen: Vec<_> =
            found.iter().map(|message| (number(message, "position"), number(message, "delivery_count"))).collect();
        assert_eq!(seen, expected);
        for message in found {
            let (place, epoch) = (number(message, "position"), number(message, "epoch"));
            self.model.rows.get_mut(&place).unwrap().epoch = Some(epoch);
            self.deliveries.push((place, epoch, consumer));
        }
    }

    fn delivery(&self, which: usize) -> Option<(i64, i64, usize)> {
        self.deliveries.len().checked_sub(which + 1).map(|at| self.deliveries[at])
    }

    /// Says something of a delivery, and asserts that the answer is what the model expects.
    async fn say(&self, which: usize, what: &str, more: Value) -> Option<Outcome> {
        let (position, epoch, consumer) = self.delivery(which)?;
        let expected = self.model.find(position, epoch);
        let mut entry = json!({ "position": position, "epoch": epoch });
        entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut body = json!({ "consumer": format!("w{consumer}") });
        body[what] = json!([entry]);
        let answer = self.group.post(&format!("/{what}"), &body).await;
        let found = match (answer.status, answer.json()["missing"].as_u64()) {
            (409, _) => Outcome::Fenced,
            (200, Some(0)) => Outcome::Done,
            (200, _) => Outcome::Missing,
            other => panic!("{other:?}: {}", answer.text),
        };
        assert_eq!(found, expected, "{what} of {position} under {epoch}: {}", answer.text);
        Some(found)
    }

    async fn set_due(&self, which: &str) {
        let set = format!(
            "UPDATE headwater.subscription_deliveries AS d SET due_at = '2000-01-01'::timestamptz + d.position * \
             interval '1 second' FROM headwater.subscriptions AS s WHERE s.id = d.subscription_id AND s.name = $1 AND {which}"
        );
        self.sql.execute(&set, &[&self.group.name]).await.unwrap();
    }

    async fn compare(&self) {
        let parked = self.group.get("/parked").await;
        let parked: BTreeMap<i64, i64> = parked["parked"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| (one["position"].as_i64().unwrap(), one["deliveries"].as_i64().unwrap()))
            .collect();
        assert_eq!(parked, self.model.parked);
        let status = self.group.status().await;
        assert_eq!(status["state"], if self.model.is_stopped { "stopped" } else { "running" });
        assert_eq!(status["delivered_lag"], MESSAGES - self.model.cursor, "{status}");
    }
}

#[test]
fn competing_consumers_do_what_the_model_does() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (database, app, sql) = runtime.block_on(async {
        let database = TestDatabase::migrated().await;
        let app = TestApp::on(&database).await;
        let sql = database.connect().await;
        write(&sql, "a", 1, MESSAGES).await;
        (database, app, sql)
    });
    let config = Config { cases: CASES, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let number = std::cell::Cell::new(0);
    let result = TestRunner::new(config).run(&ops(), |ops| {
        number.set(number.get() + 1);
        runtime.block_on(async {
            let definition = json!({
                "source": { "stream_name": "a-1" }, "mode": "competing", "max_deliveries": MAX_DELIVERIES,
                "ack_timeout": "1h", "max_in_flight": 1000
            });
            let group = Group::new(&app.url, &format!("s{}", number.get()), definition).await;
            let mut run = Run { group, sql: &sql, model: Model::default(), deliveries: Vec::new() };
            for op in &ops {
                run.apply(op).await;
            }
            run.compare().await;
        });
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
    runtime.block_on(app.stop());
    drop(sql);
    drop(database);
}
