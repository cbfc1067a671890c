//! The conformance tests hold for a Message DB that is not ours, or they would assert what only we do.
use std::process::Stdio;
use std::time::Duration;

use crate::conformance::Session;
use crate::support::database::TestDatabase;

const STOCK: &str = include_str!("fixtures/stock_message_db.sql");
const SUITE_WAIT_MAX: Duration = Duration::from_secs(300);

#[tokio::test]
async fn what_conformance_asserts_is_so_where_message_db_was_installed_by_others() {
    let database = TestDatabase::empty().await;
    Session::open_plain(&database.url).await.run(STOCK).await;
    // The same tests, as they are pointed at any database.
    let suite = tokio::process::Command::new(std::env::current_exe().expect("the test binary knows its path"))
        .args(["conformance::", "--test-threads", "4"])
        .env("HEADWATER_CONFORMANCE_DATABASE_URL", &database.url)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let suite = tokio::time::timeout(SUITE_WAIT_MAX, suite).await.expect("the suite ends").expect("the suite starts");
    let told = String::from_utf8_lossy(&suite.stdout);
    assert!(suite.status.success(), "{told}\n{}", String::from_utf8_lossy(&suite.stderr));
    assert!(!told.contains("running 0 tests"), "{told}");
}
