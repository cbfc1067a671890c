//! The program itself: its commands, its settings, its exit codes and its lines.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::support::database::{TestDatabase, temporary_dir};
use crate::support::front::free_port;
use crate::support::proxy::FaultProxy;
use crate::support::service_process::ServiceProcess;

fn headwater(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headwater"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HEADWATER_")) {
        command.env_remove(name);
    }
    command.args(arguments).env_remove("DATABASE_URL").stdin(Stdio::null());
    command
}

/// Runs it to its end.
fn run(arguments: &[&str]) -> (i32, String, String) {
    told(headwater(arguments).output().unwrap())
}

fn told(output: Output) -> (i32, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().expect("an exit code"), text(output.stdout), text(output.stderr))
}

#[test]
fn help_names_every_command_and_setting() {
    let (code, out, _) = run(&["--help"]);
    assert_eq!(code, 0);
    for part in ["serve", "migrate", "psql", "openapi", "--listen", "HEADWATER_LISTEN", "--data-dir", "(1 to 1000000)"]
    {
        assert!(out.contains(part), "{part} is not in the help");
    }
    let (code, out, _) = run(&["--version"]);
    assert!(code == 0 && out.starts_with(concat!("headwater ", env!("CARGO_PKG_VERSION"), " (commit ")), "{out}");
    assert!(out.contains("rustc 1."), "{out}");
}

