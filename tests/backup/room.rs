//! The disk of the backups is full: the service does not notice, and the backup goes on when there is room again.
use super::*;
use crate::support::tmpfs::Tmpfs;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_of_backups_fails_the_backup_and_nothing_else() {
    let Some(disk) = Tmpfs::mount(40) else { return };
    let mut stage = Stage::new(&[]);
    let (url, to) = (stage.url(), disk.path().join("backup"));
    append(&url, "a-1", 0).await;
    let data = stage.data();
    let once = ["backup", "--once", "--to", text(&to), "--data-dir", text(&data)];
    refused(&headwater(&once), "No space left on device");
    append(&url, "a-1", 1).await;
    refused(&headwater(&["restore", "--from", text(&to), "--data-dir", text(&stage.path("then"))]), "");
    // One that runs tries again by itself.
    let backup = Backup::start(&data, &to, &[]);
    backup.says("No space left on device", 1).await;
    disk.grow(400);
    backup.has_base().await;
    append(&url, "a-1", 2).await;
    assert!(backup.stop().success());
    stage.stop();
    succeeded(&headwater(&["restore", "--from", text(&to), "--data-dir", text(&stage.path("then"))]));
    let restored = stage.serve("then", &[]);
    assert_eq!(numbers(&restored.url, "a-1").await, [0, 1, 2]);
    assert!(restored.stop().success());
}
