//! Finds and stops a PostgreSQL that an earlier headwater left behind on our data.
use super::error::EmbeddedPostgresError;
use std::path::Path;
use std::time::{Duration, Instant};

/// A shutdown writes everything to disk first, which may take a while on slow disks.
const STOP_WAIT_MAX: Duration = Duration::from_secs(300);
const STOP_POLL: Duration = Duration::from_millis(20);
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// Stops the postmaster that runs on this data, if there is one. Whoever calls holds the lock on the data, so it
/// belongs to nobody alive.
pub(super) fn stop(pgdata: &Path) -> Result<(), EmbeddedPostgresError> {
    let Some(pid) = postmaster_on(pgdata) else {
        return Ok(());
    };
    tracing::warn!(pid, pgdata = %pgdata.display(), "stopping the PostgreSQL that an earlier headwater left behind");
    signal(pid, libc::SIGINT);
    let started = Instant::now();
    let mut progress = started + PROGRESS_EVERY;
    while postmaster_on(pgdata) == Some(pid) {
        let waited = started.elapsed();
        if waited >= STOP_WAIT_MAX {
            let pid = pid as u32;
            return Err(EmbeddedPostgresError::OrphanDoesNotStop { pgdata: pgdata.to_owned(), pid, waited });
        }
        if Instant::now() >= progress {
            tracing::info!(pid, waited_s = waited.as_secs(), "waiting for the left-behind PostgreSQL to stop");
            progress += PROGRESS_EVERY;
        }
        std::thread::sleep(STOP_POLL);
    }
    Ok(())
}

/// Asks the left-over children of a killed postmaster to end, as the postmaster itself does after a crash (SIGQUIT:
/// at once, the next start recovers). Most notice by themselves that it is gone, but not one that is computing.
///
/// Call it only while no postmaster runs on the data.
pub(super) fn quit_left_over_children(pgdata: &Path) {
    for pid in processes_on(pgdata) {
        tracing::warn!(pid, "ending a left-over process of the PostgreSQL that died");
        signal(pid, libc::SIGQUIT);
    }
}

/// The process that `postmaster.pid` names, if it really is a PostgreSQL on this data: numbers are given out again.
fn postmaster_on(pgdata: &Path) -> Option<libc::pid_t> {
    let text = std::fs::read_to_string(pgdata.join("postmaster.pid")).ok()?;
    // Single-user mode writes its number negated.
    let pid = text.lines().next()?.trim().parse::<libc::pid_t>().ok()?.checked_abs().filter(|pid| *pid > 1)?;
    runs_on(pid, pgdata).then_some(pid)
}

/// PostgreSQL's processes all work in their data directory, and are named so. A dead one has no directory any more.
#[cfg(target_os = "linux")]
fn runs_on(pid: libc::pid_t, pgdata: &Path) -> bool {
    let process = Path::new("/proc").join(pid.to_string());
    let is_postgres = std::fs::read_to_string(process.join("comm")).is_ok_and(|name| name.trim() == "postgres");
    is_postgres && std::fs::read_link(process.join("cwd")).is_ok_and(|dir| dir == pgdata)
}

/// Without /proc: by the command line, where we name the data directory.
#[cfg(not(target_os = "linux"))]
fn runs_on(pid: libc::pid_t, pgdata: &Path) -> bool {
    let asked = std::process::Command::new("ps").args(["-o", "command=", "-p", &pid.to_string()]).output();
    asked.is_ok_and(|said| {
        let said = String::from_utf8_lossy(&said.stdout);
        said.contains("postgres") && said.contains(&*pgdata.to_string_lossy())
    })
}

#[cfg(target_os = "linux")]
fn processes_on(pgdata: &Path) -> Vec<libc::pid_t> {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .flatten()
        .filter_map(|process| process.file_name().to_str()?.parse().ok())
        .filter(|pid| runs_on(*pid, pgdata))
        .collect()
}

/// Elsewhere they are waited for.
#[cfg(not(target_os = "linux"))]
fn processes_on(_pgdata: &Path) -> Vec<libc::pid_t> {
    Vec::new()
}

fn signal(pid: libc::pid_t, signal: libc::c_int) {
    // SAFETY: a plain system call. That it has ended meanwhile is no error.
    unsafe { libc::kill(pid, signal) };
}
