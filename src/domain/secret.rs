//! Texts that give power to whoever has them, and what keeps them out of logs and answers.

use std::borrow::Cow;
use std::fmt;

/// A credential as it came: an API key, a JWT, a ticket. It prints nothing of itself.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Keeps a text from being printed.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for what has to compare or to send it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

/// What the secret of an API key, a ticket and a JWT begin with.
const API_KEY: &str = "hw_";
const TICKET: &str = "hwt_";
const JWT: &str = "eyJ";
/// A run that is shorter than that after such a beginning is no credential.
const SECRET_CHARACTERS_MIN: usize = 20;

/// The text without anything in it that looks like a credential: whatever a text is made of, it may be a mistake of
/// somebody that put a key where a name belongs.
pub fn without_secrets(text: &str) -> Cow<'_, str> {
    let Some(first) = find_secret(text) else { return Cow::Borrowed(text) };
    let (mut clean, mut rest, mut next) = (String::with_capacity(text.len()), text, Some(first));
    while let Some((from, kept, to)) = next {
        clean.push_str(&rest[..from + kept]);
        clean.push('…');
        rest = &rest[to..];
        next = find_secret(rest);
    }
    clean.push_str(rest);
    Cow::Owned(clean)
}

/// Where the first secret begins, how much of it may be shown, and where it ends.
fn find_secret(text: &str) -> Option<(usize, usize, usize)> {
    let mut runs = text.split(|letter: char| !letter.is_ascii_alphanumeric() && !"_-.".contains(letter));
    runs.find_map(|run| {
        let is_secret =
            |start: &str, rest: &str| rest.len() >= SECRET_CHARACTERS_MIN && (start != JWT || rest.contains('.'));
        // What follows the first place of a beginning is longer than what follows the others.
        let first = |start| run.find(start).filter(|at| is_secret(start, &run[*at..]));
        let (at, start) = [API_KEY, TICKET, JWT].into_iter().filter_map(|start| Some((first(start)?, start))).min()?;
        let offset = run.as_ptr().addr() - text.as_ptr().addr();
        Some((offset + at, start.len(), offset + run.len()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_prints_nothing() {
        assert_eq!(format!("{:?}", Some(Secret::new("hush"))), "Some(Secret(…))");
    }

    #[test]
    fn what_looks_like_a_credential_is_taken_out_wherever_it_is() {
        let key = format!("hw_{}_{}", "a".repeat(12), "b".repeat(52));
        let (ticket, jwt) =
            (format!("hwt_{}.{}", "x-Y".repeat(20), "z".repeat(43)), "eyJhbGciOiJub25lIn0.eyJzdWIiOjF9.");
        let found = without_secrets(&format!("/v1/{key}/x?ticket={ticket}&a={jwt} \"{key}\"")).into_owned();
        assert_eq!(found, "/v1/hw_…/x?ticket=hwt_…&a=eyJ… \"hw_…\"");
        for text in ["", "hw_", "show_me", "hw_short", "eyJ.a", "how_long_is_a_hw_string", "eyJwithoutanydotinitatall"]
        {
            assert_eq!(without_secrets(text), text);
        }
    }

    /// Every problem document is searched, whatever somebody has put into it: twice as much takes twice as long.
    #[test]
    fn a_long_text_of_beginnings_is_searched_once() {
        for beginning in ["eyJ", "hw_ ", "hwt_ ", "eyJ "] {
            let text = beginning.repeat(1 << 20);
            assert!(text.starts_with("hw") || without_secrets(&text) == text);
        }
    }
}
