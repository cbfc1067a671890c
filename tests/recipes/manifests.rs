//! Units and manifests: they can be read, and what they name exists.

use std::process::Command;

use clap::CommandFactory;
use headwater::config::{Cli, Settings};
use headwater::http::access;
use serde_json::Value;

use super::{recipe, root, run, said, with};
use crate::support::database::temporary_dir;

fn variables() -> Vec<String> {
    let command = Cli::command();
    let variables = command.get_arguments().filter_map(|argument| argument.get_env());
    variables.map(|name| name.to_str().unwrap().to_owned()).collect()
}

fn assert_are_settings<'a>(names: impl IntoIterator<Item = &'a str>) {
    let known = variables();
    for name in names {
        assert!(known.iter().any(|variable| variable == name), "{name} is no setting");
    }
}

fn documents(text: &str) -> Vec<Value> {
    use serde::Deserialize;
    serde_yaml_ng::Deserializer::from_str(text).map(|document| Value::deserialize(document).unwrap()).collect()
}

#[test]
fn systemd_takes_the_unit() {
    let directory = temporary_dir();
    let unit = directory.path().join("headwater.service");
    let text = recipe("headwater.service");
    let here = with(&text, "/usr/local/bin/headwater", env!("CARGO_BIN_EXE_headwater"));
    std::fs::write(&unit, here).unwrap();
    let checked = run("systemd", Command::new("systemd-analyze").arg("verify").arg("--man=no").arg(&unit));
    let said = said(&checked);
    // Of other units of the machine it may complain, too.
    assert!(checked.status.success() && !said.contains("headwater.service:"), "{said}");
    let set = text.lines().filter_map(|line| line.strip_prefix("Environment=")).flat_map(str::split_whitespace);
    assert_are_settings(set.map(|pair| pair.split('=').next().unwrap()));
    let stop: u64 =
        text.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")?.strip_suffix('s')?.parse().ok()).unwrap();
    assert!(stop > Settings::defaults().drain_timeout.as_secs());
}

#[test]
fn the_manifest_of_kubernetes_names_what_exists() {
    let documents = documents(&recipe("kubernetes.yaml"));
    let kinds: Vec<&str> = documents.iter().map(|document| document["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["Deployment", "Service", "PodDisruptionBudget"]);
    let template = &documents[0]["spec"]["template"];
    assert_eq!(documents[0]["spec"]["selector"]["matchLabels"], template["metadata"]["labels"]);
    assert_eq!(documents[1]["spec"]["selector"], template["metadata"]["labels"]);
    assert_eq!(documents[2]["spec"]["selector"]["matchLabels"], template["metadata"]["labels"]);
    let container = &template["spec"]["containers"][0];
    assert_are_settings(container["env"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()));
    let port = &container["ports"][0];
    assert_eq!(documents[1]["spec"]["ports"][0]["targetPort"], port["name"]);
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let get = &container[probe]["httpGet"];
        assert!(access::is_public(get["path"].as_str().unwrap()), "{get}");
        assert_eq!(get["port"], port["name"]);
    }
    // A restart does not bring a database back.
    assert_eq!(container["livenessProbe"]["httpGet"]["path"], "/livez");
    let sleep: u64 = container["lifecycle"]["preStop"]["exec"]["command"][1].as_str().unwrap().parse().unwrap();
    let grace = template["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(grace > sleep + Settings::defaults().drain_timeout.as_secs());
    let user = template["spec"]["securityContext"]["runAsUser"].as_u64().unwrap();
    let dockerfile = std::fs::read_to_string(root().join("Dockerfile")).unwrap();
    assert!(dockerfile.contains(&format!("--uid {user} ")), "the image has another user");
}

#[test]
fn compose_and_the_image_name_what_exists() {
    let compose = &documents(&std::fs::read_to_string(root().join("compose.yaml")).unwrap())[0];
    let service = &compose["services"]["headwater"];
    assert_are_settings(service["environment"].as_object().unwrap().keys().map(String::as_str));
    for needed in service["depends_on"].as_object().unwrap().keys() {
        assert!(compose["services"][needed].is_object(), "{needed}");
    }
    let dockerfile = std::fs::read_to_string(root().join("Dockerfile")).unwrap();
    let set = dockerfile.lines().filter_map(|line| line.strip_prefix("ENV ")).flat_map(str::split_whitespace);
    assert_are_settings(set.map(|pair| pair.split('=').next().unwrap()));
    assert!(dockerfile.contains("http://127.0.0.1:8080/readyz") && access::is_public("/readyz"));
}
