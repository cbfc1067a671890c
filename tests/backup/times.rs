//! Times between two messages, under load; and what a restored store is told apart by.
use super::*;
use crate::support::events::Events;
use crate::support::writers::{Told, Writers};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_before_a_time_is_restored_and_nothing_that_came_after() {
    let mut stage = Stage::new(&[]);
    let url = stage.url();
    append(&url, "known-1", 0).await;
    let before_all = now().await;
    let writers = Writers::start(&url, "load", 4);
    writers.progress(50).await;
    let backup = stage.backup(&[]);
    backup.has_base().await;
    // The copy was taken under load, and the load goes on.
    writers.progress(50).await;
    let first = append(&url, "known-1", 1).await;
    let (written, at) = (writers.written(), now().await);
    let second = append(&url, "known-1", 2).await;
    writers.progress(50).await;
    assert!(gauge(&url, "headwater_backup_age_seconds").await < 600.0);
    assert!(gauge(&url, "headwater_backup_wal_behind_bytes").await >= 0.0);
    assert!(gauge(&url, "headwater_backup_wal_lost").await < 0.5);
    let events = format!("{url}/v1/streams/known-1/events?from=beginning");
    let mut follower = Events::open(&events, &[]).await;
    let mut cursors = Vec::new();
    while cursors.len() < 3 {
        cursors.push(follower.next("message").await.id.unwrap());
    }
    let sent = writers.stop().await;
    assert!(backup.stop().success());
    let all = now().await;
    stage.stop();

    refused(&stage.restore("old", &["--at", &before_all]), "the oldest base backup is of");
    refused(&stage.restore("old", &["--at", &all]), "received up to");
    refused(&stage.restore("data", &[]), "a restore never writes over data");
    assert!(!stage.path("old").join("pgdata").exists());
    succeeded(&stage.restore("then", &["--at", &at]));
    let restored = stage.serve("then", &[]);
    assert_eq!(numbers(&restored.url, "known-1").await, [0, 1]);
    let told: Vec<_> = sent
        .iter()
        .filter_map(|sent| match sent.told {
            Told::Written { global_position, .. } => Some((sent, global_position)),
            _ => None,
        })
        .collect();
    let (first, second) = (first["global_position"].as_i64().unwrap(), second["global_position"].as_i64().unwrap());
    let mut there = 0;
    for (sent, global_position) in &told {
        let answer = http_client().get(format!("{}/v1/messages/{}", restored.url, sent.id)).send().await.unwrap();
        let is_there = answer.status() == 200;
        there += usize::from(is_there);
        // Between the two, each may have been acknowledged before that time or after it.
        assert!(is_there || *global_position > first, "{sent:?} was acknowledged before, and is not there");
        assert!(!is_there || *global_position < second + 64, "{sent:?} was written after, and is there");
    }
    assert!(there >= written, "{there} of {written} that were acknowledged before that time are there");

    // The log went back: a cursor of what was cut off is refused, one from before goes on.
    append(&restored.url, "known-1", 9).await;
    let again = |id: &str| {
        http_client().get(format!("{}/v1/streams/known-1/events", restored.url)).header("last-event-id", id).send()
    };
    Answer::of(again(&cursors[2]).await.unwrap()).await.problem(409, "history-changed");
    let mut follower = Events::of(again(&cursors[1]).await.unwrap()).await;
    assert_eq!(follower.next("message").await.json()["data"]["number"], 9);

    // Its own backups would be mixed up with those of the store that it was made of.
    let (data, to) = (stage.path("then"), stage.path("backup"));
    let once = ["backup", "--once", "--to", text(&to), "--data-dir", text(&data)];
    refused(&headwater(&once), "backups of another store");
    let elsewhere = stage.path("another");
    succeeded(&headwater(&["backup", "--once", "--to", text(&elsewhere), "--data-dir", text(&data)]));
    assert!(restored.stop().success());
    succeeded(&headwater(&["restore", "--from", text(&elsewhere), "--data-dir", text(&stage.path("twice"))]));
    let restored = stage.serve("twice", &[]);
    assert_eq!(numbers(&restored.url, "known-1").await, [0, 1, 9]);
    assert!(restored.stop().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_time_everything_that_was_received_is_restored_and_old_backups_go() {
    let mut stage = Stage::new(&[]);
    let url = stage.url();
    let backup = stage.backup(&["--backup-interval", "1s", "--backups-kept", "2"]);
    for number in 0..4 {
        append(&url, "kept-1", number).await;
        backup.says("is whole", number as usize + 1).await;
    }
    append(&url, "kept-1", 4).await;
    assert!(backup.stop().success());
    stage.stop();
    let listed = stage.restore("nothing", &["--list"]);
    succeeded(&listed);
    assert_eq!(String::from_utf8_lossy(&listed.stdout).lines().count(), 2);
    assert_eq!(std::fs::read_dir(stage.path("backup/base")).unwrap().count(), 2);
    let first_needed = first_wal_file(&stage);
    for file in wal_files(&stage) {
        assert!(file >= first_needed, "{file} is older than {first_needed}, which is the first that is needed");
    }
    nobody_else_can_read(&stage.path("backup"));
    // No service runs: the server is started for that one backup, and for a restore nothing is started at all.
    succeeded(&stage.backup_once());
    succeeded(&stage.restore("again", &[]));
    nobody_else_can_read(&stage.path("again/pgdata"));
    let restored = stage.serve("again", &[]);
    assert_eq!(numbers(&restored.url, "kept-1").await, [0, 1, 2, 3, 4]);
    assert!(restored.stop().success());
}

/// The first file of changes that any base backup needs.
fn first_wal_file(stage: &Stage) -> String {
    let bases = std::fs::read_dir(stage.path("backup/base")).unwrap();
    let facts = bases.map(|base| std::fs::read_to_string(base.unwrap().path().join("base.json")).unwrap());
    let first = facts
        .map(|facts| serde_json::from_str::<Value>(&facts).unwrap()["first_wal_file"].as_str().unwrap().to_owned());
    first.min().unwrap()
}

/// The files of changes of all runs.
pub fn wal_files(stage: &Stage) -> Vec<String> {
    let runs = std::fs::read_dir(stage.path("backup/wal")).unwrap();
    let files = runs.flat_map(|run| std::fs::read_dir(run.unwrap().path()).unwrap());
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.len() >= 24 && name.starts_with('0')).collect()
}

fn nobody_else_can_read(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let about = std::fs::symlink_metadata(path).unwrap();
    assert_eq!(about.permissions().mode() & 0o077, 0, "{}", path.display());
    if about.is_dir() {
        std::fs::read_dir(path).unwrap().for_each(|entry| nobody_else_can_read(&entry.unwrap().path()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_waits_for_the_service_and_goes_on_when_it_was_started_again() {
    let mut stage = Stage::new(&[]);
    append(&stage.url(), "a-1", 0).await;
    stage.stop();
    let backup = stage.backup(&[]);
    backup.says("waiting for one", 1).await;
    stage.service = Some(stage.serve("data", &[]));
    backup.has_base().await;
    append(&stage.url(), "a-1", 1).await;
    stage.stop();
    stage.service = Some(stage.serve("data", &[]));
    append(&stage.url(), "a-1", 2).await;
    backup.says("changes are received", 2).await;
    assert!(backup.stop().success());
    stage.stop();
    succeeded(&stage.restore("again", &[]));
    let restored = stage.serve("again", &[]);
    assert_eq!(numbers(&restored.url, "a-1").await, [0, 1, 2]);
    assert!(restored.stop().success());
}

#[test]
fn a_database_that_is_given_has_its_own_backups() {
    let parent = temporary_dir();
    let (to, data) = (parent.path().join("backup"), parent.path().join("data"));
    for setting in ["--database-url", "--direct-database-url"] {
        for arguments in [["backup", "--once", "--to", text(&to)], ["restore", "--list", "--from", text(&to)]] {
            let more = [setting, "postgresql://nobody@localhost/nothing", "--data-dir", text(&data)];
            refused(&headwater(&[&arguments[..], &more].concat()), "is for the embedded PostgreSQL");
        }
    }
    refused(
        &headwater(&["restore", "--from", text(parent.path()), "--data-dir", text(&data)]),
        "no backups of Headwater",
    );
    assert!(!to.exists() && !data.exists());
}
