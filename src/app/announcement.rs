//! What the program says of itself to people: where it listens, where the data is, what to try; and what to do if it
//! cannot listen.

use std::path::Path;

use super::print;

/// One line for programs; on a terminal, some more for people.
pub(super) fn announce(url: &str, data_dir: Option<&Path>, needs_credential: bool) {
    let mut text = format!("headwater listening on {url}\n");
    if std::io::IsTerminal::is_terminal(&std::io::stdout()) {
        text += &for_people(url, data_dir, needs_credential);
    }
    if let Err(error) = print(&text) {
        tracing::warn!(%error, "standard output cannot be written to");
    }
}

/// Lines that can be copied into a shell as they are.
fn for_people(url: &str, data_dir: Option<&Path>, needs_credential: bool) -> String {
    let data = match data_dir {
        Some(directory) => format!("in {} (embedded PostgreSQL; --data-dir)", directory.display()),
        None => "in the PostgreSQL of --database-url".to_owned(),
    };
    let (key, first) = match needs_credential {
        true => (
            " -H \"Authorization: Bearer $HEADWATER_KEY\"",
            "\n  Key      HEADWATER_KEY=$(headwater keys create --name me --scope admin)",
        ),
        false => ("", ""),
    };
    format!(
        "\n  Data     {data}{first}\
         \n  Follow   curl -N{key} '{url}/v1/categories/order/events?from=beginning'\
         \n  Append   curl{key} --json '{{\"messages\":[{{\"type\":\"OrderPlaced\",\"data\":{{\"item\":\"Tea\",\"quantity\":2}}}}]}}' \
         '{url}/v1/streams/order-1/messages'\
         \n  Console  {url}/\n\n"
    )
}

pub(super) fn advice_for(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "Another program listens there: name another address with --listen (HEADWATER_LISTEN); port 0 takes a free one"
        }
        std::io::ErrorKind::PermissionDenied => {
            "Ports below 1024 need a right of their own: name another with --listen (HEADWATER_LISTEN)"
        }
        _ => "Name another address with --listen (HEADWATER_LISTEN)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_to_try_can_be_copied_and_say_where_the_data_is() {
        let text = for_people("http://127.0.0.1:1", Some(Path::new("/data")), false);
        assert!(text.contains("'http://127.0.0.1:1/v1/categories/order/events?from=beginning'"), "{text}");
        assert!(text.contains("/data (embedded PostgreSQL"), "{text}");
        assert!(!text.contains("Authorization"), "{text}");
        let text = for_people("http://127.0.0.1:1", None, true);
        assert_eq!(text.matches("Authorization: Bearer $HEADWATER_KEY").count(), 2, "{text}");
    }
}
