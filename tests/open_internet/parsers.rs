//! Whatever comes from outside and is parsed: nothing panics, nothing runs away, and what is taken prints back the same.

use headwater::domain::aggregated_stream::Definition;
use headwater::domain::api_key;
use headwater::domain::browser::{HostName, Origin, Trusted};
use headwater::domain::event_id::EventId;
use headwater::domain::exported_message::{ExportedMessage, write_line};
use headwater::domain::expression::Expression;
use headwater::domain::keyed;
use headwater::domain::message::{Message, MessageParts};
use headwater::domain::scope::{Pattern, Scope};
use headwater::domain::secret::without_secrets;
use headwater::domain::selection::Wildcard;
use headwater::domain::stream_name::{Category, STREAM_NAME_BYTES_MAX, StreamName};
use headwater::domain::time::Timestamp;
use proptest::prelude::*;

/// Text as nobody sane sends it: any characters, and runs of those that mean something to some parser.
fn odd_text() -> impl Strategy<Value = String> {
    let meaning = prop_oneof![
        Just("\0"),
        Just("\u{feff}"),
        Just("\u{202e}"),
        Just("é"),
        Just("𝄞"),
        Just("\\u0000"),
        Just("\\ud800"),
        Just("-"),
        Just("+"),
        Just("~"),
        Just("."),
        Just(":"),
        Just("/"),
        Just("%"),
        Just("%2e"),
        Just("*"),
        Just("$"),
        Just("\""),
        Just("'"),
        Just("\\"),
        Just("{"),
        Just("}"),
        Just("["),
        Just("]"),
        Just("("),
        Just(")"),
        Just(","),
        Just("\n"),
        Just("\r"),
        Just(" "),
        Just("0"),
        Just("-0"),
        Just("1e999"),
        Just("9223372036854775807"),
        Just("9223372036854775808"),
        Just("18446744073709551616"),
        Just("null"),
        Just("true"),
        Just("data"),
        Just("type"),
        Just("=="),
        Just("&&"),
        Just("||"),
        Just("?"),
        Just("!"),
        Just("category"),
        Just("read:"),
        Just("append:"),
        Just("admin"),
        Just("2026-01-01T00:00:00Z"),
        Just("infinity"),
        Just("http://"),
        Just("[::1]"),
        Just("localhost"),
    ];
    prop_oneof![
        any::<String>(),
        proptest::collection::vec(meaning, 0..40).prop_map(|parts| parts.concat()),
        "[a-z0-9:*~.+-]{0,30}",
        // Deep and long.
        ("[\\(\\[{!-]", 1..5_000usize).prop_map(|(one, count)| one.repeat(count)),
    ]
}

/// CEL, or nearly.
fn cel() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("data.n"),
        Just("data"),
        Just("metadata.a.b[0]"),
        Just("type"),
        Just("position"),
        Just("global_position"),
        Just("time"),
        Just("stream_name"),
        Just("category"),
        Just("1"),
        Just("-7"),
        Just("0"),
        Just("9223372036854775807"),
        Just("-9223372036854775808"),
        Just("1.5"),
        Just("0u"),
        Just("18446744073709551615u"),
        Just("'x'"),
        Just("b'x'"),
        Just("null"),
        Just("true"),
        Just("[1, 2]"),
        Just("{'a': 1}"),
        Just("has(data.n)"),
        Just("nothing"),
        Just("\"\\ud800\""),
    ]
    .prop_map(str::to_owned);
    leaf.prop_recursive(6, 64, 3, |inner| {
        let operator = prop_oneof![
            Just("+"),
            Just("-"),
            Just("*"),
            Just("/"),
            Just("%"),
            Just("=="),
            Just("!="),
            Just("<"),
            Just(">="),
            Just("&&"),
            Just("||"),
            Just("in"),
        ];
        let function = prop_oneof![
            Just("size"),
            Just("int"),
            Just("uint"),
            Just("double"),
            Just("string"),
            Just("bool"),
            Just("bytes"),
            Just("dyn"),
            Just("duration"),
            Just("matches"),
            Just("type"),
            Just("has"),
        ];
        prop_oneof![
            (inner.clone(), operator, inner.clone()).prop_map(|(left, is, right)| format!("({left} {is} {right})")),
            (inner.clone(), inner.clone(), inner.clone()).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
            (function, inner.clone()).prop_map(|(name, inner)| format!("{name}({inner})")),
            inner.clone().prop_map(|inner| format!("-{inner}")),
            inner.clone().prop_map(|inner| format!("!{inner}")),
            (inner.clone(), inner.clone()).prop_map(|(list, at)| format!("{list}[{at}]")),
            (inner.clone(), inner).prop_map(|(list, body)| format!("{list}.map(x, {body})")),
        ]
    })
}

