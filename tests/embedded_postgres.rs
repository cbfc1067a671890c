//! The embedded PostgreSQL: durable, alone on its data, and never in anybody's way.
use crate::support::database::{TestDatabase, connect};
use crate::support::embedded_process::{self, EmbeddedProcess};
use crate::support::waiting::{until, until_some};
use headwater::embedded_postgres::{
    EmbeddedPostgres, EmbeddedPostgresError as Error, EmbeddedSettings,
};
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(30);
/// The user `nobody` of every system that tests run on as root.
const NOBODY: u32 = 65_534;

/// Data in a directory that every user can reach.
struct Data {
    parent: TempDir,
    settings: EmbeddedSettings,
}

impl Data {
    fn new() -> Data {
        let parent = tempfile::Builder::new()
            .prefix("headwater-test-data-")
            .tempdir()
            .unwrap();
        fs::set_permissions(parent.path(), Permissions::from_mode(0o755)).unwrap();
        let settings = EmbeddedSettings {
            data_dir: Some(parent.path().join("data")),
            ..EmbeddedSettings::default()
        };
        Data { parent, settings }
    }

    fn dir(&self) -> &Path {
        self.settings.data_dir.as_deref().unwrap()
    }

    fn pgdata(&self) -> PathBuf {
        self.dir().join("pgdata")
    }

    async fn start(&self) -> EmbeddedPostgres {
        self.try_start()
            .await
            .unwrap_or_else(|error| panic!("{error}"))
    }

    async fn try_start(&self) -> Result<EmbeddedPostgres, Error> {
        EmbeddedPostgres::start(&self.settings).await
    }

    async fn error(&self) -> Error {
        match self.try_start().await {
            Ok(_) => panic!("it starts"),
            Err(error) => error,
        }
    }

    fn postmaster(&self) -> Option<i32> {
        let text = fs::read_to_string(self.pgdata().join("postmaster.pid")).ok()?;
        text.lines().next()?.parse().ok()
    }

    /// A clean shutdown removes the file; a crash leaves it.
    fn is_shut_down_cleanly(&self) -> bool {
        !self.pgdata().join("postmaster.pid").exists()
    }
}

fn is_root() -> bool {
    // SAFETY: cannot fail.
    unsafe { libc::geteuid() == 0 }
}

fn is_alive(pid: i32) -> bool {
    // A dead one that nobody has waited for yet has no memory any more.
    fs::read_to_string(format!("/proc/{pid}/statm")).is_ok_and(|statm| !statm.starts_with("0 "))
}

