//! Names of streams, categories and message types, and the rules for those that clients send.

use std::fmt;

/// The longest stream name, in bytes of UTF-8. A row of a B-tree index holds at most 2,704 bytes, and the category
/// index may hold two categories beside each other.
pub const STREAM_NAME_BYTES_MAX: usize = 1_000;
/// The longest message type, in bytes of UTF-8.
pub const TYPE_BYTES_MAX: usize = 1_000;

/// A rule that a name breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name has no character.
    #[error("must not be empty")]
    Empty,
    /// It is too long for an index.
    #[error("must be at most {max} bytes of UTF-8, not {bytes}")]
    TooLong {
        /// Its length in UTF-8.
        bytes: usize,
        /// The longest that is allowed.
        max: usize,
    },
    /// A control character would break the frame of an event, or a log line.
    #[error("must not contain control characters (U+{code:04X} at byte {at})")]
    ControlCharacter {
        /// The character's code point.
        code: u32,
        /// Byte of the name, from 0.
        at: usize,
    },
    /// It has a `-`, which only names of streams may have.
    #[error("must be a category: a name without `-`")]
    NotACategory,
}

/// The name of a stream: `account-123`. A bare category (`account`) is a stream of its own too, as in Message DB.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamName(String);

impl StreamName {
    /// Takes a name of 1 to [`STREAM_NAME_BYTES_MAX`] bytes without control characters.
    pub fn parse(raw: impl Into<String>) -> Result<Self, NameError> {
        let raw = raw.into();
        check(&raw, STREAM_NAME_BYTES_MAX)?;
        Ok(Self(raw))
    }

    /// The name as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text before the first `-`, else all of it.
    pub fn category(&self) -> &str {
        category(&self.0)
    }
}

/// The name of a category: a stream name without `-`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Category(String);

impl Category {
    /// Takes a stream name without `-`.
    pub fn parse(raw: impl Into<String>) -> Result<Self, NameError> {
        let raw = raw.into();
        check(&raw, STREAM_NAME_BYTES_MAX)?;
        if raw.contains('-') {
            return Err(NameError::NotACategory);
        }
        Ok(Self(raw))
    }

    /// The category that streams of a checked pattern have. It may be empty, as that of the stream `-1` is.
    pub(crate) fn of_streams(name: String) -> Self {
        Self(name)
    }

    /// The name as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Checks a text for the rules that names of streams have: not empty, not too long, no control characters.
pub fn check_name(raw: &str) -> Result<(), NameError> {
    check(raw, STREAM_NAME_BYTES_MAX)
}

/// Checks a message type: not empty, not too long, no control characters (they would break an event's frame).
pub fn check_type(raw: &str) -> Result<(), NameError> {
    check(raw, TYPE_BYTES_MAX)
}

/// Message DB's `category(stream_name)`: the text before the first `-`, else all of it.
pub fn category(stream_name: &str) -> &str {
    stream_name.split_once('-').map_or(stream_name, |(category, _)| category)
}

/// Message DB's `cardinal_id(stream_name)`: what follows the first `-`, up to the first `+` after it. `None` for a name
/// without `-`.
pub fn cardinal_id(stream_name: &str) -> Option<&str> {
    let (_, id) = stream_name.split_once('-')?;
    Some(id.split_once('+').map_or(id, |(cardinal, _)| cardinal))
}

fn check(raw: &str, max: usize) -> Result<(), NameError> {
    if raw.is_empty() {
        return Err(NameError::Empty);
    }
    if raw.len() > max {
        return Err(NameError::TooLong { bytes: raw.len(), max });
    }
    match raw.char_indices().find(|(_, character)| character.is_control()) {
        Some((at, character)) => Err(NameError::ControlCharacter { code: character as u32, at }),
        None => Ok(()),
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Display for Category {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn category_is_the_text_before_the_first_hyphen() {
        for (name, expected) in [
            ("account-123", "account"),
            ("account", "account"),
            ("a-b-c", "a"),
            ("account:command+position-1", "account:command+position"),
            ("-123", ""),
        ] {
            assert_eq!(category(name), expected, "{name}");
        }
    }

    #[test]
    fn the_cardinal_id_ends_at_a_plus_sign() {
        for (name, expected) in [("a-1", Some("1")), ("a-1+2", Some("1")), ("a+b-1-2", Some("1-2")), ("a", None)] {
            assert_eq!(cardinal_id(name), expected, "{name}");
        }
    }

    #[test]
    fn odd_but_legal_names_are_accepted() {
        for name in ["a", "100%-_x", "it's \"quoted\"-1", "größe-日本", "a:b+c-1+2", "a/b-?#&="] {
            assert!(StreamName::parse(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn names_that_cannot_be_stored_or_framed_are_refused() {
        assert_eq!(StreamName::parse(""), Err(NameError::Empty));
        assert_eq!(StreamName::parse("a\0b"), Err(NameError::ControlCharacter { code: 0, at: 1 }));
        assert_eq!(StreamName::parse("a\nb"), Err(NameError::ControlCharacter { code: 10, at: 1 }));
        assert_eq!(StreamName::parse("x".repeat(1_001)), Err(NameError::TooLong { bytes: 1_001, max: 1_000 }));
        assert_eq!(Category::parse("a-b"), Err(NameError::NotACategory));
        assert_eq!(check_type("\r"), Err(NameError::ControlCharacter { code: 13, at: 0 }));
    }
}
