//! What each operation needs of its caller, by the table of `access`: in words, as `security`, and as problems.

use serde_json::{Value, json};

use super::operations_by_path;
use crate::http::access::{Rule, rule};
use crate::http::credentials::{TICKET, TICKET_COOKIE, takes_tickets_at};
use crate::http::problem::ProblemKind;

/// The problems that an operation answers because of its caller.
pub fn problems(method: &str, path: &str) -> Vec<ProblemKind> {
    let Some(rule) = rule(method, path) else { return Vec::new() };
    let mut kinds = match rule {
        Rule::Public => Vec::new(),
        _ => vec![ProblemKind::Unauthenticated, ProblemKind::Forbidden],
    };
    if rule.is_limited(path) {
        kinds.push(ProblemKind::RateLimited);
    }
    kinds
}

/// Adds the ways to show a credential, and to each operation those that it takes and what it needs.
pub fn describe(document: &mut Value) {
    document["components"]["securitySchemes"] = json!({
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key (`hw_…`) or a JWT. Needed where the service runs with `--credentials required`, which \
                is the default on addresses that others can reach. The scopes that operations name are enough for each such \
                path; their descriptions say what is needed at least.",
        },
        "ticket": {
            "type": "apiKey",
            "in": "query",
            "name": TICKET,
            "description": "A ticket of `createTicket`, for a browser's `EventSource`.",
        },
        "ticketCookie": {
            "type": "apiKey",
            "in": "cookie",
            "name": TICKET_COOKIE,
            "description": "The same as a cookie, for pages of the service's own origin.",
        },
    });
    for (method, path, operation) in operations_by_path(document) {
        let Some(rule) = rule(&method.to_uppercase(), path) else { continue };
        let needs = format!("Needs {}.", rule.words());
        let described = operation["description"].as_str().filter(|text| !text.is_empty());
        operation["description"] = described.map_or_else(|| needs.clone(), |text| format!("{text}\n\n{needs}")).into();
        let scopes = rule.scopes();
        operation["security"] = if rule == Rule::Public {
            json!([])
        } else if method == "get" && takes_tickets_at(path) {
            json!([{ "bearer": scopes }, { "ticket": scopes }, { "ticketCookie": scopes }])
        } else {
            json!([{ "bearer": scopes }])
        };
    }
}
