//! Deliveries of competing subscriptions: new messages are claimed, delivered ones are taken again.

use uuid::Uuid;

use super::{At, ConsumerStatus, Held, State};
use crate::store::outcome::Outcome;
use crate::store::read::PageLimit;
use crate::store::{StoreError, Subscriptions};

/// What a consumer of a competing subscription may have at one moment.
#[derive(Debug)]
pub struct Claimable {
    pub generation: i64,
    pub state: State,
    pub status: ConsumerStatus,
    /// How long until the next delivery comes due.
    pub next_ms: Option<i64>,
    pub has_due: bool,
    pub in_flight: i64,
    /// The epoch for what is delivered because of this answer.
    pub epoch: i64,
    /// The shared cursors; of an aggregated stream those of partitions that have something new.
    pub cursors: Vec<SharedCursor>,
}

/// The cursor that the consumers of a competing subscription share.
#[derive(Debug)]
pub struct SharedCursor {
    pub partition: i32,
    pub read_up_to: i64,
    /// How often it was set back or forward.
    pub rewind_generation: i64,
}

/// New messages for a consumer.
pub struct Claim<'a> {
    pub subscription: i64,
    pub consumer: &'a str,
    /// The number of the log that they were read from.
    pub history: i64,
    pub partition: i32,
    pub rewind_generation: i64,
    /// The cursor as it was when this was decided.
    pub expected: i64,
    pub read_up_to: i64,
    pub positions: &'a [i64],
    pub global_positions: &'a [i64],
    pub is_auto: bool,
    /// The epoch of these deliveries, which was drawn before.
    pub epoch: i64,
    /// Of the last of these messages, as it was read.
    pub last_id: Option<Uuid>,
}

