//! Subscriptions as they are made, changed, deleted and found.

use tokio_postgres::Row;

use crate::store::outcome::Outcome;
use crate::store::{Database, StoreError};

/// A subscription that is to be made.
pub struct NewSubscription<'a> {
    pub name: &'a str,
    /// JSON.
    pub definition: &'a str,
    pub is_partitioned: bool,
    pub aggregated_stream_id: Option<i64>,
    pub ack_timeout_ms: i64,
    pub consumer_timeout_ms: i64,
    /// Where partitions begin that appear later.
    pub first_position: i64,
    pub partitions: &'a [i32],
    pub cursors: &'a [i64],
    /// Subscriptions there may be.
    pub most: i64,
}

/// A subscription as it stands.
#[derive(Debug, Clone)]
pub struct StoredSubscription {
    pub id: i64,
    pub name: String,
    /// JSON.
    pub definition: String,
    pub aggregated_stream_id: Option<i64>,
    pub state: State,
    /// JSON: why it stopped.
    pub stopped: Option<String>,
    pub generation: i64,
    /// The aggregated stream that it consumes is gone.
    pub is_source_gone: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Running,
    Paused,
    /// It stopped before a message.
    Stopped,
}

impl State {
    pub(super) fn read(text: &str) -> Self {
        match text {
            "paused" => State::Paused,
            "stopped" => State::Stopped,
            _ => State::Running,
        }
    }

    fn name(self) -> &'static str {
        match self {
            State::Running => "running",
            State::Paused => "paused",
            State::Stopped => "stopped",
        }
    }
}

/// What of a subscription is to change.
#[derive(Default)]
pub struct Update<'a> {
    /// JSON.
    pub definition: Option<&'a str>,
    pub ack_timeout_ms: Option<i64>,
    pub consumer_timeout_ms: Option<i64>,
    pub state: Option<State>,
}

const STORED: &str = "SELECT s.id, s.name, s.definition::text, s.aggregated_stream_id, s.state, s.stopped::text, \
    s.generation, s.aggregated_stream_id IS NOT NULL AND NOT EXISTS (\
    SELECT FROM headwater.aggregated_streams AS a WHERE a.id = s.aggregated_stream_id) \
    FROM headwater.subscriptions AS s";

impl Database {
    /// Stops a subscription that runs, before no message in particular. Answers whether it ran.
    pub async fn stop_subscription(&self, subscription: i64, cause: &str, reason: &str) -> Result<bool, StoreError> {
        let client = self.client().await?;
        let statement = client.prepare_cached("SELECT headwater.subscription_stop($1, $2, $3)").await?;
        let row = client.query_one(&statement, &[&subscription, &cause, &reason]).await?;
        Outcome::is_done(row.try_get(0)?)
    }

    /// Its id; `None` if there is one of that name, or there are as many as there may be.
    pub async fn create_subscription(&self, new: NewSubscription<'_>) -> Result<Option<i64>, StoreError> {
        let client = self.client().await?;
        let statement = client
            .prepare_cached(
                "SELECT headwater.subscription_create($1, $2::text::jsonb, $3, $4, $5, $6, $7, $8, $9, $10)",
            )
            .await?;
        let row = client
            .query_one(
                &statement,
                &[
                    &new.name,
                    &new.definition,
                    &new.is_partitioned,
                    &new.aggregated_stream_id,
                    &new.ack_timeout_ms,
                    &new.consumer_timeout_ms,
                    &new.first_position,
                    &new.partitions,
                    &new.cursors,
                    &new.most,
                ],
            )
            .await?;
        Ok(row.try_get(0)?)
    }

    pub async fn subscription(&self, name: &str) -> Result<Option<StoredSubscription>, StoreError> {
        let client = self.client().await?;
        let statement = client.prepare_cached(&format!("{STORED} WHERE s.name = $1")).await?;
        client.query_opt(&statement, &[&name]).await?.as_ref().map(stored).transpose()
    }

    /// By name, after a name.
    pub async fn subscriptions(&self, after: &str, limit: i64) -> Result<Vec<StoredSubscription>, StoreError> {
        let client = self.client().await?;
        let sql = format!("{STORED} WHERE s.name > $1 ORDER BY s.name LIMIT $2");
        let statement = client.prepare_cached(&sql).await?;
        client.query(&statement, &[&after, &limit]).await?.iter().map(stored).collect()
    }

    /// The id of what was changed.
    pub async fn update_subscription(&self, name: &str, update: Update<'_>) -> Result<Option<i64>, StoreError> {
        let client = self.client().await?;
        let statement =
            client.prepare_cached("SELECT headwater.subscription_update($1, $2::text::jsonb, $3, $4, $5)").await?;
        let state = update.state.map(State::name);
        let row = client
            .query_one(
                &statement,
                &[&name, &update.definition, &update.ack_timeout_ms, &update.consumer_timeout_ms, &state],
            )
            .await?;
        Ok(row.try_get(0)?)
    }

    /// The id of what was deleted.
    pub async fn delete_subscription(&self, name: &str) -> Result<Option<i64>, StoreError> {
        let client = self.client().await?;
        let statement = client.prepare_cached("SELECT headwater.subscription_delete($1)").await?;
        Ok(client.query_one(&statement, &[&name]).await?.try_get(0)?)
    }

    pub async fn subscription_count(&self) -> Result<i64, StoreError> {
        let client = self.client().await?;
        let statement = client.prepare_cached("SELECT count(*) FROM headwater.subscriptions").await?;
        Ok(client.query_one(&statement, &[]).await?.try_get(0)?)
    }
}

fn stored(row: &Row) -> Result<StoredSubscription, StoreError> {
    Ok(StoredSubscription {
        id: row.try_get(0)?,
        name: row.try_get(1)?,
        definition: row.try_get(2)?,
        aggregated_stream_id: row.try_get(3)?,
        state: State::read(row.try_get(4)?),
        stopped: row.try_get(5)?,
        generation: row.try_get(6)?,
        is_source_gone: row.try_get(7)?,
    })
}
