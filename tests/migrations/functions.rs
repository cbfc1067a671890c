//! Functions: re-installed by a newer version, never put back by an older one; and what the planner makes of them.
use super::{migrate, migrate_to};
use crate::conformance::Session;
use crate::support::database::TestDatabase;
use headwater::store::migrate::{
    Change, FUNCTIONS_VERSION, Function, MigrateError, MigrateOptions, Notice, Schema, check,
};

/// A binary whose message_store_version() says `text`.
fn binary(functions_version: i32, text: &str) -> Schema {
    let mut schema = Schema::embedded();
    schema.functions_version = functions_version;
    for function in schema.functions.iter_mut().filter(|function| function.path.ends_with("/message_store_version")) {
        function.sql = function.sql.replace("1.3.0", text).into();
    }
    schema
}

async fn installed_text(database: &TestDatabase) -> String {
    Session::open(&database.url).await.value("SELECT message_store_version()").await
}

fn installed(changes: &[Change]) -> bool {
    changes.iter().any(|change| matches!(change, Change::FunctionsInstalled { .. }))
}

#[tokio::test]
async fn an_older_binary_does_not_put_its_functions_back() {
    let database = TestDatabase::empty().await;
    migrate(&database).await;
    let newer = migrate_to(&database, &binary(FUNCTIONS_VERSION + 1, "newer")).await.unwrap();
    assert!(installed(&newer.changes));
    assert_eq!(installed_text(&database).await, "newer");

    let report = migrate(&database).await;
    assert!(report.is_up_to_date(), "{report}");
    let expected = Notice::NewerFunctions { database: FUNCTIONS_VERSION + 1, binary: FUNCTIONS_VERSION };
    assert_eq!(report.notices, [expected]);
    assert_eq!(installed_text(&database).await, "newer");
}

#[tokio::test]
async fn a_binary_of_the_same_version_installs_another_text() {
    let database = TestDatabase::empty().await;
    migrate(&database).await;
    let report = migrate_to(&database, &binary(FUNCTIONS_VERSION, "edited")).await.unwrap();
    assert!(installed(&report.changes));
    assert_eq!(installed_text(&database).await, "edited");
}

#[tokio::test]
async fn a_binary_with_older_migrations_does_not_put_its_functions_back_even_of_the_same_version() {
    let database = TestDatabase::empty().await;
    let mut newer = binary(FUNCTIONS_VERSION, "newer");
    let mut more = newer.migrations[0].clone();
    more.version = newer.migrations.last().unwrap().version + 1;
    more.sql = "CREATE TABLE headwater.more (n integer)".into();
    newer.migrations.push(more);
    migrate_to(&database, &newer).await.unwrap();

    assert!(migrate(&database).await.is_up_to_date());
    assert_eq!(installed_text(&database).await, "newer");
}

