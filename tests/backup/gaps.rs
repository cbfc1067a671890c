//! Changes that are missing are noticed and said: those that were never received, and those that were lost.
use super::*;
use crate::support::database::connect;
use crate::support::service_process::embedded_url;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_that_nobody_received_for_too_long_are_a_gap_that_is_said() {
    // As little as can be kept.
    let mut stage = Stage::new(&["--backup-wal-bytes-max", "67108864"]);
    let url = stage.url();
    append(&url, "a-1", 0).await;
    succeeded(&stage.backup_once());
    append(&url, "a-1", 1).await;
    let lost = now().await;
    // More changes than are kept, and a checkpoint, which removes them.
    let sql = connect(&embedded_url(&stage.data())).await;
    for _ in 0..8 {
        sql.batch_execute("SELECT pg_logical_emit_message(false, 'filler', repeat('x', 15000000))").await.unwrap();
        sql.batch_execute("SELECT pg_switch_wal()").await.unwrap();
    }
    sql.batch_execute("CHECKPOINT").await.unwrap();
    eventually("the loss is measured", || async {
        (gauge(&url, "headwater_backup_wal_lost").await > 0.5).then_some(())
    })
    .await;
    let backup = stage.backup(&[]);
    backup.says("were not received", 1).await;
    backup.has_base().await;
    append(&url, "a-1", 2).await;
    let found = now().await;
    append(&url, "a-1", 3).await;
    assert!(backup.stop().success());
    eventually("it is measured that nothing is lost any more", || async {
        (gauge(&url, "headwater_backup_wal_lost").await < 0.5).then_some(())
    })
    .await;
    assert!(gauge(&url, "headwater_backup_wal_behind_bytes").await >= 0.0);
    stage.stop();
    refused(&stage.restore("lost", &["--at", &lost]), "received up to");
    succeeded(&stage.restore("found", &["--at", &found]));
    let restored = stage.serve("found", &[]);
    assert_eq!(numbers(&restored.url, "a-1").await, [0, 1, 2]);
    assert!(restored.stop().success());
}

/// The server keeps changes for whoever was the last to receive them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backups_to_directories_in_turn_begin_anew_where_changes_are_gone() {
    let mut stage = Stage::new(&[]);
    let url = stage.url();
    let sql = connect(&embedded_url(&stage.data())).await;
    let other = |stage: &Stage| {
        headwater(&["backup", "--once", "--to", text(&stage.path("other")), "--data-dir", text(&stage.data())])
    };
    for round in 0..2 {
        append(&url, "a-1", 2 * round).await;
        succeeded(&stage.backup_once());
        append(&url, "a-1", 2 * round + 1).await;
        for _ in 0..2 {
            sql.batch_execute("SELECT pg_logical_emit_message(true, 'filler', 'x')").await.unwrap();
            sql.batch_execute("SELECT pg_switch_wal()").await.unwrap();
        }
        succeeded(&other(&stage));
        // Removes what has been received.
        sql.batch_execute("CHECKPOINT").await.unwrap();
    }
    append(&url, "a-1", 4).await;
    let again = stage.backup_once();
    succeeded(&again);
    assert!(errors(&again).contains("were not received"), "{}", errors(&again));
    // Nothing has gone by since: it goes on.
    append(&url, "a-1", 5).await;
    let again = stage.backup_once();
    succeeded(&again);
    assert!(!errors(&again).contains("were not received"), "{}", errors(&again));
    stage.stop();
    succeeded(&stage.restore("then", &[]));
    let restored = stage.serve("then", &[]);
    assert_eq!(numbers(&restored.url, "a-1").await, [0, 1, 2, 3, 4, 5]);
    assert!(restored.stop().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_missing_or_broken_is_named_before_anything_is_restored() {
    let mut stage = Stage::new(&[]);
    append(&stage.url(), "a-1", 0).await;
    succeeded(&stage.backup_once());
    let backup = stage.backup(&[]);
    backup.says("changes are received", 1).await;
    let sql = connect(&embedded_url(&stage.data())).await;
    for _ in 0..3 {
        sql.batch_execute("SELECT pg_logical_emit_message(true, 'filler', 'x')").await.unwrap();
        sql.batch_execute("SELECT pg_switch_wal()").await.unwrap();
    }
    assert!(backup.stop().success());
    stage.stop();
    let mut files = times::wal_files(&stage);
    files.sort();
    let run = std::fs::read_dir(stage.path("backup/wal")).unwrap().next().unwrap().unwrap().path();
    let (missing, away) = (run.join(&files[files.len() - 2]), stage.path("away"));
    std::fs::rename(&missing, &away).unwrap();
    refused(&stage.restore("then", &[]), missing.file_name().unwrap().to_str().unwrap());
    assert!(!stage.path("then").join("pgdata").exists());
    std::fs::rename(&away, &missing).unwrap();

    // One byte of one file of the base backup is another one.
    let base = std::fs::read_dir(stage.path("backup/base")).unwrap().next().unwrap().unwrap().path();
    let file = base.join("data/global/pg_control");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    refused(&stage.restore("then", &[]), "pg_verifybackup");
    assert!(!stage.path("then").join("pgdata").exists());
    bytes[100] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    succeeded(&stage.restore("then", &[]));
}
