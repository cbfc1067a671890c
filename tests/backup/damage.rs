//! A backup that is damaged: nothing is lost without a word.
use super::*;

/// Changes one byte of the only place where a text is in the changes of the only run. Called again, it changes it back.
fn flip(stage: &Stage, text: &str) -> PathBuf {
    let run = std::fs::read_dir(stage.path("backup/wal")).unwrap().next().unwrap().unwrap().path();
    for entry in std::fs::read_dir(run).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let found = bytes.windows(text.len() - 1).position(|part| part == &text.as_bytes()[1..]);
        let Some(at) = found else { continue };
        bytes[at - 1] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        return path;
    }
    panic!("{text} is in no file of changes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_file_of_changes_is_refused_and_not_taken_for_the_end() {
    let mut stage = Stage::new(&[]);
    let url = stage.url();
    append(&url, "a-1", 0).await;
    succeeded(&stage.backup_once());
    let backup = stage.backup(&[]);
    backup.says("changes are received", 1).await;
    append(&url, "a-1", 1).await;
    let before = now().await;
    // By this one it is known that nothing is missing before that time.
    append(&url, "a-1", 2).await;
    append(&url, "damaged-1", 0).await;
    append(&url, "a-1", 3).await;
    let after = now().await;
    append(&url, "a-1", 4).await;
    assert!(backup.stop().success());
    stage.stop();

    let damaged = flip(&stage, "damaged-1");
    let name = damaged.file_name().unwrap().to_str().unwrap().trim_end_matches(".partial").to_owned();
    for more in [&[][..], &["--at", &after]] {
        let restored = stage.restore("then", more);
        refused(&restored, "damaged");
        assert!(errors(&restored).contains(&name), "{name} is not named: {}", errors(&restored));
        assert!(!stage.path("then").join("pgdata").exists());
    }
    // What lies before can be had.
    succeeded(&stage.restore("before", &["--at", &before]));
    let restored = stage.serve("before", &[]);
    assert_eq!(numbers(&restored.url, "a-1").await, [0, 1]);
    assert!(restored.stop().success());
    assert_eq!(flip(&stage, "damaged-1"), damaged);
    succeeded(&stage.restore("then", &[]));
    let restored = stage.serve("then", &[]);
    assert_eq!(numbers(&restored.url, "a-1").await, [0, 1, 2, 3, 4]);
    assert!(restored.stop().success());

    // A note of a backup of the data that were here before says nothing of those that are here now.
    std::fs::write(stage.path("then/backup.txt"), "2026-11-20T12:00:00.000000Z").unwrap();
    std::fs::rename(stage.path("then/pgdata"), stage.path("away")).unwrap();
    succeeded(&stage.restore("then", &[]));
    assert!(!stage.path("then/backup.txt").exists());
}
