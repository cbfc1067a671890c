//! A session: a connection of tokio-postgres with its driver, its time limit, and a way to end a statement on it. Agents
//! have sessions of their own; the pool lends others.

use std::collections::HashMap;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use futures_util::{SinkExt, TryStreamExt};
use parking_lot::Mutex;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row, RowStream, Statement, ToStatement};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::AbortOnDropHandle;

use super::finder::Finder;
use super::{Connection, Database, SESSION_SETTINGS, Server, StoreError, pooler};

/// The longest that ending a statement may take; after that its connection is closed although the statement goes on.
pub(super) const CANCEL_TIMEOUT: Duration = Duration::from_secs(2);
/// A statement that has not ended after this time is cancelled again.
pub(super) const CANCEL_AGAIN: Duration = Duration::from_millis(20);

/// For a cancel request PostgreSQL sends two signals, to the process and to its group. The second may come while the next
/// statement is carried out, but not later than this.
const SECOND_SIGNAL_WITHIN: Duration = Duration::from_secs(5);

/// A connection with [`SESSION_SETTINGS`](super::SESSION_SETTINGS).
pub struct Session {
    pub(super) client: Client,
    statements: Mutex<HashMap<String, Statement>>,
    /// The longest that a statement may take, and how the error names it. `None`: the users of the session have limits of
    /// their own.
    limit: Option<(Duration, &'static str)>,
    /// `None` if the task that waits for the session drives its connection.
    /// Ends with the session: the rows of a statement that was given up would go on arriving, and take bandwidth from others.
    _driver: Option<AbortOnDropHandle<()>>,
    tls: MakeRustlsConnect,
    server: Arc<Server>,
    /// It leads to a pooler, and is in a transaction while it is lent.
    is_pooled: bool,
    is_in_transaction: AtomicBool,
    /// Whether a statement was sent whose end has not been seen.
    is_busy: AtomicBool,
    /// When a statement on it was ended, and nothing was hit by that since.
    cancelled: Mutex<Option<Instant>>,
}

/// Rows that were read within a bound of bytes.
#[derive(Debug)]
pub struct Bounded<T> {
    pub rows: Vec<T>,
    /// There are more rows: the bytes were used up before.
    pub is_cut: bool,
}

/// Why rows were not copied.
#[derive(Debug)]
pub(super) enum CopyError {
    /// The database refuses a row, which is counted from 0.
    Row {
        number: usize,
        reason: String,
    },
    Store(StoreError),
}

impl CopyError {
    fn of(error: tokio_postgres::Error) -> Self {
        let row = error.as_db_error().and_then(|refused| {
            // `COPY messages, line 3, column data`: in the language of the server, but for the number.
            let context = refused.where_()?;
            let digits = context.split(|character: char| !character.is_ascii_digit()).find(|digits| !digits.is_empty());
            let number = digits?.parse::<usize>().ok()?.checked_sub(1)?;
            let detail = refused.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
            Some(CopyError::Row { number, reason: format!("{}{detail}", refused.message()) })
        });
        match (row, StoreError::from(error)) {
            (Some(row), StoreError::Refused { code, .. }) if is_about_a_row(&code) => row,
            (_, error) => CopyError::Store(error),
        }
    }
}

/// Data exceptions, violated constraints, and limits exceeded.
fn is_about_a_row(code: &str) -> bool {
    ["22", "23", "54"].iter().any(|class| code.starts_with(class))
}

type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

impl Session {
    /// Connects; a task drives the connection until the session is dropped. `limit`: the time limit of each statement.
    pub async fn open(database: &Database, limit: Option<(Duration, &'static str)>) -> Result<Self, StoreError> {
        // The end of the connection shows in every call on the client.
        Self::open_driven_by(database, limit, async |connection| drop(connection.await)).await
    }

    /// Connects with a driver that also does something else.
    pub(super) async fn open_driven_by<D>(
        database: &Database,
        limit: Option<(Duration, &'static str)>,
        driver: impl FnOnce(Pin<Box<Connection>>) -> D,
    ) -> Result<Self, StoreError>
    where
        D: Future<Output = ()> + Send + 'static,
    {
        let (mut session, connection) = Self::connect(database, limit).await?;
        session.drive(driver(connection));
        database.in_time(session.client.batch_execute(SESSION_SETTINGS)).await?;
        Ok(session)
    }

    /// Connects to the pooler, if there is one.
    pub(super) async fn open_pooled(database: &Database) -> Result<Self, StoreError> {
        let Some(pooler) = &database.pooler else { return Self::open(database, None).await };
        let (mut session, connection) = Self::connect_by(database, pooler, None).await?;
        session.is_pooled = true;
        session.drive(async move { drop(connection.await) });
        Ok(session)
    }

    /// Has a task drive the connection, until another server is the primary.
    fn drive(&mut self, driving: impl Future<Output = ()> + Send + 'static) {
        let server = self.server.clone();
        let driving = async move {
            tokio::select! {
                () = driving => {}
                () = server.left() => {}
            }
        };
        self._driver = Some(AbortOnDropHandle::new(tokio::spawn(driving)));
    }

    pub(super) fn is_pooled(&self) -> bool {
        self.is_pooled
    }

    /// Whether it is lent in a transaction that has to be ended.
    pub(super) fn is_in_transaction(&self) -> bool {
        self.is_in_transaction.load(Ordering::Relaxed)
    }

    /// Ends the transaction of a loan, which has only read.
    pub(super) async fn end_transaction(&self) -> Result<(), StoreError> {
        self.batch(pooler::END).await?;
        self.is_in_transaction.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Connects without a task: the task that waits for the session has to poll the connection, which saves two wake-ups
    /// for each statement. `set_up` is executed after our settings.
    pub(super) async fn open_undriven<T>(
        database: &Database,
        set_up: impl AsyncFnOnce(&Session) -> Result<T, StoreError>,
    ) -> Result<(Self, T, Pin<Box<Connection>>), StoreError> {
        let (session, mut connection) = Self::connect(database, None).await?;
        let setting_up = Box::pin(database.in_time(async {
            session.client.batch_execute(SESSION_SETTINGS).await?;
            Ok(set_up(&session).await)
        }));
        let outcome = match select(setting_up, connection.as_mut()).await {
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
        Self::connect_by(database, &database.finder, limit).await
    }

    async fn connect_by(
        database: &Database,
        finder: &Finder,
        limit: Option<(Duration, &'static str)>,
    ) -> Result<(Self, Pin<Box<Connection>>), StoreError> {
        // On the heap: it is large, seldom needed, and would be in the future of whoever may need a session.
        let (client, connection, server) = Box::pin(database.connect_by(finder)).await?;
        let session = Self {
            client,
            statements: Mutex::default(),
            limit,
            _driver: None,
            tls: finder.tls(),
            server,
            is_pooled: false,
            is_in_transaction: AtomicBool::new(false),
            is_busy: AtomicBool::new(false),
            cancelled: Mutex::default(),
        };
        Ok((session, Box::pin(connection)))
    }

    /// Whether the connection has ended, as far as it has been driven, or leads to a server that is no primary any more.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed() || self.server.is_left()
    }

    /// The server that it leads to.
    pub(super) fn leads_to(&self) -> Arc<Server> {
        self.server.clone()
    }

    /// Whether a statement was given up before its end was seen.
    pub(super) fn is_busy(&self) -> bool {
        self.is_busy.load(Ordering::Relaxed)
    }

    pub async fn prepare_cached(&self, sql: &str) -> Result<Statement, StoreError> {
        if self.is_pooled {
            if !self.is_in_transaction() {
                self.is_in_transaction.store(true, Ordering::Relaxed);
                self.batch(pooler::BEGIN).await?;
            }
            return self.while_busy(|| self.client.prepare(sql)).await;
        }
        let prepared = self.statements.lock().get(sql).cloned();
        if let Some(statement) = prepared {
            return Ok(statement);
        }
        let statement = self.while_busy(|| self.client.prepare(sql)).await?;
        // Statements are texts of this program, so there are not many.
        self.statements.lock().insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    pub async fn query<S>(&self, statement: &S, parameters: Parameters<'_>) -> Result<Vec<Row>, StoreError>
    where
        S: ?Sized + ToStatement + Sync,
    {
        self.while_busy(|| self.client.query(statement, parameters)).await
    }

    pub async fn query_one<S>(&self, statement: &S, parameters: Parameters<'_>) -> Result<Row, StoreError>
    where
        S: ?Sized + ToStatement + Sync,
    {
        self.while_busy(|| self.client.query_one(statement, parameters)).await
    }

    pub async fn query_opt<S>(&self, statement: &S, parameters: Parameters<'_>) -> Result<Option<Row>, StoreError>
    where
        S: ?Sized + ToStatement + Sync,
    {
        self.while_busy(|| self.client.query_opt(statement, parameters)).await
    }

    /// A statement that is not prepared: it is rare, or must not keep a plan that was made for an empty table.
    pub async fn query_typed(
        &self,
        sql: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, StoreError> {
        self.while_busy(|| self.client.query_typed(sql, parameters)).await
    }

    /// Gives the number of rows that were changed.
    pub async fn execute(&self, statement: &Statement, parameters: Parameters<'_>) -> Result<u64, StoreError> {
        self.while_busy(|| self.client.execute(statement, parameters)).await
    }

    /// Statements without parameters and without rows.
    pub async fn batch(&self, sql: &str) -> Result<(), StoreError> {
        self.while_busy(|| self.client.batch_execute(sql)).await
    }

    /// Sends rows to a `COPY … FROM STDIN`, all at once.
    pub(super) async fn copy_in(&self, sql: &str, rows: bytes::Bytes) -> Result<(), CopyError> {
        let copying = async {
            let mut sink = pin!(self.client.copy_in(sql).await?);
            sink.send(rows).await?;
            sink.finish().await
        };
        self.is_busy.store(true, Ordering::Relaxed);
        let result = match self.limit {
            None => copying.await,
            Some((longest, what)) => match tokio::time::timeout(longest, copying).await {
                Ok(result) => result,
                Err(_) => return Err(CopyError::Store(StoreError::too_slow(what))),
            },
        };
        self.is_done();
        result.map(drop).map_err(CopyError::of)
    }

    /// Reads rows one by one until their bytes reach a bound (the first in any case), and then has PostgreSQL cancel the
    /// rest. What was under way by then is bounded by the socket's buffers.
    pub async fn query_bounded<T>(
        &self,
        statement: &Statement,
        parameters: Parameters<'_>,
        bytes_max: usize,
        mut read: impl FnMut(&Row) -> Result<T, StoreError>,
    ) -> Result<Bounded<T>, StoreError> {
        match self.read_bounded(statement, parameters, bytes_max, &mut read).await {
            Err(error) if self.was_hit_late(&error) => {
                self.read_bounded(statement, parameters, bytes_max, &mut read).await
            }
            outcome => outcome,
        }
    }

    async fn read_bounded<T>(
        &self,
        statement: &Statement,
        parameters: Parameters<'_>,
        bytes_max: usize,
        read: &mut impl FnMut(&Row) -> Result<T, StoreError>,
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

    /// Ends a statement whose other rows are not wanted. Answers whether there were any.
    async fn end_stream(&self, mut stream: Pin<&mut RowStream>) -> bool {
        let mut has_more = false;
        let ending = async {
            let next = async {
                // If the end has arrived already, nothing needs to be cancelled.
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
                    Err(error) if error.code().is_some_and(|code| code.code() == "57014") => {
                        *self.cancelled.lock() = Some(Instant::now());
                        return self.is_done();
                    }
                    Ok(None) | Err(_) => return,
                }
            }
        };
        let _ = tokio::time::timeout(CANCEL_TIMEOUT, ending).await;
        has_more
    }

    /// Has PostgreSQL end a statement whose caller is gone. The session is closed: a cancellation that comes late would hit
    /// its next statement.
    pub(super) async fn cancel(&self) {
        let ending = async {
            // This is answered once the statement before it has ended.
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

    async fn while_busy<T, F>(&self, statement: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, tokio_postgres::Error>>,
    {
        match self.once(statement()).await {
            Err(error) if self.was_hit_late(&error) => self.once(statement()).await,
            outcome => outcome,
        }
    }

    /// Whether a statement was ended by the second signal for the one before it. It has done nothing, and may be sent again.
    fn was_hit_late(&self, error: &StoreError) -> bool {
        let is_cancelled = matches!(error, StoreError::Refused { code, .. } if code == "57014");
        // What fails in a transaction has ended that, too.
        if !is_cancelled || self.is_in_transaction() {
            return false;
        }
        let cancelled = self.cancelled.lock().take();
        cancelled.is_some_and(|at| at.elapsed() < SECOND_SIGNAL_WITHIN)
    }

    async fn once<T>(
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
        result.map_err(|error| {
            let error = StoreError::from(error);
            if error.is_unavailable() {
                self.server.doubt();
            }
            error
        })
    }

    fn is_done(&self) {
        self.is_busy.store(false, Ordering::Relaxed);
    }
}
