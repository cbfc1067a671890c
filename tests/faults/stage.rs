//! What is to be broken: a PostgreSQL on a small disk, and instances of the service, each behind a proxy of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::history::Message;
use crate::support::database::temporary_dir;
use crate::support::own_server::OwnServer;
use crate::support::proxy::FaultProxy;
use crate::support::service_process::ServiceProcess;
use crate::support::tmpfs::Tmpfs;
use crate::support::waiting::eventually;

pub const INSTANCES: usize = 3;
/// What PostgreSQL has for its data and its log of changes.
const DISK_MEGABYTES: usize = 1_024;
/// Where Debian's package has the library that shows a process another time.
const FAKETIME: [&str; 2] =
    ["/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1", "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1"];

/// Where the instances are, each of which may come back elsewhere.
#[derive(Clone, Default)]
pub struct Urls(Arc<Mutex<Vec<String>>>);

impl Urls {
    pub fn some(&self) -> String {
        let urls = self.0.lock();
        urls[fastrand::usize(..urls.len())].clone()
    }

    pub fn all(&self) -> Vec<String> {
        self.0.lock().clone()
    }
}

pub struct Instance {
    pub proxy: FaultProxy,
    /// `None` while it is dead.
    pub service: Option<ServiceProcess>,
    /// What is written here the service takes for the difference of its host's clock.
    pub clock: PathBuf,
}

pub struct Stage {
    pub instances: Vec<Instance>,
    pub urls: Urls,
    pub server: OwnServer,
    /// `None` where nothing can be mounted, which was said.
    pub disk: Option<Tmpfs>,
    faketime: &'static str,
    directory: tempfile::TempDir,
}

impl Stage {
    pub async fn new() -> Self {
        let faketime = FAKETIME.into_iter().find(|library| Path::new(library).exists());
        let faketime = faketime.expect("libfaketime is missing, without which no clock can jump: apt install faketime");
        let (disk, directory) = (Tmpfs::mount(DISK_MEGABYTES), temporary_dir());
        let place = disk.as_ref().map_or(directory.path(), Tmpfs::path);
        let server = OwnServer::start(&place.join("data")).await;
        let mut stage = Self { instances: Vec::new(), urls: Urls::default(), server, disk, faketime, directory };
        for number in 0..INSTANCES {
            let proxy = FaultProxy::before(&stage.server.url).await;
            let clock = stage.directory.path().join(format!("clock-{number}"));
            std::fs::write(&clock, "+0").unwrap();
            stage.instances.push(Instance { proxy, service: None, clock });
            stage.urls.0.lock().push(String::new());
            stage.start(number).await;
        }
        stage
    }

    /// Starts an instance that is dead.
    pub async fn start(&mut self, number: usize) {
        let (url, clock) = (self.instances[number].proxy.url.clone(), self.instances[number].clock.clone());
        let faketime = self.faketime;
        let service = tokio::task::spawn_blocking(move || {
            let arguments = [
                ["--listen", "127.0.0.1:0"],
                ["--database-url", url.as_str()],
                // Few, so that they can be used up; and short waits, so that faults end within them and after them.
                ["--database-connections-max", "6"],
                ["--database-connect-timeout", "1s"],
                ["--database-silence-timeout", "2s"],
                ["--append-commit-timeout", "2s"],
                ["--append-lock-timeout", "2s"],
            ];
            let variables = [
                ("LD_PRELOAD", faketime),
                ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
                ("FAKETIME_CACHE_DURATION", "1"),
                // The clock of the wall jumps, the one that only counts does not.
                ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
                ("NO_FAKE_STAT", "1"),
            ];
            ServiceProcess::start_with(&arguments.concat(), &variables)
        });
        let service = service.await.unwrap();
        self.urls.0.lock()[number].clone_from(&service.url);
        self.instances[number].service = Some(service);
    }

    /// The log as PostgreSQL has it, and of what each message in it was made.
    pub async fn log(&self) -> (Vec<Message>, Vec<(uuid::Uuid, uuid::Uuid)>) {
        let sql = "SELECT id, stream_name, position, global_position, (data ->> 'of')::uuid \
            FROM message_store.messages ORDER BY global_position";
        // Where all its connections were taken, those that are gone still end.
        let rows = eventually("the log can be read", || async {
            let (client, connection) = tokio_postgres::connect(&self.server.url, tokio_postgres::NoTls).await.ok()?;
            let driver = tokio::spawn(connection);
            let rows = client.query(sql, &[]).await.ok();
            driver.abort();
            rows
        })
        .await;
        let message = |row: &tokio_postgres::Row| Message {
            id: row.get(0),
            stream: row.get(1),
            position: row.get(2),
            global_position: row.get(3),
        };
        let made_of = rows.iter().filter_map(|row| Some((row.get(0), row.get::<_, Option<uuid::Uuid>>(4)?)));
        (rows.iter().map(message).collect(), made_of.collect())
    }

    /// Stops everything; answers what the instances logged.
    pub async fn end(self) -> Vec<String> {
        let mut lines = Vec::new();
        for mut instance in self.instances {
            let service = instance.service.take().expect("all run at the end");
            lines.extend(service.log.all_so_far());
            let status = tokio::task::spawn_blocking(move || service.stop()).await.unwrap();
            assert!(status.success(), "{status}");
        }
        self.server.stop().await;
        lines
    }
}
