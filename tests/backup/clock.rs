//! A backup that was made while the clock was wrong, and a directory with something else in it: neither is in the way.
use super::*;

/// Names are times, by which base backups and runs are ordered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_base_backup_of_a_time_that_is_yet_to_come_does_not_stand_in_the_way() {
    let mut stage = Stage::new(&[]);
    append(&stage.url(), "a-1", 0).await;
    succeeded(&stage.backup_once());
    // As if the clock had been ahead.
    let only = |path: &str| std::fs::read_dir(stage.path(path)).unwrap().next().unwrap().unwrap().path();
    let future = "20990101T000000.000000Z";
    for path in ["backup/base", "backup/wal"] {
        std::fs::rename(only(path), stage.path(path).join(future)).unwrap();
    }
    let facts = stage.path("backup/base").join(future).join("base.json");
    let mut changed: Value = serde_json::from_slice(&std::fs::read(&facts).unwrap()).unwrap();
    changed["run"] = json!(future);
    changed["finished_at"] = json!("2099-01-01T00:00:00.000000Z");
    std::fs::write(&facts, changed.to_string()).unwrap();

    append(&stage.url(), "a-1", 1).await;
    let backup = stage.backup(&["--backups-kept", "1"]);
    // It is due at once, and is the one that is kept.
    backup.has_base().await;
    append(&stage.url(), "a-1", 2).await;
    assert!(backup.stop().success());
    let listed = stage.restore("nothing", &["--list"]);
    succeeded(&listed);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.lines().count() == 1 && !listed.contains("from 2099"), "{listed}");

    // A run that comes after one of the future is the newest from then on.
    let run = std::fs::read_dir(stage.path("backup/wal")).unwrap().map(|run| run.unwrap().path()).max().unwrap();
    std::fs::write(run.join("ended"), "").unwrap();
    for number in 3..5 {
        append(&stage.url(), "a-1", number).await;
        succeeded(&stage.backup_once());
    }
    assert_eq!(std::fs::read_dir(stage.path("backup/wal")).unwrap().count(), 2);
    stage.stop();
    succeeded(&stage.restore("then", &[]));
    let restored = stage.serve("then", &[]);
    assert_eq!(numbers(&restored.url, "a-1").await, [0, 1, 2, 3, 4]);
    assert!(restored.stop().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_base_backup_is_passed_over_with_a_word() {
    let mut stage = Stage::new(&[]);
    append(&stage.url(), "a-1", 0).await;
    succeeded(&stage.backup_once());
    for (name, facts) in [("lost+found", None), ("20260101T000000.000000Z", Some(""))] {
        let path = stage.path("backup/base").join(name);
        std::fs::create_dir(&path).unwrap();
        if let Some(facts) = facts {
            std::fs::write(path.join("base.json"), facts).unwrap();
        }
    }
    append(&stage.url(), "a-1", 1).await;
    succeeded(&stage.backup_once());
    stage.stop();
    let restored = stage.restore("then", &[]);
    succeeded(&restored);
    assert!(errors(&restored).contains("20260101T000000.000000Z"), "{}", errors(&restored));
    let restored = stage.serve("then", &[]);
    assert_eq!(numbers(&restored.url, "a-1").await, [0, 1]);
    assert!(restored.stop().success());
}
