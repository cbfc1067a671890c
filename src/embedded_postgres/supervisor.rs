//! The thread that is PostgreSQL's parent: starts it, waits for it, and starts it again when it dies.
use super::BACKUP_WAL_BYTES_MAX;
use super::account::Account;
use super::binaries::Binaries;
use super::data_dir::DataDirLock;
use super::error::EmbeddedPostgresError;
use super::orphan;
use super::program::command;
use super::readiness::{self, Readiness};
use super::server_log::{ServerLog, describe};
use parking_lot::{Condvar, Mutex};
use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Enough connections for the service, for `psql` and for programs that use SQL.
const CONNECTIONS_MAX: u32 = 200;
const SHARED_BUFFERS: &str = "256MB";
/// An event store mostly appends: with fewer checkpoints, fewer whole pages are written.
const WAL_SIZE_MAX: &str = "2GB";
const READINESS_POLL: Duration = Duration::from_millis(20);
const PROGRESS_EVERY: Duration = Duration::from_secs(10);
/// Failed starts in a row before we give up: with the pauses between them, some eleven seconds.
const FAILED_STARTS_MAX: u32 = 8;
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A server that ends sooner after it was ready is started again after a pause.
const SHORT_LIFE: Duration = Duration::from_secs(10);
/// A killed postmaster's children hold its shared memory until they notice.
const CHILDREN_LEFT_OVER: &str = "is still in use";

/// What to start.
pub(super) struct Launch {
    pub binaries: Binaries,
    pub account: Account,
    pub pgdata: PathBuf,
    pub socket_dir: PathBuf,
    pub backup_wal_bytes_max: Option<usize>,
}

impl Launch {
    pub fn command(&self) -> Command {
        let mut postgres = command(&self.binaries.program("postgres"), &self.account);
        postgres.arg("-D").arg(&self.pgdata).stdout(Stdio::null()).stderr(Stdio::piped());
        // On the command line, which overrides an older headwater's file and ALTER SYSTEM.
        let quoted_dir = self.socket_dir.to_string_lossy().replace('"', "\"\"");
        let backup_wal_bytes_max = self.backup_wal_bytes_max.unwrap_or(BACKUP_WAL_BYTES_MAX);
        let settings = [
            ("listen_addresses", String::new()),
            ("port", "5432".to_owned()),
            ("unix_socket_directories", format!("\"{quoted_dir}\"")),
            ("unix_socket_permissions", "0700".to_owned()),
            ("max_connections", CONNECTIONS_MAX.to_string()),
            ("shared_buffers", SHARED_BUFFERS.to_owned()),
            ("max_wal_size", WAL_SIZE_MAX.to_owned()),
            ("max_slot_wal_keep_size", format!("{}MB", backup_wal_bytes_max >> 20)),
            ("fsync", "on".to_owned()),
            ("synchronous_commit", "on".to_owned()),
            ("full_page_writes", "on".to_owned()),
            ("logging_collector", "off".to_owned()),
            ("log_destination", "stderr".to_owned()),
            ("log_min_messages", "warning".to_owned()),
            ("log_line_prefix", String::new()),
            ("lc_messages", "C".to_owned()),
        ];
        for (name, value) in settings {
            postgres.arg("-c").arg(format!("{name}={value}"));
        }
        postgres
    }
}

/// The state of the server.
#[derive(Clone, Debug)]
pub(super) enum Phase {
    Starting,
    Ready,
    GaveUp(Failure),
    Stopped,
}

/// Why the supervisor gave up.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pgdata: PathBuf,
    attempts: u32,
    status: String,
    output: String,
}

impl From<Failure> for EmbeddedPostgresError {
    fn from(failure: Failure) -> Self {
        let Failure { pgdata, attempts, status, output } = failure;
        EmbeddedPostgresError::DoesNotStart { pgdata, attempts, status, output }
    }
}

/// Our end of the supervisor's thread.
pub(super) struct Supervisor {
    shared: Arc<Shared>,
    phase: watch::Receiver<Phase>,
}

struct Shared {
    server: Mutex<Server>,
    stop_asked: Condvar,
}

struct Server {
    /// Set as long as the process is not reaped, so the number is certainly its own.
    pid: Option<libc::pid_t>,
    stopping: bool,
}

impl Supervisor {
    /// Starts the thread; it holds the lock until PostgreSQL is gone.
    pub fn start(launch: Launch, lock: DataDirLock) -> Result<Supervisor, EmbeddedPostgresError> {
        let shared =
            Arc::new(Shared { server: Mutex::new(Server { pid: None, stopping: false }), stop_asked: Condvar::new() });
        let (phase_sender, phase) = watch::channel(Phase::Starting);
        let keeper = Keeper { launch, shared: Arc::clone(&shared), phase: phase_sender };
        // A thread of its own, because the parent death signal comes when the *thread* ends that spawned the child.
        std::thread::Builder::new()
            .name("postgres-keeper".to_owned())
            .spawn(move || {
                let last_phase = keeper.run();
                // The lock is released first, so that a process that sees the end can take it.
                drop(lock);
                keeper.phase.send_replace(last_phase);
            })
            .map_err(EmbeddedPostgresError::io("start a thread for", "postgres"))?;
        Ok(Supervisor { shared, phase })
    }

    /// Watches the state of the server.
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.clone()
    }

    /// Asks for a fast shutdown, and does not wait for it.
    pub fn ask_to_stop(&self) {
        let mut server = self.shared.server.lock();
        server.stopping = true;
        if let Some(pid) = server.pid {
            // SAFETY: the process is not reaped as long as we hold the guard.
            unsafe { libc::kill(pid, libc::SIGINT) };
        }
        self.shared.stop_asked.notify_all();
    }
}