#[tokio::test]
async fn a_function_whose_body_names_what_does_not_exist_fails_at_once() {
    let database = TestDatabase::empty().await;
    let mut schema = Schema::embedded();
    let sql =
        "CREATE OR REPLACE FUNCTION headwater.broken() RETURNS bigint LANGUAGE sql AS 'SELECT headwater.nowhere()'";
    schema.functions.push(Function { path: "broken".into(), sql: sql.into() });
    let refused = migrate_to(&database, &schema).await;
    assert!(
        matches!(&refused, Err(MigrateError::Sql { step, .. }) if step == "installing function broken"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn what_a_function_was_granted_survives_its_update() {
    let database = TestDatabase::empty().await;
    migrate(&database).await;
    let session = Session::open(&database.url).await;
    session.run("REVOKE EXECUTE ON FUNCTION message_store.message_store_version() FROM PUBLIC").await;
    let acl = "SELECT proacl FROM pg_proc WHERE proname = 'message_store_version'";
    let before = session.value(acl).await;
    migrate_to(&database, &binary(FUNCTIONS_VERSION + 1, "newer")).await.unwrap();
    assert_eq!(session.value(acl).await, before);
}

#[tokio::test]
async fn the_functions_of_names_are_inlined() {
    let database = TestDatabase::migrated().await;
    let session = Session::open_plain(&database.url).await;
    for argument in ["stream_name", "metadata ->> 'correlationStreamName'"] {
        let plan = session
            .column(&format!(
                "EXPLAIN (VERBOSE, COSTS OFF) SELECT message_store.category({argument}), message_store.is_category({argument}),
                   message_store.id({argument}), message_store.cardinal_id({argument}), message_store.hash_64({argument}),
                   message_store.hash_64(message_store.cardinal_id({argument}))
                 FROM message_store.messages"
            ))
            .await
            .join("\n");
        assert!(!plan.replace("message_store.messages", "").contains("message_store."), "{plan}");
        assert!(plan.contains("split_part"), "{plan}");
    }
    let volatility = session.column("SELECT DISTINCT provolatile FROM pg_proc WHERE proname = 'hash_64'").await;
    assert_eq!(volatility, ["i"]);
}

#[tokio::test]
async fn functions_work_with_any_search_path() {
    let database = TestDatabase::migrated().await;
    let session = Session::open_plain(&database.url).await;
    session.run("SET search_path = ''; SET message_store.sql_condition = 'on'").await;
    let write = "SELECT message_store.write_message(gen_random_uuid()::varchar, 'path-1', 'T', '{}')";
    assert_eq!(session.value(write).await, "0");
    for read in [
        "message_store.get_stream_messages('path-1')",
        "message_store.get_stream_messages('path-1', condition => 'true')",
        "message_store.get_category_messages('path')",
        "message_store.get_category_messages('path', consumer_group_member => 0, consumer_group_size => 1)",
        "message_store.get_category_messages('path', condition => 'true')",
        "message_store.get_last_stream_message('path-1')",
    ] {
        assert_eq!(session.value(&format!("SELECT count(*) FROM {read}")).await, "1", "{read}");
    }
    assert_eq!(session.value("SELECT message_store.stream_version('path-1')").await, "0");
    assert_eq!(session.value("SELECT count(*) FROM message_store.category_type_summary").await, "1");
}

/// How many rows of messages this session has read, by a count that changes in its own statements only.
async fn rows_touched(session: &Session) -> i64 {
    let sql = "SELECT COALESCE(sum(seq_tup_read + idx_tup_fetch), 0) FROM pg_stat_xact_user_tables WHERE relname = 'messages'";
    session.value(sql).await.parse().unwrap()
}

/// The planner looks at the ends of an index itself.
const PLANNER_TOUCHES_MAX: i64 = 4;

#[tokio::test]
async fn reading_a_category_touches_no_message_of_another() {
    let database = TestDatabase::migrated().await;
    let session = Session::open_plain(&database.url).await;
    session
        .run(
            "INSERT INTO message_store.messages (stream_name, position, type)
             SELECT CASE WHEN n % 4000 = 0 THEN 'rare-' ELSE 'common-' END || n, 0, 'T' FROM generate_series(1, 20000) n;
             ANALYZE message_store.messages",
        )
        .await;
    for (arguments, at_most) in [
        ("'rare'", 5),
        ("'rare', 10001", 3),
        ("'rare', 1, 2", 2),
        ("'rare', 1, 1000, NULL, 0, 2", 5),
        ("'common', 1, 10", 10),
        ("'common', 1, 1000, 'correlated'", 0),
        ("'rare', 1, 1000, condition => 'type = ''U'''", 5),
    ] {
        for plan_cache_mode in ["force_custom_plan", "force_generic_plan"] {
            session.run(&format!("BEGIN; SET LOCAL plan_cache_mode = {plan_cache_mode}")).await;
            session.run("SET LOCAL message_store.sql_condition = 'on'").await;
            let before = rows_touched(&session).await;
            session.run(&format!("SELECT * FROM message_store.get_category_messages({arguments})")).await;
            let rows = rows_touched(&session).await - before;
            session.run("COMMIT").await;
            assert!(
                rows <= at_most + PLANNER_TOUCHES_MAX,
                "get_category_messages({arguments}) touched {rows} rows, {plan_cache_mode}"
            );
        }
    }
}

#[tokio::test]
async fn a_function_that_somebody_replaced_or_dropped_is_said_until_it_is_ours_again() {
    let database = TestDatabase::empty().await;
    assert_eq!(migrate(&database).await.notices, []);
    let session = Session::open_plain(&database.url).await;
    session
        .run(
            "CREATE OR REPLACE FUNCTION message_store.hash_64(value varchar) RETURNS bigint LANGUAGE sql IMMUTABLE
               AS $$ SELECT hashtextextended(value, 0) $$;
             DROP FUNCTION headwater.purge_projections",
        )
        .await;
    let replaced = |function: &str| Notice::FunctionReplaced { function: function.to_owned() };
    let expected = [replaced("message_store.hash_64"), replaced("headwater.purge_projections")];
    for report in [migrate(&database).await, check(&database.url, &MigrateOptions::default()).await.unwrap()] {
        assert_eq!(report.notices, expected);
        assert!(report.to_string().contains("note: function message_store.hash_64 is not the one that was installed"));
    }
    session.run("UPDATE headwater.installation SET functions_version = 0").await;
    migrate(&database).await;
    assert_eq!(migrate(&database).await.notices, []);
}
