//! write_message: what it accepts, and what it stores.
use super::{Store, unique};
use uuid::Uuid;

#[tokio::test]
async fn positions_of_a_stream_begin_at_0_and_go_up_by_1() {
    let store = Store::open().await;
    let stream = format!("{}-1", unique("write"));
    for expected in ["0", "1", "2"] {
        assert_eq!(store.write(&stream).await, expected);
    }
    assert_eq!(store.write(&format!("{stream}0")).await, "0");
}

#[tokio::test]
async fn stores_what_it_is_given() {
    let store = Store::open().await;
    let (id, stream) = (Uuid::new_v4(), format!("{}-1", unique("write")));
    store
        .run(&format!(
            "SELECT write_message('{id}', '{stream}', 'Withdrawn', '{{\"amount\": 1.50}}', '{{\"by\": \"x\"}}')"
        ))
        .await;
    let row = store
        .rows(&format!(
            "SELECT id, stream_name, type, position, data, metadata FROM messages WHERE stream_name = '{stream}'"
        ))
        .await;
    let id = id.to_string();
    let expected = [id.as_str(), &stream, "Withdrawn", "0", "{\"amount\": 1.50}", "{\"by\": \"x\"}"];
    assert_eq!(row, [expected.map(|value| Some(value.to_owned())).to_vec()]);
}

#[tokio::test]
async fn metadata_and_expected_version_may_be_left_out() {
    let store = Store::open().await;
    let stream = format!("{}-1", unique("write"));
    let id = Uuid::new_v4();
    assert_eq!(store.value(&format!("SELECT write_message('{id}', '{stream}', 'T', '{{}}')")).await, "0");
    assert_eq!(store.value(&format!("SELECT metadata FROM messages WHERE id = '{id}'")).await, "NULL");
}

#[tokio::test]
async fn arguments_may_be_named() {
    let store = Store::open().await;
    let stream = format!("{}-1", unique("write"));
    let sql = format!(
        "SELECT write_message(id => '{}', stream_name => '{stream}', type => 'T', data => '{{}}', metadata => '{{}}',
                              expected_version => -1)",
        Uuid::new_v4()
    );
    assert_eq!(store.value(&sql).await, "0");
}

#[tokio::test]
async fn expected_version_is_the_highest_position_or_minus_1() {
    let store = Store::open().await;
    let stream = format!("{}-1", unique("write"));
    for version in ["-1", "0", "1"] {
        let id = Uuid::new_v4();
        let position =
            store.value(&format!("SELECT write_message('{id}', '{stream}', 'T', '{{}}', NULL, {version})")).await;
        assert_eq!(position.parse::<i64>().unwrap(), version.parse::<i64>().unwrap() + 1);
    }
}

#[tokio::test]
async fn id_may_be_in_upper_case_or_braces() {
    let store = Store::open().await;
    let stream = format!("{}-1", unique("write"));
    let (upper, braces) = (Uuid::new_v4(), Uuid::new_v4());
    for text in [upper.to_string().to_uppercase(), format!("{{{braces}}}")] {
        store.run(&format!("SELECT write_message('{text}', '{stream}', 'T', '{{}}')")).await;
    }
    let ids = store.column(&format!("SELECT id FROM messages WHERE stream_name = '{stream}' ORDER BY position")).await;
    assert_eq!(ids, [upper.to_string(), braces.to_string()]);
}

#[tokio::test]
async fn data_may_be_null_or_any_json_value() {
    let store = Store::open().await;
    let stream = format!("{}-1", unique("write"));
    for data in ["NULL", "'null'", "'1'", "'true'", "'\"text\"'", "'[1, 2]'", "'{}'"] {
        store.run(&format!("SELECT write_message('{}', '{stream}', 'T', {data}, {data})", Uuid::new_v4())).await;
    }
    let stored =
        store.column(&format!("SELECT data FROM messages WHERE stream_name = '{stream}' ORDER BY position")).await;
    assert_eq!(stored, ["NULL", "null", "1", "true", "\"text\"", "[1, 2]", "{}"]);
}

#[tokio::test]
async fn stream_name_may_be_a_bare_category() {
    let store = Store::open().await;
    let category = unique("write");
    assert_eq!(store.write(&category).await, "0");
    assert_eq!(store.write(&category).await, "1");
}

#[tokio::test]
async fn stream_name_and_type_may_be_empty() {
    let store = Store::open().await;
    let before = store.value("SELECT COALESCE(stream_version(''), -1)").await.parse::<i64>().unwrap();
    let position = store.write_with("", "", "NULL").await.parse::<i64>().unwrap();
    assert!(position > before, "{position} comes after {before}");
}

#[tokio::test]
async fn next_position_is_the_highest_plus_1_over_holes_too() {
    let store = Store::open().await;
    let stream = format!("{}-1", unique("write"));
    store.run(&format!("INSERT INTO messages (stream_name, position, type) VALUES ('{stream}', 6, 'T')")).await;
    assert_eq!(store.write(&stream).await, "7");
}

#[tokio::test]
async fn global_position_goes_up_across_streams() {
    let store = Store::open().await;
    let category = unique("write");
    for stream in ["1", "2", "1"] {
        store.write(&format!("{category}-{stream}")).await;
    }
    let streams = store
        .column(&format!(
            "SELECT stream_name FROM messages WHERE category(stream_name) = '{category}' ORDER BY global_position"
        ))
        .await;
    assert_eq!(streams, [format!("{category}-1"), format!("{category}-2"), format!("{category}-1")]);
}

#[tokio::test]
async fn time_is_utc_and_the_start_of_the_transaction_whatever_the_zone_of_the_session() {
    let store = Store::open().await;
    for zone in ["Asia/Tokyo", "America/Los_Angeles", "UTC"] {
        let stream = format!("{}-1", unique("write"));
        store.run(&format!("SET TIME ZONE '{zone}'")).await;
        store.run("BEGIN").await;
        store.write(&stream).await;
        let sql = format!(
            "SELECT time = transaction_timestamp() AT TIME ZONE 'utc' AND statement_timestamp() > transaction_timestamp()
             FROM messages WHERE stream_name = '{stream}'"
        );
        assert_eq!(store.value(&sql).await, "t", "in zone {zone}");
        store.run("COMMIT").await;
    }
}

#[tokio::test]
async fn may_be_a_part_of_a_transaction_that_is_prepared() {
    let store = Store::open().await;
    if store.value("SHOW max_prepared_transactions").await == "0" {
        eprintln!("skipped: this server prepares no transactions");
        return;
    }
    let name = unique("prepared");
    let stream = format!("{name}-1");
    store.run("BEGIN").await;
    assert_eq!(store.write(&stream).await, "0");
    store.run(&format!("PREPARE TRANSACTION '{name}'")).await;
    store.run(&format!("COMMIT PREPARED '{name}'")).await;
    assert_eq!(store.value(&format!("SELECT stream_version('{stream}')")).await, "0");
}
