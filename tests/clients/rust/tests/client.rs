//! The Rust client that openapi-generator generates, against a running service.

use headwater_client::apis::configuration::Configuration;
use headwater_client::apis::{Error, append_api, read_api, subscribe_api};
use headwater_client::models::{AppendCondition, AppendRequest, AppendsRequest, EventLine, NewMessage, Problem, ProblemType, StreamAppend, SubscriptionSettings};
use serde_json::json;

fn service() -> Configuration {
    let base_path = std::env::var("HEADWATER_URL").expect("HEADWATER_URL says where the service is");
    let key = std::env::var("HEADWATER_KEY").expect("HEADWATER_KEY is an API key");
    Configuration { base_path, bearer_access_token: Some(key), ..Configuration::new() }
}

fn a_stream() -> String {
    format!("account-{}", uuid::Uuid::new_v4())
}

fn deposited(amounts: &[i64]) -> AppendRequest {
    let message = |amount| NewMessage { data: Some(Some(json!({ "amount": amount }))), ..NewMessage::new("Deposited".into()) };
    AppendRequest::new(amounts.iter().map(message).collect())
}

/// The problem that an operation answered; its error type has a variant a status, all with the same content.
fn problem<T>(error: Error<T>) -> Problem {
    match error {
        Error::ResponseError(response) => serde_json::from_str(&response.content).unwrap(),
        _ => panic!("no answer of the service"),
    }
}

#[tokio::test]
async fn appends_and_reads() {
    let (service, stream) = (service(), a_stream());
    let appended = append_api::append_messages(&service, &stream, deposited(&[5, 7]), None, None, None).await.unwrap();
    assert_eq!((appended.version, appended.duplicate), (1, false));
    let types = Some(vec!["Deposited".to_owned()]);
    let page = read_api::read_stream(&service, &stream, None, Some(1), types, None, None, None, None, None, None, None, None).await;
    let page = page.unwrap();
    assert_eq!((page.version, page.next, page.at_end), (1, Some(1), false));
    assert_eq!(page.messages[0].id, appended.messages[0].id);
}

#[tokio::test]
async fn a_conflict_is_a_typed_problem() {
    let (service, stream) = (service(), a_stream());
    append_api::append_messages(&service, &stream, deposited(&[5]), None, None, None).await.unwrap();
    let again = AppendRequest { expected_version: Some(Some(-1)), ..deposited(&[1]) };
    let problem = problem(append_api::append_messages(&service, &stream, again, None, None, None).await.unwrap_err());
    assert_eq!((problem.r#type, problem.current_version), (ProblemType::WRONG_EXPECTED_VERSION, Some(0)));
}

#[tokio::test]
async fn several_streams_are_appended_to_under_conditions() {
    let (service, left, right) = (service(), a_stream(), a_stream());
    let to = |stream: &str| StreamAppend::new(stream.into(), deposited(&[1]).messages);
    let mut request = AppendsRequest::new(vec![to(&left), to(&right)]);
    let empty = AppendCondition { stream_name: Some(Some(left.clone())), version: Some(Some(-1)), ..AppendCondition::new() };
    request.conditions = Some(Some(vec![empty]));
    let appended = append_api::append_to_streams(&service, request.clone(), None, None, None).await.unwrap();
    assert_eq!((appended.appends.len(), appended.duplicate), (2, false));
    let problem = problem(append_api::append_to_streams(&service, request, None, None, None).await.unwrap_err());
    assert_eq!((problem.r#type, problem.condition), (ProblemType::CONDITION_FAILED, Some(0)));
}

#[tokio::test]
async fn follows_by_lines() {
    let (service, stream) = (service(), a_stream());
    append_api::append_messages(&service, &stream, deposited(&[1, 2]), None, None, None).await.unwrap();
    // The generated function would read to the end, and there is none: the events are read from its client instead.
    let url = format!("{}/v1/streams/{stream}/events?from=beginning", service.base_path);
    let request = service.client.get(url).bearer_auth(service.bearer_access_token.as_deref().unwrap());
    let mut answer = request.header("accept", "application/x-ndjson").send().await.unwrap();
    let (mut positions, mut text) = (Vec::new(), Vec::new());
    while positions.len() < 3 {
        text.extend(answer.chunk().await.unwrap().expect("the service ended the stream"));
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            match serde_json::from_slice(&line).unwrap() {
                EventLine::MessageEventLine(event) => positions.push(event.data.position),
                // History is over, so this one comes live.
                EventLine::CaughtUpEventLine(_) => {
                    append_api::append_messages(&service, &stream, deposited(&[3]), None, None, None).await.unwrap();
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(positions, [0, 1, 2]);
}

#[tokio::test]
async fn changes_what_is_given_of_a_subscription_and_nothing_else() {
    let service = service();
    let name = format!("changed-{}", uuid::Uuid::new_v4());
    // None of these is what a subscription has unless it is given.
    let mut settings = json!({
        "ack": "auto", "ack_timeout": "20s", "consumer_timeout": "20s", "max_in_flight": 7, "max_deliveries": 9,
        "backoff": ["3s"], "on_exhausted": "skip"
    });
    let mut definition = settings.clone();
    definition["source"] = json!({ "all": true });
    let definition = serde_json::from_value(definition).unwrap();
    subscribe_api::create_subscription(&service, &name, definition).await.unwrap();
    let change = SubscriptionSettings { consumer_timeout: Some(Some("30s".into())), ..SubscriptionSettings::new() };
    let changed = subscribe_api::change_subscription(&service, &name, change).await.unwrap();
    settings["consumer_timeout"] = json!("30s");
    let after = serde_json::to_value(&changed.definition).unwrap();
    for (field, value) in settings.as_object().unwrap() {
        assert_eq!(&after[field], value, "{field}");
    }
}
