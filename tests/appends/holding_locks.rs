//! An append in a transaction of several statements, whose end fails.

use std::time::Duration;

use headwater::domain::append::{AppendRequest, NewMessage, StreamAppend};
use headwater::domain::stream_name::StreamName;
use headwater::store::append::{BatchError, BatchSession};
use headwater::store::{Database, DatabaseSettings};
use uuid::Uuid;

use crate::support::app::PATIENCE;
use crate::support::database::TestDatabase;
use crate::support::proxy::FaultProxy;

/// A session through a proxy, and an append that holds its locks over several statements.
async fn session(proxy: &FaultProxy, expected_version: i64) -> (BatchSession, AppendRequest) {
    let settings = DatabaseSettings {
        url: proxy.url.clone(),
        pooler_url: None,
        connections_max: 4,
        connect_timeout: PATIENCE,
        silence_timeout: PATIENCE,
    };
    let store = Database::open(settings).unwrap();
    let (session, driver) = BatchSession::open(&store, Duration::from_secs(1)).await.unwrap();
    tokio::spawn(driver);
    let mut request = AppendRequest::of(StreamAppend {
        stream_name: StreamName::parse("a-1").unwrap(),
        expected_version: Some(expected_version),
        must_exist: false,
        messages: vec![NewMessage {
            id: Uuid::new_v4(),
            is_client_supplied_id: true,
            message_type: "T".into(),
            data: "{}".into(),
            metadata: None,
            time: None,
        }],
    });
    request.holds_locks = true;
    (session, request)
}

#[tokio::test]
async fn session_whose_transaction_was_not_rolled_back_is_given_up() {
    let database = TestDatabase::migrated().await;
    let proxy = FaultProxy::before(&database.url).await;
    // There is no message.
    let (session, request) = session(&proxy, 7).await;
    let refused = session.append_batch(&[&request], None, &["a"]).await;
    assert!(refused.is_ok(), "{refused:?}");
    // The server takes it for no statement, and the transaction stays.
    proxy.rewrite("ROLLBACK", "ROLLBACX");
    let refused = session.append_batch(&[&request], None, &["a"]).await;
    assert!(matches!(refused, Err(BatchError::InDoubt(_))), "{refused:?}");
}

#[tokio::test]
async fn commit_of_which_a_pooler_says_that_it_lost_its_server_is_in_doubt() {
    let database = TestDatabase::migrated().await;
    let proxy = FaultProxy::before(&database.url).await;
    let (session, request) = session(&proxy, -1).await;
    proxy.report_lost_answers_of("COMMIT", 1);
    let answer = session.append_batch(&[&request], None, &["a"]).await;
    assert!(matches!(answer, Err(BatchError::InDoubt(_))), "{answer:?}");
    let sql = "SELECT count(*) FROM message_store.messages";
    let count: i64 = database.connect().await.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!((proxy.lost_answers(), count), (1, 1), "it was committed");
}
