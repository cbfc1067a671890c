//! Keyed aggregated streams: every value is a key with a partition of its own, and a message may have several.

use std::sync::Arc;

use super::aggregated_stream::AggregatedMessage;

/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 256;
/// The most keys of one message.
pub const MESSAGE_KEYS_MAX: usize = 16;
/// The most keys that one request may name.
pub const NAMED_KEYS_MAX: usize = 100;

/// Where a keyed aggregated stream has a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPlace {
    /// The value, as text.
    pub key: Arc<str>,
    /// Numbered from 0 when the key was first seen.
    pub partition: i32,
    /// Counts from 0 in the partition, without holes.
    pub position: i64,
}

/// Which messages of an aggregated stream are read. Lists are sorted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Part {
    /// Every message.
    #[default]
    All,
    /// Those in these partitions.
    Partitions(Arc<[i32]>),
    /// Those with one of these keys, of a keyed aggregated stream.
    Keys(Arc<[Arc<str>]>),
}

impl Part {
    /// Whether a message is in this part.
    pub fn has(&self, one: &AggregatedMessage) -> bool {
        match (self, &one.keys) {
            (Part::All, _) => true,
            (Part::Partitions(partitions), None) => partitions.contains(&one.partition),
            (Part::Keys(_), None) => false,
            (part, Some(places)) => places.iter().any(|place| part.has_place(place)),
        }
    }

    /// The message with its places in this part alone, the first of which is its partition and position.
    pub fn of(&self, one: &AggregatedMessage) -> AggregatedMessage {
        let mut one = one.clone();
        if let (Part::Partitions(_) | Part::Keys(_), Some(places)) = (self, &one.keys) {
            let kept: Arc<[KeyPlace]> = places.iter().filter(|place| self.has_place(place)).cloned().collect();
            if let Some(first) = kept.first() {
                (one.partition, one.position) = (first.partition, first.position);
            }
            one.keys = Some(kept);
        }
        one
    }

    fn has_place(&self, place: &KeyPlace) -> bool {
        match self {
            Part::All => true,
            Part::Partitions(partitions) => partitions.contains(&place.partition),
            Part::Keys(keys) => keys.binary_search_by(|key| (**key).cmp(&place.key)).is_ok(),
        }
    }
}

/// Checks a key that a request names.
pub fn check_key(key: &str) -> Result<(), String> {
    if key.len() > KEY_BYTES_MAX {
        return Err(format!("must be at most {KEY_BYTES_MAX} bytes: there are no longer keys"));
    }
    if key.contains('\0') {
        return Err("must not contain the character U+0000: there are no such keys".into());
    }
    Ok(())
}

/// The lowest text above every text with this prefix, in the order of code points, which is that of UTF-8's bytes; `None`:
/// there is none.
pub fn first_after_prefix(prefix: &str) -> Option<String> {
    let mut end = prefix.to_owned();
    while let Some(last) = end.pop() {
        // There are no characters from U+D800 to U+DFFF. If the last one has no successor, the one before it gets one.
        let next = if last == '\u{D7FF}' { Some('\u{E000}') } else { char::from_u32(u32::from(last) + 1) };
        if let Some(next) = next {
            end.push(next);
            return Some(end);
        }
    }
    None
}

/// A text above every key with this prefix.
pub fn prefix_end(prefix: &str) -> String {
    // Longer than any key of the highest characters alone.
    first_after_prefix(prefix).unwrap_or_else(|| "\u{10FFFF}".repeat(KEY_BYTES_MAX / '\u{10FFFF}'.len_utf8() + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_character() {
        assert_eq!(prefix_end("ab"), "ac");
        assert_eq!(prefix_end("a%"), "a&");
        assert_eq!(prefix_end("a\u{D7FF}"), "a\u{E000}");
        assert_eq!(prefix_end("a\u{10FFFF}\u{10FFFF}"), "b");
        let highest = "\u{10FFFF}".repeat(KEY_BYTES_MAX / 4);
        assert!(prefix_end(&highest) > highest && prefix_end("") > highest);
    }

    #[test]
    fn every_text_with_a_prefix_is_below_its_end_and_no_other_above_it() {
        let texts = ["", "a", "a\u{10FFFF}", "a\u{10FFFF}z", "ab", "b", "\u{D7FF}", "\u{E000}", "é", "z"];
        for prefix in texts {
            let end = prefix_end(prefix);
            for text in texts {
                assert_eq!(text >= prefix && text < &*end, text.starts_with(prefix), "{prefix:?} {text:?}");
            }
        }
    }
}
