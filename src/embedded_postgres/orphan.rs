//! Removes what an earlier headwater left behind on our data: a PostgreSQL that still runs, or the lock files of a dead one.
use super::error::EmbeddedPostgresError;
use std::path::Path;
use std::time::{Duration, Instant};

/// A shutdown writes everything to disk first, which may take a while on slow disks.
const STOP_WAIT_MAX: Duration = Duration::from_secs(300);
const STOP_POLL: Duration = Duration::from_millis(20);
const PROGRESS_EVERY: Duration = Duration::from_secs(10);
/// The file into which a postmaster writes its process id.
const LOCK_FILE: &str = "postmaster.pid";

/// Stops the postmaster that runs on this data, if there is one. The caller holds the lock on the data, so no living
/// headwater owns that postmaster.
pub(super) fn stop(pgdata: &Path, is_to_stop: &dyn Fn() -> bool) -> Result<(), EmbeddedPostgresError> {
    let Some(pid) = postmaster_on(pgdata) else {
        return Ok(());
    };
    tracing::warn!(pid, pgdata = %pgdata.display(), "stopping the PostgreSQL that an earlier headwater left behind");
    signal(pid, libc::SIGINT);
    let started = Instant::now();
    let mut progress = started + PROGRESS_EVERY;
    while postmaster_on(pgdata) == Some(pid) {
        if is_to_stop() {
            return Err(EmbeddedPostgresError::Stopped);
        }
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

/// Removes lock files that name a dead process that was not waited for, or another program that has got its process id
/// since. PostgreSQL takes either for alive, and would refuse to start.
///
/// To be called after [`stop`] only. PostgreSQL still notices left-over children without the files, by its shared memory.
pub(super) fn forget_the_dead(pgdata: &Path, socket: &Path) -> Result<(), EmbeddedPostgresError> {
    let mut socket_lock = socket.as_os_str().to_owned();
    socket_lock.push(".lock");
    for lock_file in [pgdata.join(LOCK_FILE), socket_lock.into()] {
        let Ok(text) = std::fs::read_to_string(&lock_file) else { continue };
        let is_stale = match pid_in(&text) {
            Some(pid) => runs(pid, pgdata) == Some(Runs::NoPostgres),
            // The postmaster was killed before it could write its process id.
            None => text.is_empty() && cfg!(target_os = "linux") && processes_on(pgdata).is_empty(),
        };
        if is_stale {
            tracing::warn!(lock_file = %lock_file.display(), "removing the lock file of a PostgreSQL that is dead");
            std::fs::remove_file(&lock_file).map_err(EmbeddedPostgresError::io("remove", &lock_file))?;
        }
    }
    Ok(())
}

/// The postmaster that the lock file names, if there is one on this data: process ids are used again.
fn postmaster_on(pgdata: &Path) -> Option<libc::pid_t> {
    let pid = pid_in(&std::fs::read_to_string(pgdata.join(LOCK_FILE)).ok()?)?;
    (runs(pid, pgdata) == Some(Runs::PostgresOnData)).then_some(pid)
}

fn pid_in(lock_file: &str) -> Option<libc::pid_t> {
    // Single-user mode writes its number negated.
    lock_file.lines().next()?.trim().parse::<libc::pid_t>().ok()?.checked_abs().filter(|pid| *pid > 1)
}

/// What runs under a process id.
#[derive(Debug, PartialEq, Eq)]
enum Runs {
    PostgresOnData,
    /// Certainly no PostgreSQL on our data: another program, or a dead one that was not waited for.
    NoPostgres,
    /// We may not look.
    Unclear,
}

/// Looks at a process: those of PostgreSQL have the data directory as their working directory; a dead one has none.
/// `None`: no such process.
#[cfg(target_os = "linux")]
fn runs(pid: libc::pid_t, pgdata: &Path) -> Option<Runs> {
    use std::os::unix::fs::MetadataExt;
    let process = Path::new("/proc").join(pid.to_string());
    let text = |name: &str| std::fs::read(process.join(name)).unwrap_or_default();
    let status = String::from_utf8_lossy(&text("stat")).into_owned();
    // Behind the name, which may have any character in it.
    let state = status.rsplit(')').next()?.trim_start().chars().next()?;
    if ['Z', 'X'].contains(&state) {
        return Some(Runs::NoPostgres);
    }
    let is_postgres = text("comm") == b"postgres\n";
    let place = |found: std::fs::Metadata| (found.dev(), found.ino());
    Some(match (std::fs::metadata(process.join("cwd")).map(place), std::fs::metadata(pgdata).map(place)) {
        (Ok(directory), Ok(data)) if directory != data => Runs::NoPostgres,
        (Ok(_), Ok(_)) if is_postgres => Runs::PostgresOnData,
        // It is about to end.
        (Err(error), _) if error.kind() == std::io::ErrorKind::NotFound => Runs::NoPostgres,
        // Not even root may look there without CAP_SYS_PTRACE, which containers do not have; but what a postmaster was
        // started with can be read by everybody.
        (Err(_), _) if is_postgres && names(&text("cmdline"), pgdata) => Runs::PostgresOnData,
        _ => Runs::Unclear,
    })
}

#[cfg(target_os = "linux")]
fn names(command_line: &[u8], pgdata: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    command_line.split(|byte| *byte == 0).any(|argument| argument == pgdata.as_os_str().as_bytes())
}

/// Without /proc: by the command line, where we name the data directory.
#[cfg(not(target_os = "linux"))]
fn runs(pid: libc::pid_t, pgdata: &Path) -> Option<Runs> {
    let asked = std::process::Command::new("ps").args(["-o", "command=", "-p", &pid.to_string()]).output();
    let output = asked.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).ok()?;
    let is_ours = output.contains("postgres") && output.contains(&*pgdata.to_string_lossy());
    Some(if is_ours { Runs::PostgresOnData } else { Runs::Unclear })
}

#[cfg(target_os = "linux")]
fn processes_on(pgdata: &Path) -> Vec<libc::pid_t> {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .flatten()
        .filter_map(|process| process.file_name().to_str()?.parse().ok())
        .filter(|pid| runs(*pid, pgdata) == Some(Runs::PostgresOnData))
        .collect()
}

/// On other systems they cannot be found, and the start waits for them.
#[cfg(not(target_os = "linux"))]
fn processes_on(_pgdata: &Path) -> Vec<libc::pid_t> {
    Vec::new()
}

fn signal(pid: libc::pid_t, signal: libc::c_int) {
    // SAFETY: a plain system call. That it has ended meanwhile is no error.
    unsafe { libc::kill(pid, signal) };
}
