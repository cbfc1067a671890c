//! API keys: how they look, and what may be said of one.

use std::fmt::Write;

use super::scope::{SCOPES_MAX, Scope};
use super::time::Timestamp;

/// Every key begins so; scanners of secrets look for that.
const PREFIX: &str = "hw_";
/// Digits of base 32, as RFC 4648 has them, in lower case.
const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// Bytes of which the id and the secret of a key are made.
pub const ID_BYTES: usize = 8;
/// See [`ID_BYTES`].
pub const SECRET_BYTES: usize = 32;
/// Characters of an id: 64 bits, five in a character.
const ID_CHARACTERS: usize = (ID_BYTES * 8).div_ceil(5);
const SECRET_CHARACTERS: usize = (SECRET_BYTES * 8).div_ceil(5);

/// What is known of a key beside its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// The part of the key that names it.
    pub id: String,
    /// What somebody called it; by the rules of all names.
    pub name: String,
    /// What it allows.
    pub scopes: Vec<Scope>,
    /// When it was made.
    pub created_at: Timestamp,
    /// The credential that made it.
    pub created_by: String,
    /// From then on it allows nothing.
    pub expires_at: Option<Timestamp>,
    /// Since then it allows nothing.
    pub revoked_at: Option<Timestamp>,
    /// To the minute.
    pub last_used_at: Option<Timestamp>,
}

impl ApiKey {
    /// What a person wants to know first: whether it can be used.
    pub fn state(&self, now: Timestamp) -> &'static str {
        if self.revoked_at.is_some() {
            "revoked"
        } else if self.expires_at.is_some_and(|at| at <= now) {
            "expired"
        } else {
            "active"
        }
    }
}

/// An id of random bytes.
pub fn id_of(random: [u8; ID_BYTES]) -> String {
    base32(&random)
}

/// The whole key: `hw_<id>_<secret>`.
pub fn text_of(id: &str, random: [u8; SECRET_BYTES]) -> String {
    format!("{PREFIX}{id}_{}", base32(&random))
}

/// Whether a text is the id of a key.
pub fn is_id(text: &str) -> bool {
    text.len() == ID_CHARACTERS && text.bytes().all(|byte| DIGITS.contains(&byte))
}

/// The id in a text that has the form of a key.
pub fn id_in(text: &str) -> Option<&str> {
    let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
    let is_secret = secret.len() == SECRET_CHARACTERS && secret.bytes().all(|byte| DIGITS.contains(&byte));
    (is_id(id) && is_secret).then_some(id)
}

/// Reads scopes; or which one is none, and why.
pub fn read_scopes(texts: &[String]) -> Result<Vec<Scope>, (usize, String)> {
    if texts.len() > SCOPES_MAX {
        return Err((SCOPES_MAX, format!("is one too many: at most {SCOPES_MAX} are allowed")));
    }
    texts.iter().enumerate().map(|(at, text)| text.parse::<Scope>().map_err(|error| (at, error.to_string()))).collect()
}

fn base32(bytes: &[u8]) -> String {
    let mut text = String::with_capacity((bytes.len() * 8).div_ceil(5));
    let (mut bits, mut held) = (0u32, 0);
    for byte in bytes {
        bits = bits << 8 | u32::from(*byte);
        held += 8;
        while held >= 5 {
            held -= 5;
            // Writing to a String cannot fail.
            let _ = text.write_char(char::from(DIGITS[(bits >> held & 31) as usize]));
        }
    }
    if held > 0 {
        let _ = text.write_char(char::from(DIGITS[(bits << (5 - held) & 31) as usize]));
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn base_32_is_that_of_rfc_4648() {
        assert_eq!(base32(b"foobar"), "mzxw6ytboi");
        assert_eq!(base32(b"f"), "my");
        assert_eq!(base32(b""), "");
    }

    #[test]
    fn only_a_whole_key_has_an_id() {
        let key = text_of(&id_of([7; ID_BYTES]), [9; SECRET_BYTES]);
        assert_eq!(id_in(&key), Some(id_of([7; ID_BYTES]).as_str()));
        assert!(key.len() > 60 && key.starts_with("hw_"));
        let upper = key.to_uppercase();
        for other in
            ["", "hw_", "hw__", &key[1..], &key[..key.len() - 1], &format!("{key}a"), &format!(" {key}"), &upper]
        {
            assert_eq!(id_in(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn every_random_key_is_recognised(id: [u8; ID_BYTES], secret: [u8; SECRET_BYTES]) {
            let id = id_of(id);
            prop_assert!(is_id(&id));
            let text = text_of(&id, secret);
            prop_assert_eq!(id_in(&text), Some(id.as_str()));
        }
    }
}
