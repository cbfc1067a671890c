//! The only room with SQL and database drivers.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio_postgres::Socket;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres_rustls::MakeRustlsConnect;

pub mod aggregated_streams;
pub mod api_keys;
pub mod append;
pub mod backup;
pub mod conditions;
pub mod erasures;
mod error;
mod finder;
pub mod gap_rule;
pub mod history;
pub mod import;
pub mod inspection;
pub mod keyed_streams;
pub mod latest;
pub mod listen;
pub mod migrate;
mod outcome;
mod plain;
mod pool;
mod pooler;
pub mod projector;
pub mod read;
pub mod replica;
pub mod reports;
pub mod retention;
mod session;
pub mod settled;
pub mod storage;
pub mod subscriptions;
mod target;
pub mod time_window;
mod timestamp;
mod tls;
pub mod trim;
pub mod written_behind;

pub use error::StoreError;
pub(crate) use error::in_time;
pub(crate) use error::source_text;
use finder::Finder;
pub use finder::{Found, Server};
use pool::Pool;
pub use pool::PoolUse;
pub use pooler::PoolerError;
pub use session::Session;
use target::Target;

/// How to reach the database.
#[derive(Debug, Clone)]
pub struct DatabaseSettings {
    /// As libpq reads it; several hosts may be named.
    pub url: String,
    /// A pooler before the same database, for whatever needs no session.
    pub pooler_url: Option<String>,
    /// The most connections in the pool.
    pub connections_max: usize,
    /// The longest that connecting, or waiting for a free connection, may take.
    pub connect_timeout: Duration,
    /// A connection whose peer sends nothing for this long, although something was sent to it, is given up.
    pub silence_timeout: Duration,
}

/// The application name of connections, unless the URL has one.
const APPLICATION_NAME: &str = "headwater";

/// Connections of the pool that may wait for a synchronous standby at the same time.
const STANDBY_WAITS_MAX: usize = 2;

/// The database in use: the pool and what is needed to open connections.
#[derive(Clone)]
pub struct Database {
    pool: Arc<Pool>,
    finder: Arc<Finder>,
    pooler: Option<Arc<Finder>>,
    /// Held by those that wait for a synchronous standby: while that is away, the pool is for others.
    standby_waits: Arc<Semaphore>,
    settings: Arc<DatabaseSettings>,
}

/// Reads of the log: pages, single messages and positions. Pages are read on the session, if there is one.
#[derive(Clone, Copy)]
pub struct Messages<'a>(&'a Database, Option<&'a Session>);

/// Reports on what is in the store: names and counts.
#[derive(Clone, Copy)]
pub struct Reports<'a>(&'a Database);

/// Aggregated streams: definitions, pages of partitions, and what their projections write.
#[derive(Clone, Copy)]
pub struct AggregatedStreams<'a>(&'a Database);

/// Subscriptions: definitions, consumers, and each step of a delivery.
#[derive(Clone, Copy)]
pub struct Subscriptions<'a>(&'a Database);

/// A URL that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the database URL cannot be read: {0}")]
    Url(String),
    #[error("TLS for the database cannot be set up: {0}")]
    Tls(String),
}

impl Database {
    /// Reads the URL and sets up the pool; connects nowhere yet.
    pub fn open(settings: DatabaseSettings) -> Result<Self, OpenError> {
        let target = Target::parse(&settings.url, settings.connect_timeout, settings.silence_timeout)?;
        let finder = Finder::new(target, settings.connect_timeout);
        let pooler = settings.pooler_url.as_deref().map(|url| -> Result<_, OpenError> {
            let target = Target::parse(url, settings.connect_timeout, settings.silence_timeout)?;
            Ok(Arc::new(Finder::new(target, settings.connect_timeout)))
        });
        Ok(Self {
            pool: Pool::new(settings.connections_max.max(1)),
            finder: Arc::new(finder),
            pooler: pooler.transpose()?,
            standby_waits: Arc::new(Semaphore::new(STANDBY_WAITS_MAX)),
            settings: Arc::new(settings),
        })
    }

