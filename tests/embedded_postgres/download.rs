//! PostgreSQL where none is installed: fetched from a mirror on this machine, whose archive holds the installed programs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use headwater::embedded_postgres::{Download, DownloadWhen};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// What the archive's name says of the machine.
const NAME: &str = if cfg!(target_arch = "x86_64") { "x86_64-unknown-linux-gnu" } else { "aarch64-unknown-linux-gnu" };
const VERSION: &str = "18.4.0";

/// An archive of the installed PostgreSQL, as the releases are made: one directory with `bin` in it.
static ARCHIVE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let bin = installed_bin();
    let top = temporary_dir();
    let root = top.path().join("postgresql");
    fs::create_dir(&root).unwrap();
    // Debian's programs look for what belongs to them by the places that they were built for: these stay.
    let is_debian = bin.starts_with("/usr/lib/postgresql");
    let parts: Vec<PathBuf> = match is_debian {
        true => {
            let version = bin.parent().unwrap().strip_prefix("/usr/lib/postgresql").unwrap().to_owned();
            vec![Path::new("lib/postgresql").join(&version), Path::new("share/postgresql").join(version)]
        }
        false => ["bin", "lib", "share"].map(PathBuf::from).to_vec(),
    };
    let from = if is_debian { Path::new("/usr") } else { bin.parent().unwrap() };
    for part in &parts {
        fs::create_dir_all(root.join(part).parent().unwrap()).unwrap();
        let copied = Command::new("cp").arg("-rL").arg(from.join(part)).arg(root.join(part)).status();
        assert!(copied.unwrap().success());
        // Compiled queries: large, and done without.
        let _ = fs::remove_dir_all(root.join(part).join("lib/bitcode"));
    }
    if is_debian {
        std::os::unix::fs::symlink(parts[0].join("bin"), root.join("bin")).unwrap();
    }
    let packed =
        Command::new("tar").args(["-I", "gzip -1", "-cf", "-", "-C"]).arg(top.path()).arg("postgresql").output();
    packed.unwrap().stdout
});

/// The directory of the programs that an ordinary start finds.
fn installed_bin() -> PathBuf {
    let usual = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let found = usual.map(|entry| entry.path().join("bin")).find(|bin| bin.join("initdb").exists());
    found.unwrap_or_else(|| {
        let output = Command::new("pg_config").arg("--bindir").output().expect("an installed PostgreSQL");
        PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
    })
}

fn hash(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A mirror: answers requests for these two files, and counts them.
struct Mirror {
    url: String,
    requests: Arc<AtomicUsize>,
}

impl Mirror {
    /// `sent`: how many bytes of the archive are sent before the connection ends.
    async fn start(archive: &'static [u8], hash: String, sent: usize) -> Mirror {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/releases", listener.local_addr().unwrap());
        let requests = Arc::new(AtomicUsize::new(0));
        let counter = requests.clone();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let (hash, counter) = (hash.clone(), counter.clone());
                tokio::spawn(async move {
                    let mut request = vec![0; 4096];
                    let read = socket.read(&mut request).await.unwrap_or(0);
                    let request = String::from_utf8_lossy(&request[..read]).into_owned();
                    counter.fetch_add(1, Ordering::SeqCst);
                    let path = request.split(' ').nth(1).unwrap_or_default();
                    let file = format!("/releases/{VERSION}/postgresql-{VERSION}-{NAME}.tar.gz");
                    let (status, body, sent) = match path {
                        _ if path == file => ("200 OK", archive, sent),
                        _ if path == format!("{file}.sha256") => ("200 OK", hash.as_bytes(), hash.len()),
                        _ => ("404 Not Found", &b""[..], 0),
                    };
                    let head =
                        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                    let _ = socket.write_all(head.as_bytes()).await;
                    let _ = socket.write_all(&body[..sent.min(body.len())]).await;
                });
            }
        });
        Mirror { url, requests }
    }

    async fn whole() -> Mirror {
        Self::start(&ARCHIVE, format!("{}  archive.tar.gz\n", hash(&ARCHIVE)), usize::MAX).await
    }

    fn settings(&self, data: &Data) -> EmbeddedSettings {
        let download = Download { when: DownloadWhen::Always, url: self.url.clone(), timeout: 10 * SOON };
        EmbeddedSettings { download, ..data.settings.clone() }
    }
}

/// What a start that fails says; it leaves no installation behind, whole or in part.
async fn refusal(data: &Data, mirror: &Mirror) -> String {
    let Err(error) = EmbeddedPostgres::start(&mirror.settings(data)).await else { panic!("it starts") };
    assert!(matches!(error, Error::Download { .. }), "{error:?}");
    assert_nothing_is_left(data);
    let message = error.to_string();
    assert!(!message.contains('\n') && message.contains("--postgres-bin-dir"), "{message}");
    message
}

