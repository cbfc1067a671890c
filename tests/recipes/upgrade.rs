//! The embedded server's data goes to another data directory by export and import, and clients go on with their cursors.

use std::process::Command;

use serde_json::{Value, json};

use super::said;
use crate::support::app::Answer;
use crate::support::database::temporary_dir;
use crate::support::events::Events;
use crate::support::http_client;
use crate::support::service_process::ServiceProcess;

fn headwater(arguments: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headwater"));
    let output = command.args(arguments).env_remove("DATABASE_URL").output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
}

async fn messages(url: &str) -> Value {
    let answer = Answer::of(http_client().get(format!("{url}/v1/all/messages")).send().await.unwrap()).await;
    answer.json()["messages"].clone()
}

#[tokio::test]
async fn data_moves_to_another_directory_by_export_and_import() {
    let directory = temporary_dir();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (old, new, file) = (path("old"), path("new"), path("messages.ndjson"));
    let listen = ["--listen", "127.0.0.1:0"];
    let service = ServiceProcess::start(&[&["--data-dir", &old][..], &listen].concat());
    let append = async |url: &str, stream: &str| {
        let body = json!({ "messages": [{ "type": "T", "data": { "n": 1 } }, { "type": "U" }] });
        let sent = http_client().post(format!("{url}/v1/streams/{stream}/messages")).json(&body).send().await.unwrap();
        assert_eq!(sent.status(), 201);
    };
    append(&service.url, "a-1").await;
    append(&service.url, "a-2").await;
    let mut events = Events::open(&format!("{}/v1/all/events?from=beginning", service.url), &[]).await;
    events.messages(3).await;
    let place = events.last_id.clone().unwrap();
    let before = messages(&service.url).await;
    assert!(service.stop().success());

    headwater(&["export", "--data-dir", &old, &file]);
    headwater(&["import", "--data-dir", &new, &file]);
    headwater(&["doctor", "--data-dir", &new, "--listen", "127.0.0.1:0"]);
    let service = ServiceProcess::start(&[&["--data-dir", &new][..], &listen].concat());
    assert_eq!(messages(&service.url).await, before);
    let mut events = Events::resume(&format!("{}/v1/all/events", service.url), &place).await;
    append(&service.url, "a-1").await;
    let positions: Vec<Value> =
        events.messages(3).await.into_iter().map(|message| message["global_position"].clone()).collect();
    assert_eq!(positions, [json!(4), json!(5), json!(6)]);
    assert!(service.stop().success());
}
