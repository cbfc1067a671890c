//! PgBouncer in transaction mode before the database.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::json;
use tempfile::TempDir;
use tokio_postgres::config::Host;
use tokio_postgres::{NoTls, SimpleQueryMessage};

use crate::support::app::{PATIENCE, TestApp};
use crate::support::database::{TestDatabase, connect, temporary_dir};
use crate::support::front::free_port;
use crate::support::own_server::OwnServer;
use crate::support::waiting::eventually;

/// Server connections: fewer than there are readers, so that each serves many clients.
const POOL_SIZE: usize = 3;

struct PgBouncer {
    child: Child,
    url: String,
    admin_url: String,
    _dir: TempDir,
}

impl PgBouncer {
    async fn before(database: &TestDatabase, pool_mode: &str) -> Self {
        Self::before_url(&database.url, pool_mode).await
    }

    async fn before_url(url: &str, pool_mode: &str) -> Self {
        let config: tokio_postgres::Config = url.parse().unwrap();
        let [Host::Unix(socket)] = config.get_hosts() else { panic!("{:?}", config.get_hosts()) };
        let (user, name) = (config.get_user().unwrap(), config.get_dbname().unwrap());
        let dir = temporary_dir();
        let port = free_port();
        let server_port = config.get_ports().first().copied().unwrap_or(5432);
        // In session mode each client has a connection for as long as it is connected.
        let pool_size = if pool_mode == "session" { 30 } else { POOL_SIZE };
        let text = format!(
            "[databases]\n{name} = host={} port={server_port} dbname={name} user={user}\n[pgbouncer]\n\
             listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\nadmin_users = {user}\n\
             pool_mode = {pool_mode}\ndefault_pool_size = {pool_size}\n",
            socket.display()
        );
        let file = dir.path().join("pgbouncer.ini");
        std::fs::write(&file, text).unwrap();
        let child = start(&file, socket);
        let host = format!("postgresql://{user}@127.0.0.1:{port}");
        let (url, admin_url) = (format!("{host}/{name}?sslmode=disable"), format!("{host}/pgbouncer?sslmode=disable"));
        eventually("PgBouncer", || async { tokio_postgres::connect(&url, NoTls).await.ok().map(drop) }).await;
        Self { child, url, admin_url, _dir: dir }
    }

    /// Transactions that went through it.
    async fn transactions(&self) -> i64 {
        let rows = connect(&self.admin_url).await.simple_query("SHOW STATS").await.unwrap();
        let count = |row: &SimpleQueryMessage| match row {
            SimpleQueryMessage::Row(row) => row.get("total_xact_count").and_then(|count| count.parse::<i64>().ok()),
            _ => None,
        };
        rows.iter().filter_map(count).sum()
    }
}

