//! What an upgrade takes away: functions of earlier versions, in our schema alone, and nobody else's.
use super::{migrate, migrate_to};
use crate::conformance::Session;
use crate::support::database::TestDatabase;
use headwater::store::migrate::{Change, FUNCTIONS_VERSION, Function, MigrationReport, Notice, Schema};

/// The embedded schema of a later version, with functions more.
fn later(version: i32, functions: &[(&'static str, &'static str)]) -> Schema {
    let mut schema = Schema::embedded();
    schema.functions_version = version;
    let more = functions.iter().map(|&(path, sql)| Function { path: path.into(), sql: sql.into() });
    schema.functions.extend(more);
    schema
}

const FORMER: (&str, &str) =
    ("former", "CREATE OR REPLACE FUNCTION headwater.former() RETURNS integer LANGUAGE sql AS $$ SELECT 1 $$");
const CHANGED: (&str, &str) = (
    "changed",
    "CREATE OR REPLACE FUNCTION headwater.changed(n integer) RETURNS integer LANGUAGE sql AS $$ SELECT n $$",
);
const CHANGED_PARAMETERS: (&str, &str) =
    ("changed", "CREATE OR REPLACE FUNCTION headwater.changed(n text) RETURNS integer LANGUAGE sql AS $$ SELECT 2 $$");
const CHANGED_RESULT: (&str, &str) =
    ("changed", "CREATE OR REPLACE FUNCTION headwater.changed(n text) RETURNS text LANGUAGE sql AS $$ SELECT n $$");

fn dropped(report: &MigrationReport) -> Vec<&str> {
    let dropped = report.changes.iter().filter_map(|change| match change {
        Change::FunctionDropped { signature } => Some(signature.as_str()),
        _ => None,
    });
    dropped.collect()
}

/// The signatures of functions of these names, wherever they are.
async fn signatures(session: &Session, names: &str) -> Vec<String> {
    let sql = format!(
        "SELECT p.oid::regprocedure FROM pg_proc p WHERE p.proname = ANY ('{{{names}}}') ORDER BY p.oid::regprocedure::text"
    );
    session.run("SET search_path = ''").await;
    session.column(&sql).await
}

#[tokio::test]
async fn what_a_version_has_no_longer_or_has_with_other_parameters_or_another_result_is_dropped() {
    let database = TestDatabase::empty().await;
    migrate_to(&database, &later(FUNCTIONS_VERSION, &[FORMER, CHANGED])).await.unwrap();
    let session = Session::open_plain(&database.url).await;

    let report = migrate_to(&database, &later(FUNCTIONS_VERSION + 1, &[CHANGED_PARAMETERS])).await.unwrap();
    assert_eq!(dropped(&report), ["headwater.changed(integer)", "headwater.former()"]);
    assert!(report.lines().contains(&"done: function headwater.former() of an earlier version: drop".to_owned()));
    assert_eq!(signatures(&session, "former,changed").await, ["headwater.changed(text)"]);
    assert_eq!(session.value("SELECT headwater.changed('x')").await, "2");

    let report = migrate_to(&database, &later(FUNCTIONS_VERSION + 2, &[CHANGED_RESULT])).await.unwrap();
    assert_eq!(dropped(&report), Vec::<&str>::new());
    assert_eq!(session.value("SELECT headwater.changed('x')").await, "x");
}

#[tokio::test]
async fn an_older_instance_that_restarts_drops_nothing_of_the_newer_ones() {
    let database = TestDatabase::empty().await;
    migrate(&database).await;
    migrate_to(&database, &later(FUNCTIONS_VERSION + 1, &[FORMER, CHANGED])).await.unwrap();
    let session = Session::open_plain(&database.url).await;
    assert!(migrate(&database).await.is_up_to_date());
    assert_eq!(signatures(&session, "former,changed").await, ["headwater.changed(integer)", "headwater.former()"]);
}

