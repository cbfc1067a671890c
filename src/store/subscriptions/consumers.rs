//! Consumers: they join, their leases are renewed together, and they leave.

use uuid::Uuid;

use crate::store::outcome::Outcome;
use crate::store::{StoreError, Subscriptions};

/// What came of joining.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joined {
    Yes,
    /// There is no such subscription.
    Gone,
    /// The subscription has as many consumers as it may.
    Full,
}

/// A lease to be renewed. `session`: of a consumer that holds a connection open.
#[derive(Debug, Clone)]
pub struct Renewal {
    pub subscription: i64,
    pub consumer: String,
    pub session: Option<Uuid>,
    /// How long ago the consumer was last active.
    pub idle_ms: i64,
}

/// A consumer whose connection has ended.
#[derive(Debug, Clone)]
pub struct Leaving {
    pub subscription: i64,
    pub consumer: String,
    pub session: Uuid,
}

impl Subscriptions<'_> {
    pub async fn join(
        self,
        subscription: i64,
        consumer: &str,
        session: Uuid,
        is_connected: bool,
        consumers_max: i64,
        grace_ms: i64,
    ) -> Result<Joined, StoreError> {
        let outcome = sqlx::query_scalar!(
            r#"SELECT headwater.subscription_join($1, $2, $3, $4, $5, $6) AS "outcome!: Outcome""#,
            subscription,
            consumer,
            session,
            is_connected,
            consumers_max,
            grace_ms
        );
        match outcome.fetch_one(self.0).await? {
            Outcome::Done => Ok(Joined::Yes),
            Outcome::Missing => Ok(Joined::Gone),
            Outcome::Full => Ok(Joined::Full),
            other => Err(other.unexpected()),
        }
    }

    /// Renews leases in one statement. Answers for each whether its consumer is still a member.
    pub async fn renew(self, renewals: &[Renewal]) -> Result<Vec<bool>, StoreError> {
        let subscriptions: Vec<i64> = renewals.iter().map(|renewal| renewal.subscription).collect();
        let consumers: Vec<&str> = renewals.iter().map(|renewal| renewal.consumer.as_str()).collect();
        let sessions: Vec<Option<Uuid>> = renewals.iter().map(|renewal| renewal.session).collect();
        let idle_ms: Vec<i64> = renewals.iter().map(|renewal| renewal.idle_ms).collect();
        let numbers = sqlx::query_scalar!(
            r#"SELECT number AS "number!" FROM headwater.subscription_renew($1, $2, $3, $4)"#,
            &subscriptions,
            &consumers as _,
            &sessions as _,
            &idle_ms
        );
        let mut renewed = vec![false; renewals.len()];
        for number in numbers.fetch_all(self.0).await? {
            if let Some(is_there) = usize::try_from(number - 1).ok().and_then(|at| renewed.get_mut(at)) {
                *is_there = true;
            }
        }
        Ok(renewed)
    }

    /// Removes the consumers whose connections have ended.
    pub async fn leave(self, leaving: &[Leaving], grace_ms: i64) -> Result<(), StoreError> {
        let subscriptions: Vec<i64> = leaving.iter().map(|one| one.subscription).collect();
        let consumers: Vec<&str> = leaving.iter().map(|one| one.consumer.as_str()).collect();
        let sessions: Vec<Uuid> = leaving.iter().map(|one| one.session).collect();
        // In the order in which every statement locks them.
        sqlx::query!(
            r#"SELECT headwater.subscription_remove(l.id, l.name, l.session, false, $4) FROM (
               SELECT * FROM unnest($1::bigint[], $2::text[], $3::uuid[]) AS l (id, name, session)
               ORDER BY l.id, l.name COLLATE "C" OFFSET 0) AS l"#,
            &subscriptions,
            &consumers as _,
            &sessions,
            grace_ms
        )
        .fetch_all(self.0)
        .await?;
        Ok(())
    }

    /// Removes a consumer. Answers whether there was one.
    pub async fn remove_consumer(self, subscription: i64, consumer: &str, grace_ms: i64) -> Result<bool, StoreError> {
        let outcome = sqlx::query_scalar!(
            r#"SELECT headwater.subscription_remove($1, $2, NULL, false, $3) AS "outcome!: Outcome""#,
            subscription,
            consumer,
            grace_ms
        );
        Ok(outcome.fetch_one(self.0).await?.is_done())
    }

    /// Removes the consumers whose leases have run out. Answers which they were, each with its subscription.
    pub async fn expire_consumers(self, grace_ms: i64) -> Result<Vec<(i64, String)>, StoreError> {
        let gone = sqlx::query!(
            r#"SELECT subscription_id AS "subscription!", consumer AS "consumer!" FROM headwater.subscription_expire($1)"#,
            grace_ms
        );
        Ok(gone.fetch_all(self.0).await?.into_iter().map(|gone| (gone.subscription, gone.consumer)).collect())
    }

    /// For each subscription: its generation, `None` if there is none, and whether a delivery has come due.
    pub async fn poll(self, ids: &[i64]) -> Result<Vec<(Option<i64>, bool)>, StoreError> {
        let polled = sqlx::query!(
            r#"SELECT generation, has_due AS "has_due!" FROM headwater.subscription_poll($1) ORDER BY number"#,
            ids
        );
        Ok(polled.fetch_all(self.0).await?.into_iter().map(|polled| (polled.generation, polled.has_due)).collect())
    }
}
