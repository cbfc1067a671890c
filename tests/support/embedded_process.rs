//! A process of its own that runs an embedded PostgreSQL, to be killed or to run as another user.
use headwater::embedded_postgres::{EmbeddedPostgres, EmbeddedSettings};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The test that is the process: see `embedded_process_body` in the tests of the embedded PostgreSQL.
const BODY: &str = "embedded_postgres::embedded_process_body";
const DATA_DIR_VARIABLE: &str = "HEADWATER_TEST_EMBEDDED_PROCESS_DATA_DIR";
/// Stands before what the process reports, among what the test harness prints.
const MARK: &str = "@@";

pub struct EmbeddedProcess {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl EmbeddedProcess {
    /// Starts this very test binary again; it starts an embedded PostgreSQL on the data directory.
    pub fn start(data_dir: &Path) -> EmbeddedProcess {
        Self::run(Command::new(std::env::current_exe().unwrap()), data_dir)
    }

    /// The same as another user, who may not be able to reach the binary where it is: a copy goes into `home`.
    pub fn start_as(uid: u32, gid: u32, home: &Path, data_dir: &Path) -> EmbeddedProcess {
        let copy = home.join("test-binary");
        // By another program: while we had it open for writing, a child forked by another test would inherit that,
        // and a file that somebody writes cannot be executed.
        let copied = Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&copy).status();
        assert!(copied.unwrap().success());
        let mut command = Command::new(copy);
        command.current_dir("/").env("HOME", home).uid(uid).gid(gid);
        Self::run(command, data_dir)
    }

    /// The same as a root who may not look into the processes of others.
    pub fn start_without_ptrace(data_dir: &Path) -> EmbeddedProcess {
        const CAP_SYS_PTRACE: libc::c_ulong = 19;
        let mut command = Command::new(std::env::current_exe().unwrap());
        // SAFETY: a plain system call between fork and exec. What is not in this set is lost with exec.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_CAPBSET_DROP, CAP_SYS_PTRACE, 0, 0, 0) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            })
        };
        Self::run(command, data_dir)
    }

    fn run(mut command: Command, data_dir: &Path) -> EmbeddedProcess {
        let mut child = command
            .args(["--exact", BODY, "--nocapture"])
            .env(DATA_DIR_VARIABLE, data_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        EmbeddedProcess { child, stdin, stdout }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The URL of the server once it is ready, or why it did not start.
    pub fn started(&mut self) -> Result<String, String> {
        let report = self.report();
        match report.split_once(' ') {
            Some(("ready", url)) => Ok(url.to_owned()),
            Some(("failed", reason)) => Err(reason.to_owned()),
            _ => panic!("the process reported `{report}`"),
        }
    }

    /// An orderly stop.
    pub fn stop(mut self) {
        self.tell("stop");
        assert_eq!(self.report(), "stopped");
        assert!(self.child.wait().unwrap().success());
    }

    /// The process leaves without stopping anything.
    pub fn exit(mut self) {
        self.tell("exit");
        self.child.wait().unwrap();
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn tell(&mut self, order: &str) {
        writeln!(self.stdin, "{order}").unwrap();
    }

    fn report(&mut self) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert_ne!(self.stdout.read_line(&mut line).unwrap(), 0, "the process ended without a report");
            if let Some((_, report)) = line.split_once(MARK) {
                return report.trim_end().to_owned();
            }
        }
    }
}

impl Drop for EmbeddedProcess {
    fn drop(&mut self) {
        // Does nothing to a process that was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the process does; nothing when it is just one of the tests.
pub async fn body() {
    let Some(data_dir) = std::env::var_os(DATA_DIR_VARIABLE).map(PathBuf::from) else {
        return;
    };
    let settings = EmbeddedSettings { data_dir: Some(data_dir), ..EmbeddedSettings::default() };
    let postgres = match EmbeddedPostgres::start(&settings).await {
        Ok(postgres) => postgres,
        Err(error) => {
            println!("{MARK}failed {}", error.to_string().replace('\n', " "));
            return;
        }
    };
    println!("{MARK}ready {}", postgres.url());
    let mut order = String::new();
    // When the test ends, so does the pipe: it counts as leaving.
    std::io::stdin().read_line(&mut order).unwrap();
    if order.trim() == "stop" {
        postgres.stop().await;
        println!("{MARK}stopped");
    } else {
        std::process::exit(0);
    }
}
