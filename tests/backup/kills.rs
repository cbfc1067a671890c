//! Killed in the middle: what is not whole never counts.
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_was_killed_leaves_nothing_that_counts_and_the_next_one_goes_on() {
    let mut stage = Stage::new(&[]);
    let url = stage.url();
    append(&url, "a-1", 0).await;
    let base_dir = stage.path("backup/base");
    let unfinished = || {
        std::fs::read_dir(&base_dir).ok()?.flatten().map(|entry| entry.path()).find(|path| {
            path.file_name().unwrap().to_string_lossy().starts_with('.') && path.join("data/global").exists()
        })
    };
    let backup = stage.backup(&[]);
    until_some("a copy has begun", BACKUP_PATIENCE, unfinished).await;
    backup.kill();
    gone(&stage.path("backup")).await;
    assert!(unfinished().is_some(), "it was killed too late");
    refused(&stage.restore("then", &[]), "no base backup that is whole");

    // The next one removes what was left behind, and goes on with what was received.
    let backup = stage.backup(&[]);
    backup.has_base().await;
    assert!(unfinished().is_none());
    append(&url, "a-1", 1).await;
    let between = now().await;
    for number in 2..4 {
        append(&url, "a-1", number).await;
    }
    backup.kill();
    gone(&stage.path("backup")).await;
    append(&url, "a-1", 4).await;
    let backup = stage.backup(&[]);
    backup.says("changes are received", 1).await;
    append(&url, "a-1", 5).await;
    assert!(backup.stop().success());
    assert_eq!(std::fs::read_dir(&base_dir).unwrap().count(), 1, "it went on with the base backup that was there");
    stage.stop();
    succeeded(&stage.restore("then", &["--at", &between]));
    succeeded(&stage.restore("all", &[]));
    for (name, expected) in [("then", 0..2), ("all", 0..6)] {
        let restored = stage.serve(name, &[]);
        assert_eq!(numbers(&restored.url, "a-1").await, expected.collect::<Vec<_>>());
        assert!(restored.stop().success());
    }
}

/// PostgreSQL's programs follow the process that started them.
async fn gone(path: &Path) {
    until_some("all of its processes are gone", PATIENCE, || processes_with(path).is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_was_killed_leaves_no_data_and_the_next_one_is_whole() {
    let mut stage = Stage::new(&[]);
    append(&stage.url(), "a-1", 0).await;
    succeeded(&stage.backup_once());
    stage.stop();
    let (from, into) = (stage.path("backup"), stage.path("then"));
    let arguments = ["restore", "--from", text(&from), "--data-dir", text(&into)];
    // Once while files are copied, once while the server recovers.
    for sign in ["PG_VERSION", "postmaster.pid"] {
        let mut restore = command(&arguments).spawn().unwrap();
        let begun = || {
            let entries = std::fs::read_dir(&into).ok()?.flatten();
            entries.map(|entry| entry.path().join(sign)).find(|path| path.exists() && path.starts_with(&into))
        };
        until_some("it has begun", BACKUP_PATIENCE, begun).await;
        restore.kill().unwrap();
        restore.wait().unwrap();
        assert!(!into.join("pgdata").exists(), "it was killed too late");
        gone(&into).await;
    }
    succeeded(&stage.restore("then", &[]));
    let left: Vec<_> = std::fs::read_dir(&into).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("restore-")), "{left:?}");
    let restored = stage.serve("then", &[]);
    assert_eq!(numbers(&restored.url, "a-1").await, [0]);
    assert!(restored.stop().success());
}
