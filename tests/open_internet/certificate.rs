//! The certificate comes from files and is read again when they change; nothing older than TLS 1.2 is spoken.

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::app::TestApp;
use crate::support::certificate::PemPair;
use crate::support::database::{TestDatabase, temporary_dir};
use crate::support::events::Events;
use crate::support::service_process::ServiceProcess;
use crate::support::waiting::eventually;

/// The shortest that the setting takes.
const LOOKED_AT: Duration = Duration::from_millis(100);

async fn with_certificate(database: &TestDatabase, pair: &PemPair) -> TestApp {
    TestApp::with(&database.url, |settings| {
        settings.tls_certificate = Some(pair.certificate.clone());
        settings.tls_key = Some(pair.key.clone());
        settings.tls_reload_interval = LOOKED_AT;
    })
    .await
}

/// Puts a file in another's place at once, as tools that renew certificates do.
fn replace(from: &Path, to: &Path) {
    let beside = to.with_extension("new");
    std::fs::copy(from, &beside).unwrap();
    std::fs::rename(beside, to).unwrap();
}

/// Whether a new connection is made by a client that trusts only this certificate.
async fn is_served(app: &str, trusted: &PemPair) -> bool {
    let client = trusted.client().build().unwrap();
    client.get(format!("{app}/livez")).send().await.is_ok_and(|answer| answer.status() == 200)
}

async fn until_served(app: &str, trusted: &PemPair) {
    eventually("the new certificate", async || is_served(app, trusted).await.then_some(())).await;
}

#[tokio::test]
async fn new_connections_get_the_new_certificate_and_open_ones_go_on() {
    let directory = temporary_dir();
    let [installed, first, second] = ["installed", "first", "second"].map(|name| PemPair::make(directory.path(), name));
    replace(&first.certificate, &installed.certificate);
    replace(&first.key, &installed.key);
    let database = TestDatabase::migrated().await;
    let app = with_certificate(&database, &installed).await;
    assert!(is_served(&app.url, &first).await);
    assert!(!is_served(&app.url, &second).await);
    // Open ones: an event stream, and a connection between two requests.
    let opened = first.client().build().unwrap();
    let mut events = Events::of(opened.get(format!("{}/v1/all/events", app.url)).send().await.unwrap()).await;
    events.next("caught-up").await;

    replace(&second.certificate, &installed.certificate);
    replace(&second.key, &installed.key);
    until_served(&app.url, &second).await;
    assert!(!is_served(&app.url, &first).await, "new connections get the former certificate");
    let body = serde_json::json!({ "messages": [{ "type": "T" }] });
    let url = format!("{}/v1/streams/a-1/messages", app.url);
    let written = opened.post(url).json(&body).send().await.expect("the open connection goes on");
    assert_eq!(written.status(), 201);
    events.next("message").await;
    drop((opened, events));
    app.stop().await;
}

#[tokio::test]
async fn a_broken_or_half_written_pair_keeps_the_former_and_is_logged_once() {
    let directory = temporary_dir();
    let [installed, first, second] = ["installed", "first", "second"].map(|name| PemPair::make(directory.path(), name));
    replace(&first.certificate, &installed.certificate);
    replace(&first.key, &installed.key);
    let database = TestDatabase::migrated().await;
    let interval = format!("{}ms", LOOKED_AT.as_millis());
    let mut service = ServiceProcess::start(&[
        "--database-url",
        &database.url,
        "--listen",
        "127.0.0.1:0",
        "--tls-certificate",
        installed.certificate.to_str().unwrap(),
        "--tls-key",
        installed.key.to_str().unwrap(),
        "--tls-reload-interval",
        &interval,
    ]);
    let key = std::fs::read(&second.key).unwrap();
    for (what, file, bytes) in [
        ("a certificate without its key", &installed.certificate, std::fs::read(&second.certificate).unwrap()),
        ("half a key", &installed.key, key[..key.len() / 2].to_vec()),
        ("no certificate", &installed.certificate, Vec::new()),
        ("no PEM", &installed.certificate, b"\xff\0no certificate".to_vec()),
    ] {
        std::fs::write(file, bytes).unwrap();
        let line = service.log.next_with("cannot be used").await;
        assert!(!line.contains("BEGIN"), "{what}: {line}");
        assert!(is_served(&service.url, &first).await, "{what}");
    }
    std::fs::remove_file(&installed.certificate).unwrap();
    service.log.next_with("cannot be used").await;
    assert!(is_served(&service.url, &first).await);
    replace(&second.certificate, &installed.certificate);
    replace(&second.key, &installed.key);
    until_served(&service.url, &second).await;
    // A line for each change and no more, though the files were looked at many times. Between the certificate and its key
    // one look may have come in.
    let lines = service.log.all_so_far().into_iter().filter(|line| line.contains("cannot be used")).count();
    assert!((5..=6).contains(&lines), "{lines}");
    assert!(service.stop().success());
}

