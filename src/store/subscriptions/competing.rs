//! Deliveries of competing subscriptions: new messages are claimed, others are taken again.

use uuid::Uuid;

use super::{At, Standing, State};
use crate::store::outcome::Outcome;
use crate::store::read::PageLimit;
use crate::store::{Database, StoreError};

/// What a consumer finds.
#[derive(Debug)]
pub struct Look {
    pub generation: i64,
    pub state: State,
    pub standing: Standing,
    /// When the next delivery comes due.
    pub next_ms: Option<i64>,
    pub has_due: bool,
    pub in_flight: i64,
    /// For what is delivered upon this look.
    pub epoch: i64,
    /// Where each shared cursor stands; of an aggregated stream those that have something new.
    pub cursors: Vec<At>,
}

/// New messages for a consumer.
pub struct Claim<'a> {
    pub subscription: i64,
    pub consumer: &'a str,
    pub partition: i32,
    /// Where the cursor stood when that was decided.
    pub expected: i64,
    pub read_upto: i64,
    pub positions: &'a [i64],
    pub global_positions: &'a [i64],
    pub is_auto: bool,
    /// Drawn before.
    pub epoch: i64,
}

/// Which messages are taken again.
#[derive(Debug, Clone, Copy)]
pub enum Take<'a> {
    /// Those whose time has come.
    Due,
    /// The consumer's own, after a place.
    Own { after: At },
    /// Those that were left alone for so long, after a place; of some positions, or of all.
    Idle { min_idle_ms: i64, after: At, positions: Option<&'a [At]> },
    /// Parked ones of a partitioned subscription, that are replayed.
    Replays,
}

/// A message that was taken again.
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    pub at: At,
    pub global_position: i64,
    pub epoch: i64,
    pub delivery_count: i64,
    /// It was tried too often: it stays where it is, for who decides what becomes of it.
    pub is_exhausted: bool,
    /// Others were left, because there are many or they are large.
    pub has_more: bool,
}

impl Database {
    /// `None`: there is no such subscription.
    pub async fn look_at_deliveries(
        &self,
        subscription: i64,
        consumer: &str,
        session: Option<Uuid>,
        in_flight_max: i64,
        grace_ms: i64,
    ) -> Result<Option<Look>, StoreError> {
        let client = self.client().await?;
        let statement = client.prepare_cached("SELECT * FROM headwater.subscription_look($1, $2, $3, $4, $5)").await?;
        let rows = client.query(&statement, &[&subscription, &consumer, &session, &in_flight_max, &grace_ms]).await?;
        let Some(first) = rows.first() else { return Ok(None) };
        let mut cursors = Vec::with_capacity(rows.len());
        for row in &rows {
            if let Some(partition) = row.try_get(7)? {
                cursors.push(At { partition, position: row.try_get(8)? });
            }
        }
        Ok(Some(Look {
            generation: first.try_get(0)?,
            state: State::read(first.try_get(1)?),
            standing: Standing::read(first.try_get(2)?),
            next_ms: first.try_get(3)?,
            has_due: first.try_get(4)?,
            in_flight: first.try_get(5)?,
            epoch: first.try_get(6)?,
            cursors,
        }))
    }

    /// An epoch for deliveries that have no look before them.
    pub async fn next_delivery_epoch(&self) -> Result<i64, StoreError> {
        let client = self.client().await?;
        let statement = client.prepare_cached("SELECT nextval('headwater.subscription_epochs')").await?;
        Ok(client.query_one(&statement, &[]).await?.try_get(0)?)
    }

    /// Answers whether they are the consumer's: not if the cursor had moved, or the subscription does not run.
    pub async fn claim_messages(&self, claim: &Claim<'_>) -> Result<bool, StoreError> {
        let client = self.client().await?;
        let statement =
            client.prepare_cached("SELECT headwater.subscription_claim($1, $2, $3, $4, $5, $6, $7, $8, $9)").await?;
        let row = client
            .query_one(
                &statement,
                &[
                    &claim.subscription,
                    &claim.consumer,
                    &claim.partition,
                    &claim.expected,
                    &claim.read_upto,
                    &claim.positions,
                    &claim.global_positions,
                    &claim.is_auto,
                    &claim.epoch,
                ],
            )
            .await?;
        Outcome::is_done(row.try_get(0)?)
    }

    /// How many of a consumer's deliveries there are up to a place, counted to `most`.
    pub async fn own_deliveries_upto(
        &self,
        subscription: i64,
        consumer: &str,
        upto: At,
        most: i64,
    ) -> Result<i64, StoreError> {
        let client = self.client().await?;
        let statement = client
            .prepare_cached(
                "SELECT count(*) FROM (SELECT FROM headwater.subscription_deliveries AS d \
                 WHERE d.subscription_id = $1 AND d.consumer = $2 AND (d.partition, d.position) <= ($3, $4) \
                 LIMIT $5) AS own",
            )
            .await?;
        let row =
            client.query_one(&statement, &[&subscription, &consumer, &upto.partition, &upto.position, &most]).await?;
        Ok(row.try_get(0)?)
    }

    pub async fn take_deliveries(
        &self,
        subscription: i64,
        consumer: &str,
        limit: PageLimit,
        attempts_max: i64,
        take: Take<'_>,
        epoch: i64,
    ) -> Result<Vec<Taken>, StoreError> {
        let client = self.client().await?;
        let attempts_max = attempts_max as i32;
        let mut own = false;
        let mut min_idle: Option<i64> = None;
        let mut from = At::FIRST;
        let mut wanted: Option<&[At]> = None;
        match take {
            Take::Due => {}
            Take::Own { after } => (own, from) = (true, after),
            Take::Idle { min_idle_ms, after, positions } => {
                (min_idle, from, wanted) = (Some(min_idle_ms), after, positions);
            }
            Take::Replays => {
                let sql = "SELECT * FROM headwater.subscription_take_replays($1, $2, $3, $4, $5)";
                let statement = client.prepare_cached(sql).await?;
                let rows = client
                    .query(&statement, &[&subscription, &consumer, &limit.messages, &attempts_max, &limit.bytes()])
                    .await?;
                return read_taken(&rows);
            }
        }
        let partitions = wanted.map(|wanted| wanted.iter().map(|at| at.partition).collect::<Vec<_>>());
        let positions = wanted.map(|wanted| wanted.iter().map(|at| at.position).collect::<Vec<_>>());
        let sql = "SELECT * FROM headwater.subscription_take($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";
        let statement = client.prepare_cached(sql).await?;
        let rows = client
            .query(
                &statement,
                &[
                    &subscription,
                    &consumer,
                    &limit.messages,
                    &attempts_max,
                    &own,
                    &min_idle,
                    &partitions,
                    &positions,
                    &from.partition,
                    &from.position,
                    &epoch,
                    &limit.bytes(),
                ],
            )
            .await?;
        read_taken(&rows)
    }
}

fn read_taken(rows: &[tokio_postgres::Row]) -> Result<Vec<Taken>, StoreError> {
    let mut taken = Vec::with_capacity(rows.len());
    for row in rows {
        taken.push(Taken {
            at: At { partition: row.try_get(0)?, position: row.try_get(1)? },
            global_position: row.try_get(2)?,
            epoch: row.try_get(3)?,
            delivery_count: row.try_get::<_, i32>(4)?.into(),
            is_exhausted: row.try_get(6)?,
            has_more: row.try_get(7)?,
        });
    }
    // An UPDATE answers in no order.
    taken.sort_by_key(|taken| (taken.global_position, taken.at));
    Ok(taken)
}
