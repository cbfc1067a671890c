//! The settings in effect are told to those who may do everything.

use serde_json::{Value, json};

use crate::support::database::TestDatabase;
use crate::support::http_client;
use crate::support::service_process::ServiceProcess;

#[tokio::test]
async fn the_settings_in_effect_are_told_to_administrators_without_secrets() {
    let database = TestDatabase::migrated().await;
    let arguments = ["--listen", "127.0.0.1:0", "--heartbeat", "20s", "--database-url"];
    let process = ServiceProcess::start(&[&arguments[..], &[database.url.as_str()]].concat());
    let answer = http_client().get(format!("{}/v1/settings", process.url)).send().await.unwrap();
    let report: Value = answer.json().await.unwrap();
    let of =
        |name: &str| report["settings"].as_array().unwrap().iter().find(|setting| setting["name"] == name).cloned();
    assert_eq!(
        of("heartbeat").unwrap(),
        json!({"name": "heartbeat", "value": "20s", "is_hidden": false, "is_default": false})
    );
    assert_eq!(of("wait-max").unwrap()["is_default"], true);
    let url = json!({"name": "database-url", "value": null, "is_hidden": true, "is_default": false});
    assert_eq!(of("database-url").unwrap(), url);
    process.stop();
}
