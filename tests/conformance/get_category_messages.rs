//! get_category_messages: what it returns.
use super::{Store, unique};

/// A store with a message in each of these streams (`""` is the one named as the category), in this order.
async fn store_with(category: &str, ids: &[&str]) -> Store {
    let store = Store::open().await;
    for id in ids {
        store.write(&stream(category, id)).await;
    }
    store
}

fn stream(category: &str, id: &str) -> String {
    if id.is_empty() { category.to_owned() } else { format!("{category}-{id}") }
}

/// The streams whose messages a call returns, without the category.
async fn streams(store: &Store, category: &str, arguments: &str) -> Vec<String> {
    let sql = format!("SELECT stream_name FROM get_category_messages('{category}'{arguments})");
    let streams = store.column(&sql).await;
    streams.iter().map(|stream| stream.replacen(category, "", 1)).collect()
}

#[tokio::test]
async fn returns_messages_of_all_its_streams_in_global_order() {
    let category = unique("category");
    let store = store_with(&category, &["1", "2", "1", "3"]).await;
    assert_eq!(streams(&store, &category, "").await, ["-1", "-2", "-1", "-3"]);
    let sql = format!(
        "SELECT array_agg(global_position) = array_agg(global_position ORDER BY global_position)
         FROM get_category_messages('{category}')"
    );
    assert_eq!(store.value(&sql).await, "t");
}

#[tokio::test]
async fn a_stream_named_exactly_as_the_category_is_among_them() {
    let category = unique("category");
    let store = store_with(&category, &["1", "", "2"]).await;
    assert_eq!(streams(&store, &category, "").await, ["-1", "", "-2"]);
}

#[tokio::test]
async fn other_categories_are_not_among_them() {
    let category = unique("category");
    let store = store_with(&category, &["1"]).await;
    store.write(&format!("{category}:command-1")).await;
    store.write(&format!("{category}0-1")).await;
    store.write(&format!("x{category}-1")).await;
    assert_eq!(streams(&store, &category, "").await, ["-1"]);
    assert_eq!(streams(&store, &format!("{category}:command"), "").await, ["-1"]);
}

#[tokio::test]
async fn columns_are_those_of_the_type_message_with_json_as_text() {
    let category = unique("category");
    let store = store_with(&category, &[]).await;
    store.write_with(&format!("{category}-1"), "Deposited", "'{\"b\":1,\"a\":2}'").await;
    let sql = format!("SELECT pg_typeof(g), g.data, g.metadata FROM get_category_messages('{category}') g");
    let expected = ["message", "{\"n\": 1}", "{\"a\": 2, \"b\": 1}"].map(|value| Some(value.to_owned()));
    assert_eq!(store.rows(&sql).await, [expected.to_vec()]);
}

#[tokio::test]
async fn begins_at_the_global_position() {
    let category = unique("category");
    let store = store_with(&category, &["1", "2", "3"]).await;
    let positions = store.column(&format!("SELECT global_position FROM get_category_messages('{category}')")).await;
    let second: i64 = positions[1].parse().unwrap();
    assert_eq!(streams(&store, &category, &format!(", {second}")).await, ["-2", "-3"]);
    assert_eq!(streams(&store, &category, &format!(", \"position\" => {}", second + 1)).await, ["-3"]);
    assert_eq!(streams(&store, &category, &format!(", {}", i64::MAX)).await, [""; 0]);
    for from_the_start in ["NULL", "1", "0", "-5"] {
        assert_eq!(streams(&store, &category, &format!(", {from_the_start}")).await.len(), 3);
    }
}

#[tokio::test]
async fn batch_size_limits_what_is_returned() {
    let category = unique("category");
    let store = store_with(&category, &["1", "2", "3"]).await;
    assert_eq!(streams(&store, &category, ", 1, 2").await, ["-1", "-2"]);
    assert_eq!(streams(&store, &category, ", 1, 0").await, [""; 0]);
    assert_eq!(streams(&store, &category, ", batch_size => 1").await, ["-1"]);
}

#[tokio::test]
async fn batch_size_is_1000_by_default_and_for_null_and_unlimited_for_minus_1() {
    let category = unique("category");
    let store = store_with(&category, &[]).await;
    store
        .run(&format!(
            "INSERT INTO messages (stream_name, position, type)
             SELECT '{category}-' || n, 0, 'T' FROM generate_series(0, 1001) n"
        ))
        .await;
    for (arguments, expected) in [("", "1000"), (", 1, NULL", "1000"), (", 1, -1", "1002")] {
        let sql = format!("SELECT count(*) FROM get_category_messages('{category}'{arguments})");
        assert_eq!(store.value(&sql).await, expected, "{sql}");
    }
}

