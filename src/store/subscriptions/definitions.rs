//! Subscriptions as they are made, changed, deleted and found.

use crate::store::outcome::Outcome;
use crate::store::{StoreError, Subscriptions};

/// A subscription that is to be made.
pub struct NewSubscription<'a> {
    pub name: &'a str,
    /// JSON.
    pub definition: &'a str,
    pub is_partitioned: bool,
    /// The aggregated stream that is consumed, keyed or not.
    pub aggregated_stream_id: Option<i64>,
    pub ack_timeout_ms: i64,
    pub consumer_timeout_ms: i64,
    /// The position at which partitions begin that appear later.
    pub first_position: i64,
    pub partitions: &'a [i32],
    pub cursors: &'a [i64],
    /// How many subscriptions there may be.
    pub subscriptions_max: i64,
    /// The credential of the caller, if there is one.
    pub created_by: Option<&'a str>,
    /// How many of one credential there may be; 0: any number.
    pub max_of_credential: i64,
}

/// A subscription as the database has it.
#[derive(Debug, Clone)]
pub struct StoredSubscription {
    pub id: i64,
    pub name: String,
    /// JSON.
    pub definition: String,
    pub aggregated_stream_id: Option<i64>,
    /// In place of that, if the aggregated stream is keyed.
    pub keyed_stream_id: Option<i64>,
    pub state: State,
    /// JSON: why it stopped.
    pub stopped: Option<String>,
    pub generation: i64,
    /// The definition of the aggregated stream that it consumes, as JSON, if there is one.
    pub source_definition: Option<String>,
}

impl StoredSubscription {
    /// The aggregated stream that it consumes, keyed or not.
    pub fn source_id(&self) -> Option<i64> {
        self.aggregated_stream_id.or(self.keyed_stream_id)
    }

    /// The aggregated stream that it consumes is gone.
    pub fn is_source_gone(&self) -> bool {
        self.source_id().is_some() && self.source_definition.is_none()
    }
}

/// Whether a subscription delivers messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Running,
    /// A request has paused it.
    Paused,
    /// The subscription stopped by itself: its policy said so of a message, or it cannot go on.
    Stopped,
}

impl From<String> for State {
    fn from(stored: String) -> Self {
        Self::read(&stored)
    }
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
    /// JSON: the definition as it was read, which it has to be still, and the one to be.
    pub definition: Option<(&'a str, &'a str)>,
    pub ack_timeout_ms: Option<i64>,
    pub consumer_timeout_ms: Option<i64>,
    pub state: Option<State>,
}

impl Subscriptions<'_> {
    /// Stops a subscription that cannot go on, for a reason that is not one message. Answers whether it was running.
    pub async fn stop(self, subscription: i64, cause: &str, reason: &str) -> Result<bool, StoreError> {
        let outcome = sqlx::query_scalar!(
            r#"SELECT headwater.subscription_stop($1, $2, $3) AS "outcome!: Outcome""#,
            subscription,
            cause,
            reason
        );
        Ok(outcome.fetch_one(self.0).await?.is_done())
    }

    /// Makes a subscription and answers its id; `None` if there is one of that name, or there are as many as there may be, in
    /// all or of the credential.
    pub async fn create(self, new: NewSubscription<'_>) -> Result<Option<i64>, StoreError> {
        let id = sqlx::query_scalar!(
            "SELECT headwater.subscription_create($1, $2::text::jsonb, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
            new.name,
            new.definition,
            new.is_partitioned,
            new.aggregated_stream_id,
            new.ack_timeout_ms,
            new.consumer_timeout_ms,
            new.first_position,
            new.partitions,
            new.cursors,
            new.subscriptions_max,
            new.created_by,
            new.max_of_credential
        );
        Ok(id.fetch_one(self.0).await?)
    }

    pub async fn get(self, name: &str) -> Result<Option<StoredSubscription>, StoreError> {
        let row = sqlx::query_as!(
            StoredSubscription,
            r#"SELECT s.id, s.name, s.definition::text AS "definition!", s.aggregated_stream_id, s.keyed_stream_id, s.state,
               s.stopped::text, s.generation, a.definition::text AS "source_definition?"
               FROM headwater.subscriptions AS s LEFT JOIN headwater.aggregated_streams AS a
               ON a.id = coalesce(s.aggregated_stream_id, s.keyed_stream_id) WHERE s.name = $1"#,
            name
        );
        Ok(row.fetch_optional(self.0).await?)
    }

    /// Subscriptions in order of name, after a name.
    pub async fn list(self, after: &str, limit: i64) -> Result<Vec<StoredSubscription>, StoreError> {
        let rows = sqlx::query_as!(
            StoredSubscription,
            r#"SELECT s.id, s.name, s.definition::text AS "definition!", s.aggregated_stream_id, s.keyed_stream_id, s.state,
               s.stopped::text, s.generation, a.definition::text AS "source_definition?"
               FROM headwater.subscriptions AS s LEFT JOIN headwater.aggregated_streams AS a
               ON a.id = coalesce(s.aggregated_stream_id, s.keyed_stream_id) WHERE s.name > $1 ORDER BY s.name LIMIT $2"#,
            after,
            limit
        );
        Ok(rows.fetch_all(self.0).await?)
    }

    /// Changes a subscription and answers its id; `None` if there is none, or it has another definition by now.
    pub async fn update(self, name: &str, update: Update<'_>) -> Result<Option<i64>, StoreError> {
        let (read, definition) = update.definition.unzip();
        let id = sqlx::query_scalar!(
            "SELECT headwater.subscription_update($1, $2::text::jsonb, $3::text::jsonb, $4, $5, $6)",
            name,
            read,
            definition,
            update.ack_timeout_ms,
            update.consumer_timeout_ms,
            update.state.map(State::name)
        );
        Ok(id.fetch_one(self.0).await?)
    }

    /// Deletes a subscription and answers its id; `None` if there was none.
    pub async fn delete(self, name: &str) -> Result<Option<i64>, StoreError> {
        let id = sqlx::query_scalar!("SELECT headwater.subscription_delete($1)", name);
        Ok(id.fetch_one(self.0).await?)
    }

    /// A subscription's name, if there is one of that id.
    pub async fn name_of(self, id: i64) -> Result<Option<String>, StoreError> {
        let name = sqlx::query_scalar!("SELECT name FROM headwater.subscriptions WHERE id = $1", id);
        Ok(name.fetch_optional(self.0).await?)
    }

    /// How many were made with a credential.
    pub async fn count_by(self, credential: &str) -> Result<i64, StoreError> {
        let count = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM headwater.subscriptions WHERE created_by = $1"#,
            credential
        );
        Ok(count.fetch_one(self.0).await?)
    }

    pub async fn count(self) -> Result<i64, StoreError> {
        let count = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM headwater.subscriptions"#);
        Ok(count.fetch_one(self.0).await?)
    }
}
