//! The processes that are measured: the service, its PostgreSQL, and those it is compared with. Each is ended by its id.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use headwater::embedded_postgres::{EmbeddedPostgres, EmbeddedSettings};
use tempfile::TempDir;
use tokio::net::TcpStream;

/// One PostgreSQL for all rows, and a place for everybody's files.
pub struct Stand {
    postgres: EmbeddedPostgres,
    pub directory: TempDir,
}

impl Stand {
    pub async fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("headwater-bench-").tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let settings = EmbeddedSettings { data_dir: Some(directory.path().join("data")), ..Default::default() };
        let postgres = EmbeddedPostgres::start(&settings).await.expect("PostgreSQL starts");
        Self { postgres, directory }
    }

    /// One whose PostgreSQL keeps statistics of its statements, where `pg_stat_statements` is installed.
    pub async fn start_with_statistics() -> Self {
        let mut stand = Self::start().await;
        let client = connect(stand.postgres.url()).await;
        let available = "SELECT 1 FROM pg_available_extensions WHERE name = 'pg_stat_statements'";
        if client.query_opt(available, &[]).await.unwrap().is_none() {
            return stand;
        }
        client.batch_execute("ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'").await.unwrap();
        stand.postgres.stop().await;
        let settings = EmbeddedSettings { data_dir: Some(stand.directory.path().join("data")), ..Default::default() };
        stand.postgres = EmbeddedPostgres::start(&settings).await.expect("PostgreSQL starts again");
        connect(stand.postgres.url()).await.batch_execute("CREATE EXTENSION pg_stat_statements").await.unwrap();
        stand
    }

    /// The longest that a statement in this database took since `forget_statements`, and its first words; `None`
    /// without statistics.
    pub async fn slowest_statement(&self, database: &str) -> Option<(Duration, String)> {
        let client = connect(self.postgres.url()).await;
        let statement = "SELECT s.max_exec_time, format('of %s, mean %s ms: %s', s.calls, round(s.mean_exec_time::numeric, 1), left(regexp_replace(s.query, '\\s+', ' ', 'g'), 60))
            FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid
            WHERE d.datname = $1 ORDER BY 1 DESC LIMIT 1";
        let row = client.query_opt(statement, &[&database]).await.ok()??;
        Some((Duration::from_secs_f64(row.get::<_, f64>(0) / 1_000.0), row.get(1)))
    }

    /// Forgets what statements took until now.
    pub async fn forget_statements(&self) {
        let _ = connect(self.postgres.url()).await.batch_execute("SELECT pg_stat_statements_reset()").await;
    }

    pub async fn stop(self) {
        self.postgres.stop().await;
    }

    /// A new database with the schemas; its URL.
    pub async fn database(&self, name: &str) -> String {
        let client = connect(self.postgres.url()).await;
        client.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await.unwrap();
        client.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        let url = self.postgres.url().replace("/headwater?", &format!("/{name}?"));
        let output = Command::new(program()).args(["migrate", "--database-url", &url]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        url
    }

    /// Processor time that PostgreSQL has used, all its processes together.
    pub fn postgres_time(&self) -> Duration {
        let file = self.directory.path().join("data/pgdata/postmaster.pid");
        let text = std::fs::read_to_string(file).expect("PostgreSQL runs");
        let postmaster = text.lines().next().and_then(|pid| pid.parse().ok()).expect("its file begins with its id");
        processor_time(postmaster) + children(postmaster).into_iter().map(processor_time).sum::<Duration>()
    }

    /// The service on a new database.
    pub async fn service(&self, name: &str) -> Service {
        let url = self.database(name).await;
        Service::start(&url)
    }

    /// Transactions per second, and mean latency, of pgbench running a script; `None` if pgbench is not installed.
    pub async fn pgbench(&self, name: &str, script: &str, clients: usize, span: Duration) -> Option<(f64, Duration)> {
        let program = installed("pgbench")?;
        let url = self.database(name).await;
        let file = self.directory.path().join(format!("{name}.sql"));
        std::fs::write(&file, script).unwrap();
        let output = tokio::task::spawn_blocking(move || {
            Command::new(program)
                .args(["-n", "-M", "prepared", "-j", "2", "-c", &clients.to_string()])
                .args(["-T", &span.as_secs().to_string(), "-f", file.to_str().unwrap(), &url])
                // As stock Message DB, which does not notify; a plan made on an empty table is no use to anybody.
                .env("PGOPTIONS", "-c message_store.notify=off -c enable_seqscan=off -c jit=off")
                .output()
                .unwrap()
        })
        .await
        .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let number = |before: &str| -> Option<f64> {
            let line = text.lines().find(|line| line.starts_with(before))?;
            line[before.len()..].split_whitespace().next()?.parse().ok()
        };
        let Some(tps) = number("tps = ") else {
            eprintln!("pgbench: {text}{}", String::from_utf8_lossy(&output.stderr));
            return None;
        };
        let latency = number("latency average = ").unwrap_or_default();
        Some((tps, Duration::from_secs_f64(latency / 1_000.0)))
    }
}

