//! The id of an event: where a follower stands in the log, and which message stands there.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// By what a message is recognised in a cursor: the last eight hex digits of its id. In a log that went back, and has
/// grown past the cursor again, another message stands at the same position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Check(u32);

impl Check {
    pub fn of(message_id: Uuid) -> Self {
        Self(message_id.as_u128() as u32)
    }
}

impl fmt::Display for Check {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:08x}", self.0)
    }
}

/// A position, how much of it was seen where several sources have the same message, and the message that stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventId {
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

    /// Of who has seen everything up to a place, and as the last message there is to see the one of `last`. Where it is
    /// not known which message stands at the place, the cursor is the one of that message: whoever comes back with it
    /// passes over the same nothing once more, and is recognised.
    pub fn of_place(place: i64, check: Option<Check>, last: Option<EventId>) -> Self {
        match (check, last) {
            (None, Some(last)) => last,
            _ => Self { position: place, sources: 0, check },
        }
    }

    /// Whether another message than the one it names stands there by now.
    pub fn names_another_than(self, standing: Option<Uuid>) -> bool {
        matches!((self.check, standing), (Some(check), Some(id)) if check != Check::of(id))
    }
}

impl From<i64> for EventId {
    fn from(position: i64) -> Self {
        Self { position, sources: 0, check: None }
    }
}

/// `1017~5f3a09c1`, or `1017` where no message is named; `1017.1~5f3a09c1` where one of several sources has been seen
/// at 1017.
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
