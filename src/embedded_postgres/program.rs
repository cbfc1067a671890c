//! Prepares commands that run PostgreSQL's programs: as the right account, and never longer than our process.
use super::account::Account;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// A command that runs as the account, in its own process group, and that the kernel interrupts (SIGINT, which
/// PostgreSQL takes as a fast shutdown) when we are gone.
///
/// On Linux that signal follows the *thread* that spawned: it must live as long as the child.
pub(super) fn command(program: &Path, account: &Account) -> Command {
    let mut command = Command::new(program);
    // Any directory will do that the account can enter; ours may be closed to it.
    command.current_dir("/").stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    // In English, because some messages are recognised.
    command.env("LC_ALL", "C");
    let account = account.clone();
    let parent = own_process_id();
    // SAFETY: the closure makes only async-signal-safe calls and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            // A signal that was ignored when we were started (nohup, `&`) would be ignored by the child too.
            libc::signal(libc::SIGINT, libc::SIG_DFL);
            if libc::setpgid(0, 0) != 0 {
                return Err(io::Error::last_os_error());
            }
            account.assume()?;
            // After the change of user, because that clears it.
            die_with_parent(parent)
        });
    }
    command
}

pub(super) fn own_process_id() -> libc::pid_t {
    // SAFETY: cannot fail.
    unsafe { libc::getpid() }
}

#[cfg(target_os = "linux")]
fn die_with_parent(parent: libc::pid_t) -> io::Result<()> {
    // SAFETY: plain system calls.
    unsafe {
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGINT as libc::c_ulong) != 0 {
            return Err(io::Error::last_os_error());
        }
        // We may have died before the call above: then no signal will come.
        if libc::getppid() != parent {
            return Err(io::Error::from_raw_os_error(libc::ECHILD));
        }
    }
    Ok(())
}

/// On other systems the next start finds the orphan and stops it.
#[cfg(not(target_os = "linux"))]
fn die_with_parent(_parent: libc::pid_t) -> io::Result<()> {
    Ok(())
}
