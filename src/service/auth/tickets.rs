//! Tickets: short-lived rights to read, in a text that is signed. No instance has to remember one.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::api_keys::Keys;
use super::jwt::Jwts;
use super::{AuthError, Caller};
use crate::domain::scope::{Missing, Rights, Scope};
use crate::domain::secret::Secret;
use crate::domain::time::Timestamp;
use crate::store::api_keys::KeyHash;

/// Every ticket begins so.
const PREFIX: &str = "hwt_";
/// What the signature is about, so that it counts for nothing else.
const PURPOSE: &[u8] = b"headwater ticket 1\0";
/// The same for how a ticket names the key of a JWT, and how long that is.
const KEY_PURPOSE: &[u8] = b"headwater ticket key 1\0";
const MARK_BYTES: usize = 12;
/// The longest ticket: it has to fit into a URL.
pub const TICKET_BYTES_MAX: usize = 4 << 10;
/// The name of the credential that an API key is, before its id.
const KEY: &str = "key:";
/// The maker of tickets where credentials are off: they count for nothing where these are required.
const ANYBODY: &str = "anybody";

/// A ticket that was made.
#[derive(Debug)]
pub struct Ticket {
    pub secret: Secret,
    pub expires_at: Timestamp,
}

/// Why no ticket was made.
#[derive(Debug, thiserror::Error)]
pub enum TicketError {
    #[error(transparent)]
    Missing(#[from] Missing),
    /// The scope at this place does not read.
    #[error("only scopes to read are for tickets")]
    NotToRead { at: usize },
    #[error("the ticket would have {bytes} bytes; at most {TICKET_BYTES_MAX} are allowed: ask for fewer scopes")]
    TooLong { bytes: usize },
    /// The database could not be reached since the service began.
    #[error("the secret that signs tickets is not known yet")]
    NoSecret,
}

/// What a ticket says, under names that are short.
#[derive(Serialize, Deserialize)]
struct Claims {
    /// The credential that it was made with.
    c: String,
    s: Vec<String>,
    /// When it expires, in microseconds since 1970.
    e: i64,
    /// The key that the credential was signed with, as only this service can tell it from others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    k: Option<String>,
}

/// Whether a text means to be a ticket.
pub fn is_one(text: &str) -> bool {
    text.starts_with(PREFIX)
}

/// Makes a ticket: no wider and no longer than the caller's own credential.
pub fn issue(caller: &Caller, scopes: &[Scope], ttl: Duration, secret: Option<KeyHash>) -> Result<Ticket, TicketError> {
    for (at, scope) in scopes.iter().enumerate() {
        if !matches!(scope, Scope::Read(_)) {
            return Err(TicketError::NotToRead { at });
        }
        caller.rights().require(scope.clone())?;
    }
    let secret = secret.ok_or(TicketError::NoSecret)?;
    let ttl = i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX);
    let wanted = Timestamp(Timestamp::now().0.saturating_add(ttl));
    let expires_at = caller.expires_at().map_or(wanted, |own| own.min(wanted));
    let credential = caller.credential().map_or(ANYBODY, |name| name);
    let claims = Claims {
        c: credential.to_owned(),
        s: scopes.iter().map(ToString::to_string).collect(),
        e: expires_at.0,
        k: caller.signed_with().map(|signed_with| mark(&secret, signed_with)),
    };
    let claims = serde_json::to_vec(&claims).unwrap_or_else(|error| unreachable!("claims are plain data: {error}"));
    let signature = hmac::sign(&key(&secret), &signed(&claims));
    let (claims, signature) = (URL_SAFE_NO_PAD.encode(&claims), URL_SAFE_NO_PAD.encode(signature));
    let text = format!("{PREFIX}{claims}.{signature}");
    if text.len() > TICKET_BYTES_MAX {
        return Err(TicketError::TooLong { bytes: text.len() });
    }
    Ok(Ticket { secret: Secret::new(text), expires_at })
}

/// The caller whose ticket this is. It ends with the key that the ticket was made with, and does not count any more once the
/// key is gone with which the JWT was signed that made it.
pub async fn caller_of(ticket: &Secret, keys: &Keys, jwts: Option<&Jwts>) -> Result<Caller, AuthError> {
    let secret = keys.ticket_secret().ok_or(AuthError::Unknown)?;
    let claims = read(ticket.expose(), &secret)?;
    let mut expires_at = Timestamp(claims.e);
    if claims.c == ANYBODY {
        return Err(AuthError::Unknown);
    }
    if expires_at <= Timestamp::now() {
        return Err(AuthError::Expired);
    }
    let scopes: Vec<Scope> = claims.s.iter().filter_map(|scope| scope.parse().ok()).collect();
    if let Some(signed_with) = &claims.k {
        let jwts = jwts.ok_or(AuthError::Unknown)?;
        let key = jwts.find_key(|key| mark(&secret, key) == *signed_with).await.ok_or(AuthError::Unknown)?;
        return Ok(Caller::signed(claims.c, Rights::of(scopes), Some(expires_at), key));
    }
    let mut ended = CancellationToken::new();
    if let Some(id) = claims.c.strip_prefix(KEY) {
        let maker = keys.caller_of_id(id).await?;
        // The key may have changed since.
        if scopes.iter().any(|scope| maker.rights().require(scope.clone()).is_err()) {
            return Err(AuthError::Unknown);
        }
        expires_at = maker.expires_at().map_or(expires_at, |own| own.min(expires_at));
        ended = maker.child_token();
    }
    Ok(Caller::of(claims.c, Rights::of(scopes), Some(expires_at), ended))
}

fn read(text: &str, secret: &KeyHash) -> Result<Claims, AuthError> {
    if text.len() > TICKET_BYTES_MAX {
        return Err(AuthError::Unknown);
    }
    let (claims, signature) =
        text.strip_prefix(PREFIX).and_then(|rest| rest.split_once('.')).ok_or(AuthError::Unknown)?;
    let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| AuthError::Unknown);
    let (claims, signature) = (decoded(claims)?, decoded(signature)?);
    hmac::verify(&key(secret), &signed(&claims), &signature).map_err(|_| AuthError::Unknown)?;
    serde_json::from_slice(&claims).map_err(|_| AuthError::Unknown)
}

/// How tickets name a key. Its hash is not for those that see tickets: they could try secrets until one has it.
fn mark(secret: &KeyHash, signed_with: &KeyHash) -> String {
    let mark = hmac::sign(&key(secret), &[KEY_PURPOSE, signed_with].concat());
    URL_SAFE_NO_PAD.encode(&mark.as_ref()[..MARK_BYTES])
}

fn key(secret: &KeyHash) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, secret)
}

fn signed(claims: &[u8]) -> Vec<u8> {
    [PURPOSE, claims].concat()
}
