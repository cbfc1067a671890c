//! A session: a connection with what drives it, how long it may take, and how a statement on it is ended. Agents keep
//! one of their own; the pool lends them.

use std::collections::HashMap;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::TryStreamExt;
use futures_util::future::{Either, select};
use tokio::task::AbortHandle;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row, RowStream, Statement, ToStatement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{Connection, Database, SESSION_SETTINGS, StoreError};

/// The longest that ending a statement may take; after that its connection is closed with the statement on it.
pub(super) const CANCEL_TIMEOUT: Duration = Duration::from_secs(2);
/// A statement that has not ended by then is cancelled again.
pub(super) const CANCEL_AGAIN: Duration = Duration::from_millis(20);

/// A connection that is set up for our statements.
pub struct Session {
    pub(super) client: Client,
    statements: Mutex<HashMap<String, Statement>>,
    /// The longest that a statement may take, and what is said of one that takes longer. `None`: those who use the
    /// session have limits of their own.
    limit: Option<(Duration, &'static str)>,
    /// Absent where the one who waits for the session drives its connection.
    driver: Option<AbortHandle>,
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
    /// Connects; a task drives the connection until the session is dropped. `limit`: of each statement.
    pub async fn open(database: &Database, limit: Option<(Duration, &'static str)>) -> Result<Self, StoreError> {
        // The end of the connection shows in every call on the client.
        Self::open_driven_by(database, limit, async |connection| drop(connection.await)).await
    }

    /// The same with a driver that does more than drive.
    pub(super) async fn open_driven_by<D>(
        database: &Database,
        limit: Option<(Duration, &'static str)>,
        driver: impl FnOnce(Pin<Box<Connection>>) -> D,
    ) -> Result<Self, StoreError>
    where
        D: Future<Output = ()> + Send + 'static,
    {
        let (mut session, connection) = Self::connect(database, limit).await?;
        session.driver = Some(tokio::spawn(driver(connection)).abort_handle());
        database.in_time(session.client.batch_execute(SESSION_SETTINGS)).await?;
        Ok(session)
    }

    /// The same without a task: the connection is to be polled by whoever waits for the session, which saves two
    /// wake-ups a statement. `set_up` follows our settings.
    pub(super) async fn open_undriven<T>(
        database: &Database,
        set_up: impl AsyncFnOnce(&Session) -> Result<T, StoreError>,
    ) -> Result<(Self, T, Pin<Box<Connection>>), StoreError> {
        let (session, mut connection) = Self::connect(database, None).await?;
        let setting_up = database.in_time(async {
            session.client.batch_execute(SESSION_SETTINGS).await?;
            Ok(set_up(&session).await)
        });
        let outcome = match select(pin!(setting_up), connection.as_mut()).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right((ended, setting_up)) => match ended {
                Err(error) => Err(error.into()),
                Ok(()) => setting_up.await,
            },
        };
        let value = outcome??;
        Ok((session, value, connection))
    }

    async fn connect(
        database: &Database,
        limit: Option<(Duration, &'static str)>,
    ) -> Result<(Self, Pin<Box<Connection>>), StoreError> {
        let (client, connection) = database.connect().await?;
        let session = Self {
            client,
            statements: Mutex::default(),
            limit,
            driver: None,
            tls: database.tls.clone(),
            is_busy: AtomicBool::new(false),
        };
        Ok((session, Box::pin(connection)))
    }

    /// Whether the connection has ended, as far as it has been driven.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// A statement was given up before its end was seen.
    pub(super) fn is_busy(&self) -> bool {
        self.is_busy.load(Ordering::Relaxed)
    }

    pub async fn prepare_cached(&self, sql: &str) -> Result<Statement, StoreError> {
        let prepared = self.statements.lock().unwrap_or_else(PoisonError::into_inner).get(sql).cloned();
        if let Some(statement) = prepared {
            return Ok(statement);
        }
        let statement = self.while_busy(self.client.prepare(sql)).await?;
        // Statements are texts of ours, so there are not many.
        self.statements.lock().unwrap_or_else(PoisonError::into_inner).insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    pub async fn query<S>(&self, statement: &S, parameters: Parameters<'_>) -> Result<Vec<Row>, StoreError>
    where
        S: ?Sized + ToStatement + Sync,
    {
        self.while_busy(self.client.query(statement, parameters)).await
    }

    pub async fn query_one<S>(&self, statement: &S, parameters: Parameters<'_>) -> Result<Row, StoreError>
    where
        S: ?Sized + ToStatement + Sync,
    {
        self.while_busy(self.client.query_one(statement, parameters)).await
    }

    pub async fn query_opt<S>(&self, statement: &S, parameters: Parameters<'_>) -> Result<Option<Row>, StoreError>
    where
        S: ?Sized + ToStatement + Sync,
    {
        self.while_busy(self.client.query_opt(statement, parameters)).await
    }

    /// A statement that is not worth being prepared, or must not have a plan made for an empty table.
    pub async fn query_typed(
        &self,
        sql: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, StoreError> {
        self.while_busy(self.client.query_typed(sql, parameters)).await
    }

    /// Gives the number of rows that were changed.
    pub async fn execute(&self, statement: &Statement, parameters: Parameters<'_>) -> Result<u64, StoreError> {
        self.while_busy(self.client.execute(statement, parameters)).await
    }

    /// Statements without parameters and without rows.
    pub async fn batch(&self, sql: &str) -> Result<(), StoreError> {
        self.while_busy(self.client.batch_execute(sql)).await
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
        let stream = self.client.query_raw(statement, parameters.iter().copied()).await;
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
                let is_cut = self.end_stream(stream.as_mut()).await;
                return failed.map_or(Ok(Bounded { rows, is_cut }), Err);
            }
        }
        self.is_done();
        Ok(Bounded { rows, is_cut: false })
    }

    /// Ends a statement whose rows are not wanted any more. Says whether there were any.
    async fn end_stream(&self, mut stream: Pin<&mut RowStream>) -> bool {
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
            if self.client.cancel_token().cancel_query(self.tls.clone()).await.is_err() {
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

    /// Has PostgreSQL end what was given up, so that it does not go on for nobody. The session is of no more use: a
    /// cancellation that comes late would hit its next statement.
    pub(super) async fn cancel(&self) {
        let ending = async {
            // Answered once what was sent before has ended.
            let mut ended = pin!(self.client.batch_execute(""));
            loop {
                // PostgreSQL forgets a cancellation that comes before the statement has begun.
                let _ = self.client.cancel_token().cancel_query(self.tls.clone()).await;
                if tokio::time::timeout(CANCEL_AGAIN, ended.as_mut()).await.is_ok() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(CANCEL_TIMEOUT, ending).await;
    }

    async fn while_busy<T>(
        &self,
        statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, StoreError> {
        self.is_busy.store(true, Ordering::Relaxed);
        let result = match self.limit {
            None => statement.await,
            Some((longest, what)) => match tokio::time::timeout(longest, statement).await {
                Ok(result) => result,
                Err(_) => return Err(StoreError::too_slow(what)),
            },
        };
        self.is_done();
        Ok(result?)
    }

    fn is_done(&self) {
        self.is_busy.store(false, Ordering::Relaxed);
    }
}

impl Drop for Session {
    /// What was given up goes on arriving otherwise, and takes the line from what is read in its place.
    fn drop(&mut self) {
        if let Some(driver) = &self.driver {
            driver.abort();
        }
    }
}
