//! The id of an event: where a follower stands in the log.

use std::fmt;
use std::str::FromStr;

/// A position, and how much of it was seen where several sources have the same message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    pub position: i64,
    /// 0: everything up to the position has been seen. Otherwise: at the position itself, only the first so many of
    /// the sources.
    pub sources: u32,
}

impl From<i64> for Cursor {
    fn from(position: i64) -> Self {
        Self { position, sources: 0 }
    }
}

/// `1017`, or `1017.1` where one of several sources has been seen at 1017.
impl fmt::Display for Cursor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.sources {
            0 => write!(formatter, "{}", self.position),
            sources => write!(formatter, "{}.{sources}", self.position),
        }
    }
}

impl FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (position, sources) = text.split_once('.').unwrap_or((text, "0"));
        let cursor = Self { position: position.parse().map_err(drop)?, sources: sources.parse().map_err(drop)? };
        // One cursor has one text.
        if cursor.to_string() == text { Ok(cursor) } else { Err(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_what_it_prints_and_nothing_else() {
        for text in ["0", "-1", "1017", "1017.1", "9223372036854775807.3"] {
            assert_eq!(text.parse::<Cursor>().unwrap().to_string(), text);
        }
        for text in ["", ".", "1.", "1.0", "1.-1", "01", "+1", " 1", "1.1.1", "9223372036854775808", "x"] {
            assert!(text.parse::<Cursor>().is_err(), "{text}");
        }
    }
}
