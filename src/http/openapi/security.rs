//! Which credentials operations take.

use serde_json::{Value, json};

use super::operations_by_path;
use crate::http::credentials::{TICKET, TICKET_COOKIE, is_public, takes_tickets_at};

/// Adds the ways to show a credential, and to each operation those that it takes.
pub fn describe(document: &mut Value) {
    document["components"]["securitySchemes"] = json!({
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key (`hw_…`) or a JWT. Needed where the service runs with `--credentials required`, which \
                is the default on addresses that others can reach.",
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
        operation["security"] = if is_public(path) {
            json!([])
        } else if method == "get" && takes_tickets_at(path) {
            json!([{ "bearer": [] }, { "ticket": [] }, { "ticketCookie": [] }])
        } else {
            json!([{ "bearer": [] }])
        };
    }
}