fn kill(pid: i32, signal: i32) {
    // SAFETY: a plain system call, on a process that the test started.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

/// A field of `/proc/PID/status`, such as `PPid` and `Uid`.
fn status_of(pid: i32, field: &str) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

async fn setting(url: &str, name: &str) -> String {
    connect(url)
        .await
        .query_one("SELECT current_setting($1)", &[&name])
        .await
        .unwrap()
        .get(0)
}

async fn count(url: &str) -> i64 {
    connect(url)
        .await
        .query_one("SELECT count(*) FROM kept", &[])
        .await
        .unwrap()
        .get(0)
}

#[tokio::test]
async fn embedded_process_body() {
    embedded_process::body().await;
}

#[tokio::test]
async fn new_data_is_durable_private_and_survives_a_stop() {
    let data = Data::new();
    let began = Instant::now();
    let postgres = data.start().await;
    eprintln!("start on new data: {:?}", began.elapsed());
    let url = postgres.url().to_owned();
    for (name, expected) in [
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("full_page_writes", "on"),
        ("data_checksums", "on"),
        ("server_encoding", "UTF8"),
        ("listen_addresses", ""),
        ("unix_socket_permissions", "0700"),
        ("max_connections", "200"),
    ] {
        assert_eq!(setting(&url, name).await, expected, "{name}");
    }
    assert_eq!(
        fs::metadata(data.dir().join("run")).unwrap().mode() & 0o777,
        0o700
    );
    let client = connect(&url).await;
    client
        .batch_execute("CREATE TABLE kept (id int); INSERT INTO kept VALUES (1)")
        .await
        .unwrap();
    // An open transaction does not hold the stop up.
    client
        .batch_execute("BEGIN; INSERT INTO kept VALUES (2)")
        .await
        .unwrap();
    let pid = data.postmaster().unwrap();
    postgres.stop().await;
    assert!(!is_alive(pid) && data.is_shut_down_cleanly());

    let began = Instant::now();
    let postgres = data.start().await;
    eprintln!("start on existing data: {:?}", began.elapsed());
    assert_eq!(count(postgres.url()).await, 1);
    postgres.stop().await;
}

#[tokio::test]
async fn url_is_understood_by_tokio_postgres_sqlx_and_psql() {
    use sqlx::{ConnectOptions, Connection, Row};
    let data = Data::new();
    let postgres = data.start().await;
    let url = postgres.url();
    let question = "SELECT current_user || ' ' || current_database() || ' ' || rolsuper \
                    FROM pg_roles WHERE rolname = current_user";
    let answer = "headwater headwater true";
    let row = connect(url).await.query_one(question, &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), answer);
    let options: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
    let mut connection = options.connect().await.unwrap();
    assert_eq!(
        sqlx::query(question)
            .fetch_one(&mut connection)
            .await
            .unwrap()
            .get::<String, _>(0),
        answer
    );
    connection.close().await.unwrap();
    let said = Command::new("psql")
        .args([url, "-XAtc", question])
        .env("PGPORT", "1")
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&said.stdout).trim(),
        answer,
        "{said:?}"
    );
    postgres.stop().await;
}

#[tokio::test]
async fn postgres_is_a_direct_child_in_its_own_process_group_and_not_root() {
    let data = Data::new();
    let postgres = data.start().await;
    let pid = data.postmaster().unwrap();
    assert_eq!(status_of(pid, "PPid"), std::process::id());
    assert_ne!(status_of(pid, "Uid"), 0);
    // SAFETY: only asks.
    assert_eq!(unsafe { libc::getpgid(pid) }, pid);
    postgres.stop().await;
}

#[tokio::test]
async fn killed_postgres_is_started_again_at_once_with_everything_committed() {
    let data = Data::new();
    let postgres = data.start().await;
    let url = postgres.url().to_owned();
    let client = connect(&url).await;
    client
        .batch_execute("CREATE TABLE kept AS SELECT generate_series(1, 1000) AS id")
        .await
        .unwrap();
    // One that computes does not notice that its postmaster is gone, and holds the shared memory.
    let busy = tokio::spawn(async move {
        client
            .batch_execute("SELECT count(*) FROM generate_series(1, 100000000000) AS n")
            .await
    });
    let observer = connect(&url).await;
    let active = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%100000000000%' AND pid <> pg_backend_pid()";
    while observer
        .query_one(active, &[])
        .await
        .unwrap()
        .get::<_, i64>(0)
        == 0
    {}
    let first = data.postmaster().unwrap();
    let began = Instant::now();
    kill(first, libc::SIGKILL);
    until_ready_again(&url).await;
    let elapsed = began.elapsed();
    eprintln!("ready again after kill -9, with a busy backend left over: {elapsed:?}");
    assert!(elapsed < Duration::from_secs(3), "{elapsed:?}");
    assert!(busy.await.unwrap().is_err());
    assert_eq!(count(&url).await, 1000);
    assert_ne!(data.postmaster(), Some(first));

    let began = Instant::now();
    kill(data.postmaster().unwrap(), libc::SIGKILL);
    until_ready_again(&url).await;
    eprintln!("ready again after kill -9: {:?}", began.elapsed());
    assert!(futures_util::FutureExt::now_or_never(postgres.failed()).is_none());
    postgres.stop().await;
    assert!(data.is_shut_down_cleanly());
}