/// Which messages are taken again.
#[derive(Debug, Clone, Copy)]
pub enum Take<'a> {
    /// Those whose time has come.
    Due,
    /// The consumer's own, after a place.
    Own { after: At },
    /// Those that their consumers have had for this long, after a place; at some positions, or all.
    Idle { min_idle_ms: i64, after: At, positions: Option<&'a [At]> },
    /// Parked messages of a partitioned subscription that are replayed, in partitions that the consumer knows it holds.
    Replays { held: &'a [Held] },
}

/// A message that was taken again.
#[derive(Debug, Clone, Copy)]
pub struct Claimed {
    pub at: At,
    pub global_position: i64,
    pub epoch: i64,
    pub delivery_count: i64,
    /// The message was tried too often and was not taken: its policy decides what becomes of it.
    pub is_exhausted: bool,
    /// Other messages were left, because of a limit.
    pub has_more: bool,
}

impl Subscriptions<'_> {
    /// What a consumer may have; `None`: there is no such subscription.
    pub async fn claimable(
        self,
        subscription: i64,
        consumer: &str,
        session: Option<Uuid>,
        in_flight_max: i64,
        grace_ms: i64,
    ) -> Result<Option<Claimable>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT generation AS "generation!", state AS "state!", consumer_status AS "consumer_status!", next_ms,
               has_due AS "has_due!", in_flight AS "in_flight!", epoch AS "epoch!", partition,
               rewind_generation, read_up_to
               FROM headwater.subscription_claimable($1, $2, $3, $4, $5)"#,
            subscription,
            consumer,
            session,
            in_flight_max,
            grace_ms
        )
        .fetch_all(self.0)
        .await?;
        let Some(first) = rows.first() else { return Ok(None) };
        Ok(Some(Claimable {
            generation: first.generation,
            state: State::read(&first.state),
            status: ConsumerStatus::read(&first.consumer_status),
            next_ms: first.next_ms,
            has_due: first.has_due,
            in_flight: first.in_flight,
            epoch: first.epoch,
            cursors: rows
                .iter()
                .filter_map(|row| {
                    let (partition, read_up_to, rewind_generation) =
                        (row.partition?, row.read_up_to?, row.rewind_generation?);
                    Some(SharedCursor { partition, read_up_to, rewind_generation })
                })
                .collect(),
        }))
    }

    /// An epoch for deliveries that are made without asking what is claimable.
    pub async fn next_delivery_epoch(self) -> Result<i64, StoreError> {
        let epoch = sqlx::query_scalar!(r#"SELECT nextval('headwater.subscription_epochs') AS "epoch!""#);
        Ok(epoch.fetch_one(self.0).await?)
    }

    /// Answers whether the consumer got the messages: not if the cursor had moved, or the subscription is not running.
    pub async fn claim(self, claim: &Claim<'_>) -> Result<bool, StoreError> {
        let outcome = sqlx::query_scalar!(
            r#"SELECT headwater.subscription_claim($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) AS "outcome!: Outcome""#,
            claim.subscription,
            claim.consumer,
            claim.history,
            claim.partition,
            claim.rewind_generation,
            claim.expected,
            claim.read_up_to,
            claim.positions,
            claim.global_positions,
            claim.is_auto,
            claim.epoch,
            claim.last_id
        );
        Ok(outcome.fetch_one(self.0).await?.is_done())
    }

    /// How many of a consumer's deliveries are in flight up to a place; `max` if there are more. Those whose time is over are
    /// not.
    pub async fn own_deliveries_up_to(
        self,
        subscription: i64,
        consumer: &str,
        up_to: At,
        max: i64,
    ) -> Result<i64, StoreError> {
        let count = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM (SELECT FROM headwater.subscription_deliveries AS d
               WHERE d.subscription_id = $1 AND d.consumer = $2 AND (d.partition, d.position) <= ($3, $4)
               AND d.due_at - clock_timestamp() > interval '0' LIMIT $5) AS own"#,
            subscription,
            consumer,
            up_to.partition,
            up_to.position,
            max
        );
        Ok(count.fetch_one(self.0).await?)
    }

    pub async fn take(
        self,
        subscription: i64,
        consumer: &str,
        limit: PageLimit,
        attempts_max: i64,
        take: Take<'_>,
        epoch: i64,
    ) -> Result<Vec<Claimed>, StoreError> {
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
            Take::Replays { held } => {
                let known = held.iter().filter(|held| !held.is_revoked);
                let (partitions, epochs): (Vec<i32>, Vec<i64>) = known.map(|held| (held.partition, held.epoch)).unzip();
                let replays = sqlx::query_as!(
                    RedeliveryRow,
                    r#"SELECT partition AS "partition!", position AS "position!", global_position AS "global_position!",
                       epoch AS "epoch!", delivery_count AS "delivery_count!", is_exhausted AS "is_exhausted!", has_more AS "has_more!"
                       FROM headwater.subscription_take_replays($1, $2, $3, $4, $5, $6, $7)"#,
                    subscription,
                    consumer,
                    &partitions,
                    &epochs,
                    limit.messages,
                    attempts_max,
                    limit.bytes()
                );
                return Ok(in_order(replays.fetch_all(self.0).await?));
            }
        }
        let partitions = wanted.map(|wanted| wanted.iter().map(|at| at.partition).collect::<Vec<_>>());
        let positions = wanted.map(|wanted| wanted.iter().map(|at| at.position).collect::<Vec<_>>());
        let taken = sqlx::query_as!(
            RedeliveryRow,
            r#"SELECT partition AS "partition!", position AS "position!", global_position AS "global_position!",
               epoch AS "epoch!", delivery_count AS "delivery_count!", is_exhausted AS "is_exhausted!", has_more AS "has_more!"
               FROM headwater.subscription_take($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"#,
            subscription,
            consumer,
            limit.messages,
            attempts_max,
            own,
            min_idle,
            partitions.as_deref(),
            positions.as_deref(),
            from.partition,
            from.position,
            epoch,
            limit.bytes()
        );
        Ok(in_order(taken.fetch_all(self.0).await?))
    }
}

struct RedeliveryRow {
    partition: i32,
    position: i64,
    global_position: i64,
    epoch: i64,
    delivery_count: i32,
    is_exhausted: bool,
    has_more: bool,
}

/// Sorts what an UPDATE answered in no order.
fn in_order(rows: Vec<RedeliveryRow>) -> Vec<Claimed> {
    let read = |row: RedeliveryRow| Claimed {
        at: At { partition: row.partition, position: row.position },
        global_position: row.global_position,
        epoch: row.epoch,
        delivery_count: row.delivery_count.into(),
        is_exhausted: row.is_exhausted,
        has_more: row.has_more,
    };
    let mut taken: Vec<Claimed> = rows.into_iter().map(read).collect();
    taken.sort_by_key(|taken| (taken.global_position, taken.at));
    taken
}
