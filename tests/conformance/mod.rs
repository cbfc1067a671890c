//! What a SQL client of Message DB can see, asserted in SQL alone. HEADWATER_CONFORMANCE_DATABASE_URL points these tests
//! at any database, a stock Message DB too: names are unique to each test, and no table is taken to be empty.
mod acquire_lock;
mod condition;
mod debug;
mod get_category_messages;
mod get_category_messages_errors;
mod get_last_stream_message;
mod get_stream_messages;
mod names;
mod role;
mod signatures;
mod table;
mod versions;
mod views;
mod write_message;
mod write_message_concurrency;
mod write_message_errors;

use crate::support::database::TestDatabase;
use std::future::{Future, poll_fn};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_postgres::config::Host;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, SimpleQueryMessage};
use uuid::Uuid;

/// How long a statement may take before a test gives up.
pub const ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);
/// More notices and notifications than any test makes.
const ASYNC_MESSAGES_MAX: usize = 1000;
const URL_VARIABLE: &str = "HEADWATER_CONFORMANCE_DATABASE_URL";

/// A refusal of the database.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: String,
    pub message: String,
    pub constraint: Option<String>,
}

/// One session. Values come as text, as psql prints them.
pub struct Session {
    client: Client,
    asynchronous: mpsc::Receiver<AsyncMessage>,
}

/// The database under test, with a first session on it.
pub struct Store {
    url: String,
    session: Session,
    /// Dropped with the test; None if the database was pointed at.
    _database: Option<TestDatabase>,
}

impl std::ops::Deref for Store {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl std::ops::DerefMut for Store {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self.session
    }
}

impl Store {
    pub async fn open() -> Self {
        match std::env::var(URL_VARIABLE) {
            Ok(url) => Self { session: Session::open(&url).await, url, _database: None },
            Err(_) => {
                let database = TestDatabase::migrated().await;
                let url = database.url.clone();
                Self { session: Session::open(&url).await, url, _database: Some(database) }
            }
        }
    }

    pub async fn another_session(&self) -> Session {
        Session::open(&self.url).await
    }
}

impl Session {
    /// Stock functions need the schema in the search path.
    pub async fn open(url: &str) -> Self {
        let session = Self::open_plain(url).await;
        session.run("SET search_path TO message_store, public").await;
        session
    }

    pub async fn open_plain(url: &str) -> Self {
        let config = config(url);
        let connecting = config.connect(NoTls);
        let (client, mut connection) =
            within(connecting).await.unwrap_or_else(|error| panic!("no connection to {url}: {error}"));
        let (sender, asynchronous) = mpsc::channel(ASYNC_MESSAGES_MAX);
        tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
                if sender.try_send(message).is_err() {
                    break;
                }
            }
        });
        Self { client, asynchronous }
    }

    pub async fn try_rows(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>, Refusal> {
        let messages = within(self.client.simple_query(sql)).await.map_err(|error| {
            let refusal = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error}"));
            Refusal {
                code: refusal.code().code().to_owned(),
                message: refusal.message().to_owned(),
                constraint: refusal.constraint().map(str::to_owned),
            }
        })?;
        Ok(messages
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => {
                    Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect())
                }
                _ => None,
            })
            .collect())
    }

    pub async fn rows(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        self.try_rows(sql).await.unwrap_or_else(|refusal| panic!("{sql}\nwas refused: {refusal:?}"))
    }

    pub async fn run(&self, sql: &str) {
        self.rows(sql).await;
    }

    /// The only column of each row; NULL is printed as such.
    pub async fn column(&self, sql: &str) -> Vec<String> {
        let rows = self.rows(sql).await;
        rows.into_iter().map(|row| row[0].clone().unwrap_or_else(|| "NULL".to_owned())).collect()
    }

    /// The only value of the only row; NULL is printed as such.
    pub async fn value(&self, sql: &str) -> String {
        let mut column = self.column(sql).await;
        assert_eq!(column.len(), 1, "{sql} has {} rows", column.len());
        column.remove(0)
    }

    pub async fn refusal(&self, sql: &str) -> Refusal {
        match self.try_rows(sql).await {
            Ok(rows) => panic!("{sql}\nwas not refused: {rows:?}"),
            Err(refusal) => refusal,
        }
    }

    /// The refusal's code and text.
    pub async fn refused(&self, sql: &str, code: &str, message: &str) {
        let refusal = self.refusal(sql).await;
        assert_eq!((refusal.code.as_str(), refusal.message.as_str()), (code, message), "{sql}");
    }

    /// Writes a message with a new id and returns its position.
    pub async fn write(&self, stream_name: &str) -> String {
        self.write_with(stream_name, "SomeType", "NULL").await
    }

    /// `metadata` is an SQL expression.
    pub async fn write_with(&self, stream_name: &str, message_type: &str, metadata: &str) -> String {
        let id = Uuid::new_v4();
        self.value(&format!(
            "SELECT write_message('{id}', '{stream_name}', '{message_type}', '{{\"n\": 1}}', {metadata})"
        ))
        .await
    }

    /// The lines of the NOTICEs that came since the last look, up to and with those of statements that are answered.
    pub fn notice_lines(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Ok(message) = self.asynchronous.try_recv() {
            if let AsyncMessage::Notice(notice) = message {
                lines.extend(notice.message().lines().map(str::to_owned));
            }
        }
        lines
    }

    /// The payload of the next notification.
    pub async fn notification(&mut self) -> String {
        loop {
            match within(self.asynchronous.recv()).await {
                Some(AsyncMessage::Notification(notification)) => {
                    return notification.payload().to_owned();
                }
                Some(_) => {}
                None => panic!("the session ended before a notification came"),
            }
        }
    }

    pub async fn process_id(&self) -> String {
        self.value("SELECT pg_backend_pid()").await
    }
}

/// Fails the test, where it would wait for ever.
pub async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(ANSWER_WAIT_MAX, future).await.expect("an answer came in time")
}

/// A name that no other test uses, without a '-'.
pub fn unique(what: &str) -> String {
    format!("{what}{}", Uuid::new_v4().simple())
}

/// A URL with a socket's directory in `host` may name `localhost` besides: only the directory is meant then.
fn config(url: &str) -> Config {
    let given: Config = url.parse().unwrap_or_else(|error| panic!("{url} is no database URL: {error}"));
    let Some(directory) = given.get_hosts().iter().find_map(|host| match host {
        Host::Unix(directory) => Some(directory.clone()),
        Host::Tcp(_) => None,
    }) else {
        return given;
    };
    let mut config = Config::new();
    config.host_path(directory);
    if let Some(port) = given.get_ports().first() {
        config.port(*port);
    }
    if let Some(user) = given.get_user() {
        config.user(user);
    }
    if let Some(password) = given.get_password() {
        config.password(password);
    }
    if let Some(name) = given.get_dbname() {
        config.dbname(name);
    }
    config
}
