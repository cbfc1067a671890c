//! What goes wrong and when: decided by a seed, and carried out.

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use tokio_postgres::{Client, NoTls};

use super::stage::{INSTANCES, Stage};
use crate::support::service_process::postmaster;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    KillInstance,
    PauseInstance,
    CutConnections,
    DelayConnections,
    ThrottleConnections,
    BlackHole,
    RefuseConnections,
    LoseAnswersOfAppends,
    LoseAnswers,
    KillPostgres,
    PausePostgres,
    FullDisk,
    NoConnectionsLeft,
    PoolUsedUp,
    NoFilesLeft,
    CancelStatements,
    StatementTimeout,
    TerminateSessions,
    ClockJumps,
}

use Fault::*;

pub const ALL: [Fault; 19] = [
    KillInstance,
    PauseInstance,
    CutConnections,
    DelayConnections,
    ThrottleConnections,
    BlackHole,
    RefuseConnections,
    LoseAnswersOfAppends,
    LoseAnswers,
    KillPostgres,
    PausePostgres,
    FullDisk,
    NoConnectionsLeft,
    PoolUsedUp,
    NoFilesLeft,
    CancelStatements,
    StatementTimeout,
    TerminateSessions,
    ClockJumps,
];

/// One fault.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    pub fault: Fault,
    /// Which instance it hits, where it hits one.
    pub instance: usize,
    pub lasts: Duration,
    /// How many, how much, how far: as the fault means it.
    pub amount: u64,
    /// Before the fault.
    pub pause: Duration,
}

/// Every fault once, in an order that the seed decides; then again in another order.
pub fn steps(seed: u64) -> impl Iterator<Item = Step> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut left = Vec::new();
    std::iter::repeat_with(move || {
        if left.is_empty() {
            left.extend(ALL);
            random.shuffle(&mut left);
        }
        Step {
            fault: left.pop().expect("it was filled"),
            instance: random.usize(..INSTANCES),
            lasts: Duration::from_millis(random.u64(200..2_000)),
            amount: random.u64(..u64::MAX),
            pause: Duration::from_millis(random.u64(..400)),
        }
    })
}

/// Does it, for as long as it lasts, and undoes it.
pub async fn carry_out(step: Step, stage: &mut Stage) {
    let Step { fault, instance, lasts, amount, .. } = step;
    let proxy = &stage.instances[instance].proxy;
    match fault {
        KillInstance => {
            stage.instances[instance].service.take().expect("it runs").kill();
            tokio::time::sleep(lasts).await;
            stage.start(instance).await;
        }
        PauseInstance => {
            let service = stage.instances[instance].service.as_ref().expect("it runs");
            service.signal(libc::SIGSTOP);
            tokio::time::sleep(lasts).await;
            service.signal(libc::SIGCONT);
        }
        CutConnections => {
            for _ in 0..=amount % 5 {
                proxy.cut_all();
                tokio::time::sleep(lasts / 5).await;
            }
        }
        DelayConnections => {
            proxy.delay(Duration::from_millis(1 + amount % 200));
            tokio::time::sleep(lasts).await;
            proxy.delay(Duration::ZERO);
        }
        ThrottleConnections => {
            proxy.slow_down(1_000 + (amount % 100_000) as usize);
            tokio::time::sleep(lasts).await;
            proxy.slow_down(0);
        }
        BlackHole => {
            proxy.black_hole(true);
            tokio::time::sleep(lasts).await;
            proxy.black_hole(false);
        }
        RefuseConnections => {
            proxy.take_away();
            tokio::time::sleep(lasts).await;
            proxy.restore();
        }
        LoseAnswersOfAppends | LoseAnswers => {
            let text = if fault == LoseAnswers { "headwater." } else { "headwater.append_batch" };
            proxy.lose_answers_of(text, 1 + (amount % 8) as usize);
            tokio::time::sleep(lasts).await;
            proxy.lose_answers_of(text, 0);
        }
        ClockJumps => {
            let clock = &stage.instances[instance].clock;
            let sign = if amount.is_multiple_of(2) { '+' } else { '-' };
            std::fs::write(clock, format!("{sign}{}", 1 + amount % 100_000)).unwrap();
            // The library looks every second.
            tokio::time::sleep(lasts + Duration::from_secs(1)).await;
            std::fs::write(clock, "+0").unwrap();
        }
        NoFilesLeft => no_files_left(stage, instance, lasts).await,
        KillPostgres => {
            if let Some(pid) = postmaster(&stage.server.dir) {
                signal(pid, libc::SIGKILL);
            }
        }
        PausePostgres => {
            let all = processes_of(&stage.server.dir);
            all.iter().for_each(|pid| signal(*pid, libc::SIGSTOP));
            tokio::time::sleep(lasts).await;
            all.iter().for_each(|pid| signal(*pid, libc::SIGCONT));
        }
        FullDisk => {
            if let Some(disk) = &stage.disk {
                let filler = disk.fill(amount % 200_000);
                tokio::time::sleep(lasts).await;
                std::fs::remove_file(filler).unwrap();
            }
        }
        NoConnectionsLeft => no_connections_left(stage, instance, lasts).await,
        PoolUsedUp | CancelStatements | StatementTimeout | TerminateSessions => in_sql(step, stage).await,
    }
}

