//! Balancers and caches in front of services: Debian's own, with the configurations of docs/OPERATIONS.md.
#![allow(dead_code)]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use super::app::PATIENCE;
use super::database::temporary_dir;
use super::waiting::until;

/// What docs/OPERATIONS.md has in the block that begins with the file's name.
pub fn recipe(file: &str) -> String {
    let docs = include_str!("../../docs/OPERATIONS.md");
    let begin = format!("```\n# {file}\n");
    let (_, rest) = docs.split_once(&begin).unwrap_or_else(|| panic!("docs/OPERATIONS.md has no block # {file}"));
    rest.split_once("```").expect("the block ends").0.to_owned()
}

/// A port of 127.0.0.1 on which nobody listens, and that nobody gets by chance: the kernel gives out others, from 32768 on.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id().wrapping_mul(97).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 20_000 + (number % 12_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A program in front; ends with this.
pub struct Front {
    child: Child,
    pub url: String,
    pub port: u16,
    dir: TempDir,
}

impl Front {
    /// `text` becomes the configuration; `arguments` of its path and its directory.
    fn start(program: &str, port: u16, text: &str, arguments: impl Fn(&Path, &Path) -> Vec<String>) -> Self {
        let dir = temporary_dir();
        let file = dir.path().join("configuration");
        std::fs::write(&file, text).unwrap();
        let child = Command::new(find(program))
            .args(arguments(&file, dir.path()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{program} does not start: {error}"));
        Self { child, url: format!("http://127.0.0.1:{port}"), port, dir }
    }

    async fn listening(mut self, program: &str) -> Self {
        let (child, address) = (&mut self.child, ("127.0.0.1", self.port));
        until(&format!("{program} listens"), PATIENCE, || {
            assert!(child.try_wait().unwrap().is_none(), "{program} has ended: its configuration is wrong");
            std::net::TcpStream::connect(address).is_ok()
        })
        .await;
        self
    }

    /// haproxy with the recipe's text in front of these ports, and its statistics at `/` of another port.
    pub async fn haproxy(services: &[u16]) -> (Self, u16) {
        let (port, statistics) = (free_port(), free_port());
        let text = placed(&recipe("haproxy.cfg"), services).replace("bind :8080", &format!("bind 127.0.0.1:{port}"));
        let text =
            format!("{text}\nfrontend statistics\n  bind 127.0.0.1:{statistics}\n  stats enable\n  stats uri /\n");
        let front = Self::start("haproxy", port, &text, |file, _| {
            vec!["-db".to_owned(), "-f".to_owned(), file.to_str().unwrap().to_owned()]
        });
        (front.listening("haproxy").await, statistics)
    }

    /// nginx with the recipe's text, and its own count of requests at `/status` of another port.
    pub async fn nginx(services: &[u16]) -> (Self, u16) {
        let (port, status) = (free_port(), free_port());
        let own = temporary_dir();
        let root = own.path().to_str().unwrap().to_owned();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|of| format!("  {of}_temp_path {root}/{of};\n"))
            .collect();
        let status_server =
            format!("  server {{ listen 127.0.0.1:{status}; location = /status {{ stub_status; }} }}\n");
        // SAFETY: asks, and changes nothing.
        let user = if unsafe { libc::geteuid() } == 0 { "user root;\n" } else { "" };
        let text = placed(&recipe("nginx.conf"), services)
            .replace("listen 8080", &format!("listen 127.0.0.1:{port}"))
            .replace("/var/cache/nginx/headwater", &format!("{root}/pages"))
            .replace("http {\n", &format!("http {{\n  access_log off;\n{temporary}{status_server}"));
        let text = format!("{user}daemon off;\npid {root}/pid;\nerror_log stderr error;\n{text}");
        let mut front = Self::start("nginx", port, &text, |file, dir| {
            let (file, dir) = (file.to_str().unwrap().to_owned(), dir.to_str().unwrap().to_owned());
            vec!["-p".to_owned(), dir, "-e".to_owned(), "stderr".to_owned(), "-c".to_owned(), file]
        })
        .listening("nginx")
        .await;
        // Its cache goes with it.
        front.dir = own;
        (front, status)
    }

    /// varnish with the recipe's text.
    pub async fn varnish(service: u16) -> Self {
        let port = free_port();
        let text = placed(&recipe("headwater.vcl"), &[service])
            .replace(".port = \"8080\"", &format!(".port = \"{service}\""))
            .replace("10.0.0.1", "127.0.0.1");
        let front = Self::start("varnishd", port, &text, |file, dir| {
            let words = ["-F", "-a", &format!("127.0.0.1:{port}"), "-f", file.to_str().unwrap(), "-s", "malloc,64m"];
            let mut words: Vec<String> = words.into_iter().map(str::to_owned).collect();
            words.extend(["-n".to_owned(), dir.join("work").to_str().unwrap().to_owned()]);
            // Whoever runs the tests: nobody else is needed.
            words.extend(["-j".to_owned(), "none".to_owned()]);
            words
        });
        front.listening("varnishd").await
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        // In order, so that its own children go too.
        // SAFETY: the child has not been waited for, so its id is still its own.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
        let _ = self.child.wait();
    }
}

/// The recipe with the services' real places.
fn placed(text: &str, services: &[u16]) -> String {
    let mut text = text.to_owned();
    for (number, port) in (1..).zip(services) {
        text = text.replace(&format!("10.0.0.{number}:8080"), &format!("127.0.0.1:{port}"));
    }
    // The recipes have three: what is left over is not there.
    text.lines()
        .filter(|line| !line.contains("10.0.0.") || line.contains(".host"))
        .fold(String::new(), |all, line| all + line + "\n")
}

/// Where a program is. Debian's are not in everybody's `PATH`.
fn find(program: &str) -> PathBuf {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/usr/local/sbin", "/sbin"])
        .map(|dir| Path::new(dir).join(program))
        .find(|file| file.exists())
        .unwrap_or_else(|| {
            let package = if program.starts_with("varnish") { "varnish" } else { program };
            panic!("{program} is missing: install the package {package}")
        })
}
