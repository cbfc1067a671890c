//! One backup, beside a server that is just starting: it waits, and it hears when it is to stop.
use super::*;

/// Waits until somebody is about to start a server on the data.
async fn is_starting(data: &Path) {
    let facts = || std::fs::read_to_string(data.join("headwater.lock")).ok().filter(|facts| facts.lines().count() == 2);
    until_some("the data is locked", PATIENCE, facts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_is_stopped_while_its_server_starts_is_no_success() {
    let parent = temporary_dir();
    let (data, to) = (parent.path().join("data"), parent.path().join("backup"));
    let arguments = ["backup", "--once", "--to", text(&to), "--data-dir", text(&data)];
    let child = command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    is_starting(&data).await;
    // SAFETY: the child has not been waited for, so its id is still its own.
    unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
    let output = child.wait_with_output().unwrap();
    refused(&output, "stop");
    assert!(processes_with(&data).is_empty(), "{:?}", processes_with(&data));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_beside_a_service_that_starts_waits_for_its_server() {
    let mut stage = Stage { parent: temporary_dir(), service: None };
    let data = stage.data();
    let starting = std::thread::spawn(move || {
        ServiceProcess::start(&["--listen", "127.0.0.1:0", "--data-dir", data.to_str().unwrap()])
    });
    is_starting(&stage.data()).await;
    let backup = stage.backup_once();
    stage.service = Some(starting.join().unwrap());
    succeeded(&backup);
    stage.stop();
}