/// JSON whose texts, numbers and depth are unusual.
fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        any::<f64>().prop_map(|number| serde_json::Number::from_f64(number).into()),
        odd_text().prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            proptest::collection::vec(("[a-zA-Z_]{0,8}", inner), 0..4)
                .prop_map(|fields| serde_json::Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// A line of an export, some of whose fields are others.
fn line() -> impl Strategy<Value = String> {
    let fields = [
        ("id", "\"0192f1c2-0000-7000-8000-000000000000\""),
        ("stream_name", "\"account-1\""),
        ("type", "\"Opened\""),
        ("position", "0"),
        ("global_position", "1"),
        ("data", "{\"n\":1}"),
        ("metadata", "null"),
        ("time", "\"2026-01-01T00:00:00.000000Z\""),
        ("erased", "{\"at\":\"2026-01-01T00:00:00Z\",\"reason\":\"asked\"}"),
    ];
    let values: Vec<_> = fields
        .into_iter()
        .map(|(name, value)| {
            let value = prop_oneof![
                6 => Just(Some(value.to_owned())),
                1 => Just(None),
                1 => json().prop_map(|value| Some(value.to_string())),
                1 => odd_text().prop_map(Some),
            ];
            value.prop_map(move |value| value.map(|value| format!("\"{name}\":{value}")))
        })
        .collect();
    values.prop_map(|fields| format!("{{{}}}", fields.into_iter().flatten().collect::<Vec<_>>().join(",")))
}

/// A message, as the database gives it.
fn message_with(data: &serde_json::Value) -> Message {
    Message::new(MessageParts {
        id: uuid::Uuid::nil(),
        stream_name: "account-1",
        message_type: "Opened",
        position: 0,
        global_position: 1,
        data: Some(&data.to_string()),
        metadata: None,
        time: Timestamp(0),
        erased: None,
    })
}

/// The line of a message that a line was read as.
fn printed(message: &ExportedMessage) -> String {
    let erasure = message
        .erased
        .as_ref()
        .map(|erased| serde_json::json!({ "at": erased.at.to_rfc3339(), "reason": erased.reason }).to_string());
    let message = Message::new(MessageParts {
        id: message.id,
        stream_name: &message.stream_name,
        message_type: &message.message_type,
        position: message.position,
        global_position: message.global_position,
        data: message.data.as_deref(),
        metadata: message.metadata.as_deref(),
        time: message.time,
        erased: erasure.as_deref(),
    });
    let mut line = String::new();
    write_line(&message, &mut line);
    line
}

/// What a wildcard means, as plainly as it can be said.
fn fits(pattern: &[char], name: &[char]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, _) => name.is_empty(),
        (Some(('%', rest)), _) => fits(rest, name) || (!name.is_empty() && fits(pattern, &name[1..])),
        (Some((letter, rest)), Some((first, others))) => letter == first && fits(rest, others),
        (Some(_), None) => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn names(text in odd_text()) {
        if let Ok(name) = StreamName::parse(text.as_str()) {
            prop_assert_eq!(name.as_str(), &text);
            prop_assert!(text.starts_with(name.category()) && !name.category().contains('-'));
        }
        if let Ok(category) = Category::parse(text.as_str()) {
            prop_assert_eq!(category.as_str(), &text);
            let stream = format!("{text}-1");
            prop_assert!(stream.len() > STREAM_NAME_BYTES_MAX || StreamName::parse(stream).is_ok());
        }
        let _ = keyed::check_key(&text);
        prop_assert!(keyed::prefix_end(&text) > text);
    }

    #[test]
    fn ids_of_events(text in odd_text(), position in any::<i64>(), check in "(~[0-9a-f]{8})?") {
        for text in [text, format!("{position}{check}"), format!("{position}.7{check}")] {
            if let Ok(id) = text.parse::<EventId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }

    #[test]
    fn credentials(text in odd_text(), id in any::<[u8; api_key::ID_BYTES]>(), secret in any::<[u8; api_key::SECRET_BYTES]>()) {
        // What is logged of a text has no credential in it, and is the same if it is cleaned again.
        let id = api_key::id_of(id);
        let key = api_key::text_of(&id, secret);
        prop_assert_eq!(api_key::id_in(&key), Some(id.as_str()));
        for text in [text.clone(), format!("{text}{key}{text}"), format!("{text}&ticket={key} {text}")] {
            let clean = without_secrets(&text);
            prop_assert!(!clean.contains(&key));
            prop_assert_eq!(&without_secrets(&clean), &clean);
            if let Some(id) = api_key::id_in(&text) {
                prop_assert!(api_key::is_id(id) && text.contains(id));
            }
        }
        let _ = api_key::read_scopes(&[text]);
    }

    #[test]
    fn times(text in odd_text(), micros in any::<i64>()) {
        let time = Timestamp(micros);
        let parsed = Timestamp::parse_rfc3339(&text).into_iter().chain(time.is_rfc3339().then_some(time));
        for time in parsed {
            prop_assert_eq!(Timestamp::parse_rfc3339(&time.to_rfc3339()), Some(time));
        }
        prop_assert_eq!(Timestamp::from_postgres(Timestamp(micros.max(i64::MIN / 2)).to_postgres()).0, micros.max(i64::MIN / 2));
    }

    #[test]
    fn scopes_and_patterns(text in odd_text(), name in odd_text()) {
        if let Ok(pattern) = Pattern::parse(&text) {
            prop_assert_eq!(pattern.as_str(), &text);
            prop_assert!(pattern.covers(&pattern));
            let _ = pattern.matches(&name);
        }
        for text in [text.clone(), format!("read:{text}"), format!("append:{text}"), format!("subscribe:{text}")] {
            if let Ok(scope) = text.parse::<Scope>() {
                prop_assert_eq!(scope.to_string(), text);
                prop_assert!(scope.covers(&scope));
            }
        }
    }

    #[test]
    fn wildcards(pattern in "[ab%-]{0,8}", name in "[ab-]{0,10}", odd in odd_text()) {
        let wildcard = Wildcard::new(&pattern);
        let letters = |text: &str| text.chars().collect::<Vec<_>>();
        prop_assert_eq!(wildcard.matches(&name), fits(&letters(&pattern), &letters(&name)), "{} {}", pattern, name);
        prop_assert_eq!(wildcard.to_text('%'), pattern);
        prop_assert!(Wildcard::new("%").matches(&odd));
        let _ = Wildcard::new(&odd).matches(&name);
    }

    #[test]
    fn origins_and_hosts(text in odd_text(), origin in odd_text()) {
        for text in [text.clone(), format!("https://{text}"), format!("http://{text}:80")] {
            if let Ok(origin) = text.parse::<Origin>() {
                prop_assert_eq!(origin.to_string(), text);
            }
        }
        let _ = text.parse::<HostName>();
        let trusted = Trusted::default();
        let _ = (trusted.takes_host(&text), trusted.takes_origin(&origin, [text.as_str()]));
        // Nothing but addresses and names of this machine is trusted by default.
        let name = format!("{text}.example");
        prop_assert!(!trusted.takes_host(&name));
    }

    #[test]
    fn filters_of_any_text(text in odd_text()) {
        if let Ok(expression) = Expression::compile(&text) {
            prop_assert_eq!(expression.source(), &text);
        }
    }

    #[test]
    fn filters_and_what_they_make_of_messages(text in cel(), data in json()) {
        if let Ok(expression) = Expression::compile(&text) {
            let message = message_with(&data);
            let _ = (expression.passes(&message), expression.evaluate(&message).is_ok());
        }
    }

    #[test]
    fn lines_of_an_import(line in line(), odd in odd_text()) {
        let _ = ExportedMessage::parse(&odd);
        if let Ok(message) = ExportedMessage::parse(&line) {
            prop_assert!(!message.stream_name.contains('\0'));
            prop_assert!(message.memory_bytes() >= message.stream_name.len());
            let again = ExportedMessage::parse(printed(&message).trim_end());
            prop_assert_eq!(again, Ok(message));
        }
    }

    #[test]
    fn definitions(pointer in odd_text(), expression in cel(), odd in json(), partitions in any::<i64>()) {
        for partitioner in [
            serde_json::json!({ "kind": "data", "pointer": pointer, "method": "hash", "partitions": partitions }),
            serde_json::json!({ "kind": "key", "of": "data", "pointer": pointer }),
            serde_json::json!({ "kind": "cel", "expression": expression }),
            odd.clone(),
        ] {
            let definition = serde_json::json!({
                "stream_wildcards": [pointer], "partitioner": partitioner, "max_partition": partitions,
            });
            let Ok(definition) = serde_json::from_value::<Definition>(definition) else { continue };
            if definition.compile().is_ok() {
                let again = serde_json::to_value(&definition).unwrap();
                prop_assert_eq!(serde_json::from_value::<Definition>(again).unwrap(), definition);
            }
        }
    }
}
