//! `http → service → store → domain`: nothing points upward, and `http` never reaches `store`.

use super::sources;

/// Each room with the rooms of this crate that it may use beside itself.
const ROOMS: [(&str, &[&str]); 16] = [
    ("domain", &[]),
    // What the program was built from.
    ("build_info", &[]),
    ("store", &["domain"]),
    // What happens is recorded where it happens, and agents are started by the life cycle.
    ("service", &["domain", "store", "lifecycle", "telemetry"]),
    ("http", &["build_info", "domain", "service", "telemetry"]),
    ("lifecycle", &[]),
    // It shows the use of the pools, whose type the store owns.
    ("telemetry", &["domain", "store"]),
    ("config", &["build_info", "domain", "telemetry"]),
    ("embedded_postgres", &[]),
    // What puts the house together knows every room.
    ("app", &["backup", "config", "domain", "embedded_postgres", "http", "lifecycle", "service", "store", "telemetry"]),
    ("transfer", &["app", "config", "domain", "lifecycle", "service", "store", "telemetry"]),
    ("backup", &["app", "config", "domain", "embedded_postgres", "lifecycle", "store", "telemetry"]),
    ("doctor", &["app", "build_info", "config", "domain", "store"]),
    ("program", &["app", "backup", "config", "doctor", "domain", "http", "service", "store", "telemetry", "transfer"]),
    ("main", &["program"]),
    (
        "lib",
        &[
            "app",
            "backup",
            "build_info",
            "config",
            "doctor",
            "domain",
            "embedded_postgres",
            "http",
            "lifecycle",
            "program",
            "service",
            "store",
            "telemetry",
            "transfer",
        ],
    ),
];

/// All that `domain` may use of other crates.
const DOMAIN_CRATES: [&str; 13] = [
    "std",
    "core",
    "bytes",
    "cel",
    "chrono",
    "humantime",
    "md5",
    "parking_lot",
    "serde",
    "serde_json",
    "thiserror",
    "utoipa",
    "uuid",
];

/// Crates that belong to one room, and the rooms that may use them.
const CRATES: [(&str, &[&str]); 8] = [
    ("axum", &["http"]),
    ("axum_server", &["http"]),
    ("hyper_util", &["http"]),
    ("tower_http", &["http"]),
    // A definition carries its own schema.
    ("utoipa", &["http", "domain"]),
    ("utoipa_axum", &["http"]),
    ("utoipa_swagger_ui", &["http"]),
    ("sqlx", &["store"]),
];

/// The room of a file: its folder, or itself.
fn room_of(path: &str) -> &str {
    path.split('/').next().unwrap_or(path).trim_end_matches(".rs")
}

/// The code of a file without its comments and its unit tests.
fn code(text: &str) -> String {
    let before_tests = text.split("#[cfg(test)]").next().unwrap_or(text);
    before_tests.lines().map(|line| line.split("//").next().unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

/// What follows `name::`, wherever it begins a path; `{a, b::c}` gives both.
fn used_after(code: &str, name: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(name) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|before| before.is_alphanumeric() || before == '_' || before == ':') {
            continue;
        }
        let rest = &code[at + name.len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut item = String::new();
            for character in group.chars() {
                match character {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => found.push(std::mem::take(&mut item)),
                    _ if depth == 0 => item.push(character),
                    _ => {}
                }
            }
            found.push(item);
        } else {
            found.push(rest.to_owned());
        }
    }
    let first_name =
        |text: &String| -> String { text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    found.iter().map(first_name).filter(|name| !name.is_empty()).collect()
}

/// What is wrong with the imports of one file, as sentences that name the room.
fn violations(path: &str, text: &str) -> Vec<String> {
    let room = room_of(path);
    let code = code(text);
    let mut found = Vec::new();
    let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
        return vec![format!("{path}: {room} is a room without a rule; add it")];
    };
    let own_crate = used_after(&code, "crate::").into_iter().chain(used_after(&code, "headwater::"));
    for used in own_crate {
        let is_room = ROOMS.iter().any(|(name, _)| *name == used);
        if is_room && used != room && !allowed.contains(&used.as_str()) {
            found.push(format!("{path}: {room} must not use {used}; what needs it belongs to {}", home_of(&used)));
        }
    }
    for (name, rooms) in CRATES {
        if code.contains(&format!("{name}::")) && !used_as_own(&code, name) && !rooms.contains(&room) {
            found.push(format!("{path}: {room} must not use {name}; it belongs to {}", rooms.join(" or ")));
        }
    }
    // The migration runner and the first connection are in `store`; the embedded server asks whether it is ready.
    if code.contains("tokio_postgres::") && !["store", "embedded_postgres"].contains(&room) {
        found.push(format!("{path}: {room} must not use tokio_postgres; it belongs to store"));
    }
    if room == "domain" {
        for line in code.lines().filter_map(|line| line.trim().strip_prefix("use ")) {
            let name: String = line.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if !DOMAIN_CRATES.contains(&name.as_str()) && !["super", "crate", "self"].contains(&name.as_str()) {
                found.push(format!("{path}: domain must not use {name}; rules are pure"));
            }
        }
        for name in ["tokio::", "async fn", ".await"] {
            if code.contains(name) {
                found.push(format!("{path}: domain must not have `{name}`; what waits belongs to service"));
            }
        }
    }
    found
}

