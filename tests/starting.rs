//! A service that is starting hears that it is to stop, whatever it waits for, and ends when a part of it dies.

use std::net::TcpListener;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use headwater::app::Running;
use headwater::config::Settings;
use headwater::lifecycle::Lifecycle;

use crate::support::database::{TestDatabase, temporary_dir};
use crate::support::waiting::{until_some, until_true};

/// A stop that is heard is much faster than what is waited for here.
const SOON: Duration = Duration::from_secs(5);
const WAITS: &str = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted \
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))";

fn serve(arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_headwater"))
        .args(["serve", "--listen", "127.0.0.1:0", "--log", "warn"])
        .args(arguments)
        .env_remove("DATABASE_URL")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Ended with its value.
struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// It ends soon after it was asked to.
async fn stops(child: Child) -> ExitStatus {
    let mut child = Ending(child);
    // SAFETY: the child has not been waited for, so its id is still its own.
    unsafe { libc::kill(child.0.id() as libc::pid_t, libc::SIGTERM) };
    until_some("it has ended", SOON, || child.0.try_wait().unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_heard_while_another_instance_migrates() {
    let database = TestDatabase::empty().await;
    let other = database.connect().await;
    other.batch_execute("BEGIN; SELECT pg_advisory_xact_lock(x'48656164'::int, x'77617465'::int)").await.unwrap();
    let service = serve(&["--database-url", &database.url]);
    until_true(&other, WAITS).await;
    assert!(stops(service).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_heard_while_the_log_cannot_be_read() {
    let database = TestDatabase::migrated().await;
    let other = database.connect().await;
    other.batch_execute("BEGIN; LOCK TABLE message_store.messages IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let service = serve(&["--database-url", &database.url]);
    until_true(&other, WAITS).await;
    assert!(stops(service).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_heard_while_a_mirror_is_silent() {
    let (parent, mirror) = (temporary_dir(), TcpListener::bind("127.0.0.1:0").unwrap());
    let (data, url) = (parent.path().join("data"), format!("http://{}", mirror.local_addr().unwrap()));
    let data = ["--data-dir", data.to_str().unwrap()];
    let service = serve(&[&data[..], &["--postgres-download", "always", "--postgres-download-url", &url]].concat());
    let accepting = tokio::task::spawn_blocking(move || mirror.accept().unwrap());
    let connection = accepting.await.unwrap();
    assert!(stops(service).await.success());
    drop(connection);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_heard_while_a_new_server_starts_and_nothing_of_it_is_left() {
    let parent = temporary_dir();
    let data = parent.path().join("data");
    let service = serve(&["--data-dir", data.to_str().unwrap()]);
    let facts = || std::fs::read_to_string(data.join("headwater.lock")).ok().filter(|facts| facts.lines().count() == 2);
    until_some("the data is locked", SOON, facts).await;
    assert!(stops(service).await.success());
    assert!(!data.join("pgdata/postmaster.pid").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_ends_when_a_part_of_the_service_has_died() {
    let database = TestDatabase::migrated().await;
    let other = database.connect().await;
    other.batch_execute("BEGIN; LOCK TABLE message_store.messages IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let lifecycle = Lifecycle::new();
    let (of_service, url) = (lifecycle.clone(), database.url.clone());
    let starting = tokio::spawn(async move {
        let mut settings = Settings::defaults();
        settings.listen = "127.0.0.1:0".parse().unwrap();
        Running::start(&settings, &url, of_service).await.map(drop)
    });
    until_true(&other, WAITS).await;
    lifecycle.fail("the task tail ended".into());
    let ended = tokio::time::timeout(SOON, starting).await.expect("it does not wait for ever").unwrap();
    assert!(ended.unwrap_err().to_string().contains("the task tail ended"));
}
