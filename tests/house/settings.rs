//! Every setting is a flag, a variable and a key, with help that says its range, and is listed in `docs/SETTINGS.md`.

use clap::Arg;
use headwater::config::{Cli, UNGROUPED};

use super::{assert_generated, root};

/// Asked for by this variable, the test writes the file instead of comparing it.
const WRITE_VARIABLE: &str = "HEADWATER_WRITE_DOCS";

fn settings() -> Vec<Arg> {
    let command = Cli::grouped();
    command.get_arguments().filter(|arg| !["help", "version"].contains(&arg.get_id().as_str())).cloned().collect()
}

fn document() -> String {
    let mut text = String::from(
        "# Settings\n\nEach is a flag, a variable, and a key of the TOML file that `--config` names; in this order of \
         precedence. Durations are\nwritten `500ms`, `30s`, `5m`; sizes are bytes. Without `HEADWATER_DATABASE_URL`, \
         `DATABASE_URL` is taken.\n",
    );
    let settings = settings();
    let mut headings: Vec<String> = Vec::new();
    for arg in &settings {
        let heading = arg.get_help_heading().expect("a heading").to_owned();
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    for heading in headings {
        text.push_str(&format!(
            "\n## {heading}\n\n| flag | variable | key | default | meaning |\n|---|---|---|---|---|\n"
        ));
        for arg in settings.iter().filter(|arg| arg.get_help_heading() == Some(&heading)) {
            text.push_str(&row(arg));
        }
    }
    text
}

fn row(arg: &Arg) -> String {
    let flag = arg.get_long().unwrap();
    let value = arg.get_value_names().filter(|_| arg.get_action().takes_values());
    let value = value.map_or(String::new(), |names| format!(" {}", names[0]));
    let variable = arg.get_env().unwrap().to_str().unwrap();
    let key = if flag == "config" { String::new() } else { format!("`{}`", arg.get_id()) };
    let default = arg.get_default_values().first().and_then(|default| default.to_str()).filter(|_| !value.is_empty());
    let default = default.map_or(String::new(), |default| format!("`{default}`"));
    let help = arg.get_help().unwrap().to_string().replace('|', "\\|");
    format!("| `--{flag}{value}` | `{variable}` | {key} | {default} | {help} |\n")
}

#[test]
fn every_setting_is_in_a_group() {
    for arg in settings() {
        let heading = arg.get_help_heading().expect("a heading");
        assert_ne!(heading, UNGROUPED, "put --{} into a group of config/groups.rs", arg.get_long().unwrap());
    }
}

#[test]
fn every_setting_has_a_variable_of_its_name_and_says_its_range() {
    for arg in settings() {
        let flag = arg.get_long().expect("a long flag");
        let variable = arg.get_env().unwrap_or_else(|| panic!("--{flag} has no variable")).to_str().unwrap();
        assert_eq!(variable, format!("HEADWATER_{}", flag.replace('-', "_").to_uppercase()));
        assert_eq!(arg.get_id().as_str(), flag.replace('-', "_"), "its key in the file");
        let help = arg.get_help().unwrap_or_else(|| panic!("--{flag} has no help")).to_string();
        let kind = arg.get_value_names().map(|names| names[0].to_string()).unwrap_or_default();
        if ["COUNT", "BYTES", "DURATION"].contains(&kind.as_str()) {
            let range = help.rsplit_once('(').and_then(|(_, range)| range.split_once(')')).map(|(range, _)| range);
            let bounds = range.and_then(|range| range.split_once(" to "));
            let (min, max) = bounds.unwrap_or_else(|| panic!("--{flag} does not say its range: {help}"));
            let takes = |value: &str| {
                Cli::read_from(vec!["headwater".into(), format!("--{flag}").into(), value.into()])
                    .map_err(|e| e.to_string())
            };
            for bound in [min, max] {
                assert!(takes(bound).is_ok(), "--{flag} {bound}: {:?}", takes(bound).err());
            }
            let beyond = if kind == "DURATION" { "99days".to_owned() } else { format!("{max}0") };
            assert!(takes(&beyond).unwrap_err().contains(flag), "--{flag} takes {beyond}");
            assert!(takes("-1").is_err() && takes("many").is_err() && takes("").is_err(), "--{flag}");
        }
    }
}

#[test]
fn the_list_of_settings_is_what_the_code_says() {
    if std::env::var_os(WRITE_VARIABLE).is_some() {
        std::fs::create_dir_all(root().join("docs")).unwrap();
        std::fs::write(root().join("docs/SETTINGS.md"), document()).unwrap();
    }
    let command = format!("{WRITE_VARIABLE}=1 cargo test --test promises the_list_of_settings");
    assert_generated("docs/SETTINGS.md", &document(), &command);
}