/// The old server may answer for a moment, so what counts is a session that comes from the new one.
async fn until_ready_again(url: &str) {
    let before = Instant::now();
    loop {
        if let Ok((client, connection)) = tokio_postgres::connect(url, tokio_postgres::NoTls).await
        {
            let connection = tokio::spawn(connection);
            if client.query_one("SELECT 1", &[]).await.is_ok() {
                return;
            }
            connection.abort();
        }
        assert!(before.elapsed() < SOON, "it is not ready again");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn supervisor_that_cannot_start_it_again_gives_up_and_says_why() {
    let data = Data::new();
    let postgres = data.start().await;
    let failed = tokio::spawn(postgres.failed());
    fs::rename(
        data.pgdata().join("global/pg_control"),
        data.pgdata().join("global/taken_away"),
    )
    .unwrap();
    kill(data.postmaster().unwrap(), libc::SIGKILL);
    let error = tokio::time::timeout(SOON, failed).await.unwrap().unwrap();
    assert!(
        matches!(error, Error::DoesNotStart { attempts: 2.., .. }),
        "{error}"
    );
    assert!(error.to_string().contains("pg_control"), "{error}");
    postgres.stop().await;
}

#[tokio::test]
async fn first_start_that_fails_says_at_once_what_postgres_said() {
    let data = Data::new();
    data.start().await.stop().await;
    fs::write(
        data.pgdata().join("postgresql.conf"),
        "no_such_setting = 1\n",
    )
    .unwrap();
    let error = data.error().await;
    assert!(
        matches!(error, Error::DoesNotStart { attempts: 1, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("no_such_setting"), "{error}");
}

#[tokio::test]
async fn killed_service_takes_postgres_with_it_in_order() {
    let data = Data::new();
    let mut service = EmbeddedProcess::start(data.dir());
    let url = service.started().unwrap();
    connect(&url)
        .await
        .batch_execute("CREATE TABLE kept AS SELECT 1 AS id")
        .await
        .unwrap();
    let pid = data.postmaster().unwrap();
    service.kill();
    until("PostgreSQL has followed", SOON, || !is_alive(pid)).await;
    assert!(data.is_shut_down_cleanly());
    let postgres = data.start().await;
    assert_eq!(count(postgres.url()).await, 1);
    postgres.stop().await;
}

#[tokio::test]
async fn service_that_leaves_without_a_stop_leaves_no_orphan() {
    let data = Data::new();
    let mut service = EmbeddedProcess::start(data.dir());
    service.started().unwrap();
    let pid = data.postmaster().unwrap();
    service.exit();
    until("PostgreSQL has followed", SOON, || !is_alive(pid)).await;
    assert!(data.is_shut_down_cleanly());
}

#[tokio::test]
async fn dropped_handle_leaves_no_orphan() {
    let data = Data::new();
    let postgres = data.start().await;
    let pid = data.postmaster().unwrap();
    drop(postgres);
    until("PostgreSQL has followed", SOON, || !is_alive(pid)).await;
    assert!(data.is_shut_down_cleanly());
}

#[tokio::test]
async fn orphan_is_stopped_in_order_before_the_start() {
    let data = Data::new();
    let postgres = data.start().await;
    let pid = data.postmaster().unwrap();
    let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    let owner = fs::metadata(data.pgdata()).unwrap();
    postgres.stop().await;
    let mut command = Command::new(program);
    command
        .arg("-D")
        .arg(data.pgdata())
        .args(["-c", "listen_addresses=", "-c"]);
    command
        .arg(format!(
            "unix_socket_directories={}",
            data.dir().join("run").display()
        ))
        .current_dir("/");
    std::os::unix::process::CommandExt::uid(&mut command, owner.uid());
    let mut orphan = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    let orphan_pid = orphan.id() as i32;
    until("the orphan runs", SOON, || {
        data.postmaster() == Some(orphan_pid)
    })
    .await;
    // Somebody must wait for the orphan, as init does for a real one.
    let reaper = std::thread::spawn(move || orphan.wait().unwrap());
    let postgres = data.start().await;
    assert!(
        reaper.join().unwrap().success(),
        "it was not stopped in order"
    );
    assert_ne!(data.postmaster(), Some(orphan_pid));
    postgres.stop().await;
}

#[tokio::test]
async fn stranger_whose_number_is_in_postmaster_pid_is_left_alone() {
    let data = Data::new();
    data.start().await.stop().await;
    let mut stranger = Command::new("sleep").arg("600").spawn().unwrap();
    let text = format!("{}\n{}\n", stranger.id(), data.pgdata().display());
    fs::write(data.pgdata().join("postmaster.pid"), text).unwrap();
    // PostgreSQL itself refuses where it could be one of its own; that is its right.
    if let Ok(postgres) = data.try_start().await {
        postgres.stop().await;
    }
    assert!(
        stranger.try_wait().unwrap().is_none(),
        "the stranger was ended"
    );
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[tokio::test]
async fn second_start_on_the_same_data_is_refused_and_disturbs_nothing() {
    let data = Data::new();
    let postgres = data.start().await;
    let client = connect(postgres.url()).await;
    let session = "SELECT pg_backend_pid()";
    let before: i32 = client.query_one(session, &[]).await.unwrap().get(0);
    let error = data.error().await;
    assert!(
        matches!(error, Error::DataDirInUse { pid: Some(pid), .. } if pid == std::process::id()),
        "{error}"
    );
    let other = EmbeddedProcess::start(data.dir()).started().unwrap_err();
    assert!(
        other.contains(&format!(
            "in use by another headwater (process {})",
            std::process::id()
        )),
        "{other}"
    );
    assert_eq!(
        client
            .query_one(session, &[])
            .await
            .unwrap()
            .get::<_, i32>(0),
        before
    );
    postgres.stop().await;
}

#[tokio::test]
async fn running_url_tells_where_another_process_has_its_server() {
    let data = Data::new();
    assert_eq!(
        EmbeddedPostgres::running_url(&data.settings).await.unwrap(),
        None
    );
    let mut service = EmbeddedProcess::start(data.dir());
    let url = service.started().unwrap();
    assert_eq!(
        EmbeddedPostgres::running_url(&data.settings).await.unwrap(),
        Some(url)
    );
    service.stop();
    assert_eq!(
        EmbeddedPostgres::running_url(&data.settings).await.unwrap(),
        None
    );
}

#[tokio::test]
async fn too_long_a_path_moves_the_socket_to_a_private_directory() {
    let mut data = Data::new();
    let long = data
        .parent
        .path()
        .join("d".repeat(120))
        .join("data, with \"odd\" name");
    data.settings.data_dir = Some(long);
    let postgres = data.start().await;
    assert_eq!(
        EmbeddedPostgres::running_url(&data.settings)
            .await
            .unwrap()
            .as_deref(),
        Some(postgres.url())
    );
    let socket_dir = PathBuf::from(
        setting(postgres.url(), "unix_socket_directories")
            .await
            .replace('"', ""),
    );
    let metadata = fs::symlink_metadata(&socket_dir).unwrap();
    assert!(metadata.is_dir() && metadata.mode() & 0o777 == 0o700);
    assert_eq!(metadata.uid(), status_of(data.postmaster().unwrap(), "Uid"));
    postgres.stop().await;
    // One that others can enter is not used.
    fs::set_permissions(&socket_dir, Permissions::from_mode(0o755)).unwrap();
    let error = data.error().await;
    assert!(
        matches!(error, Error::SocketDirNotPrivate { .. }),
        "{error}"
    );
    fs::remove_dir(&socket_dir).unwrap();
}

#[tokio::test]
async fn interrupted_initdb_is_made_good_by_the_next_start() {
    let data = Data::new();
    let mut service = EmbeddedProcess::start(data.dir());
    let unfinished = || {
        let mut entries = fs::read_dir(data.dir()).ok()?.flatten();
        entries
            .find(|entry| {
                entry
                    .file_name()
                    .to_string_lossy()
                    .starts_with("pgdata.initdb-")
            })
            .map(|entry| entry.path())
    };
    until_some("initdb is in the middle", SOON, || {
        unfinished().filter(|path| path.join("base/1").exists())
    })
    .await;
    service.kill();
    assert!(!data.pgdata().exists(), "initdb was faster than the test");
    // One that was cut off so hard that it stayed.
    fs::create_dir_all(data.dir().join("pgdata.initdb-1/base")).unwrap();
    let postgres = data.start().await;
    assert_eq!(unfinished(), None);
    assert_eq!(setting(postgres.url(), "data_checksums").await, "on");
    postgres.stop().await;
}

#[tokio::test]
async fn data_of_another_major_version_is_refused_with_both_versions() {
    let data = Data::new();
    data.start().await.stop().await;
    let version_file = data.pgdata().join("PG_VERSION");
    let installed = fs::read_to_string(&version_file).unwrap();
    fs::write(&version_file, "12\n").unwrap();
    let error = data.error().await;
    assert!(
        matches!(error, Error::VersionMismatch { data_major: 12, .. }),
        "{error}"
    );
    let message = error.to_string();
    assert!(
        message.contains("made by PostgreSQL 12") && message.contains("pg_upgrade"),
        "{message}"
    );
    assert!(
        message.contains(&format!("{} (/", installed.trim())),
        "{message}"
    );
}

#[tokio::test]
async fn wrong_bin_dir_is_refused_with_the_name_of_the_setting() {
    let mut data = Data::new();
    data.settings.bin_dir = Some(data.parent.path().to_owned());
    let error = data.error().await;
    assert!(matches!(error, Error::BinDirUnusable { .. }), "{error}");
    assert!(
        error.to_string().contains("HEADWATER_POSTGRES_BIN_DIR"),
        "{error}"
    );
}

#[tokio::test]
async fn root_runs_postgres_as_the_owner_of_the_data_directory() {
    if !is_root() {
        return;
    }
    let data = Data::new();
    fs::create_dir(data.dir()).unwrap();
    chown(data.dir(), Some(NOBODY), Some(NOBODY)).unwrap();
    let postgres = data.start().await;
    assert_eq!(status_of(data.postmaster().unwrap(), "Uid"), NOBODY);
    postgres.stop().await;
}

#[tokio::test]
async fn ordinary_user_runs_postgres_as_itself() {
    if !is_root() {
        return;
    }
    let data = Data::new();
    chown(data.parent.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let mut service = EmbeddedProcess::start_as(NOBODY, NOBODY, data.parent.path(), data.dir());
    service.started().unwrap();
    let pid = data.postmaster().unwrap();
    assert_eq!(
        (status_of(pid, "Uid"), status_of(pid, "PPid")),
        (NOBODY, service.id())
    );
    service.stop();
    assert!(data.is_shut_down_cleanly());
}

#[tokio::test]
async fn directory_that_postgres_cannot_enter_is_named() {
    if !is_root() {
        return;
    }
    let data = Data::new();
    fs::set_permissions(data.parent.path(), Permissions::from_mode(0o700)).unwrap();
    let closed = data.parent.path().canonicalize().unwrap();
    let error = data.error().await;
    assert!(
        matches!(&error, Error::UnreachableForAccount { path, .. } if *path == closed),
        "{error}"
    );
    // And nothing was left that would be in the way once it is open.
    fs::set_permissions(data.parent.path(), Permissions::from_mode(0o755)).unwrap();
    data.start().await.stop().await;
}

#[tokio::test]
async fn test_database_is_its_own_and_is_dropped_with_its_value() {
    let kept = TestDatabase::migrated().await;
    let dropped = TestDatabase::empty().await;
    let client = dropped.connect().await;
    let name: String = client
        .query_one("SELECT current_database()", &[])
        .await
        .unwrap()
        .get(0);
    // The open session does not keep it alive.
    drop(dropped);
    let question = "SELECT count(*) FROM pg_database WHERE datname = $1";
    let left = kept
        .connect()
        .await
        .query_one(question, &[&name])
        .await
        .unwrap();
    assert_eq!(left.get::<_, i64>(0), 0);
    assert_eq!(setting(&kept.url, "fsync").await, "on");
}