#[test]
fn a_wrong_setting_ends_with_2_and_its_name() {
    for (arguments, part) in [
        (&["--listen", "everywhere"][..], "--listen"),
        (&["--heartbeat", "1h"], "--heartbeat"),
        (&["--followers-max", "0"], "--followers-max"),
        (&["--body-bytes-max", "1GB"], "--body-bytes-max"),
        (&["--tls-certificate", "cert.pem"], "--tls-key"),
        (&["--log", "headwater=loud"], "log"),
        (&["--log-format", "xml"], "--log-format"),
        (&["--no-such-setting"], "--no-such-setting"),
        (&["no-such-command"], "no-such-command"),
        (&["--config", "/no/such/file.toml"], "/no/such/file.toml"),
        (&["--cors-origin", "*"], "--cors-origin"),
        (&["--cors-origin", "https://app.example/"], "without a / at the end"),
        (&["--cors-origin", "app.example"], "must begin with a scheme"),
        (&["--cors-origin", "https://App.example"], "lower case"),
        (&["--cors-origin", "https://app.example,null"], "--cors-origin"),
        (&["--allowed-host", "headwater:8080"], "--allowed-host"),
        (&["--database-url", "mysql://root:secret@localhost/d"], "--database-url"),
        (&["--database-url", "postgresql://u:secret@a,b/d?target_session_attrs=standby"], "must lead to a primary"),
        (&["migrate", "--database-url", "localhost"], "must begin with postgresql://"),
    ] {
        let (code, out, error) = run(arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {error}");
        assert!(error.contains(part), "{part} is not in {error}");
        assert!(!error.contains("secret") && !error.contains("panicked"), "{error}");
    }
    let (code, _, error) = told(headwater(&["serve"]).env("DATABASE_URL", "mysql://localhost/d").output().unwrap());
    assert_eq!(code, 2);
    assert!(error.contains("DATABASE_URL must begin with postgresql://"), "{error}");
    let (code, _, error) = told(headwater(&["serve"]).env("HEADWATER_HEARTBEAT", "1h").output().unwrap());
    assert_eq!(code, 2);
    assert!(error.contains("--heartbeat") && error.contains("from 1s to 5m"), "{error}");
}

#[test]
fn a_wrong_key_or_value_of_the_file_ends_with_2_and_its_name() {
    let directory = temporary_dir();
    let file = directory.path().join("headwater.toml");
    for (text, part) in [
        ("no_such_thing = 1", "no_such_thing"),
        ("heartbeat = '1h'", "--heartbeat"),
        ("heartbeat = { seconds = 1 }", "heartbeat"),
        ("heartbeat = ", "headwater.toml"),
        ("config = 'other.toml'", "config"),
        ("cors_origin = ['https://app.example', 'https://app.example/']", "--cors-origin"),
        ("cors_origin = [5]", "cors_origin"),
        ("allowed_host = ['*']", "--allowed-host"),
        ("heartbeat = ['3s']", "heartbeat"),
        ("database_url = 'mysql://localhost/d'", "--database-url"),
    ] {
        std::fs::write(&file, text).unwrap();
        let (code, _, error) = run(&["--config", file.to_str().unwrap()]);
        assert_eq!(code, 2, "{text}: {error}");
        assert!(error.contains(part), "{part} is not in {error}");
    }
}

#[test]
fn others_are_not_served_without_credentials_unless_it_is_asked_for() {
    let others = ["serve", "--listen", "0.0.0.0:0", "--credentials", "off"];
    let (code, out, error) = run(&[&others[..], &["--database-url", "postgres://127.0.0.1:1/x"]].concat());
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(error.contains("--insecure"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_insecure_others_are_served() {
    let database = TestDatabase::migrated().await;
    let service = ServiceProcess::start(&["--listen", "0.0.0.0:0", "--insecure", "--database-url", &database.url]);
    assert!(service.url.starts_with("http://0.0.0.0:"), "{}", service.url);
    assert!(service.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_said() {
    let database = TestDatabase::migrated().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, out, error) = run(&["serve", "--listen", &address, "--database-url", &database.url]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(error.contains(&format!("cannot listen on {address}")) && error.contains("in use"), "{error}");
}

#[test]
fn openapi_prints_the_document() {
    let (code, out, error) = run(&["openapi"]);
    assert_eq!((code, error.as_str()), (0, ""));
    assert_eq!(out, headwater::http::openapi::document());
    let (code, out, _) = run(&["openapi", "--version", "3.2"]);
    assert_eq!((code, out), (0, headwater::http::openapi::document_in(headwater::http::openapi::Version::V3_2)));
    let (code, _, error) = run(&["openapi", "--version", "3.0"]);
    assert_eq!(code, 2);
    assert!(error.contains("3.1, 3.2"), "{error}");
}

#[test]
fn who_stops_reading_what_is_printed_breaks_nothing() {
    for arguments in [&["openapi"][..], &["--help"], &["openapi", "--version", "3.2"]] {
        let mut child = headwater(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let (code, _, error) = told(child.wait_with_output().unwrap());
        assert_eq!((code, error.as_str()), (0, ""), "{arguments:?}");
    }
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let (code, _, error) = told(headwater(&["openapi"]).stdout(full).stderr(Stdio::piped()).output().unwrap());
    assert_eq!(code, 1, "{error}");
    assert!(error.contains("standard output") && !error.contains("panicked"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_whose_lines_nobody_reads_goes_on() {
    let database = TestDatabase::migrated().await;
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--log", "trace", "--database-url", &database.url];
    let mut child = headwater(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let url = line.trim().strip_prefix("headwater listening on ").expect("it listens").to_owned();
    let body = serde_json::json!({ "messages": [{ "type": "T" }] });
    let http = crate::support::http_client();
    let answer = http.post(format!("{url}/v1/streams/account-1/messages")).json(&body).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    let metrics = http.get(format!("{url}/metrics")).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("headwater_panics_total 0"), "{metrics}");
    // SAFETY: the child has not been waited for, so its id is still its own.
    unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
    assert!(child.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn migrate_installs_once_and_check_only_looks() {
    let database = TestDatabase::empty().await;
    let migrate = |more: &[&str]| run(&[&["migrate", "--database-url", &database.url], more].concat());
    let sql = database.connect().await;
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname IN ('message_store', 'headwater')";
    let (code, out, _) = migrate(&["--check"]);
    assert_eq!(code, 1, "{out}");
    assert!(!out.contains("up to date") && !out.is_empty(), "{out}");
    assert_eq!(sql.query_one(schemas, &[]).await.unwrap().get::<_, i64>(0), 0);
    let (code, out, error) = migrate(&[]);
    assert_eq!(code, 0, "{error}");
    assert!(!out.is_empty());
    assert_eq!(sql.query_one(schemas, &[]).await.unwrap().get::<_, i64>(0), 2);
    for more in [&["--check"][..], &[]] {
        let (code, out, error) = migrate(more);
        assert_eq!(code, 0, "{more:?}: {error}");
        assert_eq!(out.matches("up to date").count(), 1, "{out}");
    }
}

const WRITE: &str = "select write_message(gen_random_uuid()::text, 'account-1', 'Deposited', '{\"amount\": 5}')";

/// What a psql session with one query prints.
fn psql(database: &[&str]) -> String {
    let (code, out, error) = run(&[&["psql"], database, &["--", "-XAt", "-c", WRITE]].concat());
    assert_eq!(code, 0, "{error}");
    out.trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_works_on_a_given_database_and_hands_on_its_exit_code() {
    let database = TestDatabase::migrated().await;
    assert_eq!(psql(&["--database-url", &database.url]), "0");
    assert_eq!(psql(&["--database-url", &database.url]), "1");
    let (code, _, error) = run(&["psql", "--database-url", &database.url, "--", "-X", "-c", "select no_such_column"]);
    assert_eq!(code, 1);
    assert!(error.contains("no_such_column"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_database_is_there_for_psql_while_it_is_served_and_after() {
    let directory = temporary_dir();
    let data_dir = directory.path().join("data");
    let data_dir = data_dir.to_str().unwrap();
    let service = ServiceProcess::start(&["--listen", "127.0.0.1:0", "--data-dir", data_dir]);
    assert_eq!(psql(&["--data-dir", data_dir]), "0");
    let page = crate::support::http_client().get(format!("{}/v1/streams/account-1/messages", service.url));
    let page: Value = page.send().await.unwrap().json().await.unwrap();
    assert_eq!((&page["version"], &page["messages"][0]["type"]), (&0.into(), &"Deposited".into()));
    assert!(service.stop().success());
    assert_eq!(psql(&["--data-dir", data_dir]), "1");
    assert!(!Path::new(data_dir).join("pgdata/postmaster.pid").exists(), "the embedded server was left running");
}

/// A service that was started by hand, with the first line of its standard output.
fn started(command: &mut Command) -> (Child, String) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    (child, line)
}

fn stopped(mut child: Child, signal: libc::c_int) -> i32 {
    // SAFETY: the child has not been waited for, so its id is still its own.
    unsafe { libc::kill(child.id() as libc::pid_t, signal) };
    child.wait().unwrap().code().expect("an exit code")
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_one_line_when_it_is_ready_and_ends_with_0_when_asked() {
    let database = TestDatabase::migrated().await;
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--database-url", &database.url];
        let (mut child, line) = started(&mut headwater(&arguments));
        let url = line.strip_prefix("headwater listening on ").expect("the ready line").trim_end();
        let answer = crate::support::http_client().get(format!("{url}/livez")).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let mut rest = child.stdout.take().unwrap();
        assert_eq!(stopped(child, signal), 0);
        let mut text = String::new();
        rest.read_to_string(&mut text).unwrap();
        assert_eq!(text, "", "more than one line on standard output");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_is_named_by_the_usual_variable_or_by_the_file() {
    let database = TestDatabase::migrated().await;
    let arguments = ["--listen", "127.0.0.1:0"];
    let (child, line) = started(headwater(&arguments).env("DATABASE_URL", &database.url));
    assert!(line.starts_with("headwater listening on http://127.0.0.1:"), "{line}");
    assert_eq!(stopped(child, libc::SIGTERM), 0);
    let directory = temporary_dir();
    let file = directory.path().join("headwater.toml");
    std::fs::write(&file, format!("listen = '127.0.0.1:0'\ndatabase_url = '{}'\n", database.url)).unwrap();
    // The file's goes before the usual variable, which is only there for want of another.
    let mut command = headwater(&[]);
    let (child, line) = started(command.env("HEADWATER_CONFIG", &file).env("DATABASE_URL", "postgres://127.0.0.1:1/x"));
    assert!(line.starts_with("headwater listening on http://127.0.0.1:"), "{line}");
    assert_eq!(stopped(child, libc::SIGTERM), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_not_there_is_waited_for_as_long_as_asked() {
    let url = format!("postgres://nobody@127.0.0.1:{}/nothing", free_port());
    let begun = std::time::Instant::now();
    let (code, out, error) =
        run(&["serve", "--listen", "127.0.0.1:0", "--database-url", &url, "--database-wait", "1s"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(begun.elapsed() >= std::time::Duration::from_secs(1));
    assert!(error.contains("waiting for the database"), "{error}");
    let (code, _, error) = run(&["serve", "--listen", "127.0.0.1:0", "--database-url", &url, "--database-wait", "0s"]);
    assert_eq!(code, 1);
    assert!(!error.contains("waiting for the database"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_comes_late_is_found() {
    let database = TestDatabase::migrated().await;
    let proxy = FaultProxy::before(&database.url).await;
    proxy.refuse(true);
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--database-url", &proxy.url, "--database-wait", "30s"];
    let mut child = headwater(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("waiting for the database") {
        line.clear();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "it has ended without waiting");
    }
    proxy.refuse(false);
    line.clear();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("headwater listening on "), "{line}");
    assert_eq!(stopped(child, libc::SIGTERM), 0);
}