/// What is done by a session of its own. PostgreSQL may still be coming back from another fault: then this one is left out.
async fn in_sql(step: Step, stage: &Stage) {
    let Some((client, _driver)) = session(&stage.server.url).await else { return };
    let sessions = |what: &str| {
        format!("SELECT {what}(pid) FROM pg_stat_activity WHERE application_name = 'headwater' AND random() < 0.5")
    };
    match step.fault {
        // Whoever reads or writes waits, and holds a connection meanwhile.
        PoolUsedUp => {
            let lock = "BEGIN; LOCK TABLE message_store.messages IN ACCESS EXCLUSIVE MODE";
            let _ = client.batch_execute(lock).await;
            tokio::time::sleep(step.lasts).await;
            let _ = client.batch_execute("COMMIT").await;
        }
        // As an operator sets it for all who come: sessions of the service have limits of their own.
        StatementTimeout => {
            let _ = client.batch_execute("ALTER DATABASE headwater SET statement_timeout = '1ms'").await;
            stage.instances[step.instance].proxy.cut_all();
            tokio::time::sleep(step.lasts).await;
            client.batch_execute("ALTER DATABASE headwater RESET statement_timeout").await.expect("it is taken back");
        }
        // What a statement that has timed out looks like, at any moment.
        CancelStatements => {
            for _ in 0..20 {
                let _ = client.batch_execute(&sessions("pg_cancel_backend")).await;
                tokio::time::sleep(step.lasts / 20).await;
            }
        }
        _ => drop(client.batch_execute(&sessions("pg_terminate_backend")).await),
    }
}

/// Ends the session with the value.
struct Driver(tokio::task::JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn session(url: &str) -> Option<(Client, Driver)> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.ok()?;
    Some((client, Driver(tokio::spawn(async move { drop(connection.await) }))))
}

/// All connections that PostgreSQL takes are taken, and an instance has to connect again.
async fn no_connections_left(stage: &Stage, instance: usize, lasts: Duration) {
    let mut taken = Vec::new();
    while let Some(one) = session(&stage.server.url).await {
        taken.push(one);
    }
    stage.instances[instance].proxy.cut_all();
    let until = tokio::time::Instant::now() + lasts;
    while tokio::time::Instant::now() < until {
        // Whatever is let go of is taken.
        if let Some(one) = session(&stage.server.url).await {
            taken.push(one);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// An instance may open no more files than it has, and has to connect again.
async fn no_files_left(stage: &Stage, instance: usize, lasts: Duration) {
    let pid = stage.instances[instance].service.as_ref().expect("it runs").id();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count) as u64;
    let former = limit_files(pid, None);
    limit_files(pid, Some(libc::rlimit { rlim_cur: open, ..former }));
    stage.instances[instance].proxy.cut_all();
    tokio::time::sleep(lasts).await;
    limit_files(pid, Some(former));
}

/// Answers the former limit.
fn limit_files(pid: u32, limit: Option<libc::rlimit>) -> libc::rlimit {
    let mut former = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let new = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: both structures live as long as the call; the process is a child that was not waited for.
    let done = unsafe { libc::prlimit(pid as libc::pid_t, libc::RLIMIT_NOFILE, new, &mut former) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    former
}

/// PostgreSQL's processes on a data directory, which is where they work.
fn processes_of(data: &std::path::Path) -> Vec<libc::pid_t> {
    let Ok(place) = std::fs::metadata(data.join("pgdata")) else { return Vec::new() };
    let is_there = |pid: &libc::pid_t| {
        std::fs::metadata(format!("/proc/{pid}/cwd"))
            .is_ok_and(|cwd| (cwd.dev(), cwd.ino()) == (place.dev(), place.ino()))
    };
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes.filter_map(|process| process.file_name().to_str()?.parse().ok()).filter(is_there).collect()
}

fn signal(pid: libc::pid_t, signal: libc::c_int) {
    // SAFETY: a plain system call, on processes of the test's own server. That one has ended meanwhile is no error.
    unsafe { libc::kill(pid, signal) };
}
