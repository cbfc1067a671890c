//! Acks and other steps of deliveries, for many requests in one call.

use super::At;
use crate::domain::delivery::{Attempts, Cause, DeliveryStep};
use crate::store::outcome::Outcome;
use crate::store::{StoreError, Subscriptions};

/// A delivery that a request acks, refuses, or asks more time for.
#[derive(Debug, Clone)]
pub struct AckEntry {
    pub subscription: i64,
    pub consumer: String,
    pub at: At,
    pub epoch: i64,
}

/// What was decided of one delivery that has failed.
#[derive(Debug)]
pub struct StepEntry {
    pub entry: AckEntry,
    pub step: DeliveryStep,
    pub cause: Cause,
    pub reason: Option<String>,
}

/// What came of one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckOutcome {
    Done {
        /// How many messages are acked by that: an ack is for all before it in its partition, too.
        messages: i64,
    },
    /// The lease, or the delivery, is not this consumer's any more.
    Fenced { current_epoch: i64 },
    /// There is no such delivery.
    Missing,
}

/// Entries as the columns that the functions take.
struct Columns<'a> {
    subscriptions: Vec<i64>,
    consumers: Vec<&'a str>,
    partitions: Vec<i32>,
    positions: Vec<i64>,
    epochs: Vec<i64>,
}

impl<'a> Columns<'a> {
    fn of(entries: impl Iterator<Item = &'a AckEntry>) -> Self {
        let mut columns = Self {
            subscriptions: Vec::new(),
            consumers: Vec::new(),
            partitions: Vec::new(),
            positions: Vec::new(),
            epochs: Vec::new(),
        };
        for entry in entries {
            columns.subscriptions.push(entry.subscription);
            columns.consumers.push(&entry.consumer);
            columns.partitions.push(entry.at.partition);
            columns.positions.push(entry.at.position);
            columns.epochs.push(entry.epoch);
        }
        columns
    }
}

impl Subscriptions<'_> {
    /// Acks of partitioned subscriptions; an outcome for each, in order.
    pub async fn ack_up_to(self, entries: &[&AckEntry]) -> Result<Vec<AckOutcome>, StoreError> {
        let columns = Columns::of(entries.iter().copied());
        let rows = sqlx::query_as!(
            OutcomeRow,
            r#"SELECT number AS "number!", outcome AS "outcome!: Outcome", current_epoch, messages AS "messages!"
               FROM headwater.subscription_ack_up_to($1, $2, $3, $4, $5)"#,
            &columns.subscriptions,
            &columns.consumers as _,
            &columns.partitions,
            &columns.positions,
            &columns.epochs
        );
        outcomes(rows.fetch_all(self.0).await?, entries.len())
    }

    /// Acks of competing subscriptions; an outcome for each, in order.
    pub async fn ack_each(self, entries: &[&AckEntry]) -> Result<Vec<AckOutcome>, StoreError> {
        let columns = Columns::of(entries.iter().copied());
        let rows = sqlx::query_as!(
            OutcomeRow,
            r#"SELECT number AS "number!", outcome AS "outcome!: Outcome", current_epoch, 1::bigint AS "messages!"
               FROM headwater.subscription_ack_each($1, $2, $3, $4)"#,
            &columns.subscriptions,
            &columns.partitions,
            &columns.positions,
            &columns.epochs
        );
        outcomes(rows.fetch_all(self.0).await?, entries.len())
    }

    /// How often each delivery was tried before; `None` where there is no such delivery.
    pub async fn delivery_attempts(self, entries: &[&AckEntry]) -> Result<Vec<Option<Attempts>>, StoreError> {
        let columns = Columns::of(entries.iter().copied());
        let rows = sqlx::query!(
            "SELECT failures, deliveries FROM headwater.subscription_attempts($1, $2, $3, $4) ORDER BY number",
            &columns.subscriptions,
            &columns.partitions,
            &columns.positions,
            &columns.epochs
        );
        Ok(rows.fetch_all(self.0).await?.into_iter().map(|row| read_attempts(row.failures, row.deliveries)).collect())
    }

    /// Carries out what was decided; an outcome for each, in order.
    pub async fn step(self, steps: &[StepEntry]) -> Result<Vec<AckOutcome>, StoreError> {
        let columns = Columns::of(steps.iter().map(|step| &step.entry));
        let returns: Vec<Option<i64>> = steps.iter().map(|step| step.step.returns_after_ms()).collect();
        let parks: Vec<bool> = steps.iter().map(|step| step.step.parks()).collect();
        let stops: Vec<bool> = steps.iter().map(|step| step.step.stops()).collect();
        let causes: Vec<&str> = steps.iter().map(|step| step.cause.name()).collect();
        let reasons: Vec<Option<&str>> = steps.iter().map(|step| step.reason.as_deref()).collect();
        let rows = sqlx::query_as!(
            OutcomeRow,
            r#"SELECT number AS "number!", outcome AS "outcome!: Outcome", current_epoch, 0::bigint AS "messages!"
               FROM headwater.subscription_step($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"#,
            &columns.subscriptions,
            &columns.consumers as _,
            &columns.partitions,
            &columns.positions,
            &columns.epochs,
            &returns as _,
            &parks,
            &stops,
            &causes as _,
            &reasons as _
        );
        outcomes(rows.fetch_all(self.0).await?, steps.len())
    }

    /// More time for deliveries of one consumer; an outcome for each, in order.
    pub async fn extend(
        self,
        subscription: i64,
        consumer: &str,
        entries: &[&AckEntry],
        timeout_ms: i64,
    ) -> Result<Vec<AckOutcome>, StoreError> {
        let columns = Columns::of(entries.iter().copied());
        let rows = sqlx::query_as!(
            OutcomeRow,
            r#"SELECT number AS "number!", outcome AS "outcome!: Outcome", current_epoch, 0::bigint AS "messages!"
               FROM headwater.subscription_extend($1, $2, $3, $4, $5, $6)"#,
            subscription,
            consumer,
            &columns.partitions,
            &columns.positions,
            &columns.epochs,
            timeout_ms
        );
        outcomes(rows.fetch_all(self.0).await?, entries.len())
    }
}

struct OutcomeRow {
    /// The entry's place in the list, from 1.
    number: i64,
    outcome: Outcome,
    current_epoch: Option<i64>,
    /// How many were acked.
    messages: i64,
}

/// Both numbers are NULL where there is no such delivery.
pub(super) fn read_attempts(failures: Option<i32>, deliveries: Option<i32>) -> Option<Attempts> {
    Some(Attempts { failures: failures?.into(), deliveries: deliveries?.into() })
}

/// The outcomes in the order of their entries; rows come in any order.
fn outcomes(rows: Vec<OutcomeRow>, count: usize) -> Result<Vec<AckOutcome>, StoreError> {
    let mut outcomes = vec![AckOutcome::Missing; count];
    for row in rows {
        let outcome = match row.outcome {
            Outcome::Done => AckOutcome::Done { messages: row.messages },
            Outcome::Fenced => AckOutcome::Fenced { current_epoch: row.current_epoch.unwrap_or_default() },
            Outcome::Missing => AckOutcome::Missing,
            other => return Err(other.unexpected()),
        };
        if let Some(place) = usize::try_from(row.number - 1).ok().and_then(|at| outcomes.get_mut(at)) {
            *place = outcome;
        }
    }
    Ok(outcomes)
}
