//! The settings that make functions tell what they were called with.
use super::{Store, unique};
use uuid::Uuid;

/// A function with its call, and the arguments that it is to tell.
struct Call {
    function: &'static str,
    sql: String,
    arguments: Vec<(&'static str, String)>,
}

fn write(stream: &str) -> Call {
    let id = Uuid::new_v4().to_string();
    Call {
        function: "write_message",
        sql: format!("SELECT write_message('{id}', '{stream}', 'SomeType', '{{\"n\": 1}}', '{{\"m\": 2}}', -1)"),
        arguments: vec![
            ("id", id),
            ("stream_name", stream.to_owned()),
            ("type", "SomeType".to_owned()),
            ("data", "{\"n\": 1}".to_owned()),
            ("metadata", "{\"m\": 2}".to_owned()),
            ("expected_version", "-1".to_owned()),
        ],
    }
}

fn reads(category: &str) -> [Call; 3] {
    let stream = format!("{category}-1");
    [
        Call {
            function: "get_stream_messages",
            sql: format!("SELECT * FROM get_stream_messages('{stream}', 5, 7, 'true')"),
            arguments: vec![
                ("stream_name", stream.clone()),
                ("position", "5".to_owned()),
                ("batch_size", "7".to_owned()),
                ("condition", "true".to_owned()),
            ],
        },
        Call {
            function: "get_category_messages",
            sql: format!("SELECT * FROM get_category_messages('{category}', 5, 7, 'correlated', 0, 2, 'true')"),
            arguments: vec![
                ("category", category.to_owned()),
                ("position", "5".to_owned()),
                ("batch_size", "7".to_owned()),
                ("correlation", "correlated".to_owned()),
                ("consumer_group_member", "0".to_owned()),
                ("consumer_group_size", "2".to_owned()),
                ("condition", "true".to_owned()),
            ],
        },
        Call {
            function: "get_last_stream_message",
            sql: format!("SELECT * FROM get_last_stream_message('{stream}', 'SomeType')"),
            arguments: vec![("stream_name", stream), ("type", "SomeType".to_owned())],
        },
    ]
}

/// Whether the call told its name and, on a line each, its arguments.
async fn tells(store: &mut Store, call: &Call) -> bool {
    store.notice_lines();
    store.run(&call.sql).await;
    let lines = store.notice_lines();
    let Some(heading) = lines.iter().position(|line| *line == format!("» {}", call.function)) else {
        return false;
    };
    for (name, value) in &call.arguments {
        let told = lines[heading + 1..].iter().any(|line| line.starts_with(name) && line.ends_with(value.as_str()));
        assert!(told, "{} does not tell {name} {value}: {lines:#?}", call.function);
    }
    true
}

async fn store_with_condition() -> (Store, String) {
    let store = Store::open().await;
    store.run("SET message_store.sql_condition = 'on'").await;
    (store, unique("debug"))
}

#[tokio::test]
async fn nothing_is_told_by_default() {
    let (mut store, category) = store_with_condition().await;
    assert!(!tells(&mut store, &write(&format!("{category}-1"))).await);
    for call in reads(&category) {
        assert!(!tells(&mut store, &call).await, "{}", call.function);
    }
}

#[tokio::test]
async fn debug_makes_all_tell() {
    let (mut store, category) = store_with_condition().await;
    store.run("SET message_store.debug = 'on'").await;
    assert!(tells(&mut store, &write(&format!("{category}-1"))).await);
    for call in reads(&category) {
        assert!(tells(&mut store, &call).await, "{}", call.function);
    }
}

#[tokio::test]
async fn debug_get_makes_reads_tell() {
    let (mut store, category) = store_with_condition().await;
    store.run("SET message_store.debug_get = 'on'").await;
    assert!(!tells(&mut store, &write(&format!("{category}-1"))).await);
    for call in reads(&category) {
        assert!(tells(&mut store, &call).await, "{}", call.function);
    }
}

#[tokio::test]
async fn debug_write_makes_writes_tell() {
    let (mut store, category) = store_with_condition().await;
    store.run("SET message_store.debug_write = 'on'").await;
    assert!(tells(&mut store, &write(&format!("{category}-1"))).await);
    for call in reads(&category) {
        assert!(!tells(&mut store, &call).await, "{}", call.function);
    }
}

#[tokio::test]
async fn only_on_is_on() {
    let (mut store, category) = store_with_condition().await;
    for (number, setting) in ["off", "true", "1", "ON"].iter().enumerate() {
        store.run(&format!("SET message_store.debug = '{setting}'")).await;
        assert!(!tells(&mut store, &write(&format!("{category}-{number}"))).await, "{setting}");
    }
}
