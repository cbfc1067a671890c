//! The service dies, PostgreSQL dies, or something of an earlier run is still there.
use super::*;

#[tokio::test]
async fn killed_postgres_is_started_again_at_once_with_everything_committed() {
    let data = Data::new();
    let postgres = data.start().await;
    let url = postgres.url().to_owned();
    let client = connect(&url).await;
    client.batch_execute("CREATE TABLE kept AS SELECT generate_series(1, 1000) AS id").await.unwrap();
    // One that computes does not notice that its postmaster is gone, and holds the shared memory.
    let endless = "DO 'BEGIN LOOP NULL; END LOOP; END'";
    let busy = tokio::spawn(async move { client.batch_execute(endless).await });
    let observer = connect(&url).await;
    let computes = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE state = 'active' AND query = $1)";
    let began = Instant::now();
    while !observer.query_one(computes, &[&endless]).await.unwrap().get::<_, bool>(0) {
        assert!(began.elapsed() < SOON && !busy.is_finished(), "the backend is not busy");
    }
    let first = data.postmaster().unwrap();
    let began = Instant::now();
    kill(first, libc::SIGKILL);
    until_ready_again(&url).await;
    let elapsed = began.elapsed();
    eprintln!("ready again after kill -9, with a busy backend left over: {elapsed:?}");
    // All pauses of the supervisor together are longer: it did not wait for the backend to end by itself.
    assert!(elapsed < Duration::from_secs(10), "{elapsed:?}");
    assert!(busy.await.unwrap().is_err());
    assert_eq!(count(&url).await, 1000);
    assert_ne!(data.postmaster(), Some(first));

    let began = Instant::now();
    kill(data.postmaster().unwrap(), libc::SIGKILL);
    until_ready_again(&url).await;
    eprintln!("ready again after kill -9: {:?}", began.elapsed());
    assert!(futures_util::FutureExt::now_or_never(postgres.failed()).is_none());
    postgres.stop().await;
    assert!(data.is_shut_down_cleanly());
}

/// A fact that only a new session can tell, so it is asked for until it comes.
async fn until_ready_again(url: &str) {
    let before = Instant::now();
    loop {
        if let Ok((client, connection)) = tokio_postgres::connect(url, tokio_postgres::NoTls).await {
            let connection = tokio::spawn(connection);
            if client.query_one("SELECT 1", &[]).await.is_ok() {
                return;
            }
            connection.abort();
        }
        assert!(before.elapsed() < SOON, "it is not ready again");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn supervisor_that_cannot_start_it_again_gives_up_and_says_why() {
    let data = Data::new();
    let postgres = data.start().await;
    let failed = tokio::spawn(postgres.failed());
    fs::rename(data.pgdata().join("global/pg_control"), data.pgdata().join("global/taken_away")).unwrap();
    kill(data.postmaster().unwrap(), libc::SIGKILL);
    let error = tokio::time::timeout(SOON, failed).await.unwrap().unwrap();
    assert!(matches!(error, Error::DoesNotStart { attempts: 2.., .. }), "{error}");
    assert!(error.to_string().contains("pg_control"), "{error}");
    postgres.stop().await;
}

#[tokio::test]
async fn killed_service_takes_postgres_with_it_in_order() {
    let data = Data::new();
    let mut service = EmbeddedProcess::start(data.dir());
    let url = service.started().unwrap();
    connect(&url).await.batch_execute("CREATE TABLE kept AS SELECT 1 AS id").await.unwrap();
    let pid = data.postmaster().unwrap();
    service.kill();
    until("PostgreSQL has followed", SOON, || !is_alive(pid)).await;
    assert!(data.is_shut_down_cleanly());
    let postgres = data.start().await;
    assert_eq!(count(postgres.url()).await, 1);
    postgres.stop().await;
}

#[tokio::test]
async fn service_that_leaves_without_a_stop_leaves_no_orphan() {
    let data = Data::new();
    let mut service = EmbeddedProcess::start(data.dir());
    service.started().unwrap();
    let pid = data.postmaster().unwrap();
    service.exit();
    until("PostgreSQL has followed", SOON, || !is_alive(pid)).await;
    assert!(data.is_shut_down_cleanly());
}

/// A postmaster that the test itself is the parent of, so that it becomes a zombie for as long as the test wants.
async fn postmaster_of_ours(data: &Data) -> std::process::Child {
    let postgres = data.start().await;
    let create = "CREATE TABLE IF NOT EXISTS kept AS SELECT 1 AS id";
    connect(postgres.url()).await.batch_execute(create).await.unwrap();
    let program = fs::read_link(format!("/proc/{}/exe", data.postmaster().unwrap())).unwrap();
    let owner = fs::metadata(data.pgdata()).unwrap();
    postgres.stop().await;
    let mut command = Command::new(program);
    command.arg("-D").arg(data.pgdata()).args(["-c", "listen_addresses=", "-c"]);
    command.arg(format!("unix_socket_directories={}", data.dir().join("run").display())).current_dir("/");
    std::os::unix::process::CommandExt::uid(&mut command, owner.uid());
    let child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    let pid = child.id() as i32;
    until("the postmaster runs", SOON, || data.postmaster() == Some(pid)).await;
    child
}

fn is_zombie(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.rsplit(')').next().unwrap().starts_with(" Z"))
}

#[tokio::test]
async fn dead_postmaster_that_nobody_waited_for_keeps_nobody_from_starting() {
    let data = Data::new();
    let mut zombie = postmaster_of_ours(&data).await;
    until("it listens", SOON, || data.dir().join("run/.s.PGSQL.5432.lock").exists()).await;
    zombie.kill().unwrap();
    until("it is dead", SOON, || is_zombie(zombie.id())).await;
    let postgres = data.start().await;
    assert!(is_zombie(zombie.id()), "somebody has waited for it");
    assert_eq!(count(postgres.url()).await, 1);
    postgres.stop().await;
    zombie.wait().unwrap();
}

#[tokio::test]
async fn left_over_children_of_a_dead_postmaster_that_nobody_waited_for_are_ended_first() {
    let data = Data::new();
    let mut zombie = postmaster_of_ours(&data).await;
    let url = format!("postgresql://headwater@{}:5432/headwater?sslmode=disable", {
        data.dir().join("run").display().to_string().replace('/', "%2F")
    });
    until_ready_again(&url).await;
    // One that computes does not notice that its postmaster is gone.
    let client = connect(&url).await;
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let busy = tokio::spawn(async move { client.batch_execute("DO 'BEGIN LOOP NULL; END LOOP; END'").await });
    let computes = || fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|title| title.contains(" DO"));
    until("the backend is busy", SOON, computes).await;
    zombie.kill().unwrap();
    until("it is dead", SOON, || is_zombie(zombie.id())).await;
    assert!(is_alive(pid), "the backend has ended by itself");
    let postgres = data.start().await;
    assert!(!is_alive(pid) && busy.await.unwrap().is_err());
    assert_eq!(count(postgres.url()).await, 1);
    postgres.stop().await;
    zombie.wait().unwrap();
}

