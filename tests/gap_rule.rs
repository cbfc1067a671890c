//! The service starts only on a server that shows which transactions hold its locks.

use headwater::app::Running;
use headwater::config::Settings;
use headwater::lifecycle::Lifecycle;

use crate::support::database::TestDatabase;
use crate::support::proxy::FaultProxy;
use crate::support::sql_writer;

/// Why the service does not start.
async fn refusal(url: &str) -> String {
    let settings = Settings { listen: "127.0.0.1:0".parse().unwrap(), ..Settings::defaults() };
    match Running::start(&settings, url, Lifecycle::new()).await {
        Ok(_) => panic!("the service starts"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn a_server_that_shows_other_locks_is_refused_by_name() {
    let database = TestDatabase::migrated().await;
    let proxy = FaultProxy::before(&database.url).await;
    for (from, to, fault) in [
        ("AND mode = 'RowExclusiveLock'", "AND mode = 'RowExclusivoLock'", "is not shown"),
        ("SELECT virtualtransaction,", "SELECT ''::text          ,", "without its virtual transaction"),
    ] {
        proxy.rewrite(from, to);
        let refusal = refusal(&proxy.url).await;
        assert!(refusal.contains(fault), "{refusal}");
        assert!(refusal.contains("this is PostgreSQL 1"), "{refusal}");
    }
}

#[tokio::test]
async fn the_test_of_the_server_uses_up_no_position() {
    let database = TestDatabase::migrated().await;
    let sql = database.connect().await;
    let settings = headwater::store::DatabaseSettings {
        url: database.url.clone(),
        pooler_url: None,
        connections_max: 4,
        connect_timeout: std::time::Duration::from_secs(5),
        silence_timeout: std::time::Duration::from_secs(5),
    };
    let before = sql_writer::write(&sql, "a-1", "{}").await;
    headwater::store::Database::open(settings).unwrap().check_gap_rule().await.expect("PostgreSQL keeps the rule");
    assert_eq!(sql_writer::write(&sql, "a-1", "{}").await, before + 1);
}
