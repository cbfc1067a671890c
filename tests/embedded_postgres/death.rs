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
    assert!(elapsed < Duration::from_secs(3), "{elapsed:?}");
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

#[tokio::test]
async fn orphan_is_stopped_in_order_before_the_start() {
    let data = Data::new();
    let postgres = data.start().await;
    let pid = data.postmaster().unwrap();
    let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    let owner = fs::metadata(data.pgdata()).unwrap();
    postgres.stop().await;
    let mut command = Command::new(program);
    command.arg("-D").arg(data.pgdata()).args(["-c", "listen_addresses=", "-c"]);
    command.arg(format!("unix_socket_directories={}", data.dir().join("run").display())).current_dir("/");
    std::os::unix::process::CommandExt::uid(&mut command, owner.uid());
    let mut orphan = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    let orphan_pid = orphan.id() as i32;
    until("the orphan runs", SOON, || data.postmaster() == Some(orphan_pid)).await;
    // Somebody must wait for the orphan, as init does for a real one.
    let reaper = std::thread::spawn(move || orphan.wait().unwrap());
    let postgres = data.start().await;
    assert!(reaper.join().unwrap().success(), "it was not stopped in order");
    assert_ne!(data.postmaster(), Some(orphan_pid));
    postgres.stop().await;
}

#[tokio::test]
async fn stranger_whose_number_is_in_postmaster_pid_is_left_alone() {
    let data = Data::new();
    data.start().await.stop().await;
    let mut stranger = Command::new("sleep").arg("600").spawn().unwrap();
    let text = format!("{}\n{}\n", stranger.id(), data.pgdata().display());
    fs::write(data.pgdata().join("postmaster.pid"), text).unwrap();
    // PostgreSQL itself refuses where it could be one of its own; that is its right.
    if let Ok(postgres) = data.try_start().await {
        postgres.stop().await;
    }
    assert!(stranger.try_wait().unwrap().is_none(), "the stranger was ended");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}
