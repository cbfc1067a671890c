//! get_category_messages: what it refuses, and in which order.
use super::{Store, unique};

/// Each case: arguments after the category `account`, and the refusal's text.
async fn assert_refused(cases: &[(&str, &str)]) {
    let store = Store::open().await;
    for (arguments, message) in cases {
        let sql = format!("SELECT * FROM get_category_messages('account'{arguments})");
        store.refused(&sql, "P0001", message).await;
    }
}

#[tokio::test]
async fn a_stream_name_is_refused() {
    let store = Store::open().await;
    for name in ["account-1", "account-", "-1"] {
        let sql = format!("SELECT * FROM get_category_messages('{name}')");
        store.refused(&sql, "P0001", &format!("Must be a category: {name}")).await;
    }
}

#[tokio::test]
async fn a_correlation_that_is_a_stream_name_is_refused() {
    assert_refused(&[(", correlation => 'a-1'", "Correlation must be a category (Correlation: a-1)")]).await;
}

#[tokio::test]
async fn a_consumer_group_needs_both_member_and_size() {
    let text = "Consumer group member and size must be specified";
    let no_size = format!("{text} (Consumer Group Member: 0, Consumer Group Size: <NULL>)");
    let no_member = format!("{text} (Consumer Group Member: <NULL>, Consumer Group Size: 1)");
    assert_refused(&[(", consumer_group_member => 0", &no_size), (", consumer_group_size => 1", &no_member)]).await;
}

#[tokio::test]
async fn a_consumer_group_has_at_least_one_member() {
    let text = "Consumer group size must not be less than 1";
    let zero = format!("{text} (Consumer Group Member: 0, Consumer Group Size: 0)");
    let negative = format!("{text} (Consumer Group Member: 0, Consumer Group Size: -3)");
    assert_refused(&[(", 1, 1000, NULL, 0, 0", &zero), (", 1, 1000, NULL, 0, -3", &negative)]).await;
}

#[tokio::test]
async fn a_consumer_group_member_is_not_negative() {
    let text = "Consumer group member must not be less than 0 (Consumer Group Member: -1, Consumer Group Size: 1)";
    assert_refused(&[(", 1, 1000, NULL, -1, 1", text)]).await;
}

#[tokio::test]
async fn a_consumer_group_member_is_less_than_the_size() {
    let text = "Consumer group member must be less than the group size";
    let equal = format!("{text} (Consumer Group Member: 1, Consumer Group Size: 1)");
    let greater = format!("{text} (Consumer Group Member: 5, Consumer Group Size: 2)");
    assert_refused(&[(", 1, 1000, NULL, 1, 1", &equal), (", 1, 1000, NULL, 5, 2", &greater)]).await;
}

#[tokio::test]
async fn errors_are_reported_in_order() {
    let store = Store::open().await;
    let gate = "Retrieval with SQL condition is not activated";
    let suffix = |member: &str, size: &str| format!("(Consumer Group Member: {member}, Consumer Group Size: {size})");
    // Each line is wrong in all that follows it too, up to the batch size.
    for (arguments, message) in [
        ("'a-1', 1, -2, 'b-1', NULL, 0, 'true'", "Must be a category: a-1".to_owned()),
        ("'a', 1, -2, 'b-1', NULL, 0, 'true'", "Correlation must be a category (Correlation: b-1)".to_owned()),
        (
            "'a', 1, -2, 'b', NULL, 0, 'true'",
            format!("Consumer group member and size must be specified {}", suffix("<NULL>", "0")),
        ),
        (
            "'a', 1, -2, 'b', -1, NULL, 'true'",
            format!("Consumer group member and size must be specified {}", suffix("-1", "<NULL>")),
        ),
        (
            "'a', 1, -2, 'b', -1, 0, 'true'",
            format!("Consumer group size must not be less than 1 {}", suffix("-1", "0")),
        ),
        (
            "'a', 1, -2, 'b', -1, 1, 'true'",
            format!("Consumer group member must not be less than 0 {}", suffix("-1", "1")),
        ),
        (
            "'a', 1, -2, 'b', 1, 1, 'true'",
            format!("Consumer group member must be less than the group size {}", suffix("1", "1")),
        ),
        ("'a', 1, -2, 'b', 0, 1, 'true'", gate.to_owned()),
    ] {
        store.refused(&format!("SELECT * FROM get_category_messages({arguments})"), "P0001", &message).await;
    }
}

#[tokio::test]
async fn other_negative_batch_sizes_are_refused() {
    let store = Store::open().await;
    let category = unique("category");
    for arguments in [", 1, -2", ", 1, -1000", ", 1, -2, 'correlation'", ", 1, -2, NULL, 0, 1"] {
        let sql = format!("SELECT * FROM get_category_messages('{category}'{arguments})");
        assert_eq!(store.refusal(&sql).await.code, "2201W", "{sql}");
    }
}