#[tokio::test]
async fn null_and_unknown_categories_have_no_rows() {
    let store = Store::open().await;
    assert_eq!(store.column("SELECT position FROM get_category_messages(NULL)").await, [""; 0]);
    assert_eq!(streams(&store, &unique("category"), "").await, [""; 0]);
}

#[tokio::test]
async fn correlation_is_the_category_of_the_correlation_stream_name() {
    let (category, correlation) = (unique("category"), unique("correlation"));
    let store = store_with(&category, &["none"]).await;
    for (id, correlated) in [
        ("stream", format!("{correlation}-1")),
        ("other", "other-1".to_owned()),
        ("category", correlation.clone()),
        ("longer", format!("{correlation}x-1")),
    ] {
        let metadata = format!("'{{\"correlationStreamName\": \"{correlated}\"}}'");
        store.write_with(&format!("{category}-{id}"), "T", &metadata).await;
    }
    assert_eq!(
        streams(&store, &category, &format!(", correlation => '{correlation}'")).await,
        ["-stream", "-category"]
    );
    assert_eq!(streams(&store, &category, ", correlation => NULL").await.len(), 5);
}

#[tokio::test]
async fn correlation_counts_against_the_batch_only_what_it_returns() {
    let (category, correlation) = (unique("category"), unique("correlation"));
    let store = store_with(&category, &["1", "2", "3"]).await;
    let metadata = format!("'{{\"correlationStreamName\": \"{correlation}-1\"}}'");
    store.write_with(&format!("{category}-4"), "T", &metadata).await;
    assert_eq!(streams(&store, &category, &format!(", 1, 1, '{correlation}'")).await, ["-4"]);
}

#[tokio::test]
async fn consumer_group_members_share_the_streams_by_the_hash_of_the_cardinal_id() {
    const SIZE: i64 = 3;
    let category = unique("category");
    let ids: Vec<_> = (0..30).map(|id| id.to_string()).collect();
    let store = store_with(&category, &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut seen = Vec::new();
    for member in 0..SIZE {
        let of_member = streams(&store, &category, &format!(", 1, 1000, NULL, {member}, {SIZE}")).await;
        for stream in &of_member {
            let sql = format!("SELECT mod(abs(hash_64(cardinal_id('{category}{stream}'))), {SIZE})");
            assert_eq!(store.value(&sql).await, member.to_string(), "{stream}");
        }
        assert!(!of_member.is_empty(), "member {member} has a share of 30 streams");
        seen.extend(of_member);
    }
    seen.sort();
    let mut all: Vec<_> = ids.iter().map(|id| format!("-{id}")).collect();
    all.sort();
    assert_eq!(seen, all);
}

#[tokio::test]
async fn compound_ids_of_one_entity_go_to_one_member() {
    let category = unique("category");
    let store = store_with(&category, &["7", "7+a", "7+b", "8"]).await;
    let sql = "SELECT mod(abs(hash_64('7')), 5)";
    let member = store.value(sql).await;
    let of_member = streams(&store, &category, &format!(", 1, 1000, NULL, {member}, 5")).await;
    assert!(["-7", "-7+a", "-7+b"].iter().all(|stream| of_member.iter().any(|found| found == stream)));
}

#[tokio::test]
async fn streams_without_an_id_belong_to_no_member_even_of_one() {
    let category = unique("category");
    let store = store_with(&category, &["", "1"]).await;
    assert_eq!(streams(&store, &category, ", 1, 1000, NULL, 0, 1").await, ["-1"]);
}

#[tokio::test]
async fn an_empty_id_belongs_to_a_member() {
    let category = unique("category");
    let store = store_with(&category, &[]).await;
    store.write(&format!("{category}-")).await;
    assert_eq!(streams(&store, &category, ", 1, 1000, NULL, 0, 1").await, ["-"]);
}

#[tokio::test]
async fn correlation_and_consumer_group_are_both_applied() {
    let (category, correlation) = (unique("category"), unique("correlation"));
    let store = store_with(&category, &["1"]).await;
    let metadata = format!("'{{\"correlationStreamName\": \"{correlation}-1\"}}'");
    for id in ["", "-2"] {
        store.write_with(&format!("{category}{id}"), "T", &metadata).await;
    }
    assert_eq!(streams(&store, &category, &format!(", 1, 1000, '{correlation}', 0, 1")).await, ["-2"]);
}
