//! Whatever is defined and whatever is written: the projection is what a plain model makes of it, live and as history.

use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::{Value, json};

use super::*;
use crate::support::database::TestDatabase;
use crate::support::sql_writer;

const CASES: u32 = 20;
const CATEGORIES: [&str; 3] = ["a", "b", "cmd"];
const TYPES: [&str; 3] = ["Even", "Odd", "größe"];

#[derive(Debug, Clone)]
struct Sent {
    category: usize,
    /// None: the bare category.
    id: Option<u8>,
    message_type: usize,
    data: Option<Value>,
    metadata: Option<Value>,
    /// Rolled back in place of committed.
    is_lost: bool,
}

#[derive(Debug, Clone)]
enum Partitioner {
    Constant,
    Category(i64),
    Type(i64),
    DataModulo {
        partitions: i64,
        missing: Option<i64>,
    },
    MetadataModulo {
        partitions: i64,
        missing: Option<i64>,
    },
    /// `data.n % k`
    Cel(i64),
    /// `size(type)`
    CelSize,
}

#[derive(Debug, Clone, Copy)]
enum OnError {
    Stop,
    Skip,
    Partition(i64),
}

#[derive(Debug, Clone)]
struct Defined {
    categories: Vec<usize>,
    /// A wildcard on streams of a category whose id begins with 1.
    wildcard: Option<usize>,
    types: Vec<usize>,
    filters_wanted: bool,
    partitioner: Partitioner,
    max_partition: Option<i64>,
    on_error: OnError,
}

/// What the model makes of one message.
enum WrittenMessage {
    Elsewhere,
    In(i64),
    Odd,
}

impl Defined {
    /// `prefix` keeps the cases apart in one database.
    fn json(&self, prefix: &str) -> Value {
        let category = |number: &usize| format!("{prefix}{}", CATEGORIES[*number]);
        let partitioner = match &self.partitioner {
            Partitioner::Constant => json!({ "kind": "constant" }),
            Partitioner::Category(partitions) => json!({ "kind": "category", "partitions": partitions }),
            Partitioner::Type(partitions) => json!({ "kind": "type", "partitions": partitions }),
            Partitioner::DataModulo { partitions, missing } => json!({
                "kind": "data", "pointer": "/n", "method": "modulo", "partitions": partitions, "missing": missing
            }),
            Partitioner::MetadataModulo { partitions, missing } => json!({
                "kind": "metadata", "pointer": "/deep/0/n", "method": "modulo", "partitions": partitions,
                "missing": missing
            }),
            Partitioner::Cel(divisor) => json!({ "kind": "cel", "expression": format!("data.n % {divisor}") }),
            Partitioner::CelSize => json!({ "kind": "cel", "expression": "size(type)" }),
        };
        // Without any category it would take the other cases' messages.
        let mut wildcards: Vec<String> =
            self.wildcard.iter().map(|number| format!("{}-1%", category(number))).collect();
        if self.categories.is_empty() && wildcards.is_empty() {
            wildcards.push(format!("{prefix}%"));
        }
        json!({
            "categories": self.categories.iter().map(category).collect::<Vec<_>>(),
            "stream_wildcards": wildcards,
            "types": self.types.iter().map(|number| TYPES[*number]).collect::<Vec<_>>(),
            "filter": self.filters_wanted.then_some("data.wanted"),
            "partitioner": partitioner,
            "max_partition": self.max_partition,
            "on_error": match self.on_error {
                OnError::Stop => json!("stop"),
                OnError::Skip => json!("skip"),
                OnError::Partition(partition) => json!({ "partition": partition }),
            },
        })
    }