fn assert_nothing_is_left(data: &Data) {
    let left = fs::read_dir(data.dir()).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
    let left: Vec<String> = left.filter(|name| name.starts_with("postgresql-")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn first_start_fetches_postgres_and_later_ones_use_it() {
    let (data, mirror) = (Data::new(), Mirror::whole().await);
    let settings = mirror.settings(&data);
    for _ in 0..2 {
        let postgres = EmbeddedPostgres::start(&settings).await.unwrap_or_else(|error| panic!("{error}"));
        let program = fs::read_link(format!("/proc/{}/exe", data.postmaster().unwrap())).unwrap();
        assert!(program.starts_with(fs::canonicalize(data.dir()).unwrap()), "{program:?} is not the downloaded one");
        assert_eq!(connect(postgres.url()).await.query_one("SELECT 1", &[]).await.unwrap().get::<_, i32>(0), 1);
        postgres.stop().await;
    }
    assert_eq!(mirror.requests.load(Ordering::SeqCst), 2, "an archive and its hash, once");
}

/// What an earlier start left when it was killed while it unpacked.
#[tokio::test(flavor = "multi_thread")]
async fn half_an_installation_is_not_taken_for_one() {
    let (data, mirror) = (Data::new(), Mirror::whole().await);
    let unfinished = data.dir().join("postgresql-18.4.unfinished");
    for directory in [&unfinished, &data.dir().join("postgresql-18.4.0")] {
        fs::create_dir_all(directory.join("bin")).unwrap();
        fs::write(directory.join("bin/initdb"), "").unwrap();
    }
    let postgres = EmbeddedPostgres::start(&mirror.settings(&data)).await.unwrap_or_else(|error| panic!("{error}"));
    postgres.stop().await;
    assert!(!unfinished.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn archive_with_another_hash_is_refused() {
    let data = Data::new();
    let wrong = "0".repeat(64);
    let mirror = Mirror::start(&ARCHIVE, wrong.clone(), usize::MAX).await;
    let message = refusal(&data, &mirror).await;
    assert!(message.contains(&wrong) && message.contains(&hash(&ARCHIVE)), "{message}");
    // Nothing stays of it: the same data directory takes a good archive.
    let mirror = Mirror::whole().await;
    EmbeddedPostgres::start(&mirror.settings(&data)).await.unwrap_or_else(|error| panic!("{error}")).stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_hash_or_an_archive_the_mirror_is_at_fault() {
    let mirror = Mirror::start(&ARCHIVE, "<html>".into(), usize::MAX).await;
    let message = refusal(&Data::new(), &mirror).await;
    assert!(message.contains("no SHA-256") && message.contains("--postgres-download-url"), "{message}");
    let mut elsewhere = Mirror::whole().await;
    elsewhere.url.push_str("/elsewhere");
    let message = refusal(&Data::new(), &elsewhere).await;
    assert!(message.contains("status 404") && message.contains("--postgres-download-url"), "{message}");
    let nothing: &[u8] = b"not an archive";
    let message = refusal(&Data::new(), &Mirror::start(nothing, hash(nothing), usize::MAX).await).await;
    assert!(message.contains("cannot be unpacked"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn download_that_is_cut_says_how_far_it_came() {
    let mirror = Mirror::start(&ARCHIVE, hash(&ARCHIVE), ARCHIVE.len() / 2).await;
    let message = refusal(&Data::new(), &mirror).await;
    assert!(message.contains(&format!("of {} bytes", ARCHIVE.len())), "{message}");
    assert!(message.contains("Start again"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_network_the_advice_names_proxy_and_mirror() {
    let mut mirror = Mirror::whole().await;
    // Nothing listens on the discard port.
    mirror.url = "http://127.0.0.1:9".into();
    let message = refusal(&Data::new(), &mirror).await;
    for part in ["refused", "HTTPS_PROXY", "--postgres-download-url"] {
        assert!(message.contains(part), "{part}: {message}");
    }
}

/// On a file system of a few megabytes, which only a namespace of the program's own sees.
#[tokio::test(flavor = "multi_thread")]
async fn full_disk_is_said_with_what_to_do() {
    if !is_root() {
        return eprintln!("not run: a small file system is mounted by root only");
    }
    let (data, mirror) = (Data::new(), Mirror::whole().await);
    fs::create_dir(data.dir()).unwrap();
    let script = "mount -t tmpfs -o size=4m,mode=755 tmpfs \"$1\" && \"$0\" serve --listen 127.0.0.1:0 --data-dir \"$1\" \
                  --postgres-download always --postgres-download-url \"$2\"; echo \"ended with $?\"; ls \"$1\"";
    let output = tokio::process::Command::new("unshare")
        .args(["--mount", "sh", "-c", script, env!("CARGO_BIN_EXE_headwater")])
        .arg(data.dir())
        .arg(&mirror.url)
        .env_remove("DATABASE_URL")
        .env_remove("HEADWATER_DATABASE_URL")
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let (out, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(out.contains("ended with 1"), "{out} {log}");
    assert!(log.contains("No space left") && log.contains("Make room"), "{log}");
    assert!(!out.contains("postgresql-"), "something was left: {out}");
}
