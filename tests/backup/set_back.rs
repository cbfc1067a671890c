//! A server that was set back (an older copy of its disk was put in place): its two histories are never mixed.
use super::*;
use crate::support::database::connect;
use crate::support::service_process::embedded_url;

async fn fill(stage: &Stage, files: usize) {
    let sql = connect(&embedded_url(&stage.data())).await;
    for _ in 0..files {
        sql.batch_execute("SELECT pg_logical_emit_message(true, 'filler', repeat('x', 1000000))").await.unwrap();
        sql.batch_execute("SELECT pg_switch_wal()").await.unwrap();
    }
    sql.batch_execute("SELECT pg_logical_emit_message(true, 'filler', repeat('x', 100000))").await.unwrap();
}

/// Whether the server has written less since than was received, or more, and whether that ends in the same file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_set_back_begins_a_run_of_its_own() {
    for (received, written) in [(2, 0), (0, 0), (1, 3)] {
        let mut stage = Stage::new(&[]);
        append(&stage.url(), "a-1", 0).await;
        succeeded(&stage.backup_once());
        stage.stop();
        let copied = Command::new("cp").arg("-a").arg(stage.data()).arg(stage.path("copy")).status().unwrap();
        assert!(copied.success());

        stage.service = Some(stage.serve("data", &[]));
        let backup = stage.backup(&[]);
        backup.says("changes are received", 1).await;
        for number in 1..4 {
            append(&stage.url(), "a-1", number).await;
        }
        fill(&stage, received).await;
        assert!(backup.stop().success());
        stage.stop();
        std::fs::remove_dir_all(stage.data()).unwrap();
        std::fs::rename(stage.path("copy"), stage.data()).unwrap();

        stage.service = Some(stage.serve("data", &[]));
        fill(&stage, written).await;
        for number in [101, 102] {
            append(&stage.url(), "a-1", number).await;
        }
        let backup = stage.backup_once();
        succeeded(&backup);
        assert!(errors(&backup).contains("set back"), "{}", errors(&backup));
        let runs = std::fs::read_dir(stage.path("backup/wal")).unwrap().count();
        assert_eq!(runs, 2, "received {received} files, written {written}");
        // What was received is gone on with from here.
        append(&stage.url(), "a-1", 103).await;
        let backup = stage.backup_once();
        succeeded(&backup);
        assert!(!errors(&backup).contains("begins anew"), "{}", errors(&backup));
        stage.stop();
        succeeded(&stage.restore("then", &[]));
        let restored = stage.serve("then", &[]);
        assert_eq!(numbers(&restored.url, "a-1").await, [0, 101, 102, 103]);
        assert!(restored.stop().success());
    }
}