fn used_as_own(code: &str, name: &str) -> bool {
    code.match_indices(&format!("{name}::")).all(|(at, _)| {
        code[..at].chars().next_back().is_some_and(|before| before.is_alphanumeric() || before == '_' || before == ':')
    })
}

/// The rooms from which a room may be used.
fn home_of(used: &str) -> String {
    let homes: Vec<_> = ROOMS.iter().filter(|(_, allowed)| allowed.contains(&used)).map(|(name, _)| *name).collect();
    homes.join(" or ")
}

#[test]
fn every_import_is_in_its_room() {
    let found: Vec<_> = sources().iter().flat_map(|(path, text)| violations(path.to_str().unwrap(), text)).collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_rule_finds_a_wrong_import_and_says_where_it_belongs() {
    for (path, text, expected) in [
        ("http/pages.rs", "use crate::store::Database;", "http must not use store; what needs it belongs to service"),
        ("http/pages.rs", "use crate::{domain::x, store};", "http must not use store"),
        ("http/pages.rs", "fn f() { crate::store::g() }", "http must not use store"),
        (
            "service/read.rs",
            "use crate::http::problem::Problem;",
            "service must not use http; what needs it belongs to app",
        ),
        ("service/read.rs", "use axum::Router;", "service must not use axum; it belongs to http"),
        ("service/read.rs", "let rows = sqlx::query!();", "service must not use sqlx; it belongs to store"),
        ("service/read.rs", "use tokio_postgres::Row;", "service must not use tokio_postgres; it belongs to store"),
        ("store/read.rs", "use crate::service::Service;", "store must not use service"),
        ("store/read.rs", "use crate::telemetry::Observer;", "store must not use telemetry"),
        ("domain/filter.rs", "use tokio::time::sleep;", "domain must not use tokio; rules are pure"),
        ("domain/filter.rs", "use sqlx::Row;", "domain must not use sqlx"),
        ("domain/filter.rs", "use crate::store::Database;", "domain must not use store"),
        ("domain/filter.rs", "pub async fn wait() {}", "domain must not have `async fn`"),
        ("embedded_postgres/mod.rs", "use crate::config::Settings;", "embedded_postgres must not use config"),
        ("lifecycle.rs", "use crate::service::Service;", "lifecycle must not use service"),
        ("cellar/mod.rs", "", "cellar is a room without a rule"),
    ] {
        let found = violations(path, text).join("\n");
        assert!(found.contains(expected) && found.contains(path), "{path} `{text}`: {found}");
    }
    for (path, text) in [
        (
            "http/pages.rs",
            "use crate::service::read::PageSource;\nuse crate::domain::time::Timestamp;\nuse axum::Json;",
        ),
        ("http/pages.rs", "// use crate::store::Database;"),
        ("service/read.rs", "use crate::store::{Database, StoreError};"),
        ("store/read.rs", "use crate::store::Database;\nuse sqlx::Row;\nmod axum_like {}"),
        ("domain/time.rs", "use chrono::Utc;\n#[cfg(test)]\nmod tests { use crate::store::Database; }"),
    ] {
        assert_eq!(violations(path, text), Vec::<String>::new(), "{path} `{text}`");
    }
}
