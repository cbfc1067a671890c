//! Finds what PostgreSQL's `jsonb` refuses although it is JSON, before that can fail a whole batch.

/// The deepest nesting of arrays and objects. PostgreSQL's own bound depends on its stack; readers in most languages
/// give up long before.
pub const JSON_DEPTH_MAX: usize = 512;
/// The most digits, and the largest exponent, of a number. `numeric` holds 131,072 digits before the point and 16,383
/// after it; a number's text grows with its exponent when it is printed again.
pub const JSON_NUMBER_DIGITS_MAX: usize = 1_000;

/// Why a JSON text cannot be stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonTextError {
    /// A string has U+0000, which PostgreSQL's texts cannot hold.
    #[error("must not contain the character U+0000 (at byte {at}): PostgreSQL cannot store it")]
    NulCharacter {
        /// Byte of the text, from 0.
        at: usize,
    },
    /// A `\u` escape is half of a pair, and so no character.
    #[error("must not contain half of a surrogate pair (at byte {at})")]
    LoneSurrogate {
        /// Byte of the text, from 0.
        at: usize,
    },
    /// Deeper than [`JSON_DEPTH_MAX`].
    #[error("must not nest deeper than {JSON_DEPTH_MAX} levels (at byte {at})")]
    TooDeep {
        /// Byte of the text, from 0.
        at: usize,
    },
    /// More digits than [`JSON_NUMBER_DIGITS_MAX`].
    #[error("must not hold a number of more than {JSON_NUMBER_DIGITS_MAX} digits, its exponent counted (at byte {at})")]
    NumberTooLong {
        /// Byte of the text, from 0.
        at: usize,
    },
}

/// Checks a text that is known to be JSON (serde_json has read it) against what `jsonb` refuses. Answers by how many bytes
/// its numbers grow at most: `jsonb` keeps them without an exponent.
pub fn check(text: &str) -> Result<usize, JsonTextError> {
    let bytes = text.as_bytes();
    let (mut depth, mut growth) = (0usize, 0);
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'{' | b'[' => {
                depth += 1;
                if depth > JSON_DEPTH_MAX {
                    return Err(JsonTextError::TooDeep { at });
                }
                at += 1;
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                at += 1;
            }
            b'"' => at = check_string(bytes, at + 1)?,
            b'-' | b'0'..=b'9' => {
                let (length, zeros) = check_number(bytes, at)?;
                at += length;
                growth += zeros;
            }
            _ => at += 1,
        }
    }
    Ok(growth)
}

/// Returns the place after the closing quote.
fn check_string(bytes: &[u8], mut at: usize) -> Result<usize, JsonTextError> {
    while at < bytes.len() {
        match bytes[at] {
            b'"' => return Ok(at + 1),
            b'\\' if bytes.get(at + 1) == Some(&b'u') => {
                let code = hex4(bytes, at + 2);
                match code {
                    0 => return Err(JsonTextError::NulCharacter { at }),
                    0xD800..=0xDBFF => {
                        let follows = bytes.get(at + 6..at + 8) == Some(b"\\u");
                        if !follows || !(0xDC00..=0xDFFF).contains(&hex4(bytes, at + 8)) {
                            return Err(JsonTextError::LoneSurrogate { at });
                        }
                        at += 12;
                    }
                    0xDC00..=0xDFFF => return Err(JsonTextError::LoneSurrogate { at }),
                    _ => at += 6,
                }
            }
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    Ok(at)
}

/// Returns the number's length and its exponent, which is how many zeros it may have when it is printed.
fn check_number(bytes: &[u8], start: usize) -> Result<(usize, usize), JsonTextError> {
    let length =
        bytes[start..].iter().take_while(|byte| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')).count();
    let number = &bytes[start..start + length];
    let (mantissa, exponent) = match number.iter().position(|byte| matches!(byte, b'e' | b'E')) {
        Some(place) => (&number[..place], &number[place + 1..]),
        None => (number, &number[..0]),
    };
    let exponent = exponent
        .iter()
        .filter(|byte| byte.is_ascii_digit())
        .fold(0usize, |sum, digit| sum.saturating_mul(10).saturating_add(usize::from(digit - b'0')));
    if mantissa.len().saturating_add(exponent) > JSON_NUMBER_DIGITS_MAX {
        return Err(JsonTextError::NumberTooLong { at: start });
    }
    Ok((length, exponent))
}

fn hex4(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .and_then(|digits| u32::from_str_radix(digits, 16).ok())
        .unwrap_or(0xFFFD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_json_passes() {
        for text in [
            "{}",
            r#"{"a":[1,-2.5e10,"x\"y\\",null,true]}"#,
            r#""\ud83d\ude00 é 日本""#,
            r#"{"\\u0000":"\\u0000 is text here"}"#,
            "12345678901234567890.1234567890",
        ] {
            assert!(check(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn numbers_with_an_exponent_are_longer_when_they_are_printed() {
        for (text, growth) in [("[1, 2.5]", 0), ("[1e3, -2E-20, 7]", 23), (r#""1e999""#, 0)] {
            assert_eq!(check(text), Ok(growth), "{text}");
        }
    }

    #[test]
    fn what_jsonb_refuses_is_found_with_its_place() {
        assert_eq!(check(r#"{"a":"\u0000"}"#), Err(JsonTextError::NulCharacter { at: 6 }));
        assert_eq!(check(r#"{"a\u0000":1}"#), Err(JsonTextError::NulCharacter { at: 3 }));
        assert_eq!(check(r#""\ud800""#), Err(JsonTextError::LoneSurrogate { at: 1 }));
        assert_eq!(check(r#""\ud800\u0041""#), Err(JsonTextError::LoneSurrogate { at: 1 }));
        assert_eq!(check(r#""\udc00""#), Err(JsonTextError::LoneSurrogate { at: 1 }));
        assert_eq!(check("[1e1000000]"), Err(JsonTextError::NumberTooLong { at: 1 }));
        assert_eq!(check(&"[".repeat(513)), Err(JsonTextError::TooDeep { at: 512 }));
        assert_eq!(check(&"9".repeat(1_001)), Err(JsonTextError::NumberTooLong { at: 0 }));
    }
}
