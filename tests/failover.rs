//! The primary goes, and a standby is promoted.

mod asynchronous;
mod no_answer;
mod promotion;
mod two_primaries;

use std::path::Path;
use std::time::Instant;

use tokio_postgres::Client;

use crate::support::app::PATIENCE;
use crate::support::own_server::OwnServer;

/// Waits until a statement answers true.
async fn until_true(sql: &Client, statement: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !sql.query_one(statement, &[]).await.unwrap().get::<_, bool>(0) {
        assert!(Instant::now() < deadline, "waited in vain for {statement}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// A primary, and a standby that follows it.
async fn pair(dir: &Path) -> (OwnServer, OwnServer) {
    let primary = OwnServer::start(&dir.join("a")).await;
    let copy = dir.join("b");
    primary.copy(&copy, &["--write-recovery-conf"]).await;
    let standby = OwnServer::start(&copy).await;
    let streaming = "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE state = 'streaming')";
    until_true(&primary.sql().await, streaming).await;
    (primary, standby)
}

/// The URL of a database with the hosts of two servers, in this order.
fn url_of(one: &OwnServer, other: &OwnServer) -> String {
    let host = |url: &str| {
        let (_, rest) = url.split_once('@').unwrap();
        rest.split(['/', '?']).next().unwrap().to_owned()
    };
    let (first, second) = (host(&one.url), host(&other.url));
    one.url.replace(&first, &format!("{first},{second}"))
}