#[tokio::test]
async fn both_killed_at_once_start_again_at_once() {
    let data = Data::new();
    for round in 0..7 {
        let mut service = EmbeddedProcess::start(data.dir());
        service.started().unwrap_or_else(|reason| panic!("round {round}: {reason}"));
        let pid = data.postmaster().unwrap();
        kill(pid, libc::SIGKILL);
        service.kill();
    }
    data.start().await.stop().await;
}

#[tokio::test]
async fn postmaster_that_was_killed_before_it_wrote_its_number_keeps_nobody_from_starting() {
    let data = Data::new();
    data.start().await.stop().await;
    let owner = fs::metadata(data.pgdata()).unwrap();
    let lock_file = data.pgdata().join("postmaster.pid");
    fs::write(&lock_file, "").unwrap();
    chown(&lock_file, Some(owner.uid()), Some(owner.gid())).unwrap();
    data.start().await.stop().await;
}

#[tokio::test]
async fn orphan_is_stopped_in_order_before_the_start() {
    let data = Data::new();
    let mut orphan = postmaster_of_ours(&data).await;
    let orphan_pid = orphan.id() as i32;
    // Somebody must wait for the orphan, as init does for a real one.
    let reaper = std::thread::spawn(move || orphan.wait().unwrap());
    let postgres = data.start().await;
    assert!(reaper.join().unwrap().success(), "it was not stopped in order");
    assert_ne!(data.postmaster(), Some(orphan_pid));
    postgres.stop().await;
}

#[tokio::test]
async fn orphan_is_stopped_in_order_by_a_root_that_may_not_look_into_processes() {
    if !is_root() {
        return;
    }
    let data = Data::new();
    let mut orphan = postmaster_of_ours(&data).await;
    // As in a container, where root is without this right.
    let mut service = EmbeddedProcess::start_without_ptrace(data.dir());
    service.started().unwrap_or_else(|reason| panic!("{reason}"));
    assert!(orphan.wait().unwrap().success(), "it was not stopped in order");
    service.stop();

    let mut zombie = postmaster_of_ours(&data).await;
    zombie.kill().unwrap();
    until("it is dead", SOON, || is_zombie(zombie.id())).await;
    let mut service = EmbeddedProcess::start_without_ptrace(data.dir());
    service.started().unwrap_or_else(|reason| panic!("{reason}"));
    service.stop();
    zombie.wait().unwrap();
}

#[tokio::test]
async fn stranger_whose_number_is_in_the_lock_files_is_left_alone_and_keeps_nobody_from_starting() {
    let data = Data::new();
    data.start().await.stop().await;
    let owner = fs::metadata(data.pgdata()).unwrap();
    let mut command = Command::new("sleep");
    command.arg("600").current_dir("/");
    // One that PostgreSQL could be itself, as far as it can see.
    std::os::unix::process::CommandExt::uid(&mut command, owner.uid());
    let mut stranger = command.spawn().unwrap();
    for lock_file in [data.pgdata().join("postmaster.pid"), data.dir().join("run/.s.PGSQL.5432.lock")] {
        fs::write(&lock_file, format!("{}\n{}\n", stranger.id(), data.pgdata().display())).unwrap();
        chown(&lock_file, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    data.start().await.stop().await;
    assert!(stranger.try_wait().unwrap().is_none(), "the stranger was ended");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

/// One that dies again and again right after it is ready is given pauses.
#[tokio::test]
async fn server_that_does_not_live_long_is_not_started_again_without_a_pause() {
    let data = Data::new();
    let mut service = crate::support::service_process::ServiceProcess::start(&[
        "--listen",
        "127.0.0.1:0",
        "--data-dir",
        data.dir().to_str().unwrap(),
    ]);
    let url = crate::support::service_process::embedded_url(data.dir());
    for pause in ["\"pause_ms\":100", "\"pause_ms\":200"] {
        let pid = until_some("it is ready", SOON, || data.postmaster().filter(|pid| is_alive(*pid))).await;
        kill(pid, libc::SIGKILL);
        let line = service.log.next_with("starting it again").await;
        assert!(line.contains(pause), "{line}");
        until_ready_again(&url).await;
    }
    assert!(service.stop().success());
}
