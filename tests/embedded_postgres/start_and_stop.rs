//! New data, existing data, and data or programs that do not fit.
use super::*;

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
    assert_eq!(fs::metadata(data.dir().join("run")).unwrap().mode() & 0o777, 0o700);
    let client = connect(&url).await;
    client.batch_execute("CREATE TABLE kept (id int); INSERT INTO kept VALUES (1)").await.unwrap();
    // An open transaction does not hold the stop up.
    client.batch_execute("BEGIN; INSERT INTO kept VALUES (2)").await.unwrap();
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
    assert_eq!(sqlx::query(question).fetch_one(&mut connection).await.unwrap().get::<String, _>(0), answer);
    connection.close().await.unwrap();
    let said = Command::new("psql").args([url, "-XAtc", question]).env("PGPORT", "1").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), answer, "{said:?}");
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
async fn first_start_that_fails_says_at_once_what_postgres_said() {
    let data = Data::new();
    data.start().await.stop().await;
    fs::write(data.pgdata().join("postgresql.conf"), "no_such_setting = 1\n").unwrap();
    let error = data.error().await;
    assert!(matches!(error, Error::DoesNotStart { attempts: 1, .. }), "{error}");
    assert!(error.to_string().contains("no_such_setting"), "{error}");
}

#[tokio::test]
async fn interrupted_initdb_is_made_good_by_the_next_start() {
    let data = Data::new();
    let mut service = EmbeddedProcess::start(data.dir());
    let unfinished = || {
        let mut entries = fs::read_dir(data.dir()).ok()?.flatten();
        entries
            .find(|entry| entry.file_name().to_string_lossy().starts_with("pgdata.initdb-"))
            .map(|entry| entry.path())
    };
    until_some("initdb is in the middle", SOON, || unfinished().filter(|path| path.join("base/1").exists())).await;
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
    assert!(matches!(error, Error::VersionMismatch { data_major: 12, .. }), "{error}");
    let message = error.to_string();
    assert!(message.contains("made by PostgreSQL 12") && message.contains("pg_upgrade"), "{message}");
    assert!(message.contains(&format!("{} (/", installed.trim())), "{message}");
}

#[tokio::test]
async fn wrong_bin_dir_is_refused_with_the_name_of_the_setting() {
    let mut data = Data::new();
    data.settings.bin_dir = Some(data.parent.path().to_owned());
    let error = data.error().await;
    assert!(matches!(error, Error::BinDirUnusable { .. }), "{error}");
    assert!(error.to_string().contains("HEADWATER_POSTGRES_BIN_DIR"), "{error}");
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
