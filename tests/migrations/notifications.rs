//! Hints: by write_message itself, and by a trigger on wish.
use crate::conformance::Session;
use crate::support::database::{TestDatabase, temporary_dir};
use headwater::embedded_postgres::{EmbeddedPostgres, EmbeddedSettings};
use headwater::store::migrate::{Change, MigrateOptions, run};

const STOCK: &str = include_str!("../fixtures/stock_message_db.sql");
const WITH_TRIGGER: MigrateOptions = MigrateOptions { notify_trigger: true };

async fn listener(database: &TestDatabase) -> Session {
    let listener = Session::open_plain(&database.url).await;
    listener.run("LISTEN headwater").await;
    listener
}

/// A hint after all that the session did before it: when it comes, nothing else is under way.
async fn assert_nothing_before(session: &Session, listener: &mut Session) {
    session.run("NOTIFY headwater, 'nothing before'").await;
    assert_eq!(listener.notification().await, "nothing before");
}

async fn insert(session: &Session, stream_name: &str, messages: usize) -> String {
    let sql = format!(
        "WITH inserted AS (
           INSERT INTO messages (stream_name, position, type)
           SELECT '{stream_name}', n, 'T' FROM generate_series(1, {messages}) n RETURNING global_position
         )
         SELECT max(global_position) FROM inserted"
    );
    session.value(&sql).await
}

#[tokio::test]
async fn write_message_tells_its_global_position_after_the_commit() {
    let database = TestDatabase::migrated().await;
    let mut listener = listener(&database).await;
    let session = Session::open(&database.url).await;
    session.run("SET message_store.notify = 'on'; BEGIN").await;
    session.write("account-1").await;
    session.write("account-1").await;
    let positions = session.column("SELECT global_position FROM messages ORDER BY 1").await;
    listener.run("NOTIFY headwater, 'before the commit'").await;
    session.run("COMMIT").await;

    assert_eq!(listener.notification().await, "before the commit");
    for position in positions {
        assert_eq!(listener.notification().await, position);
    }
}

#[tokio::test]
async fn the_setting_silences_write_message() {
    let database = TestDatabase::migrated().await;
    let mut listener = listener(&database).await;
    let session = Session::open(&database.url).await;
    session.run("SET message_store.notify = 'off'").await;
    session.write("account-1").await;
    assert_nothing_before(&session, &mut listener).await;
    session.run("SET message_store.notify = 'on'").await;
    session.write("account-1").await;
    assert_eq!(listener.notification().await, "2");
}

#[tokio::test]
async fn without_the_setting_write_message_tells_only_where_no_transaction_can_be_prepared() {
    let database = TestDatabase::migrated().await;
    let mut listener = listener(&database).await;
    let session = Session::open(&database.url).await;
    assert_ne!(session.value("SHOW max_prepared_transactions").await, "0", "as the tests' server is set up");
    session.write("account-1").await;
    assert_nothing_before(&session, &mut listener).await;
    // What a setting leaves behind that was local to a transaction.
    session.run("BEGIN; SET LOCAL message_store.notify = 'on'; COMMIT").await;
    session.write("account-1").await;
    assert_nothing_before(&session, &mut listener).await;

    let dir = temporary_dir();
    let settings = EmbeddedSettings { data_dir: Some(dir.path().join("data")), ..EmbeddedSettings::default() };
    let postgres = EmbeddedPostgres::start(&settings).await.expect("a server as it comes starts");
    run(postgres.url(), &MigrateOptions::default()).await.unwrap();
    let mut listener = Session::open_plain(postgres.url()).await;
    listener.run("LISTEN headwater").await;
    let session = Session::open(postgres.url()).await;
    session.write("account-1").await;
    assert_eq!(listener.notification().await, "1");
    drop((session, listener));
    postgres.stop().await;
}

#[tokio::test]
async fn there_is_no_trigger_without_the_wish() {
    let database = TestDatabase::migrated().await;
    let mut listener = listener(&database).await;
    let session = Session::open(&database.url).await;
    insert(&session, "account-1", 1).await;
    assert_nothing_before(&session, &mut listener).await;
}

#[tokio::test]
async fn the_trigger_tells_the_highest_global_position_of_a_statement() {
    let database = TestDatabase::migrated().await;
    let report = run(&database.url, &WITH_TRIGGER).await.unwrap();
    assert_eq!(report.changes, [Change::NotifyTriggerAdded]);
    let mut listener = listener(&database).await;
    let session = Session::open(&database.url).await;

    let highest = insert(&session, "account-1", 3).await;
    assert_eq!(listener.notification().await, highest);
    insert(&session, "account-2", 0).await;
    assert_nothing_before(&session, &mut listener).await;
    session.write("account-3").await;
    assert_eq!(listener.notification().await, "4");
    assert_nothing_before(&session, &mut listener).await;
}

#[tokio::test]
async fn the_setting_silences_the_trigger() {
    let database = TestDatabase::migrated().await;
    run(&database.url, &WITH_TRIGGER).await.unwrap();
    let mut listener = listener(&database).await;
    let session = Session::open(&database.url).await;
    session.run("SET message_store.notify = 'off'").await;
    insert(&session, "account-1", 1).await;
    assert_nothing_before(&session, &mut listener).await;
}

#[tokio::test]
async fn the_trigger_is_added_once_and_stays() {
    let database = TestDatabase::migrated().await;
    run(&database.url, &WITH_TRIGGER).await.unwrap();
    assert!(run(&database.url, &WITH_TRIGGER).await.unwrap().is_up_to_date());
    assert!(run(&database.url, &MigrateOptions::default()).await.unwrap().is_up_to_date());
    let session = Session::open(&database.url).await;
    assert_eq!(session.column("SELECT tgname FROM pg_trigger WHERE NOT tgisinternal").await, ["headwater_notify"]);
}

#[tokio::test]
async fn the_trigger_speaks_for_a_message_db_that_does_not_notify() {
    let database = TestDatabase::empty().await;
    let session = Session::open_plain(&database.url).await;
    session.run(STOCK).await;
    session.run("SET search_path TO message_store, public").await;
    run(&database.url, &WITH_TRIGGER).await.unwrap();
    let mut listener = listener(&database).await;

    session.write("account-1").await;
    assert_eq!(listener.notification().await, "1");
    if session.value("SELECT pg_has_role('message_store', 'MEMBER')").await == "t" {
        // The writer needs no right on schema headwater.
        session.run("SET ROLE message_store").await;
        session.write("account-1").await;
        assert_eq!(listener.notification().await, "2");
    }
}
