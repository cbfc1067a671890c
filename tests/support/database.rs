//! A database for each test, on one server that the whole run shares.
#![allow(dead_code)]
use headwater::embedded_postgres::{EmbeddedPostgres, EmbeddedSettings};
use headwater::store::migrate::{self, MigrateOptions};
use parking_lot::{Condvar, Mutex};
use serde_json::Value;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{OnceLock, mpsc};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// Names a server to use in place of one that is started for the run: a URL of its administration database.
const SERVER_URL_VARIABLE: &str = "HEADWATER_TEST_SERVER_URL";
/// Before the process id, in the names of all temporary directories of a run.
const DIR_PREFIX: &str = "headwater-test-";
const STOP_WAIT_MAX: Duration = Duration::from_secs(60);
const DROP_WAIT_MAX: Duration = Duration::from_secs(60);

static SERVER: OnceLock<Server> = OnceLock::new();
static TEMPLATE: OnceCell<String> = OnceCell::const_new();
static NEXT_NUMBER: AtomicU32 = AtomicU32::new(1);

/// A database of its own for one test; dropped (with force) when the value goes.
pub struct TestDatabase {
    pub url: String,
    name: String,
}

impl TestDatabase {
    /// A database with nothing in it.
    pub async fn empty() -> TestDatabase {
        TestDatabase::create(None).await
    }

    /// A database with the schemas, copied from a template that is made once for the run.
    pub async fn migrated() -> TestDatabase {
        let template = TEMPLATE
            .get_or_init(|| async {
                let template = TestDatabase::create(None).await;
                prepare(&template.url).await;
                // Dropped with all the others when the run ends.
                let name = template.name.clone();
                std::mem::forget(template);
                name
            })
            .await;
        TestDatabase::create(Some(template)).await
    }

    /// A session of a program that notifies, as on a server where transactions cannot be prepared.
    pub async fn connect(&self) -> Client {
        let client = connect(&self.url).await;
        client.batch_execute("SET message_store.notify = 'on'").await.expect("the setting is taken");
        client
    }

    async fn create(template: Option<&str>) -> TestDatabase {
        let server = server().await;
        let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("headwater_test_{}_{number}", std::process::id());
        let template = template.unwrap_or("template0");
        execute(&server.url, &format!("CREATE DATABASE {name} TEMPLATE {template}")).await;
        TestDatabase { url: with_database(&server.url, &name), name }
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        // On the server's runtime, because the test's own may be gone or be waiting for us right here.
        let Some(server) = SERVER.get() else { return };
        let url = server.url.clone();
        let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        let (done, wait) = mpsc::channel();
        server.runtime.spawn(async move {
            execute(&url, &statement).await;
            let _ = done.send(());
        });
        if wait.recv_timeout(DROP_WAIT_MAX).is_err() {
            eprintln!("the test database {} could not be dropped", self.name);
        }
    }
}

/// Brings an empty database to what the service expects.
async fn prepare(url: &str) {
    migrate::run(url, &MigrateOptions::default()).await.expect("the schemas can be installed");
}

/// Pages of the database that a statement touches.
pub async fn pages_touched(sql: &Client, statement: &str) -> i64 {
    let explained = format!("EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {statement}");
    let rows = sql.simple_query(&explained).await.unwrap();
    let text = rows.iter().find_map(|row| match row {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    let plan: Value = serde_json::from_str(text.unwrap()).unwrap();
    let blocks = |kind: &str| plan[0]["Plan"][kind].as_i64().unwrap();
    blocks("Shared Hit Blocks") + blocks("Shared Read Blocks")
}

/// Opens a connection whose other half lives on the test's runtime.
pub async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("the test server accepts connections");
    tokio::spawn(async move {
        // Ends with an error when the database is dropped with force, which is what drops are for.
        let _ = connection.await;
    });
    client
}

async fn execute(url: &str, statement: &str) {
    let client = connect(url).await;
    client.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
}

/// The same server, another database.
fn with_database(url: &str, name: &str) -> String {
    let authority = url.find("://").map_or(0, |at| at + 3);
    let parameters = url.find('?').unwrap_or(url.len());
    let path = url[authority..parameters].find('/').map_or(parameters, |at| authority + at);
    format!("{}/{name}{}", &url[..path], &url[parameters..])
}

/// The server of the run.
struct Server {
    url: String,
    /// A runtime that outlives every test's own.
    runtime: tokio::runtime::Handle,
}

/// Tells the server's thread to stop, and when it has.
///
/// It is used while the process exits, when channels and other users of thread-local values may not work any more.
static END: Mutex<End> = Mutex::new(End::NotAsked);
static END_CHANGED: Condvar = Condvar::new();

#[derive(PartialEq)]
enum End {
    NotAsked,
    Asked,
    Done,
}

async fn server() -> &'static Server {
    if let Some(server) = SERVER.get() {
        return server;
    }
    let started = tokio::task::spawn_blocking(|| SERVER.get_or_init(start_server));
    started.await.expect("the test server starts")
}