    /// Looks whether another server is the primary by now. If so, all connections to the one before end.
    pub async fn look_for_primary(&self) -> Result<Found, StoreError> {
        self.finder.look().await
    }

    /// The server in use; changes when another one has become the primary.
    pub fn primary(&self) -> watch::Receiver<Option<Arc<Server>>> {
        self.finder.changes()
    }

    /// How often what direct connections lead to may have become another server.
    pub fn server_turns(&self) -> u64 {
        self.finder.turns()
    }

    /// Whether pages are read through a pooler, which may change to another server without a sign.
    pub fn has_pooler(&self) -> bool {
        self.pooler.is_some()
    }

    /// Where connections lead that need no session.
    fn pooler(&self) -> &Finder {
        self.pooler.as_ref().unwrap_or(&self.finder)
    }

    async fn connect_by(
        &self,
        finder: &Finder,
    ) -> Result<(tokio_postgres::Client, Connection, Arc<Server>), StoreError> {
        let server = finder.server().await?;
        let connecting = server.way.config.connect(finder.tls());
        let failed = match tokio::time::timeout(self.settings.connect_timeout, connecting).await {
            Ok(Ok((client, connection))) => return Ok((client, connection, server)),
            // Whatever the server says to new connections: it serves none.
            Ok(Err(error)) => StoreError::Unavailable(source_text(&error)),
            Err(_) => StoreError::too_slow("connecting"),
        };
        server.doubt();
        Err(failed)
    }

    /// Bounds the first statements of a session: a server may take a connection and then never answer.
    async fn in_time<T>(
        &self,
        statements: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, StoreError> {
        in_time(self.settings.connect_timeout, "setting up the session", statements).await
    }

    /// Closes idle connections and does not use busy ones again: they lead to a server that is no primary any more, or gone.
    pub fn forget_connections(&self) {
        self.finder.doubt();
        self.pooler().doubt();
        self.pool.forget();
    }

    pub fn messages(&self) -> Messages<'_> {
        Messages(self, None)
    }

    pub fn reports(&self) -> Reports<'_> {
        Reports(self)
    }

    pub fn aggregated_streams(&self) -> AggregatedStreams<'_> {
        AggregatedStreams(self)
    }

    pub fn subscriptions(&self) -> Subscriptions<'_> {
        Subscriptions(self)
    }

    pub fn pool_use(&self) -> PoolUse {
        self.pool.usage()
    }

    pub fn settings(&self) -> &DatabaseSettings {
        &self.settings
    }

    pub fn close(&self) {
        self.pool.close();
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Database").field("pool", &self.pool_use()).finish_non_exhaustive()
    }
}

/// The driving side of a connection of its own.
pub type Connection = tokio_postgres::Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

/// The settings of every connection. Every statement uses an index; without `enable_seqscan = off` a plan that was made
/// while the table was empty would stay a sequential scan until there are statistics. The high cost that PostgreSQL then
/// estimates must not start the JIT compiler. The service notifies after its commits, not in `write_message`.
///
/// The rest undoes what a server, database or role may have set for other programs. Read committed, because a statement
/// that waited for a lock must see what was committed meanwhile. Plans are chosen by PostgreSQL. No time limits but the
/// service's own: others would end an append that waits for a lock, or an idle connection. Commits wait for the disk,
/// because a 201 says that they did. `default_transaction_read_only` stays, because it was set on purpose.
pub(crate) const SESSION_SETTINGS: &str = "SET enable_seqscan = off; SET jit = off; SET client_min_messages = warning; \
    SET message_store.notify = off; SET default_transaction_isolation = 'read committed'; \
    SET default_transaction_deferrable = off; SET plan_cache_mode = auto; \
    SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN ('statement_timeout', 'lock_timeout', \
    'transaction_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout'); \
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";
