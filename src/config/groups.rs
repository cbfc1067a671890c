//! Puts settings into groups, for people who read the help and the list of settings.

use clap::Command;

/// The settings that matter first, in this order: the short help (`-h`) shows these alone.
const FIRST: [&str; 10] = [
    "config",
    "listen",
    "data_dir",
    "database_url",
    "credentials",
    "insecure",
    "cors_origin",
    "tls_certificate",
    "tls_key",
    "log",
];
const FIRST_HEADING: &str = "Settings that matter first";

/// Headings, with the beginnings of the settings that are under each. The first that fits counts.
const GROUPS: [(&str, &[&str]); 9] = [
    ("Addresses and browsers", &["tls_", "allowed_host"]),
    ("Credentials", &["jwt_", "jwks_", "api_keys_", "credentials_", "ticket_"]),
    ("Database", &["database_", "postgres_", "direct_", "replica_"]),
    ("Embedded PostgreSQL and its backup", &["backup"]),
    ("Appending", &["append", "message_", "messages_"]),
    (
        "Reading and following",
        &[
            "cache_",
            "history_cache_",
            "poll_",
            "notify_",
            "listener_",
            "held_back_",
            "heartbeat",
            "wait_",
            "latest_",
            "followers_",
            "page_",
        ],
    ),
    ("Aggregated streams", &["aggregated_", "projector_"]),
    ("Subscriptions and retention", &["subscription", "ack_", "retention_"]),
    (
        "Connections, requests, stopping, the log",
        &["connections_", "bodies_", "body_", "header", "url_", "request_", "write_", "drain_", "metrics_", "log_"],
    ),
];
/// Where a setting goes that no group has; a test finds it.
pub const UNGROUPED: &str = "Other settings";

/// The heading of a setting, by its key.
fn heading_of(key: &str) -> &'static str {
    if FIRST.contains(&key) {
        return FIRST_HEADING;
    }
    let group = GROUPS.iter().find(|(_, beginnings)| beginnings.iter().any(|beginning| key.starts_with(beginning)));
    group.map_or(UNGROUPED, |(heading, _)| heading)
}

/// Gives each setting its heading.
pub(super) fn grouped(command: Command) -> Command {
    let command = command.mut_args(|arg| {
        let key = arg.get_id().to_string();
        let place = FIRST.iter().position(|first| *first == key);
        arg.help_heading(heading_of(&key)).display_order(place.unwrap_or(FIRST.len())).hide_short_help(place.is_none())
    });
    command.after_help("All settings, with their ranges: headwater --help")
}
