//! Where Message DB is installed already: nothing of it changes.
use super::{migrate, migrate_to};
use crate::conformance::Session;
use crate::support::database::TestDatabase;
use headwater::store::migrate::{
    Change, FUNCTIONS_VERSION, MigrateError, MigrateOptions, Notice, Origin, Schema, check,
};

const STOCK: &str = include_str!("../fixtures/stock_message_db.sql");

/// Everything in schema message_store, and what each role may do with it.
const OBJECTS: &str = "
    SELECT 'function ' || p.oid || p.xmin || COALESCE(p.proacl::text, '') || p.proowner || pg_get_functiondef(p.oid)
    FROM pg_proc p WHERE p.pronamespace = 'message_store'::regnamespace
    UNION ALL
    SELECT 'relation ' || c.oid || c.relname || c.relkind::text || COALESCE(c.relacl::text, '') || c.relowner || c.relhastriggers
    FROM pg_class c WHERE c.relnamespace = 'message_store'::regnamespace
    UNION ALL
    SELECT 'view ' || c.oid || pg_get_viewdef(c.oid)
    FROM pg_class c WHERE c.relnamespace = 'message_store'::regnamespace AND c.relkind = 'v'
    UNION ALL
    SELECT 'index ' || c.oid || pg_get_indexdef(c.oid)
    FROM pg_class c WHERE c.relnamespace = 'message_store'::regnamespace AND c.relkind = 'i'
    UNION ALL
    SELECT 'column ' || a.attrelid || a.attname || format_type(a.atttypid, a.atttypmod) || a.xmin
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE c.relnamespace = 'message_store'::regnamespace AND c.relkind IN ('r', 'v', 'c')
    UNION ALL
    SELECT 'type ' || t.oid || t.typname || COALESCE(t.typacl::text, '')
    FROM pg_type t WHERE t.typnamespace = 'message_store'::regnamespace
    UNION ALL
    SELECT 'constraint ' || oid || pg_get_constraintdef(oid)
    FROM pg_constraint WHERE connamespace = 'message_store'::regnamespace
    UNION ALL
    SELECT 'sequence ' || s.seqrelid || s.seqstart || s.seqcache || s.seqincrement
    FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid
    WHERE c.relnamespace = 'message_store'::regnamespace
    UNION ALL
    SELECT 'schema ' || oid || COALESCE(nspacl::text, '') FROM pg_namespace WHERE nspname = 'message_store'
    UNION ALL
    SELECT 'trigger ' || t.oid || t.tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
    WHERE c.relnamespace = 'message_store'::regnamespace
    UNION ALL
    SELECT 'role ' || oid || rolcanlogin || rolsuper || COALESCE(rolconfig::text, '')
    FROM pg_roles WHERE rolname = 'message_store'
    ORDER BY 1";

async fn stock() -> (TestDatabase, Session) {
    let database = TestDatabase::empty().await;
    let session = Session::open_plain(&database.url).await;
    session.run(STOCK).await;
    session.run("SET search_path TO message_store, public").await;
    (database, session)
}

#[tokio::test]
async fn every_object_stays_as_it_was() {
    let (database, session) = stock().await;
    session.write("account-1").await;
    let before = session.column(OBJECTS).await;
    assert!(before.len() > 60, "the fixture is installed");

    let report = migrate(&database).await;
    assert_eq!(report.origin, Origin::Attached);
    assert_eq!(report.notices, []);
    assert_eq!(session.column(OBJECTS).await, before);
    assert!(report.to_string().contains("its objects stay as they are"));
    assert_eq!(session.value("SELECT count(*) FROM headwater.installation").await, "1");
}

#[tokio::test]
async fn later_starts_and_newer_versions_leave_it_too() {
    let (database, session) = stock().await;
    migrate(&database).await;
    let before = session.column(OBJECTS).await;

    assert!(migrate(&database).await.is_up_to_date());
    let mut newer = Schema::embedded();
    newer.functions_version = FUNCTIONS_VERSION + 1;
    let mut of_message_store = newer.migrations[1].clone();
    of_message_store.version = newer.migrations.last().unwrap().version + 1;
    of_message_store.name = "message_store_more".into();
    of_message_store.sql = "CREATE TABLE message_store.more (n integer)".into();
    newer.migrations.push(of_message_store);
    let report = migrate_to(&database, &newer).await.unwrap();

    assert_eq!(report.origin, Origin::Attached);
    assert!(matches!(&report.changes[0], Change::MigrationSkipped { name, .. } if name == "message_store_more"));
    assert_eq!(session.column(OBJECTS).await, before);
}

#[tokio::test]
async fn its_programs_go_on_as_before() {
    let (database, session) = stock().await;
    assert_eq!(session.write("account-1").await, "0");
    migrate(&database).await;

    assert_eq!(session.write("account-1").await, "1");
    let message = "Wrong expected version: 0 (Stream: account-1, Stream Version: 1)";
    let stale = "SELECT write_message(gen_random_uuid()::varchar, 'account-1', 'T', '{}', NULL, 0)";
    session.refused(stale, "P0001", message).await;
    assert_eq!(session.column("SELECT position FROM get_category_messages('account')").await, ["0", "1"]);
    assert_eq!(session.column("SELECT position FROM get_stream_messages('account-1', 1)").await, ["1"]);
}

