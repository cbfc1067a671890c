//! The embedded PostgreSQL: durable, alone on its data, and never in anybody's way.
use crate::support::database::TestDatabase;

#[tokio::test]
async fn test_database_is_there() {
    let database = TestDatabase::migrated().await;
    let client = database.connect().await;
    let row = client.query_one("SELECT current_database(), current_setting('fsync'), current_setting('data_checksums')", &[]).await.unwrap();
    let (name, fsync, checksums): (String, String, String) = (row.get(0), row.get(1), row.get(2));
    assert!(name.starts_with("headwater_test_"));
    assert_eq!((fsync.as_str(), checksums.as_str()), ("on", "on"));
}
