//! The primary goes, and a standby is promoted.

mod asynchronous;
mod in_doubt;
mod no_answer;
mod promotion;
mod two_primaries;

use std::path::Path;

use crate::support::own_server::OwnServer;
use crate::support::waiting::until_true;

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