/// It refuses to run as root: it runs as whom the server runs as, who alone reaches its socket.
fn start(file: &Path, socket: &Path) -> Child {
    let owner = std::fs::metadata(socket).unwrap();
    let mut command = Command::new("pgbouncer");
    // SAFETY: nothing to uphold; it asks for a number.
    if unsafe { libc::getuid() } == 0 {
        std::os::unix::fs::chown(file.parent().unwrap(), Some(owner.uid()), Some(owner.gid())).unwrap();
        std::os::unix::fs::chown(file, Some(owner.uid()), Some(owner.gid())).unwrap();
        command.uid(owner.uid()).gid(owner.gid());
    }
    command.arg(file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("pgbouncer can be started: install the Debian package pgbouncer")
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a reader does, over and over.
async fn read(app: &TestApp, reader: usize) {
    let stream = format!("account-{}", reader % 5);
    for _ in 0..10 {
        let page = app.get(&format!("/v1/streams/{stream}/messages?limit=3")).await;
        assert_eq!(page.json()["messages"].as_array().map(Vec::len), Some(3), "{}", page.text);
        let page = app.get("/v1/categories/account/messages?limit=7&types=Noted").await;
        assert_eq!(page.json()["messages"].as_array().map(Vec::len), Some(7), "{}", page.text);
        let summary = app.get(&format!("/v1/streams/{stream}")).await;
        assert_eq!(summary.json()["version"], 19, "{}", summary.text);
        assert_eq!(app.get("/v1/reports/categories").await.status, 200);
        assert_eq!(app.get("/v1/subscriptions/billing").await.status, 200);
        assert_eq!(app.get("/v1/aggregated-streams/thirds").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_works_where_what_needs_a_session_has_one() {
    let database = TestDatabase::migrated().await;
    let pooler = PgBouncer::before(&database, "transaction").await;
    let app = TestApp::with(&database.url, |settings| {
        settings.database_url = Some(pooler.url.clone());
        settings.direct_database_url = Some(database.url.clone());
    })
    .await;
    let before = pooler.transactions().await;
    let mut events = app.follow("/v1/categories/account/events").await;
    for n in 0..100 {
        app.write(&format!("account-{}", n % 5), "Noted", json!({ "n": n })).await;
    }
    assert_eq!(events.messages(100).await.len(), 100);
    let definition = json!({ "stream_wildcards": ["account-%"], "max_partition": 2,
        "partitioner": { "kind": "data", "pointer": "/n", "method": "modulo", "partitions": 3 } });
    let defined = app.put("/v1/aggregated-streams/thirds", &definition).await;
    assert_eq!(defined.status, 201, "{}", defined.text);
    let definition = json!({ "source": { "category": "account" }, "mode": "competing", "from": "beginning" });
    let defined = app.put("/v1/subscriptions/billing", &definition).await;
    assert_eq!(defined.status, 201, "{}", defined.text);

    let reading = (0..24).map(|reader| read(&app, reader));
    tokio::time::timeout(PATIENCE * 3, futures_util::future::join_all(reading)).await.expect("all read in time");
    assert!(pooler.transactions().await - before > 1_000, "the pooler was used");

    let fetched = app.post("/v1/subscriptions/billing/fetch", &json!({ "consumer": "w" })).await;
    assert_eq!(fetched.status, 200, "{}", fetched.text);
    let page = app.get("/v1/all/messages?limit=1").await.json();
    let id = page["messages"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(app.delete(&format!("/v1/messages/{id}?reason=test")).await.status, 200);
    assert!(app.get(&format!("/v1/messages/{id}")).await.json()["erased"].is_object());
    let projected = app.get("/v1/aggregated-streams/thirds?min_position=100&wait=10s").await.json();
    assert!(projected["status"]["projected_position"].as_i64() >= Some(100), "{projected}");
    assert_eq!(app.get("/readyz").await.status, 200);

    // Nothing of it stays on the pooler's connections, which other programs use too.
    for _ in 0..POOL_SIZE * 3 {
        let client = connect(&pooler.url).await;
        let sql = "SELECT current_setting('enable_seqscan') || ' ' || (SELECT count(*) FROM pg_prepared_statements)";
        let rows = client.simple_query(sql).await.unwrap();
        let row = rows.iter().find_map(|row| if let SimpleQueryMessage::Row(row) = row { row.get(0) } else { None });
        assert_eq!(row, Some("on 0"));
    }
    app.stop().await;
}

/// The program ends at once, and says why.
async fn refused(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headwater"));
    command.args(["serve", "--listen", "127.0.0.1:0"]).args(arguments).env_remove("DATABASE_URL");
    let ended = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let error = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{error}");
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_leads_elsewhere_is_refused_with_its_reason() {
    let (database, other) = (TestDatabase::migrated().await, TestDatabase::migrated().await);
    let name_of = |database: &TestDatabase| {
        let config: tokio_postgres::Config = database.url.parse().unwrap();
        format!("database {} of the server", config.get_dbname().unwrap())
    };
    // Another database of the same server.
    let pooler = PgBouncer::before(&other, "transaction").await;
    let error = refused(&["--database-url", &pooler.url, "--direct-database-url", &database.url]).await;
    let said = [
        format!("--database-url leads to {}", name_of(&other)),
        format!("--direct-database-url to {}", name_of(&database)),
    ];
    assert!(said.iter().all(|part| error.contains(part)), "{error}");
    // The same URLs the right way round: it leads where it should.
    let app = TestApp::with(&other.url, |settings| {
        settings.database_url = Some(pooler.url.clone());
        settings.direct_database_url = Some(other.url.clone());
    })
    .await;
    app.write("account-1", "Noted", json!({})).await;
    app.stop().await;
    drop(pooler);

    // A copy of the server, with the same identifiers, names and messages.
    let dir = temporary_dir();
    let server = OwnServer::start(&dir.path().join("a")).await;
    server.copy(&dir.path().join("b"), &[]).await;
    let copy = OwnServer::start(&dir.path().join("b")).await;
    // And a replica of it.
    server.copy(&dir.path().join("c"), &["--write-recovery-conf"]).await;
    let replica = OwnServer::start(&dir.path().join("c")).await;
    for (elsewhere, said) in [(&copy, "headwater of the server"), (&replica, "headwater of the replica")] {
        let pooler = PgBouncer::before_url(&elsewhere.url, "transaction").await;
        let error = refused(&["--database-url", &pooler.url, "--direct-database-url", &server.url]).await;
        assert!(error.contains(said) && error.contains("one database of one server"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_sessions_the_start_is_refused_with_its_reason() {
    let database = TestDatabase::migrated().await;
    let pooler = PgBouncer::before(&database, "transaction").await;
    let error = refused(&["--database-url", &pooler.url]).await;
    assert!(error.contains("pool_mode = transaction") && error.contains("--direct-database-url"), "{error}");
    drop(pooler);

    let pooler = PgBouncer::before(&database, "session").await;
    let app = TestApp::with(&pooler.url, |settings| settings.database_connections_max = 4).await;
    app.write("account-1", "Noted", json!({})).await;
    app.stop().await;
}
