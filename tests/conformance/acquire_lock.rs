//! acquire_lock.
use super::{Session, Store, unique};

/// The advisory locks of the kind with one key that a session holds, as keys.
async fn keys_held(session: &Session) -> Vec<String> {
    session
        .column(
            "SELECT ((classid::bigint << 32) | objid::bigint)::text FROM pg_locks
             WHERE locktype = 'advisory' AND objsubid = 1 AND granted AND pid = pg_backend_pid()",
        )
        .await
}

#[tokio::test]
async fn returns_the_hash_of_the_category_and_locks_it_until_the_transaction_ends() {
    let store = Store::open().await;
    let category = unique("lock");
    let key = store.value(&format!("SELECT hash_64('{category}')")).await;

    store.run("BEGIN").await;
    assert_eq!(store.value(&format!("SELECT acquire_lock('{category}-1')")).await, key);
    assert_eq!(keys_held(&store).await, [key]);
    store.run("COMMIT").await;

    assert!(keys_held(&store).await.is_empty());
}

#[tokio::test]
async fn streams_of_one_category_share_a_lock_with_the_category_itself() {
    let store = Store::open().await;
    let category = unique("lock");
    store.run("BEGIN").await;
    for stream in [format!("{category}-1"), format!("{category}-2"), category] {
        store.run(&format!("SELECT acquire_lock('{stream}')")).await;
    }
    assert_eq!(keys_held(&store).await.len(), 1);
}

#[tokio::test]
async fn null_takes_no_lock() {
    let store = Store::open().await;
    store.run("BEGIN").await;
    assert_eq!(store.value("SELECT acquire_lock(NULL)").await, "NULL");
    assert!(keys_held(&store).await.is_empty());
}
