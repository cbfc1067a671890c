//! A PostgreSQL server of a test's own, to be copied, lost and replaced.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use headwater::embedded_postgres::{EmbeddedPostgres, EmbeddedSettings};
use tokio_postgres::Client;

use super::database::connect;

/// How long a stop may take before it is given up, on the way out of a test.
const STOP_WAIT_MAX: Duration = Duration::from_secs(30);

/// Stopped when it goes, also when the test fails: it must go before the directory that it is in.
pub struct OwnServer {
    pub url: String,
    pub dir: PathBuf,
    postgres: Option<EmbeddedPostgres>,
}

impl OwnServer {
    /// One that counts statements, in `pg_stat_statements`.
    pub async fn start_counting(dir: &Path) -> Self {
        let server = Self::start(dir).await;
        let sql = server.sql().await;
        sql.batch_execute("ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'").await.unwrap();
        drop(sql);
        server.stop().await;
        let server = Self::start(dir).await;
        server.sql().await.batch_execute("CREATE EXTENSION pg_stat_statements").await.unwrap();
        server
    }

    /// On a directory, with the data that is there or new data.
    pub async fn start(dir: &Path) -> Self {
        let settings = EmbeddedSettings { data_dir: Some(dir.to_owned()), ..EmbeddedSettings::default() };
        let postgres = EmbeddedPostgres::start(&settings).await;
        let postgres = postgres.unwrap_or_else(|error| panic!("the server does not start: {error}"));
        Self { url: postgres.url().to_owned(), dir: dir.to_owned(), postgres: Some(postgres) }
    }

    pub async fn sql(&self) -> Client {
        connect(&self.url).await
    }

    /// Begins a copy of the running server in another directory, for [`start`](Self::start); `--write-recovery-conf`
    /// makes it a replica.
    pub fn begin_copy(&self, into: &Path, arguments: &[&str]) -> Copying {
        let pgdata = into.join("pgdata");
        std::fs::create_dir(into).unwrap();
        let child = Command::new(self.bin_dir().join("pg_basebackup"))
            .args(["--dbname", &self.url, "--checkpoint", "fast", "--no-sync", "--wal-method", "stream"])
            .args(arguments)
            .arg("--pgdata")
            .arg(&pgdata)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Copying { child, from: self.dir.join("pgdata"), pgdata }
    }

    pub async fn copy(&self, into: &Path, arguments: &[&str]) {
        let copying = self.begin_copy(into, arguments);
        tokio::task::spawn_blocking(move || copying.end()).await.unwrap();
    }

    pub async fn stop(mut self) {
        self.postgres.take().expect("it runs").stop().await;
    }

    /// `kill -9`, and nobody starts it again.
    pub async fn kill(mut self) {
        let postgres = self.postgres.take().expect("it runs");
        let file = std::fs::read_to_string(self.dir.join("pgdata/postmaster.pid")).unwrap();
        let pid: libc::pid_t = file.lines().next().unwrap().parse().unwrap();
        let send = |signal| {
            // SAFETY: the server is this test's own.
            assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
        };
        // It cannot hear that it is asked to stop; its supervisor does before it sees the death.
        send(libc::SIGSTOP);
        let mut stopping = Box::pin(postgres.stop());
        assert!(futures_util::poll!(stopping.as_mut()).is_pending());
        send(libc::SIGKILL);
        stopping.await;
    }

    /// Where the server's own programs are: it notes what it was started with.
    fn bin_dir(&self) -> PathBuf {
        let started_as = std::fs::read_to_string(self.dir.join("pgdata/postmaster.opts")).unwrap();
        let program = started_as.split_whitespace().next().unwrap();
        Path::new(program).parent().unwrap().to_owned()
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        let Some(postgres) = self.postgres.take() else { return };
        // On a thread with a runtime of its own: the test's may be gone, or be waiting for us right here.
        let stopping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let stop = async { tokio::time::timeout(STOP_WAIT_MAX, postgres.stop()).await.is_ok() };
            if !runtime.block_on(stop) {
                eprintln!("a server of a test does not stop");
            }
        });
        let _ = stopping.join();
    }
}

/// A copy that is being made.
pub struct Copying {
    child: std::process::Child,
    from: PathBuf,
    pgdata: PathBuf,
}

impl Copying {
    /// Waits for its end, and gives it to whom the server runs as.
    pub fn end(mut self) {
        assert!(self.child.wait().unwrap().success(), "the copy fails");
        let owner = format!("--reference={}", self.from.display());
        let given = Command::new("chown").arg("-R").arg(owner).arg(self.pgdata.parent().unwrap()).status();
        assert!(given.unwrap().success());
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        // Does nothing to a process that was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
