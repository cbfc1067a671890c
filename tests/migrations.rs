//! Installing and updating the schemas: once, in one piece, never backwards.
mod attach;
mod columns;
mod former;
mod functions;
mod notifications;
mod rights;

use crate::conformance::{Session, within};
use crate::support::database::TestDatabase;
use headwater::store::migrate::{
    Change, MigrateError, MigrateOptions, Migration, MigrationReport, Notice, Origin, Schema, check, run, run_schema,
};

/// As many instances as start at once.
const INSTANCES: usize = 6;

pub async fn migrate(database: &TestDatabase) -> MigrationReport {
    run(&database.url, &MigrateOptions::default()).await.expect("the database is migrated")
}

pub async fn migrate_to(database: &TestDatabase, schema: &Schema) -> Result<MigrationReport, MigrateError> {
    run_schema(&database.url, &MigrateOptions::default(), schema).await
}

/// The embedded schema with one migration more.
fn with_migration(name: &'static str, sql: &'static str) -> Schema {
    let mut schema = Schema::embedded();
    let version = schema.migrations.last().unwrap().version + 1;
    schema.migrations.push(Migration { version, name: name.into(), sql: sql.into() });
    schema
}

#[tokio::test]
async fn an_empty_database_gets_all_of_it() {
    let database = TestDatabase::empty().await;
    let report = migrate(&database).await;
    assert_eq!(report.origin, Origin::Installed);

    let session = Session::open(&database.url).await;
    assert_eq!(session.write("account-1").await, "0");
    let applied = session.value("SELECT count(*) FROM headwater.migrations WHERE outcome = 'applied'").await;
    assert_eq!(applied, Schema::embedded().migrations.len().to_string());
    let lines = report.lines();
    assert!(lines.iter().any(|line| line == "done: migration 2 (message_store): apply"), "{lines:#?}");
}

#[tokio::test]
async fn of_instances_that_start_at_once_exactly_one_migrates() {
    let database = TestDatabase::empty().await;
    let mut instances = Vec::new();
    for _ in 0..INSTANCES {
        let url = database.url.clone();
        instances.push(tokio::spawn(async move { run(&url, &MigrateOptions::default()).await }));
    }
    let mut migrated = 0;
    for instance in instances {
        let report = instance.await.unwrap().expect("each instance starts");
        let applied = report.changes.iter().any(|change| matches!(change, Change::MigrationApplied { .. }));
        let installed = report.changes.iter().any(|change| matches!(change, Change::FunctionsInstalled { .. }));
        assert_eq!(applied, installed, "{report}");
        migrated += usize::from(applied);
    }
    assert_eq!(migrated, 1);
}

#[tokio::test]
async fn a_second_run_does_nothing() {
    let database = TestDatabase::empty().await;
    migrate(&database).await;
    let session = Session::open(&database.url).await;
    let rows = "SELECT max(xmin::text::bigint) FROM (
                  SELECT xmin FROM pg_proc UNION ALL SELECT xmin FROM pg_class UNION ALL SELECT xmin FROM headwater.installation
                ) AS catalogue";
    let before = session.value(rows).await;

    let report = migrate(&database).await;
    assert!(report.is_up_to_date(), "{report}");
    assert!(report.lines().iter().any(|line| line == "nothing to do: the database is up to date"));
    assert_eq!(session.value(rows).await, before);
}

#[tokio::test]
async fn check_only_looks() {
    let database = TestDatabase::empty().await;
    let report = check(&database.url, &MigrateOptions::default()).await.unwrap();
    assert!(report.only_checked && !report.is_up_to_date());
    assert!(report.lines().iter().any(|line| line == "to do: migration 1 (headwater_bookkeeping): apply"));

    let session = Session::open(&database.url).await;
    assert_eq!(session.value("SELECT to_regnamespace('headwater')").await, "NULL");
    migrate(&database).await;
    assert!(check(&database.url, &MigrateOptions::default()).await.unwrap().is_up_to_date());
}

#[tokio::test]
async fn a_changed_migration_is_refused() {
    let database = TestDatabase::empty().await;
    migrate(&database).await;
    let mut schema = Schema::embedded();
    schema.migrations[1].sql = format!("{}\n-- changed", schema.migrations[1].sql).into();
    match migrate_to(&database, &schema).await {
        Err(MigrateError::ChecksumChanged { version: 2, name, applied, embedded }) => {
            assert_eq!(name, "message_store");
            assert_ne!(applied, embedded);
        }
        other => panic!("expected a changed checksum: {other:?}"),
    }
}