/// The state of the thread.
struct Keeper {
    launch: Launch,
    shared: Arc<Shared>,
    phase: watch::Sender<Phase>,
}

/// How one run of the server ended.
enum Ended {
    AsAsked,
    AfterReady { status: String, lived: Duration },
    BeforeReady { status: String, output: String },
}

impl Keeper {
    fn run(&self) -> Phase {
        let mut was_ready = false;
        let (mut failed_starts, mut short_lives) = (0, 0);
        loop {
            match self.run_once() {
                Ended::AsAsked => return Phase::Stopped,
                Ended::AfterReady { status, lived } => {
                    was_ready = true;
                    failed_starts = 0;
                    if lived >= SHORT_LIFE {
                        short_lives = 0;
                        tracing::error!("PostgreSQL {status}; starting it again");
                        continue;
                    }
                    // Whatever ends it so soon may do so again, and each start costs a recovery.
                    let pause = pause_after(short_lives);
                    short_lives += 1;
                    let (lived_ms, pause_ms) = (lived.as_millis() as u64, pause.as_millis() as u64);
                    tracing::error!(short_lives, lived_ms, pause_ms, "PostgreSQL {status}; starting it again");
                    self.pause(pause);
                }
                Ended::BeforeReady { status, output } => {
                    failed_starts += 1;
                    let children_left_over = output.contains(CHILDREN_LEFT_OVER);
                    // A server that never ran will not run at the next attempt, unless it waits for the end of left-over processes.
                    if failed_starts >= FAILED_STARTS_MAX || !(was_ready || children_left_over) {
                        let pgdata = self.launch.pgdata.clone();
                        return Phase::GaveUp(Failure { pgdata, attempts: failed_starts, status, output });
                    }
                    if children_left_over {
                        orphan::quit_left_over_children(&self.launch.pgdata);
                    }
                    let pause = pause_after(failed_starts - 1);
                    tracing::warn!(
                        failed_starts,
                        pause_ms = pause.as_millis() as u64,
                        "PostgreSQL {status}; trying again"
                    );
                    self.pause(pause);
                }
            }
        }
    }

    /// Starts the server and waits until it has ended.
    fn run_once(&self) -> Ended {
        let mut child = match self.spawn() {
            Ok(Some(child)) => child,
            Ok(None) => return Ended::AsAsked,
            Err(error) => {
                let status = format!("could not be run: {error}");
                return Ended::BeforeReady { status, output: String::new() };
            }
        };
        let log = child.stderr.take().map(ServerLog::capture);
        let ready_at = self.wait_until_ready(&child).then(Instant::now);
        wait_for_end(&child, 0);
        let lived = ready_at.map(|ready_at| ready_at.elapsed());
        let mut server = self.shared.server.lock();
        let status = child.wait().map_or_else(|error| error.to_string(), describe);
        server.pid = None;
        if server.stopping {
            return Ended::AsAsked;
        }
        drop(server);
        if let Some(lived) = lived {
            self.phase.send_replace(Phase::Starting);
            return Ended::AfterReady { status, lived };
        }
        let output = log.map(|log| log.last_words()).unwrap_or_default();
        Ended::BeforeReady { status, output }
    }

    /// Starts the server; `None`: it is to stop, so it is not started.
    fn spawn(&self) -> io::Result<Option<Child>> {
        let mut server = self.shared.server.lock();
        if server.stopping {
            return Ok(None);
        }
        let child = self.launch.command().spawn()?;
        server.pid = Some(child.id() as libc::pid_t);
        Ok(Some(child))
    }

    /// Waits until the server is ready, without a deadline: recovery takes the time that it takes. False: the server ended.
    fn wait_until_ready(&self, child: &Child) -> bool {
        let started = Instant::now();
        let mut progress = started + PROGRESS_EVERY;
        while !wait_for_end(child, libc::WNOHANG) {
            if readiness::ask(&self.launch.socket_dir) == Readiness::Accepts {
                tracing::info!(
                    pid = child.id(),
                    version = self.launch.binaries.version,
                    elapsed_ms = started.elapsed().as_millis() as u64,
                    "PostgreSQL accepts connections"
                );
                self.phase.send_replace(Phase::Ready);
                return true;
            }
            if Instant::now() >= progress {
                tracing::info!(
                    waited_s = started.elapsed().as_secs(),
                    "waiting for PostgreSQL, which recovers its data"
                );
                progress += PROGRESS_EVERY;
            }
            std::thread::sleep(READINESS_POLL);
        }
        false
    }

    /// Pauses; ends early if the server is to stop.
    fn pause(&self, duration: Duration) {
        let mut server = self.shared.server.lock();
        self.shared.stop_asked.wait_while_for(&mut server, |server| !server.stopping, duration);
    }
}

/// Each pause is twice as long as the one before.
fn pause_after(pauses: u32) -> Duration {
    PAUSE_MAX.min(PAUSE_FIRST.saturating_mul(2_u32.saturating_pow(pauses)))
}

/// True: the child has ended. It is left unreaped, so that nobody can signal a stranger who got its number.
fn wait_for_end(child: &Child, options: libc::c_int) -> bool {
    loop {
        // SAFETY: all zeroes is a valid `siginfo_t`, and tells on return whether a child was found.
        unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let flags = libc::WEXITED | libc::WNOWAIT | options;
            if libc::waitid(libc::P_PID, child.id(), &mut info, flags) == 0 {
                return info.si_pid() != 0;
            }
        }
        if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            // There is no such child: somebody else has waited for it.
            return true;
        }
    }
}
