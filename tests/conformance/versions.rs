//! message_store_version and stream_version.
use super::{Store, unique};

#[tokio::test]
async fn message_store_version_is_1_3_0() {
    let store = Store::open().await;
    assert_eq!(store.value("SELECT message_store_version()").await, "1.3.0");
}

#[tokio::test]
async fn stream_version_is_the_highest_position() {
    let store = Store::open().await;
    let stream = format!("{}-1", unique("version"));
    for _ in 0..3 {
        store.write(&stream).await;
    }
    assert_eq!(store.value(&format!("SELECT stream_version('{stream}')")).await, "2");
}

#[tokio::test]
async fn stream_version_is_null_without_a_message() {
    let store = Store::open().await;
    let stream = format!("{}-1", unique("version"));
    assert_eq!(store.value(&format!("SELECT stream_version('{stream}')")).await, "NULL");
    assert_eq!(store.value("SELECT stream_version(NULL)").await, "NULL");
}

#[tokio::test]
async fn stream_version_is_of_exactly_that_stream() {
    let store = Store::open().await;
    let category = unique("version");
    store.write(&format!("{category}-1")).await;
    store.write(&format!("{category}-1")).await;
    store.write(&category).await;

    assert_eq!(store.value(&format!("SELECT stream_version('{category}')")).await, "0");
    assert_eq!(store.value(&format!("SELECT stream_version('{category}-1')")).await, "1");
    assert_eq!(store.value(&format!("SELECT stream_version('{category}-')")).await, "NULL");
}