#[tokio::test]
async fn a_migration_that_another_binary_slipped_in_or_left_out_is_refused() {
    let database = TestDatabase::empty().await;
    migrate(&database).await;
    let mut schema = Schema::embedded();
    schema.migrations.remove(0);
    let refused = migrate_to(&database, &schema).await;
    assert!(matches!(refused, Err(MigrateError::UnknownMigration { version: 1, .. })), "{refused:?}");

    let session = Session::open(&database.url).await;
    session.run("DELETE FROM headwater.migrations WHERE version = 1").await;
    let refused = migrate_to(&database, &Schema::embedded()).await;
    assert!(matches!(refused, Err(MigrateError::MissedMigration { version: 1, .. })), "{refused:?}");
}

#[tokio::test]
async fn a_new_migration_is_applied_alone() {
    let database = TestDatabase::empty().await;
    migrate(&database).await;
    let schema = with_migration("headwater_more", "CREATE TABLE headwater.more (n integer)");
    let report = migrate_to(&database, &schema).await.unwrap();
    let version = schema.migrations.last().unwrap().version;
    assert_eq!(report.changes, [Change::MigrationApplied { version, name: "headwater_more".to_owned() }]);
}

#[tokio::test]
async fn a_database_with_newer_migrations_is_accepted_and_said() {
    let database = TestDatabase::empty().await;
    let schema = with_migration("headwater_more", "CREATE TABLE headwater.more (n integer)");
    migrate_to(&database, &schema).await.unwrap();

    let report = migrate(&database).await;
    assert!(report.is_up_to_date(), "{report}");
    let newest = schema.migrations.last().unwrap().version;
    assert_eq!(report.notices, [Notice::NewerMigrations { database: newest, binary: newest - 1 }]);
    assert!(report.to_string().contains(&format!("the database is at migration {newest}")));
}

#[tokio::test]
async fn a_migration_that_fails_leaves_everything_as_it_was() {
    let database = TestDatabase::empty().await;
    let schema = with_migration("headwater_broken", "CREATE TABLE headwater.more (n integer); SELECT 1 / 0");
    let number = schema.migrations.last().unwrap().version;
    match migrate_to(&database, &schema).await {
        Err(MigrateError::Sql { step, source }) => {
            assert_eq!(step, format!("applying migration {number} (headwater_broken)"));
            assert!(source.to_string().contains("division by zero"));
        }
        other => panic!("expected a failed statement: {other:?}"),
    }
    let session = Session::open(&database.url).await;
    assert_eq!(session.value("SELECT to_regnamespace('headwater')").await, "NULL");
    assert_eq!(session.value("SELECT to_regnamespace('message_store')").await, "NULL");
    migrate(&database).await;
}

#[tokio::test]
async fn a_database_that_is_up_to_date_is_only_read() {
    let database = TestDatabase::empty().await;
    migrate(&database).await;
    let session = Session::open(&database.url).await;
    let name = session.value("SELECT current_database()").await;
    session.run(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on")).await;
    assert!(migrate(&database).await.is_up_to_date());
}

#[tokio::test]
async fn an_instance_waits_while_another_holds_the_lock() {
    let database = TestDatabase::empty().await;
    let other = Session::open_plain(&database.url).await;
    // The lock of every instance: its two keys spell what they guard.
    other.run("BEGIN; SELECT pg_advisory_xact_lock(x'48656164'::int, x'77617465'::int)").await;
    let url = database.url.clone();
    let waiting = tokio::spawn(async move { run(&url, &MigrateOptions::default()).await });
    let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
                 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    within(async {
        while other.value(waits).await == "0" {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(other.value("SELECT to_regnamespace('headwater')").await, "NULL");
    other.run("COMMIT").await;
    assert!(!within(waiting).await.unwrap().unwrap().is_up_to_date());
}

#[tokio::test]
async fn schemas_that_stand_empty_are_used() {
    let database = TestDatabase::empty().await;
    Session::open(&database.url).await.run("CREATE SCHEMA message_store; CREATE SCHEMA headwater").await;
    assert_eq!(migrate(&database).await.origin, Origin::Installed);
}

#[tokio::test]
async fn the_settings_of_the_database_do_not_matter() {
    let database = TestDatabase::empty().await;
    let session = Session::open(&database.url).await;
    let name = session.value("SELECT current_database()").await;
    session
        .run(&format!(
            "ALTER DATABASE {name} SET search_path = '';
             ALTER DATABASE {name} SET default_transaction_isolation = 'serializable';
             ALTER DATABASE {name} SET statement_timeout = '1min'"
        ))
        .await;
    migrate(&database).await;
    assert!(migrate(&database).await.is_up_to_date());
}

#[tokio::test]
async fn a_url_that_leads_nowhere_is_an_error_that_says_so() {
    let options = MigrateOptions::default();
    assert!(matches!(run("not a url", &options).await, Err(MigrateError::Url { .. })));
    let nowhere = "postgresql:///nobody?host=/nonexistent&user=nobody";
    assert!(matches!(run(nowhere, &options).await, Err(MigrateError::Connect { .. })));
}