    fn place(&self, prefix: &str, sent: &Sent) -> WrittenMessage {
        let is_in_category = self.categories.contains(&sent.category);
        let is_matched =
            self.wildcard == Some(sent.category) && sent.id.is_some_and(|id| id.to_string().starts_with('1'));
        let is_any = self.categories.is_empty() && self.wildcard.is_none();
        let has_type = self.types.is_empty() || self.types.contains(&sent.message_type);
        let data = sent.data.as_ref().unwrap_or(&Value::Null);
        let passes = !self.filters_wanted || data.get("wanted") == Some(&json!(true));
        if !(is_in_category || is_matched || is_any) || !has_type || !passes {
            return WrittenMessage::Elsewhere;
        }
        let hashed = |text: &str, partitions: i64| Some(headwater::domain::partitioner::hashed(text, partitions));
        let modulo = |value: Option<&Value>, partitions: i64, missing: Option<i64>| match value {
            None | Some(Value::Null) => missing,
            Some(value) => value.as_i64().map(|number| number.rem_euclid(partitions)),
        };
        let partition = match &self.partitioner {
            Partitioner::Constant => Some(0),
            Partitioner::Category(partitions) => hashed(&format!("{prefix}{}", CATEGORIES[sent.category]), *partitions),
            Partitioner::Type(partitions) => hashed(TYPES[sent.message_type], *partitions),
            Partitioner::DataModulo { partitions, missing } => modulo(data.get("n"), *partitions, *missing),
            Partitioner::MetadataModulo { partitions, missing } => {
                let found = sent.metadata.as_ref().and_then(|metadata| metadata.pointer("/deep/0/n"));
                modulo(found, *partitions, *missing)
            }
            Partitioner::Cel(divisor) => data.get("n").and_then(Value::as_i64).map(|number| number % divisor),
            Partitioner::CelSize => Some(TYPES[sent.message_type].chars().count() as i64),
        };
        let most = self.max_partition.unwrap_or(9_999);
        partition.filter(|partition| (0..=most).contains(partition)).map_or(WrittenMessage::Odd, WrittenMessage::In)
    }

    /// The links, and where and whether it stops.
    fn model(&self, prefix: &str, written: &[(i64, &Sent)]) -> (Vec<Link>, Option<i64>) {
        let mut next = std::collections::HashMap::new();
        let mut found = Vec::new();
        for (global_position, sent) in written {
            let partition = match (self.place(prefix, sent), self.on_error) {
                (WrittenMessage::Elsewhere, _) | (WrittenMessage::Odd, OnError::Skip) => continue,
                (WrittenMessage::Odd, OnError::Stop) => {
                    found.sort_unstable();
                    return (found, Some(*global_position));
                }
                (WrittenMessage::In(partition), _) | (WrittenMessage::Odd, OnError::Partition(partition)) => partition,
            };
            let position: &mut i64 = next.entry(partition).or_default();
            found.push((partition as i32, *position, *global_position));
            *position += 1;
        }
        found.sort_unstable();
        (found, None)
    }
}

fn numbers() -> impl Strategy<Value = Value> {
    prop_oneof![
        6 => (-10_i64..40).prop_map(|number| json!(number)),
        1 => any::<i64>().prop_map(|number| json!(number)),
        1 => Just(json!(2.5)),
        1 => Just(json!("4")),
        1 => Just(json!(null)),
        1 => Just(json!([])),
    ]
}

fn contents() -> impl Strategy<Value = Option<Value>> {
    prop_oneof![
        1 => Just(None),
        1 => prop_oneof![Just(json!(null)), Just(json!([1])), Just(json!("x")), Just(json!(7)), Just(json!({}))]
            .prop_map(Some),
        8 => (numbers(), any::<bool>())
            .prop_map(|(n, wanted)| Some(json!({ "n": n, "wanted": wanted, "deep": [{ "n": n }] }))),
    ]
}

fn sent() -> impl Strategy<Value = Sent> {
    (0..3_usize, prop::option::weighted(0.9, 0..20_u8), 0..3_usize, contents(), contents(), prop::bool::weighted(0.1))
        .prop_map(|(category, id, message_type, data, metadata, is_lost)| Sent {
            category,
            id,
            message_type,
            data,
            metadata,
            is_lost,
        })
}

fn partitioner() -> impl Strategy<Value = Partitioner> {
    let modulo = || (1..5_i64, prop::option::of(0..1_i64));
    prop_oneof![
        Just(Partitioner::Constant),
        (1..5_i64).prop_map(Partitioner::Category),
        (1..5_i64).prop_map(Partitioner::Type),
        modulo().prop_map(|(partitions, missing)| Partitioner::DataModulo { partitions, missing }),
        modulo().prop_map(|(partitions, missing)| Partitioner::MetadataModulo { partitions, missing }),
        (1..6_i64).prop_map(Partitioner::Cel),
        Just(Partitioner::CelSize),
    ]
}

fn defined() -> impl Strategy<Value = Defined> {
    let on_error = prop_oneof![Just(OnError::Stop), Just(OnError::Skip), (0..4_i64).prop_map(OnError::Partition)];
    (
        prop::sample::subsequence(vec![0, 1, 2], 0..=3),
        prop::option::of(0..3_usize),
        prop::sample::subsequence(vec![0, 1, 2], 0..=2),
        prop::bool::weighted(0.3),
        partitioner(),
        prop::option::of(4..6_i64),
        on_error,
    )
        .prop_map(|(categories, wildcard, types, filters_wanted, partitioner, max_partition, on_error)| Defined {
            categories,
            wildcard,
            types,
            filters_wanted,
            partitioner,
            max_partition,
            on_error,
        })
}