/// On a thread of its own, because each test has a runtime that ends with it.
fn start_server() -> Server {
    let (started, wait) = mpsc::channel();
    std::thread::Builder::new()
        .name("test-server".to_owned())
        .spawn(move || run_server(&started))
        .expect("a thread can be started");
    let server = wait.recv().expect("the test server starts");
    // SAFETY: `end_server` is a plain function that does not unwind. libtest leaves through `exit`, also when tests
    // failed.
    unsafe { libc::atexit(end_server) };
    server
}

fn run_server(started: &mpsc::Sender<Server>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime can be built");
    let handle = runtime.handle().clone();
    if let Ok(url) = std::env::var(SERVER_URL_VARIABLE) {
        let _ = started.send(Server { url: url.clone(), runtime: handle });
        wait_for_end();
        runtime.block_on(drop_template(&url));
    } else {
        let dir = make_server_dir();
        let settings = EmbeddedSettings { data_dir: Some(dir.join("data")), ..EmbeddedSettings::default() };
        let postgres = runtime.block_on(start_embedded(&settings));
        let _ = started.send(Server { url: postgres.url().to_owned(), runtime: handle });
        wait_for_end();
        runtime.block_on(postgres.stop());
        let _ = std::fs::remove_dir_all(&dir);
    }
    *END.lock() = End::Done;
    END_CHANGED.notify_all();
}

/// Prepared transactions are off as PostgreSQL comes, and some tests are about them.
async fn start_embedded(settings: &EmbeddedSettings) -> EmbeddedPostgres {
    let start = || async {
        let started = EmbeddedPostgres::start(settings).await;
        started.unwrap_or_else(|error| panic!("the test server does not start: {error}"))
    };
    let postgres = start().await;
    execute(postgres.url(), "ALTER SYSTEM SET max_prepared_transactions = 20").await;
    postgres.stop().await;
    start().await
}

async fn drop_template(url: &str) {
    if let Some(template) = TEMPLATE.get() {
        execute(url, &format!("DROP DATABASE IF EXISTS {template} WITH (FORCE)")).await;
    }
}

fn wait_for_end() {
    END_CHANGED.wait_while(&mut END.lock(), |end| *end == End::NotAsked);
}

extern "C" fn end_server() {
    let mut end = END.lock();
    *end = End::Asked;
    END_CHANGED.notify_all();
    // A server that does not stop is interrupted by the kernel when we are gone.
    END_CHANGED.wait_while_for(&mut end, |end| *end != End::Done, STOP_WAIT_MAX);
}

fn make_server_dir() -> PathBuf {
    remove_stale_dirs(&std::env::temp_dir());
    temporary_dir().keep()
}

/// A directory that every user can enter, named by our process so that a later run can tell that we are gone.
pub fn temporary_dir() -> TempDir {
    let prefix = format!("{DIR_PREFIX}{}-", std::process::id());
    let dir = tempfile::Builder::new().prefix(&prefix).tempdir().expect("a temporary directory can be made");
    std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("its owner may open it to others");
    dir
}

/// A run that was killed could not remove its own.
fn remove_stale_dirs(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let own_part = name.to_str().and_then(|name| name.strip_prefix(DIR_PREFIX));
        let pid = own_part.and_then(|own_part| own_part.split('-').next()?.parse().ok());
        if pid.is_some_and(|pid| !is_alive(pid)) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn is_alive(pid: libc::pid_t) -> bool {
    // SAFETY: signal 0 only asks. Another user's process answers with EPERM.
    let found = unsafe { libc::kill(pid, 0) } == 0;
    found || std::io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
}
