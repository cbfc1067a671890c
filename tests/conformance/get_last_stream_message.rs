//! get_last_stream_message.
use super::{Store, unique};

async fn last(store: &Store, arguments: &str) -> Vec<Vec<Option<String>>> {
    store.rows(&format!("SELECT position, type FROM get_last_stream_message({arguments})")).await
}

fn row(position: &str, message_type: &str) -> Vec<Vec<Option<String>>> {
    vec![vec![Some(position.to_owned()), Some(message_type.to_owned())]]
}

async fn store_with_types(stream: &str) -> Store {
    let store = Store::open().await;
    for message_type in ["A", "B", "A", "C"] {
        store.write_with(stream, message_type, "NULL").await;
    }
    store
}

#[tokio::test]
async fn returns_the_message_at_the_highest_position() {
    let stream = format!("{}-1", unique("last"));
    let store = store_with_types(&stream).await;
    assert_eq!(last(&store, &format!("'{stream}'")).await, row("3", "C"));
    assert_eq!(last(&store, &format!("'{stream}', NULL")).await, row("3", "C"));
}

#[tokio::test]
async fn returns_the_last_of_a_type() {
    let stream = format!("{}-1", unique("last"));
    let store = store_with_types(&stream).await;
    assert_eq!(last(&store, &format!("'{stream}', 'A'")).await, row("2", "A"));
    assert_eq!(last(&store, &format!("'{stream}', type => 'B'")).await, row("1", "B"));
    assert_eq!(last(&store, &format!("'{stream}', 'D'")).await, [[]; 0]);
}

#[tokio::test]
async fn an_unknown_stream_has_no_row() {
    let store = Store::open().await;
    assert_eq!(last(&store, &format!("'{}-1'", unique("last"))).await, [[]; 0]);
    assert_eq!(last(&store, "NULL").await, [[]; 0]);
}

#[tokio::test]
async fn only_exactly_that_stream_is_read() {
    let category = unique("last");
    let store = Store::open().await;
    store.write_with(&category, "OfTheCategory", "NULL").await;
    store.write_with(&format!("{category}-1"), "OfTheStream", "NULL").await;
    assert_eq!(last(&store, &format!("'{category}'")).await, row("0", "OfTheCategory"));
}

#[tokio::test]
async fn columns_are_those_of_the_type_message() {
    let stream = format!("{}-1", unique("last"));
    let store = store_with_types(&stream).await;
    let sql = format!("SELECT pg_typeof(g) FROM get_last_stream_message('{stream}') g");
    assert_eq!(store.value(&sql).await, "message");
}
