//! The id of an event: a follower's place in the log, and which message is there.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// What a cursor keeps of a message's id to recognise the message: the last eight hex digits. A log that went back and has
/// grown past the cursor again has another message at the same position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Check(u32);

impl Check {
    /// The check of the message with this id.
    pub fn of(message_id: Uuid) -> Self {
        Self(message_id.as_u128() as u32)
    }
}

impl fmt::Display for Check {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:08x}", self.0)
    }
}

/// A position, how much of it was seen if several sources have the same message, and a check of that message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventId {
    /// A position in the stream for a single stream, otherwise a global position.
    pub position: i64,
    /// 0: everything up to the position has been seen. Otherwise: at the position itself, only the first so many of
    /// the sources.
    pub sources: u32,
    /// `None`: there is no message at the position, or it is not known which.
    pub check: Option<Check>,
}

impl EventId {
    /// At a message.
    pub fn at(position: i64, message_id: Uuid) -> Self {
        Self { position, sources: 0, check: Some(Check::of(message_id)) }
    }

    /// The id for a follower that has seen everything up to a place, `last` being the last message among that. If it is
    /// not known which message is at the place, the id is `last`: a client that comes back with it passes over the same
    /// messages of others once more, and its log can be recognised.
    pub fn of_place(place: i64, check: Option<Check>, last: Option<EventId>) -> Self {
        match (check, last) {
            (None, Some(last)) => last,
            _ => Self { position: place, sources: 0, check },
        }
    }

    /// Whether the message that was found at the position is another one than the cursor was made at.
    pub fn names_another_than(self, found: Option<Uuid>) -> bool {
        matches!((self.check, found), (Some(check), Some(id)) if check != Check::of(id))
    }
}

impl From<i64> for EventId {
    fn from(position: i64) -> Self {
        Self { position, sources: 0, check: None }
    }
}

/// `1017~5f3a09c1`, or `1017` without a check; `1017.1~5f3a09c1` if at 1017 the first of several sources has been seen.
impl fmt::Display for EventId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.position)?;
        if self.sources > 0 {
            write!(formatter, ".{}", self.sources)?;
        }
        self.check.map_or(Ok(()), |check| write!(formatter, "~{check}"))
    }
}

impl FromStr for EventId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (place, check) = match text.split_once('~') {
            Some((place, check)) => (place, Some(Check(u32::from_str_radix(check, 16).map_err(drop)?))),
            None => (text, None),
        };
        let (position, sources) = place.split_once('.').unwrap_or((place, "0"));
        let (position, sources) = (position.parse().map_err(drop)?, sources.parse().map_err(drop)?);
        let cursor = Self { position, sources, check };
        // One cursor has one text.
        if cursor.to_string() == text { Ok(cursor) } else { Err(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_what_it_prints_and_nothing_else() {
        let (id, one) = (Uuid::from_u128(0x0192_f1c2_0000_7000_8000_0000_5f3a_09c1), "1017~5f3a09c1");
        assert_eq!(EventId::at(1017, id).to_string(), one);
        for text in ["0", "-1", "1017", "1017.1", "9223372036854775807.3", one, "1017.1~5f3a09c1", "0~00000000"] {
            assert_eq!(text.parse::<EventId>().unwrap().to_string(), text);
        }
        for text in ["", ".", "1.", "1.0", "1.-1", "01", "+1", " 1", "1.1.1", "9223372036854775808", "x"] {
            assert!(text.parse::<EventId>().is_err(), "{text}");
        }
        for text in ["1~", "~5f3a09c1", "1~5F3A09C1", "1~5f3a09c", "1~5f3a09c11", "1~+f3a09c1", "1~5f3a09c1~", "1~x"] {
            assert!(text.parse::<EventId>().is_err(), "{text}");
        }
    }

    #[test]
    fn another_message_at_its_place_is_noticed_and_none_is_not() {
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert!(EventId::at(7, one).names_another_than(Some(other)));
        assert!(!EventId::at(7, one).names_another_than(Some(one)));
        assert!(!EventId::at(7, one).names_another_than(None), "it was erased, or is a hole");
        assert!(!EventId::from(7).names_another_than(Some(other)), "it was taken without the check");
    }
}