/// Writes the messages one by one, in SQL or over HTTP; answers the global positions of those that were written.
async fn write<'a>(app: &TestApp, sql: &Client, prefix: &str, messages: &'a [Sent]) -> Vec<(i64, &'a Sent)> {
    let text = "INSERT INTO message_store.messages (stream_name, position, type, data, metadata) \
        SELECT $1, coalesce(max(position), -1) + 1, $2, $3::text::jsonb, $4::text::jsonb \
        FROM message_store.messages WHERE stream_name = $1 RETURNING global_position";
    let statement = sql.prepare(text).await.unwrap();
    let mut written = Vec::new();
    for (number, sent) in messages.iter().enumerate() {
        if sent.is_lost {
            sql_writer::roll_back_one(sql).await;
            continue;
        }
        let category = format!("{prefix}{}", CATEGORIES[sent.category]);
        let stream = sent.id.map_or(category.clone(), |id| format!("{category}-{id}"));
        let kind = TYPES[sent.message_type];
        // A bare category and no data at all can be written in SQL only.
        let position = if let (Some(_), Some(data), 0) = (sent.id, &sent.data, number % 4) {
            let message = json!({ "type": kind, "data": data, "metadata": sent.metadata });
            let answer = app.append(&stream, &json!({ "messages": [message] })).await;
            assert_eq!(answer.status, 201, "{}", answer.text);
            answer.json()["messages"][0]["global_position"].as_i64().unwrap()
        } else {
            let text = |value: &Option<Value>| value.as_ref().map(Value::to_string);
            let (data, metadata) = (text(&sent.data), text(&sent.metadata));
            sql.query_one(&statement, &[&stream, &kind, &data, &metadata]).await.unwrap().get(0)
        };
        written.push((position, sent));
    }
    written
}

async fn check(app: &TestApp, sql: &Client, prefix: &str, defined: &[Defined], messages: &[Sent]) {
    let name = |kind: &str, number: usize| format!("{prefix}{kind}{number}");
    for (number, definition) in defined.iter().enumerate() {
        define(app, &name("live", number), &definition.json(prefix)).await;
    }
    for number in 0..defined.len() {
        until_state(app, &name("live", number), "live").await;
    }
    let half = messages.len() / 2;
    let mut written = write(app, sql, prefix, &messages[..half]).await;
    for (number, definition) in defined.iter().enumerate() {
        define(app, &name("past", number), &definition.json(prefix)).await;
    }
    written.extend(write(app, sql, prefix, &messages[half..]).await);
    let last = app.write("end-1", "End", json!({})).await;
    for (number, definition) in defined.iter().enumerate() {
        let (expected, stop) = definition.model(prefix, &written);
        for kind in ["live", "past"] {
            let name = name(kind, number);
            let status = match stop {
                Some(position) => {
                    let status = until_state(app, &name, "stopped").await;
                    assert_eq!(status["error"]["global_position"], position, "{definition:?}");
                    status
                }
                None => projected(app, &name, last).await,
            };
            let found = links(sql, &name).await;
            assert!(found == expected, "{kind} {definition:?}: {}", difference(&found, &expected));
            counters_agree(&status, &found);
            delete(app, &name).await;
        }
    }
}

#[test]
fn the_projection_is_what_a_plain_model_makes_of_it() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (database, app, sql) = runtime.block_on(async {
        let database = TestDatabase::migrated().await;
        let (app, sql) = (TestApp::on(&database).await, database.connect().await);
        (database, app, sql)
    });
    let mut runner = TestRunner::new(Config { cases: CASES, max_shrink_iters: 60, ..Config::default() });
    let case = Cell::new(0);
    let cases = (prop::collection::vec(defined(), 1..4), prop::collection::vec(sent(), 0..40));
    let outcome = runner.run(&cases, |(defined, messages)| {
        case.set(case.get() + 1);
        let prefix = format!("case{}x", case.get());
        let checking = std::panic::AssertUnwindSafe(|| {
            runtime.block_on(check(&app, &sql, &prefix, &defined, &messages));
        });
        std::panic::catch_unwind(checking).map_err(|_| TestCaseError::fail("it is not what the model says"))
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    runtime.block_on(app.stop());
    drop(sql);
    drop(database);
}