#[tokio::test]
async fn check_says_that_it_would_attach() {
    let (database, session) = stock().await;
    let report = check(&database.url, &MigrateOptions::default()).await.unwrap();
    assert_eq!(report.origin, Origin::Attached);
    let skipped = Change::MigrationSkipped { version: 2, name: "message_store".to_owned() };
    assert!(report.changes.contains(&skipped), "{report}");
    assert_eq!(session.value("SELECT to_regnamespace('headwater')").await, "NULL");
}

#[tokio::test]
async fn only_the_functions_of_schema_headwater_are_installed() {
    let (database, session) = stock().await;
    let report = migrate(&database).await;
    let ours = Schema::embedded().functions.iter().filter(|function| !function.is_of_message_store()).count();
    let expected = Change::FunctionsInstalled { count: ours, from_version: 0, to_version: FUNCTIONS_VERSION };
    assert!(report.changes.contains(&expected), "{report}");
    let installed = session.value("SELECT count(*) FROM pg_proc WHERE pronamespace = 'headwater'::regnamespace").await;
    assert_eq!(installed, ours.to_string());
}

#[tokio::test]
async fn older_installations_with_varchar_columns_are_accepted() {
    let database = TestDatabase::empty().await;
    let session = Session::open_plain(&database.url).await;
    let varchar = STOCK
        .replace("stream_name text NOT NULL", "stream_name varchar NOT NULL")
        .replace("type text NOT NULL", "type varchar NOT NULL");
    session.run(&varchar).await;
    assert_eq!(migrate(&database).await.origin, Origin::Attached);
}

#[tokio::test]
async fn a_table_that_is_not_message_dbs_is_refused_with_all_that_is_wrong() {
    let database = TestDatabase::empty().await;
    let session = Session::open_plain(&database.url).await;
    session
        .run(
            "CREATE SCHEMA message_store;
             CREATE TABLE message_store.messages (
               global_position bigserial, position integer, time timestamp, stream_name text, type text, data json, id uuid
             )",
        )
        .await;
    match migrate_to(&database, &Schema::embedded()).await {
        Err(MigrateError::IncompatibleMessageStore { mut problems }) => {
            problems.sort();
            let expected = [
                "a unique index on (global_position) is missing: CREATE UNIQUE INDEX messages_pkey ON message_store.messages (global_position)",
                "a unique index on (id) is missing: CREATE UNIQUE INDEX messages_id ON message_store.messages (id)",
                "a unique index on (stream_name, position) is missing: CREATE UNIQUE INDEX messages_stream ON message_store.messages (stream_name, position)",
                "column data must be jsonb and is json",
                "column metadata must be jsonb and is missing",
                "column position must be bigint and is integer",
                "function cardinal_id is missing",
                "function category is missing",
                "function hash_64 is missing",
            ];
            assert_eq!(problems, expected);
        }
        other => panic!("expected an incompatible table: {other:?}"),
    }
    assert_eq!(session.value("SELECT to_regnamespace('headwater')").await, "NULL");
}

#[tokio::test]
async fn a_sequence_that_caches_is_said_at_every_start_until_it_is_right() {
    let (database, session) = stock().await;
    session.run("ALTER SEQUENCE messages_global_position_seq CACHE 20").await;
    let notice = Notice::SequenceCache { sequence: "message_store.messages_global_position_seq".to_owned(), cache: 20 };
    for _ in 0..2 {
        assert_eq!(migrate(&database).await.notices, std::slice::from_ref(&notice));
    }
    session.run("ALTER SEQUENCE messages_global_position_seq CACHE 1").await;
    assert_eq!(migrate(&database).await.notices, []);
}

#[tokio::test]
async fn a_table_without_a_sequence_of_its_own_is_said() {
    let (database, session) = stock().await;
    session.run("ALTER SEQUENCE messages_global_position_seq OWNED BY NONE").await;
    assert_eq!(migrate(&database).await.notices, [Notice::NoSequence]);
}

#[tokio::test]
async fn a_table_without_its_unique_indexes_is_refused_with_what_mends_it() {
    let (database, session) = stock().await;
    let unfit = [
        ("messages_id", "CREATE INDEX messages_id ON messages (id)"),
        (
            "messages_stream",
            "CREATE UNIQUE INDEX messages_stream ON messages (stream_name, position) WHERE position > 0",
        ),
        ("messages_stream", "CREATE UNIQUE INDEX messages_stream ON messages (stream_name, position, type)"),
    ];
    for (name, other) in unfit {
        session.run(&format!("DROP INDEX {name}; {other}")).await;
        let problems = match migrate_to(&database, &Schema::embedded()).await {
            Err(MigrateError::IncompatibleMessageStore { problems }) => problems,
            done => panic!("{other}: expected a refusal: {done:?}"),
        };
        assert_eq!(problems.len(), 1, "{problems:?}");
        let (_, mends) = problems[0].split_once(" is missing: ").unwrap();
        session.run(&format!("DROP INDEX {name}; {mends}")).await;
    }
    assert_eq!(migrate(&database).await.origin, Origin::Attached);
    // Of one that is in use, too.
    session.run("DROP INDEX messages_id").await;
    assert!(matches!(
        migrate_to(&database, &Schema::embedded()).await,
        Err(MigrateError::IncompatibleMessageStore { .. })
    ));
}
