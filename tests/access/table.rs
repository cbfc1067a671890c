//! The table of rules: it has every operation, and what the documents say of it is what it says.

use std::collections::HashSet;
use std::path::Path;

use headwater::http::access::{RULES, Rule, rule};
use headwater::http::openapi::document;
use serde_json::{Value, json};

/// What the router has beside the operations of the OpenAPI document.
const UNDOCUMENTED: [&str; 10] = [
    "/v1/aggregated-streams/{name}/keys//messages",
    "/openapi.json",
    "/openapi-3.2.json",
    "/docs",
    "/docs/",
    "/docs/{*rest}",
    "/",
    "/console/{*path}",
    "/headwater.js",
    "/favicon.ico",
];
const WRITE_VARIABLE: &str = "HEADWATER_WRITE_DOCS";
const BEGIN: &str = "<!-- What needs which scope: written by a test. -->\n";
const END: &str = "<!-- End. -->\n";

/// Every operation of the OpenAPI document: method, path, and what the document says of it.
pub fn operations() -> Vec<(String, String, Value)> {
    let document: Value = serde_json::from_str(&document()).unwrap();
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            found.push((method.to_uppercase(), path.clone(), operation.clone()));
        }
    }
    found
}

#[test]
fn every_operation_has_a_rule_and_every_rule_an_operation() {
    let documented: HashSet<_> = operations().into_iter().map(|(method, path, _)| (method, path)).collect();
    for (method, path) in &documented {
        assert!(rule(method, path).is_some(), "{method} {path} has no rule: add it to RULES in src/http/access.rs");
    }
    let mut seen = HashSet::new();
    for (method, path, _) in RULES {
        assert!(seen.insert((method, path)), "{method} {path} has two rules");
        let is_known = documented.contains(&((*method).to_owned(), (*path).to_owned())) || UNDOCUMENTED.contains(path);
        assert!(is_known, "there is no {method} {path}");
    }
}

#[test]
fn the_document_says_of_every_operation_what_it_needs() {
    for (method, path, operation) in operations() {
        let rule = rule(&method, &path).unwrap();
        let description = operation["description"].as_str().unwrap();
        assert!(description.ends_with(&format!("Needs {}.", rule.words())), "{method} {path}: {description}");
        let statuses = operation["responses"].as_object().unwrap();
        if rule == Rule::Public {
            assert!(operation["security"] == json!([]) && !statuses.contains_key("401"), "{method} {path}");
            continue;
        }
        assert!(operation["security"][0]["bearer"].is_array(), "{method} {path}");
        assert!(statuses.contains_key("401") && statuses.contains_key("403"), "{method} {path}");
        assert_eq!(statuses.contains_key("429"), rule.is_limited(&path), "{method} {path}");
        let takes_tickets = operation["security"].to_string().contains("ticket");
        let is_event_stream = path.ends_with("/events") && !path.starts_with("/v1/subscriptions/");
        assert_eq!(takes_tickets, is_event_stream, "{method} {path}");
    }
}

fn written() -> String {
    let mut lines = String::from("| operation | needs |\n|---|---|\n");
    for (method, path, rule) in RULES.iter().filter(|(_, path, _)| !UNDOCUMENTED.contains(path)) {
        lines.push_str(&format!("| `{method} {path}` | {} |\n", rule.words()));
    }
    lines
}

#[test]
fn the_page_on_credentials_has_the_table_as_the_code_has_it() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/CREDENTIALS.md");
    let page = std::fs::read_to_string(&file).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the page has a place for the table");
    let (table, after) = rest.split_once(END).expect("the table has an end");
    if std::env::var_os(WRITE_VARIABLE).is_some() {
        return std::fs::write(&file, format!("{before}{BEGIN}{}{END}{after}", written())).unwrap();
    }
    let command = format!("{WRITE_VARIABLE}=1 cargo test --test promises the_page_on_credentials");
    assert_eq!(table, written(), "docs/CREDENTIALS.md is not what the code says. Make it again: {command}");
}
