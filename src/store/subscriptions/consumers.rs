//! Consumers: they join, their leases are renewed together, and they go.

use uuid::Uuid;

use crate::store::outcome::Outcome;
use crate::store::{Database, StoreError};

/// What came of joining.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joined {
    Yes,
    /// The subscription is not there.
    Gone,
    /// It has as many consumers as it may.
    Full,
}

/// A lease to be renewed. `session`: of who holds a connection open.
#[derive(Debug, Clone)]
pub struct Renewal {
    pub subscription: i64,
    pub consumer: String,
    pub session: Option<Uuid>,
    /// How long it has not been heard of.
    pub idle_ms: i64,
}

/// A consumer whose connection has ended.
#[derive(Debug, Clone)]
pub struct Leaving {
    pub subscription: i64,
    pub consumer: String,
    pub session: Uuid,
}

impl Database {
    pub async fn join_subscription(
        &self,
        subscription: i64,
        consumer: &str,
        session: Uuid,
        is_connected: bool,
        most: i64,
        grace_ms: i64,
    ) -> Result<Joined, StoreError> {
        let client = self.client().await?;
        let statement = client.prepare_cached("SELECT headwater.subscription_join($1, $2, $3, $4, $5, $6)").await?;
        let row = client
            .query_one(&statement, &[&subscription, &consumer, &session, &is_connected, &most, &grace_ms])
            .await?;
        match Outcome::parse(row.try_get(0)?)? {
            Outcome::Done => Ok(Joined::Yes),
            Outcome::Missing => Ok(Joined::Gone),
            Outcome::Full => Ok(Joined::Full),
            other => Err(other.unexpected()),
        }
    }

    /// Renews all of them in one statement. Answers for each whether it is still there.
    pub async fn renew_consumers(&self, renewals: &[Renewal]) -> Result<Vec<bool>, StoreError> {
        let subscriptions: Vec<i64> = renewals.iter().map(|renewal| renewal.subscription).collect();
        let consumers: Vec<&str> = renewals.iter().map(|renewal| renewal.consumer.as_str()).collect();
        let sessions: Vec<Option<Uuid>> = renewals.iter().map(|renewal| renewal.session).collect();
        let idle_ms: Vec<i64> = renewals.iter().map(|renewal| renewal.idle_ms).collect();
        let client = self.client().await?;
        let statement =
            client.prepare_cached("SELECT number FROM headwater.subscription_renew($1, $2, $3, $4)").await?;
        let rows = client.query(&statement, &[&subscriptions, &consumers, &sessions, &idle_ms]).await?;
        let mut renewed = vec![false; renewals.len()];
        for row in rows {
            let number: i64 = row.try_get(0)?;
            if let Some(is_there) = usize::try_from(number - 1).ok().and_then(|at| renewed.get_mut(at)) {
                *is_there = true;
            }
        }
        Ok(renewed)
    }

    /// Connections that have ended: their consumers go.
    pub async fn leave_subscriptions(&self, leaving: &[Leaving], grace_ms: i64) -> Result<(), StoreError> {
        let subscriptions: Vec<i64> = leaving.iter().map(|one| one.subscription).collect();
        let consumers: Vec<&str> = leaving.iter().map(|one| one.consumer.as_str()).collect();
        let sessions: Vec<Uuid> = leaving.iter().map(|one| one.session).collect();
        let client = self.client().await?;
        // In the order in which everybody locks them.
        let statement = client
            .prepare_cached(
                "SELECT headwater.subscription_remove(l.id, l.name, l.session, false, $4) FROM (\
                 SELECT * FROM unnest($1::bigint[], $2::text[], $3::uuid[]) AS l (id, name, session) \
                 ORDER BY l.id, l.name COLLATE \"C\" OFFSET 0) AS l",
            )
            .await?;
        client.query(&statement, &[&subscriptions, &consumers, &sessions, &grace_ms]).await?;
        Ok(())
    }

    /// Sends a consumer away. Answers whether it was there.
    pub async fn remove_consumer(&self, subscription: i64, consumer: &str, grace_ms: i64) -> Result<bool, StoreError> {
        let client = self.client().await?;
        let statement = client.prepare_cached("SELECT headwater.subscription_remove($1, $2, NULL, false, $3)").await?;
        let row = client.query_one(&statement, &[&subscription, &consumer, &grace_ms]).await?;
        Outcome::is_done(row.try_get(0)?)
    }

    /// Sends away whose lease has run out. Answers the subscriptions that have changed by that, with how many went.
    pub async fn expire_consumers(&self, grace_ms: i64) -> Result<Vec<(i64, String)>, StoreError> {
        let client = self.client().await?;
        let statement =
            client.prepare_cached("SELECT subscription_id, consumer FROM headwater.subscription_expire($1)").await?;
        let rows = client.query(&statement, &[&grace_ms]).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }

    /// For each subscription: its generation, `None` if it is gone, and whether anything has come due in it.
    pub async fn poll_subscriptions(&self, ids: &[i64]) -> Result<Vec<(Option<i64>, bool)>, StoreError> {
        let client = self.client().await?;
        let statement = client
            .prepare_cached("SELECT generation, has_due FROM headwater.subscription_poll($1) ORDER BY number")
            .await?;
        let rows = client.query(&statement, &[&ids]).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }
}
