//! The projector's statements: its lease, the projections, and the rounds that it writes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio_postgres::types::{FromSqlOwned, ToSql, Type};
use uuid::Uuid;

use super::outcome::Outcome;
use super::{AggregatedStreams, Database, Session, StoreError};
use crate::domain::time::Timestamp;

/// A statement of the projector that takes longer is given up, with its connection.
const LIMIT: (Duration, &str) = (Duration::from_secs(10), "a statement of the projector");

/// The right to project, as it was taken.
#[derive(Debug, Clone, Copy)]
pub struct Lease {
    pub epoch: i64,
    pub generation: i64,
    /// All live projections have come to this global position.
    pub live_position: i64,
}

/// A projection, with everything that is needed to go on.
#[derive(Debug)]
pub struct StoredProjection {
    pub id: i64,
    pub aggregated_stream_id: i64,
    pub name: String,
    pub definition: Value,
    pub is_current: bool,
    pub is_live: bool,
    pub projected_position: i64,
    /// How many messages each partition has that has any.
    pub message_counts: HashMap<i32, i64>,
}

/// What came of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoundAnswer {
    Projected,
    /// Another instance projects by now.
    Fenced,
    /// A definition or a state has changed since the round was made.
    Changed,
    /// The projection is at another position than the caller assumed, or may not go on.
    Stale,
}

/// Columns of a round, as the functions take them.
#[derive(Debug, Default)]
pub struct RoundRows {
    pub projections: Vec<i64>,
    pub partitions: Vec<i32>,
    pub positions: Vec<i64>,
    pub global_positions: Vec<i64>,
    pub counted_projections: Vec<i64>,
    pub counted_partitions: Vec<i32>,
    pub message_counts: Vec<i64>,
    pub last_global_positions: Vec<i64>,
    pub last_times: Vec<Timestamp>,
    pub failing_projections: Vec<i64>,
    pub skipped: Vec<i64>,
    pub substituted: Vec<i64>,
    pub stopped_projections: Vec<i64>,
    pub stopped_positions: Vec<i64>,
    /// JSON. `None`: the projection leaves the live ones without an error, and catches up again.
    pub stopped_errors: Vec<Option<String>>,
    /// Links of keyed projections, one for each message and key. Their partitions and positions are given as they are
    /// written.
    pub keyed_projections: Vec<i64>,
    pub keyed_keys: Vec<Arc<str>>,
    pub keyed_global_positions: Vec<i64>,
}

/// A round of one projection that catches up.
#[derive(Debug, Clone, Copy)]
pub struct PastRound<'a> {
    pub projection_id: i64,
    pub from: i64,
    pub up_to: i64,
    pub rows: &'a RoundRows,
}

const PROJECTIONS: &str = "SELECT p.id, s.id, s.name, s.definition::text, p.is_current, p.is_live, \
    p.projected_position, coalesce(a.partitions, '{}'), coalesce(a.message_counts, '{}') \
    FROM headwater.projections AS p JOIN headwater.aggregated_streams AS s ON s.id = p.aggregated_stream_id \
    CROSS JOIN LATERAL (\
    SELECT array_agg(partition ORDER BY partition) AS partitions, \
    array_agg(message_count ORDER BY partition) AS message_counts \
    FROM headwater.aggregated_partitions WHERE projection_id = p.id) AS a \
    WHERE NOT s.is_paused AND p.error IS NULL";

impl Database {
    /// The session that holds the lease. The lease ends with its connection.
    pub async fn projector_session(&self) -> Result<Session, StoreError> {
        Session::open(self, Some(LIMIT)).await
    }
}

/// The statements under the lease.
impl Session {
    /// Takes the lease if no other instance has it.
    pub async fn take_lease(&self, holder: Uuid, lease: Duration) -> Result<Option<Lease>, StoreError> {
        let rows = self
            .query_typed(
                "SELECT epoch, generation, live_position FROM headwater.projector_take($1, $2 * interval '1 ms')",
                &[(&holder, Type::UUID), (&milliseconds(lease), Type::FLOAT8)],
            )
            .await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let Some(epoch) = row.try_get::<_, Option<i64>>(0)? else { return Ok(None) };
        Ok(Some(Lease { epoch, generation: row.try_get(1)?, live_position: row.try_get(2)? }))
    }

    pub async fn release_lease(&self, epoch: i64) -> Result<(), StoreError> {
        self.query_typed("SELECT headwater.projector_release($1)", &[(&epoch, Type::INT8)]).await?;
        Ok(())
    }

    /// The projections that may go on, and the generation for which that is so. A change between the two reads is a later
    /// generation, so that the next round is refused.
    pub async fn projections(&self) -> Result<(i64, Vec<StoredProjection>), StoreError> {
        let generation = self.one("SELECT generation FROM headwater.projector", &[]).await?;
        let rows = self.query_typed(PROJECTIONS, &[]).await?;
        let projections = rows.iter().map(|row| {
            let definition: String = row.try_get(3)?;
            let partitions: Vec<i32> = row.try_get(7)?;
            let counts: Vec<i64> = row.try_get(8)?;
            Ok(StoredProjection {
                id: row.try_get(0)?,
                aggregated_stream_id: row.try_get(1)?,
                name: row.try_get(2)?,
                definition: serde_json::from_str(&definition).unwrap_or_default(),
                is_current: row.try_get(4)?,
                is_live: row.try_get(5)?,
                projected_position: row.try_get(6)?,
                message_counts: partitions.into_iter().zip(counts).collect(),
            })
        });
        Ok((generation, projections.collect::<Result<_, StoreError>>()?))
    }

