//! The summaries.
use super::{Store, unique};

/// Each view with its keys, and the expressions over messages that its columns should equal.
const VIEWS: [(&str, &[&str], &[&str]); 6] = [
    ("stream_summary", &["stream_name"], &["stream_name"]),
    ("type_summary", &["type"], &["type"]),
    ("stream_type_summary", &["stream_name", "type"], &["stream_name", "type"]),
    ("type_stream_summary", &["type", "stream_name"], &["type", "stream_name"]),
    ("category_type_summary", &["category", "type"], &["category(stream_name)", "type"]),
    ("type_category_summary", &["type", "category"], &["type", "category(stream_name)"]),
];

async fn store_with_messages() -> (Store, String) {
    let store = Store::open().await;
    let name = unique("view");
    for (id, message_type) in [("1", "B"), ("2", "A"), ("1", "A"), ("1", "B")] {
        store.write_with(&format!("{name}-{id}"), &format!("{name}{message_type}"), "NULL").await;
    }
    (store, name)
}

#[tokio::test]
async fn columns_are_the_keys_then_message_count_and_percent() {
    let store = Store::open().await;
    for (view, keys, _) in VIEWS {
        let columns = store
            .column(&format!(
                "SELECT attname FROM pg_attribute WHERE attrelid = 'message_store.{view}'::regclass AND attnum > 0
                 ORDER BY attnum"
            ))
            .await;
        let mut expected = keys.to_vec();
        expected.extend(["message_count", "percent"]);
        assert_eq!(columns, expected, "{view}");
        let types = store
            .value(&format!(
                "SELECT pg_typeof(message_count) || ' ' || pg_typeof(percent) FROM (TABLE {view}) v
                             RIGHT JOIN (SELECT) AS always ON true LIMIT 1"
            ))
            .await;
        assert_eq!(types, "bigint numeric", "{view}");
    }
}

#[tokio::test]
async fn messages_are_counted_by_key() {
    let (store, name) = store_with_messages().await;
    for (view, key, expected) in [
        ("stream_summary", "stream_name", vec!["-1 3", "-2 1"]),
        ("type_summary", "type", vec!["A 2", "B 2"]),
        ("stream_type_summary", "stream_name || ' ' || type", vec!["-1 A 1", "-1 B 2", "-2 A 1"]),
        ("type_stream_summary", "type || ' ' || stream_name", vec!["A -1 1", "A -2 1", "B -1 2"]),
        ("category_type_summary", "category || ' ' || type", vec![" A 2", " B 2"]),
        ("type_category_summary", "type || ' ' || category", vec!["A  2", "B  2"]),
    ] {
        let sql = format!(
            "SELECT replace({key}, '{name}', '') || ' ' || message_count FROM {view} WHERE ({key}) LIKE '%{name}%'"
        );
        assert_eq!(store.column(&sql).await, expected, "{view}");
    }
}

#[tokio::test]
async fn percent_is_of_all_messages_with_two_places() {
    let (store, _) = store_with_messages().await;
    for (view, keys, expressions) in VIEWS {
        let named: Vec<_> =
            keys.iter().zip(expressions).map(|(key, expression)| format!("{expression} AS {key}")).collect();
        // One statement, so that both sides see the same messages while others write.
        let sql = format!(
            "WITH expected AS (
               SELECT {}, count(*) AS message_count,
                      round(100 * count(*)::numeric / (SELECT count(*) FROM messages), 2) AS percent
               FROM messages GROUP BY {}
             )
             SELECT count(*) FROM (
               (TABLE {view} EXCEPT TABLE expected) UNION ALL (TABLE expected EXCEPT TABLE {view})
             ) AS differences",
            named.join(", "),
            expressions.join(", ")
        );
        assert_eq!(store.value(&sql).await, "0", "{view}");
        assert_eq!(store.value(&format!("SELECT max(scale(percent)) FROM {view}")).await, "2", "{view}");
    }
}

#[tokio::test]
async fn rows_come_in_the_order_of_the_keys() {
    let (store, _) = store_with_messages().await;
    for (view, keys, _) in VIEWS {
        let keys = keys.join(", ");
        let sql = format!(
            "SELECT (SELECT array_agg(v) FROM (SELECT {keys} FROM {view}) AS v)
                  = (SELECT array_agg(v) FROM (SELECT {keys} FROM {view} ORDER BY {keys}) AS v)"
        );
        assert_eq!(store.value(&sql).await, "t", "{view}");
    }
}
