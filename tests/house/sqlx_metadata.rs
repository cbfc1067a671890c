//! The checked queries: what is kept of them in `.sqlx` is what PostgreSQL says of them with our schemas.
//!
//! A query without metadata does not compile, so only metadata that differs, or that nobody needs, is looked for here.

use std::path::PathBuf;

use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, SqlSafeStr};

use super::{root, sources};
use crate::support::database::TestDatabase;

fn kept() -> Vec<(PathBuf, Value)> {
    let files = std::fs::read_dir(root().join(".sqlx")).expect("the metadata is checked in");
    files
        .map(|file| {
            let path = file.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            (path, serde_json::from_str(&text).expect("metadata is JSON"))
        })
        .collect()
}

#[tokio::test]
async fn checked_queries_are_what_the_database_says_they_are() {
    let database = TestDatabase::migrated().await;
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    // Tables are named with their schemas then, whatever the role has in its path.
    connection.execute("SET search_path = ''").await.unwrap();
    for (path, metadata) in kept() {
        let query = metadata["query"].as_str().unwrap().to_owned();
        let described = connection.describe(AssertSqlSafe(query).into_sql_str()).await;
        let described = serde_json::to_value(described.unwrap_or_else(|error| panic!("{path:?}: {error}"))).unwrap();
        assert_eq!(described, metadata["describe"], "{path:?}: write it again, as docs/ARCHITECTURE.md says");
    }
    connection.close().await.unwrap();
}

#[test]
fn no_metadata_is_kept_that_nobody_needs() {
    let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let code: String = sources().into_iter().map(|(_, text)| squeeze(&text)).collect();
    let kept = kept();
    assert!(!kept.is_empty());
    for (path, metadata) in kept {
        assert!(code.contains(&squeeze(metadata["query"].as_str().unwrap())), "{path:?}: no such query is in src/");
    }
}
