//! What group commit asks of the database: sessions that write, and what became of what one of them left behind. In its
//! simulation a script answers.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::domain::append::{AppendError, AppendRequest, Appended, KeyCondition, LockHolder, Predicate};
use crate::store::append::{Backend, BatchAnswer, BatchError, BatchSession, Driver};
use crate::store::conditions::Window;
use crate::store::keyed_streams::IndexedKey;
use crate::store::{Database, StoreError};

/// A session, and the future that drives its connection.
pub type Opened = (Arc<dyn Session>, Driver);
/// For each request what became of it; `None`: it was not written.
pub type Resolved = Vec<Option<Result<Appended, AppendError>>>;

pub trait Appends: Send + Sync {
    fn open(&self, lock_timeout: Duration) -> BoxFuture<'_, Result<Opened, StoreError>>;

    fn resolve_commit<'a>(
        &'a self,
        backend: &'a Backend,
        requests: &'a [&'a AppendRequest],
    ) -> BoxFuture<'a, Result<Resolved, StoreError>>;

    fn lock_holders<'a>(
        &'a self,
        category: &'a str,
        waited: Option<&'a Backend>,
    ) -> BoxFuture<'a, Result<Vec<LockHolder>, StoreError>>;

    /// The next messages of a category after a position, as far as a condition is about them.
    fn condition_window<'a>(
        &'a self,
        category: &'a str,
        after: i64,
        predicate: &'a Predicate,
    ) -> BoxFuture<'a, Result<Window, StoreError>>;

    /// What a keyed aggregated stream says of the key of a condition; `None`: there is no such stream.
    fn indexed_key<'a>(
        &'a self,
        condition: &'a KeyCondition,
        links_max: usize,
    ) -> BoxFuture<'a, Result<Option<IndexedKey>, StoreError>>;

    fn forget_connections(&self);
}

pub trait Session: Send + Sync {
    fn is_closed(&self) -> bool;

    fn backend(&self) -> Backend;

    fn append_batch<'a>(
        &'a self,
        requests: &'a [&'a AppendRequest],
        wanted: Option<&'a [bool]>,
        awaited: &'a [&'a str],
    ) -> BoxFuture<'a, Result<BatchAnswer, BatchError>>;
}

impl Appends for Database {
    fn open(&self, lock_timeout: Duration) -> BoxFuture<'_, Result<Opened, StoreError>> {
        Box::pin(async move {
            let (session, driver) = BatchSession::open(self, lock_timeout).await?;
            Ok((Arc::new(session) as Arc<dyn Session>, driver))
        })
    }

    fn resolve_commit<'a>(
        &'a self,
        backend: &'a Backend,
        requests: &'a [&'a AppendRequest],
    ) -> BoxFuture<'a, Result<Resolved, StoreError>> {
        Box::pin(Database::resolve_commit(self, backend, requests))
    }

    fn lock_holders<'a>(
        &'a self,
        category: &'a str,
        waited: Option<&'a Backend>,
    ) -> BoxFuture<'a, Result<Vec<LockHolder>, StoreError>> {
        Box::pin(Database::lock_holders(self, category, waited))
    }

    fn condition_window<'a>(
        &'a self,
        category: &'a str,
        after: i64,
        predicate: &'a Predicate,
    ) -> BoxFuture<'a, Result<Window, StoreError>> {
        Box::pin(async move { self.messages().condition_window(category, after, predicate).await })
    }

    fn indexed_key<'a>(
        &'a self,
        condition: &'a KeyCondition,
        links_max: usize,
    ) -> BoxFuture<'a, Result<Option<IndexedKey>, StoreError>> {
        let KeyCondition { aggregated_stream, key, after, .. } = condition;
        Box::pin(async move {
            self.aggregated_streams().indexed_key(aggregated_stream, key, *after, links_max as i64).await
        })
    }

    fn forget_connections(&self) {
        Database::forget_connections(self);
    }
}

impl Session for BatchSession {
    fn is_closed(&self) -> bool {
        BatchSession::is_closed(self)
    }

    fn backend(&self) -> Backend {
        BatchSession::backend(self)
    }

    fn append_batch<'a>(
        &'a self,
        requests: &'a [&'a AppendRequest],
        wanted: Option<&'a [bool]>,
        awaited: &'a [&'a str],
    ) -> BoxFuture<'a, Result<BatchAnswer, BatchError>> {
        Box::pin(BatchSession::append_batch(self, requests, wanted, awaited))
    }
}