fn children(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

pub async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.expect("PostgreSQL answers");
    tokio::spawn(connection);
    client
}

/// The program that is measured: this build, or the one that `HEADWATER_BENCH_PROGRAM` names, to compare the two.
fn program() -> PathBuf {
    std::env::var_os("HEADWATER_BENCH_PROGRAM").map_or_else(|| env!("CARGO_BIN_EXE_headwater").into(), PathBuf::from)
}

/// `headwater serve`.
pub struct Service {
    child: Child,
    pub address: String,
    pub database_url: String,
}

impl Service {
    pub fn start(database_url: &str) -> Self {
        Self::start_with(database_url, &[])
    }

    /// The same over TLS, with a certificate and its key.
    pub fn start_with_tls(database_url: &str, [certificate, key]: &[PathBuf; 2]) -> Self {
        let files = [certificate, key].map(|file| file.to_str().unwrap());
        Self::start_with(database_url, &["--tls-certificate", files[0], "--tls-key", files[1]])
    }

    fn start_with(database_url: &str, arguments: &[&str]) -> Self {
        use std::io::BufRead;
        let mut child = Command::new(program())
            .args(["serve", "--listen", "127.0.0.1:0", "--log", "warn", "--database-url", database_url])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().rsplit('/').next().expect("it says where it listens").to_owned();
        Self { child, address, database_url: database_url.to_owned() }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        resident_bytes(self.child.id())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

pub fn resident_bytes(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) * 1_024
}

/// What a process has taken of the processor, in its own code and in the kernel.
pub fn processor_time(pid: u32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The second field, the name, is the only one that may hold spaces: it ends with the last bracket.
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().filter_map(|at| fields.get(*at)?.parse::<u64>().ok()).sum();
    // SAFETY: a plain question.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Duration::from_secs_f64(ticks as f64 / per_second as f64)
}

/// A peer that is not part of the project.
pub struct Peer {
    child: Child,
    pub address: String,
}

impl Peer {
    /// Redis with every write on the disk before its answer.
    pub async fn redis(stand: &Stand) -> Option<Self> {
        let program = installed("redis-server")?;
        let port = free_port();
        let directory = stand.directory.path().join("redis");
        std::fs::create_dir_all(&directory).unwrap();
        let child = Command::new(program)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir", directory.to_str().unwrap()])
            .args(["--appendonly", "yes", "--appendfsync", "always", "--save", ""])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, address: format!("127.0.0.1:{port}") }.ready().await
    }

    /// nginx with Nchan, one worker.
    pub async fn nchan(stand: &Stand) -> Option<Self> {
        let program = installed("nginx")?;
        let module = Path::new("/usr/lib/nginx/modules/ngx_nchan_module.so");
        if !module.exists() {
            return None;
        }
        let port = free_port();
        let directory = stand.directory.path().join("nginx");
        std::fs::create_dir_all(&directory).unwrap();
        let config = format!(
            "load_module {};\nuser root;\nworker_processes 1;\ndaemon off;\npid {d}/pid;\nerror_log {d}/error.log;\n\
             events {{ worker_connections 19000; }}\nhttp {{ access_log off; client_body_temp_path {d}/b; proxy_temp_path {d}/p; \
             fastcgi_temp_path {d}/f; uwsgi_temp_path {d}/u; scgi_temp_path {d}/s; nchan_max_reserved_memory 512M;\n\
             keepalive_requests 100000000;\nserver {{ listen 127.0.0.1:{port} backlog=8192;\n\
             location /pub {{ nchan_publisher; nchan_channel_id a; nchan_message_buffer_length 2000; }}\n\
             location /sub {{ nchan_subscriber eventsource; nchan_channel_id a; nchan_subscriber_first_message newest; }} }} }}\n",
            module.display(),
            d = directory.display(),
        );
        let file = directory.join("nginx.conf");
        std::fs::write(&file, config).unwrap();
        let child = Command::new(program).args(["-c", file.to_str().unwrap()]).stderr(Stdio::null()).spawn().unwrap();
        Self { child, address: format!("127.0.0.1:{port}") }.ready().await
    }

    async fn ready(self) -> Option<Self> {
        for _ in 0..100 {
            if TcpStream::connect(&self.address).await.is_ok() {
                return Some(self);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        None
    }

    /// nginx's workers.
    pub fn children(&self) -> Vec<u32> {
        children(self.child.id())
    }

    /// Resident memory of its children, in bytes.
    pub fn children_resident_bytes(&self) -> u64 {
        self.children().into_iter().map(resident_bytes).sum()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn end(child: &mut Child) {
    // SAFETY: the child has not been waited for, so its id is still its own.
    unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
    let _ = child.wait();
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Where a program is installed, also where PostgreSQL's are.
fn installed(program: &str) -> Option<PathBuf> {
    let mut directories: Vec<PathBuf> =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    directories.push("/usr/sbin".into());
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        directories.extend(versions.flatten().map(|version| version.path().join("bin")));
    }
    directories.into_iter().map(|directory| directory.join(program)).find(|file| file.exists())
}
