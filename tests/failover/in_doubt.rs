//! The answer of a commit is lost while the servers are not as they should be: what the service finds out is true for
//! whichever of them is the primary next.

use std::time::{Duration, Instant};

use headwater::domain::observation::Observation;
use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

use super::{pair, until_true};
use crate::support::app::{PATIENCE, TestApp};
use crate::support::database::temporary_dir;
use crate::support::own_server::OwnServer;
use crate::support::proxy::FaultProxy;

/// Two attempts to find out what became of a commit: the first is given up after five seconds.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(7);

/// From now on commits wait for a standby that never comes.
async fn wait_for_nobody(sql: &Client, server: &OwnServer) {
    sql.batch_execute("ALTER SYSTEM SET synchronous_standby_names TO 'nobody'").await.unwrap();
    sql.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let other = server.sql().await;
    let committing = tokio::spawn(async move {
        // Until one of them waits: the server takes the setting in when it comes to it.
        while other.batch_execute("SELECT pg_logical_emit_message(true, 'test', '')").await.is_ok() {}
    });
    until_true(sql, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')").await;
    committing.abort();
}

/// The answer says that nobody knows.
async fn is_unknown(app: &TestApp, body: &Value) {
    let answer = app.append("a-1", body).await;
    assert_eq!(answer.problem(503, "database-unavailable")["outcome"], "unknown", "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_synchronous_standby_has_is_not_acknowledged() {
    let dir = temporary_dir();
    let server = OwnServer::start(dir.path()).await;
    let sql = server.sql().await;
    let app = TestApp::with(&server.url, |settings| {
        settings.append_commit_timeout = Duration::from_millis(300);
        settings.append_resolve_timeout = RESOLVE_TIMEOUT;
    })
    .await;
    wait_for_nobody(&sql, &server).await;
    let body = json!({ "messages": [{ "type": "T", "id": Uuid::new_v4() }] });
    is_unknown(&app, &body).await;
    // The session was ended to find out, so everybody can see the message.
    until_true(&sql, "SELECT count(*) = 1 FROM message_store.messages").await;
    // To send it again makes no standby have it.
    is_unknown(&app, &body).await;

    sql.batch_execute("ALTER SYSTEM RESET synchronous_standby_names").await.unwrap();
    sql.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = app.append("a-1", &body).await;
        if answer.status == 200 {
            assert_eq!(answer.json()["duplicate"], true);
            break;
        }
        assert!(Instant::now() < deadline, "{}", answer.text);
    }
    until_true(&sql, "SELECT count(*) = 1 FROM message_store.messages").await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn server_in_recovery_is_not_asked_what_was_committed() {
    let dir = temporary_dir();
    let (primary, standby) = pair(dir.path()).await;
    // One address, which leads to a standby for a while.
    let address = FaultProxy::before(&primary.url).await;
    let app = TestApp::with(&address.url, |_| {}).await;
    app.write("a-1", "T", json!({})).await;
    let (sql, behind) = (primary.sql().await, standby.sql().await);
    until_true(&behind, "SELECT to_regclass('message_store.messages') IS NOT NULL").await;
    behind.batch_execute("SELECT pg_wal_replay_pause()").await.unwrap();
    until_true(&behind, "SELECT pg_get_wal_replay_pause_state() = 'paused'").await;

    let mut watcher = app.service.observer.watch();
    let links = address.links_that_sent("headwater.append_batch");
    links.iter().for_each(|link| link.lose_answers());
    let body = json!({ "messages": [{ "type": "T", "id": Uuid::new_v4() }] });
    let leading = async {
        until_true(&sql, "SELECT count(*) = 2 FROM message_store.messages").await;
        address.lead_to(&standby.url);
        TestApp::observed(&mut watcher, "a look on the standby", |observation| {
            matches!(observation, Observation::StoreFailed { error, .. } if error.contains("is in recovery"))
        })
        .await;
        address.lead_to(&primary.url);
    };
    let (answer, ()) = tokio::join!(app.append("a-1", &body), leading);
    assert_eq!((answer.status, &answer.json()["version"]), (201, &json!(1)), "{}", answer.text);
    app.stop().await;
}
