//! `headwater doctor` says how old the backup is, and what to do when it is too old or has lost changes.
use super::*;
use crate::support::database::connect;
use crate::support::service_process::embedded_url;

/// What it says of the backup, and its exit code.
fn asked(stage: &Stage, arguments: &[&str]) -> (Option<i32>, Value) {
    let data = stage.data();
    let own = ["doctor", "--json", "--listen", "127.0.0.1:0", "--data-dir", text(&data)];
    let output = command(&[&own, arguments].concat()).output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", errors(&output)));
    let findings = document["findings"].as_array().unwrap();
    let found = findings.iter().find(|finding| finding["check"] == "backup").cloned();
    (output.status.code(), found.unwrap_or_else(|| panic!("{document:#}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_doctor_says_how_old_the_backup_is_and_what_to_do() {
    let mut stage = Stage::new(&["--backup-wal-bytes-max", "67108864"]);
    append(&stage.url(), "a-1", 0).await;
    let (code, none) = asked(&stage, &[]);
    assert_eq!((code, &none["level"]), (Some(0), &json!("note")), "{none}");
    assert!(none["advice"].as_str().unwrap().contains("headwater backup --to"), "{none}");

    succeeded(&stage.backup_once());
    let (code, new) = asked(&stage, &[]);
    assert_eq!((code, &new["level"]), (Some(0), &json!("ok")), "{new}");
    // Two intervals later none has followed.
    eventually("the backup is old", || async {
        let (code, old) = asked(&stage, &["--backup-interval", "1s"]);
        let is_wrong = (code, &old["level"]) == (Some(1), &json!("wrong"));
        assert!(!is_wrong || old["found"].as_str().unwrap().contains("--backup-interval is 1 s"), "{old}");
        assert!(!is_wrong || old["advice"].as_str().unwrap().contains("start `headwater backup` again"), "{old}");
        is_wrong.then_some(())
    })
    .await;

    // More changes than are kept, and a checkpoint, which removes them.
    let sql = connect(&embedded_url(&stage.data())).await;
    for _ in 0..8 {
        sql.batch_execute("SELECT pg_logical_emit_message(false, 'filler', repeat('x', 15000000))").await.unwrap();
        sql.batch_execute("SELECT pg_switch_wal()").await.unwrap();
    }
    sql.batch_execute("CHECKPOINT").await.unwrap();
    let (code, lost) = asked(&stage, &[]);
    assert_eq!((code, &lost["level"]), (Some(1), &json!("wrong")), "{lost}");
    assert!(lost["found"].as_str().unwrap().contains("changes since then are lost"), "{lost}");
    // What it advises helps.
    succeeded(&stage.backup_once());
    let (code, again) = asked(&stage, &[]);
    assert_eq!((code, &again["level"]), (Some(0), &json!("ok")), "{again}");
    drop(sql);
    stage.stop();
}