    /// Writes a round of the live projections, which prolongs the lease. Answers the partition and position of each keyed
    /// link with it.
    pub async fn project_live(
        &self,
        lease: Lease,
        lasting: Duration,
        live_position: i64,
        rows: &RoundRows,
    ) -> Result<(RoundAnswer, Vec<(i32, i64)>), StoreError> {
        let keys: Vec<&str> = rows.keyed_keys.iter().map(|key| &**key).collect();
        // Its plan is the call of a function, whatever the tables have.
        let round = self
            .prepare_cached(
                "SELECT outcome, coalesce(keyed_partitions, '{}'), coalesce(keyed_positions, '{}') \
                 FROM headwater.project_live($1, $2, $3 * interval '1 ms', $4, $5, $6, $7, $8, $9, $10, $11, $12, \
                 $13, $14, $15, $16, $17, $18, $19, $20, $21, $22)",
            )
            .await?;
        let parameters: [&(dyn ToSql + Sync); 22] = [
            &lease.epoch,
            &lease.generation,
            &milliseconds(lasting),
            &live_position,
            &rows.projections,
            &rows.partitions,
            &rows.positions,
            &rows.global_positions,
            &rows.counted_projections,
            &rows.counted_partitions,
            &rows.message_counts,
            &rows.last_global_positions,
            &rows.last_times,
            &rows.failing_projections,
            &rows.skipped,
            &rows.substituted,
            &rows.stopped_projections,
            &rows.stopped_positions,
            &rows.stopped_errors,
            &rows.keyed_projections,
            &keys,
            &rows.keyed_global_positions,
        ];
        let row = self.query_one(&round, &parameters).await?;
        let (partitions, positions): (Vec<i32>, Vec<i64>) = (row.try_get(1)?, row.try_get(2)?);
        Ok((read_answer(row.try_get(0)?)?, partitions.into_iter().zip(positions).collect()))
    }

    /// Makes a projection that has reached the live position one of the live ones.
    pub async fn go_live(&self, lease: Lease, projection_id: i64, position: i64) -> Result<RoundAnswer, StoreError> {
        let answer: String = self
            .one(
                "SELECT headwater.projection_go_live($1, $2, $3, $4)",
                &[
                    (&lease.epoch, Type::INT8),
                    (&lease.generation, Type::INT8),
                    (&projection_id, Type::INT8),
                    (&position, Type::INT8),
                ],
            )
            .await?;
        read_answer(&answer)
    }

    async fn one<T: FromSqlOwned>(
        &self,
        sql: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<T, StoreError> {
        let rows = self.query_typed(sql, parameters).await?;
        let row = rows.first().ok_or_else(|| StoreError::Bug("the projector's row is gone".into()))?;
        Ok(row.try_get(0)?)
    }
}

impl AggregatedStreams<'_> {
    /// Writes a round of one projection that catches up. `false`: the projection is not at that position any more, or may
    /// not go on.
    pub async fn project_past(self, epoch: i64, round: PastRound<'_>) -> Result<bool, StoreError> {
        let rows = round.rows;
        let keys: Vec<&str> = rows.keyed_keys.iter().map(|key| &**key).collect();
        let outcome = sqlx::query_scalar!(
            r#"SELECT headwater.project_past($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) AS "outcome!: Outcome""#,
            epoch,
            round.projection_id,
            round.from,
            round.up_to,
            &rows.partitions,
            &rows.positions,
            &rows.global_positions,
            &rows.counted_partitions,
            &rows.message_counts,
            &rows.last_global_positions,
            &rows.last_times as _,
            rows.skipped.first().copied().unwrap_or(0),
            rows.substituted.first().copied().unwrap_or(0),
            rows.stopped_errors.first().and_then(Option::as_deref),
            &keys as _,
            &rows.keyed_global_positions
        );
        Ok(outcome.fetch_one(self.0).await?.is_done())
    }

    /// Deletes some rows of projections that are not read any more; answers 0 if none are left.
    pub async fn purge(self, rows_max: i32) -> Result<i64, StoreError> {
        let purged = sqlx::query_scalar!(r#"SELECT headwater.purge_projections($1) AS "purged!""#, rows_max);
        Ok(purged.fetch_one(self.0).await?)
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

fn read_answer(answer: &str) -> Result<RoundAnswer, StoreError> {
    match Outcome::parse(answer)? {
        Outcome::Done => Ok(RoundAnswer::Projected),
        Outcome::Fenced => Ok(RoundAnswer::Fenced),
        Outcome::Changed => Ok(RoundAnswer::Changed),
        Outcome::Stale => Ok(RoundAnswer::Stale),
        other => Err(other.unexpected()),
    }
}