/// A client hello for this version of TLS at most, and the first record that comes back.
async fn first_record(url: &str, version: u8) -> Vec<u8> {
    let mut hello = vec![3, version];
    hello.extend([7; 32]); // random
    hello.push(0); // no session
    hello.extend([0, 4, 0xc0, 0x2b, 0xc0, 0x09]); // suites of TLS 1.2 and of TLS 1.0
    hello.extend([1, 0]); // no compression
    let extensions = [
        &[0, 10, 0, 4, 0, 2, 0, 23][..],  // P-256
        &[0, 11, 0, 2, 1, 0],             // its points uncompressed
        &[0, 13, 0, 6, 0, 4, 4, 3, 2, 3], // ECDSA with SHA-256, and with SHA-1
    ]
    .concat();
    hello.extend((extensions.len() as u16).to_be_bytes());
    hello.extend(extensions);
    let mut handshake = vec![1, 0];
    handshake.extend((hello.len() as u16).to_be_bytes());
    handshake.extend(hello);
    let mut record = vec![22, 3, 1];
    record.extend((handshake.len() as u16).to_be_bytes());
    record.extend(handshake);
    let mut socket = TcpStream::connect(url.strip_prefix("https://").unwrap()).await.unwrap();
    socket.write_all(&record).await.unwrap();
    let mut answer = vec![0; 7];
    socket.read_exact(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn nothing_older_than_tls_1_2_is_spoken() {
    let directory = temporary_dir();
    let pair = PemPair::make(directory.path(), "own");
    let database = TestDatabase::migrated().await;
    let app = with_certificate(&database, &pair).await;
    const HANDSHAKE: u8 = 22;
    const ALERT: u8 = 21;
    const PROTOCOL_VERSION: u8 = 70;
    for version in [0, 1, 2] {
        let answer = first_record(&app.url, version).await;
        assert_eq!((answer[0], answer[6]), (ALERT, PROTOCOL_VERSION), "3.{version} {answer:?}");
    }
    assert_eq!(first_record(&app.url, 3).await[0], HANDSHAKE);
    for version in [reqwest::tls::Version::TLS_1_2, reqwest::tls::Version::TLS_1_3] {
        let client = pair.client().min_tls_version(version).max_tls_version(version).build().unwrap();
        assert_eq!(client.get(format!("{}/livez", app.url)).send().await.unwrap().status(), 200);
    }
    app.stop().await;
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_not_waited_for() {
    let directory = temporary_dir();
    let pair = PemPair::make(directory.path(), "own");
    let database = TestDatabase::migrated().await;
    let app = TestApp::with(&database.url, |settings| {
        settings.tls_certificate = Some(pair.certificate.clone());
        settings.tls_key = Some(pair.key.clone());
        settings.request_timeout = Duration::from_millis(300);
    })
    .await;
    for begun in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/1.1\r\n\r\n"] {
        let mut socket = TcpStream::connect(app.url.strip_prefix("https://").unwrap()).await.unwrap();
        socket.write_all(begun).await.unwrap();
        let mut answer = Vec::new();
        let reading = socket.read_to_end(&mut answer);
        let _ = tokio::time::timeout(Duration::from_secs(10), reading).await.expect("the connection is closed");
    }
    until_served(&app.url, &pair).await;
    app.stop().await;
}
