//! A host that drops what it is sent, so that whoever connects to it waits, is the first of the URL: the service starts and
//! changes to another primary as if it were not there.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::promotion::is_ready;
use super::{pair, url_of};
use crate::support::app::{PATIENCE, TestApp};
use crate::support::database::temporary_dir;
use crate::support::waiting::eventually;
use crate::support::waiting::until_true;

/// Who waits for the address takes three times as long as this.
const READY_WITHIN: Duration = PATIENCE;
/// A connection of this machine to itself that is not there by then is not answered.
const UNANSWERED: Duration = Duration::from_millis(500);

/// An address at which nothing answers: the queue of its listener is full, so the system drops whoever comes.
struct Hole {
    listener: TcpListener,
    queued: Vec<TcpStream>,
}

impl Hole {
    async fn dig() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let mut hole = Self { listener, queued: Vec::new() };
        while let Ok(stream) = tokio::time::timeout(UNANSWERED, hole.connect()).await {
            hole.queued.push(stream);
            assert!(hole.queued.len() < 100, "the queue does not fill");
        }
        hole
    }

    fn address(&self) -> String {
        self.listener.local_addr().unwrap().to_string()
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address()).await.expect("it is not refused")
    }

    /// Nobody who has connected since was answered.
    async fn is_one(&self) {
        assert!(tokio::time::timeout(UNANSWERED, self.connect()).await.is_err(), "the hole answers");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_drops_packets_delays_neither_the_start_nor_the_change() {
    let dir = temporary_dir();
    let (primary, standby) = pair(dir.path()).await;
    let hole = Hole::dig().await;
    let hosts = url_of(&standby, &primary).replacen('@', &format!("@{},", hole.address()), 1);
    let began = Instant::now();
    // Longer than anybody waits here: whoever waits for the first host fails.
    let app = TestApp::with(&hosts, |settings| settings.database_connect_timeout = PATIENCE * 3).await;
    let started = began.elapsed();
    app.write("account-1", "Noted", json!({})).await;
    let replayed = "SELECT to_regclass('message_store.messages') IS NOT NULL";
    until_true(&standby.sql().await, replayed).await;
    let mut events = app.follow("/v1/categories/account/events").await;
    events.next("caught-up").await;

    let sql = standby.sql().await;
    primary.kill().await;
    // The search for another primary has begun: the standby says that it is none, and the first host nothing.
    let message = json!({ "messages": [{ "type": "Noted", "data": {} }] });
    eventually("the primary to be missed", || async { (app.get("/readyz").await.status == 503).then_some(()) }).await;
    until_true(&sql, "SELECT pg_promote()").await;
    let promoted = Instant::now();
    eventually("the new primary", || is_ready(&app)).await;
    let ready = promoted.elapsed();
    assert_eq!(app.append("account-1", &message).await.status, 201);
    events.next("message").await;
    eprintln!("started in {started:?}, ready {ready:?} after the promotion");
    assert!(started < READY_WITHIN && ready < READY_WITHIN, "started in {started:?}, ready after {ready:?}");
    hole.is_one().await;
    app.stop().await;
}
