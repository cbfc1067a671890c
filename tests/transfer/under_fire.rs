//! Killed, cut off and in doubt: an import and an export that are started again end with each message once.

use std::process::Child;
use std::time::Duration;

use super::{Lines, command, count, finish, id_of, ids, imported, many, run};
use crate::support::app::PATIENCE;
use crate::support::database::TestDatabase;
use crate::support::proxy::FaultProxy;
use crate::support::seeds::seeds;
use crate::support::waiting::until;

const MESSAGES: i64 = 40_000;

async fn assert_once(database: &TestDatabase, file: &Lines) {
    let expected: Vec<_> = file.text().lines().map(id_of).collect();
    assert_eq!(ids(&database.connect().await).await, expected);
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_is_killed_goes_on_where_it_stopped() {
    for seed in seeds(2) {
        let mut random = fastrand::Rng::with_seed(seed);
        for more in [&[][..], &["--append"]] {
            let database = TestDatabase::migrated().await;
            let sql = database.connect().await;
            let file = Lines::of(&many(MESSAGES));
            let arguments = [&["import", file.path.to_str().unwrap()], more].concat();
            let mut kills = 0;
            loop {
                let before = count(&sql).await;
                if before >= MESSAGES * 3 / 4 {
                    break;
                }
                let mut child = command(&database.url, &arguments).spawn().unwrap();
                while count(&sql).await == before && child.try_wait().unwrap().is_none() {
                    tokio::task::yield_now().await;
                }
                // Anywhere in the next batch.
                tokio::time::sleep(Duration::from_micros(random.u64(0..150_000))).await;
                kill(child);
                kills += 1;
                assert!(count(&sql).await % 5_000 == 0, "a batch is whole or not there");
            }
            assert!(kills > 1);
            imported(&database.url, &file.path, more).await;
            assert_once(&database, &file).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_whose_answers_are_lost_writes_each_message_once() {
    for more in [&[][..], &["--append"]] {
        let database = TestDatabase::migrated().await;
        let file = Lines::of(&many(MESSAGES));
        let proxy = FaultProxy::before(&database.url).await;
        proxy.lose_answers_of("COMMIT", 3);
        let said = imported(&proxy.url, &file.path, more).await;
        assert!(said.contains("40,000 messages imported") || said.contains("were there already"), "{said}");
        assert_eq!(proxy.lost_answers(), 3);
        assert_once(&database, &file).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_waits_for_a_database_that_is_away() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let file = Lines::of(&many(MESSAGES));
    let proxy = FaultProxy::before(&database.url).await;
    let child = command(&proxy.url, &["import", file.path.to_str().unwrap()]).spawn().unwrap();
    while count(&sql).await == 0 {
        tokio::task::yield_now().await;
    }
    proxy.take_away();
    let accepted = proxy.accepted();
    tokio::time::sleep(Duration::from_millis(300)).await;
    proxy.restore();
    until("it connects again", PATIENCE, || proxy.accepted() > accepted).await;
    let (code, _, error) = finish(child).await;
    assert_eq!(code, 0, "{error}");
    assert_once(&database, &file).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_is_asked_to_stop_says_how_to_go_on() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let file = Lines::of(&many(MESSAGES));
    let child = command(&database.url, &["import", file.path.to_str().unwrap()]).spawn().unwrap();
    while count(&sql).await == 0 {
        tokio::task::yield_now().await;
    }
    // SAFETY: the child has not been waited for, so its id is still its own.
    unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
    let (code, _, error) = finish(child).await;
    if code == 1 {
        assert!(error.contains("stopped before line ") && count(&sql).await % 5_000 == 0, "{error}");
    }
    imported(&database.url, &file.path, &[]).await;
    assert_once(&database, &file).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_is_killed_is_gone_on_with() {
    let database = TestDatabase::migrated().await;
    let whole = many(MESSAGES);
    imported(&database.url, &Lines::of(&whole).path, &[]).await;
    for seed in seeds(3) {
        let mut random = fastrand::Rng::with_seed(seed);
        let file = Lines::nowhere();
        let path = file.path.to_str().unwrap();
        let size = || std::fs::metadata(path).map_or(0, |about| about.len());
        for _ in 0..4 {
            let before = size();
            let mut child = command(&database.url, &["export", path, "--resume"]).spawn().unwrap();
            while size() <= before && child.try_wait().unwrap().is_none() {
                tokio::task::yield_now().await;
            }
            tokio::time::sleep(Duration::from_micros(random.u64(0..100_000))).await;
            kill(child);
        }
        let (code, _, error) = run(&database.url, &["export", path, "--resume"]).await;
        assert_eq!(code, 0, "{error}");
        assert!(file.text() == whole, "each message once, in order");
    }
}