#[tokio::test]
async fn somebody_elses_functions_stay_and_so_do_those_of_message_store() {
    let database = TestDatabase::empty().await;
    let ours = (
        "message_store/former",
        "CREATE OR REPLACE FUNCTION message_store.former() RETURNS integer
         LANGUAGE sql AS $$ SELECT 1 $$",
    );
    migrate_to(&database, &later(FUNCTIONS_VERSION, &[ours])).await.unwrap();
    let session = Session::open_plain(&database.url).await;
    session
        .run(
            "CREATE FUNCTION headwater.theirs() RETURNS integer LANGUAGE sql AS $$ SELECT 1 $$;
             CREATE FUNCTION headwater.subscription_lag(name text) RETURNS integer LANGUAGE sql AS $$ SELECT 1 $$;
             CREATE FUNCTION message_store.theirs() RETURNS integer LANGUAGE sql AS $$ SELECT 1 $$",
        )
        .await;
    let report = migrate_to(&database, &later(FUNCTIONS_VERSION + 1, &[])).await.unwrap();
    assert_eq!(dropped(&report), Vec::<&str>::new());
    let stay = signatures(&session, "former,theirs,subscription_lag").await;
    let theirs =
        ["headwater.subscription_lag(text)", "headwater.theirs()", "message_store.former()", "message_store.theirs()"];
    assert!(theirs.iter().all(|signature| stay.iter().any(|stays| stays == signature)), "{stay:?}");
}

#[tokio::test]
async fn a_function_that_somebody_needs_stays_and_is_said_until_it_can_go() {
    let database = TestDatabase::empty().await;
    migrate_to(&database, &later(FUNCTIONS_VERSION, &[FORMER])).await.unwrap();
    let session = Session::open_plain(&database.url).await;
    session.run("CREATE VIEW public.theirs AS SELECT headwater.former()").await;

    let report = migrate_to(&database, &later(FUNCTIONS_VERSION + 1, &[])).await.unwrap();
    assert!(
        matches!(&report.notices[..], [Notice::FunctionKept { signature, .. }] if signature == "headwater.former()"),
        "{report}"
    );
    assert_eq!(session.value("SELECT * FROM public.theirs").await, "1");

    session.run("DROP VIEW public.theirs").await;
    let report = migrate_to(&database, &later(FUNCTIONS_VERSION + 2, &[])).await.unwrap();
    assert_eq!(dropped(&report), ["headwater.former()"]);
}

/// Version 1 kept no list of what it had made.
#[tokio::test]
async fn functions_of_version_1_are_known_by_their_names() {
    let database = TestDatabase::empty().await;
    migrate(&database).await;
    let session = Session::open_plain(&database.url).await;
    session
        .run(
            "CREATE FUNCTION headwater.subscription_rewind(a bigint, b text, c bigint) RETURNS void LANGUAGE sql AS '';
             CREATE FUNCTION headwater.subscription_hand_over(a bigint, b integer, c text) RETURNS void LANGUAGE sql AS '';
             CREATE FUNCTION headwater.theirs() RETURNS integer LANGUAGE sql AS $$ SELECT 1 $$;
             DROP FUNCTION headwater.subscription_lag;
             CREATE FUNCTION headwater.subscription_lag(a bigint, b bigint) RETURNS TABLE (n bigint)
               LANGUAGE sql AS $$ SELECT 1 $$;
             UPDATE headwater.installation SET functions_version = 1, functions_checksum = '', functions = '{}'",
        )
        .await;
    let report = migrate(&database).await;
    let gone = [
        "headwater.subscription_hand_over(bigint,integer,text)",
        "headwater.subscription_lag(bigint,bigint)",
        "headwater.subscription_rewind(bigint,text,bigint)",
    ];
    assert_eq!(dropped(&report), gone);
    assert_eq!(signatures(&session, "theirs,subscription_rewind").await, ["headwater.theirs()"]);
    assert_eq!(migrate(&database).await.notices, []);
}
