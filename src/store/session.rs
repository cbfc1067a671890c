//! A connection of the pool as statements use it: what nobody waits for any more ends in PostgreSQL too, and a page is
//! read no further than its bytes.

use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool_postgres::Object;
use futures_util::TryStreamExt;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Row, RowStream, Statement, ToStatement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::StoreError;

/// The longest that ending a statement may take; after that its connection is closed with the statement on it.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(2);
/// A statement that has not ended by then is cancelled again.
const CANCEL_AGAIN: Duration = Duration::from_millis(20);

/// A connection that goes back to the pool idle, or not at all.
///
/// A statement whose future was dropped is cancelled, and its connection closed: a cancellation that comes late would
/// hit the next statement. The place in the pool is kept until then, so that there are never more cancellations than
/// connections, nor more connections than the pool may have.
pub struct Session {
    /// Absent once it was dropped.
    object: Option<Object>,
    tls: MakeRustlsConnect,
    /// A statement has been sent, and its end has not been seen.
    is_busy: AtomicBool,
}

/// Rows that were read within a bound of bytes.
#[derive(Debug)]
pub struct Bounded<T> {
    pub rows: Vec<T>,
    /// There are more: the bytes were used up before the rows were.
    pub is_cut: bool,
}

type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

impl Session {
    pub(super) fn new(object: Object, tls: MakeRustlsConnect) -> Self {
        Self { object: Some(object), tls, is_busy: AtomicBool::new(false) }
    }

    pub async fn prepare_cached(&self, sql: &str) -> Result<Statement, StoreError> {
        self.while_busy(self.object()?.prepare_cached(sql)).await
    }

    pub async fn query<S>(&self, statement: &S, parameters: Parameters<'_>) -> Result<Vec<Row>, StoreError>
    where
        S: ?Sized + ToStatement + Sync,
    {
        self.while_busy(self.object()?.query(statement, parameters)).await
    }

    pub async fn query_one<S>(&self, statement: &S, parameters: Parameters<'_>) -> Result<Row, StoreError>
    where
        S: ?Sized + ToStatement + Sync,
    {
        self.while_busy(self.object()?.query_one(statement, parameters)).await
    }

    pub async fn query_opt<S>(&self, statement: &S, parameters: Parameters<'_>) -> Result<Option<Row>, StoreError>
    where
        S: ?Sized + ToStatement + Sync,
    {
        self.while_busy(self.object()?.query_opt(statement, parameters)).await
    }

    /// A statement that is not worth being prepared.
    pub async fn query_typed(
        &self,
        sql: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, StoreError> {
        self.while_busy(self.object()?.query_typed(sql, parameters)).await
    }

    /// Gives the number of rows that were changed.
    pub async fn execute(&self, statement: &Statement, parameters: Parameters<'_>) -> Result<u64, StoreError> {
        self.while_busy(self.object()?.execute(statement, parameters)).await
    }

    /// Reads rows one after the other until their bytes reach a bound, the first in any case, and has PostgreSQL make no
    /// more then. What is under way to us at that moment is what the socket holds.
    pub async fn query_bounded<T>(
        &self,
        statement: &Statement,
        parameters: Parameters<'_>,
        bytes_max: usize,
        mut read: impl FnMut(&Row) -> Result<T, StoreError>,
    ) -> Result<Bounded<T>, StoreError> {
        self.is_busy.store(true, Ordering::Relaxed);
        let stream = self.object()?.query_raw(statement, parameters.iter().copied()).await;
        let mut stream = pin!(stream.inspect_err(|_| self.is_done())?);
        let (mut rows, mut bytes) = (Vec::new(), 0);
        let mut failed = None;
        while let Some(row) = stream.try_next().await.inspect_err(|_| self.is_done())? {
            bytes += row.raw_size_bytes();
            match read(&row) {
                Ok(row) => rows.push(row),
                Err(error) => failed = Some(error),
            }
            if bytes >= bytes_max || failed.is_some() {
                // Whether this was the last one is only known by asking for another.
                let is_cut = self.end(stream.as_mut()).await;
                return failed.map_or(Ok(Bounded { rows, is_cut }), Err);
            }
        }
        self.is_done();
        Ok(Bounded { rows, is_cut: false })
    }

    /// Ends a statement whose rows are not wanted any more. Says whether there were any.
    async fn end(&self, mut stream: Pin<&mut RowStream>) -> bool {
        let mut has_more = false;
        let ending = async {
            let next = async {
                // What has come already needs no word to PostgreSQL.
                tokio::select! {
                    biased;
                    next = stream.try_next() => Some(next),
                    () = tokio::time::sleep(Duration::ZERO) => None,
                }
            };
            match next.await {
                Some(Ok(None)) => return self.is_done(),
                Some(Err(_)) => return,
                Some(Ok(Some(_))) | None => {}
            }
            has_more = true;
            let Ok(object) = self.object() else { return };
            if object.cancel_token().cancel_query(self.tls.clone()).await.is_err() {
                return;
            }
            loop {
                match stream.try_next().await {
                    Ok(Some(_)) => {}
                    // Its cancellation has arrived, so it cannot hit another statement.
                    Err(error) if error.code().is_some_and(|code| code.code() == "57014") => return self.is_done(),
                    Ok(None) | Err(_) => return,
                }
            }
        };
        let _ = tokio::time::timeout(CANCEL_TIMEOUT, ending).await;
        has_more
    }

    async fn while_busy<T>(
        &self,
        statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, StoreError> {
        self.is_busy.store(true, Ordering::Relaxed);
        let result = statement.await;
        self.is_done();
        Ok(result?)
    }

    fn is_done(&self) {
        self.is_busy.store(false, Ordering::Relaxed);
    }

    fn object(&self) -> Result<&Object, StoreError> {
        self.object.as_ref().ok_or_else(|| StoreError::Unavailable("the connection was given up".into()))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(object) = self.object.take() else { return };
        if !*self.is_busy.get_mut() || object.is_closed() {
            return;
        }
        // Without a runtime nothing can be sent; the connection ends with the process.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let tls = self.tls.clone();
        runtime.spawn(async move {
            let ending = async {
                // Answered once what was sent before has ended.
                let mut ended = pin!(object.batch_execute(""));
                loop {
                    // PostgreSQL forgets a cancellation that comes before the statement has begun.
                    let _ = object.cancel_token().cancel_query(tls.clone()).await;
                    if tokio::time::timeout(CANCEL_AGAIN, ended.as_mut()).await.is_ok() {
                        return;
                    }
                }
            };
            let _ = tokio::time::timeout(CANCEL_TIMEOUT, ending).await;
            drop(Object::take(object));
        });
    }
}
