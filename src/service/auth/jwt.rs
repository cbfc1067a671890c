//! JWTs: which keys they may be signed with, and what they must say.

use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use serde::Deserialize;

use super::Caller;
use super::jwks::{Jwks, JwksSettings};
use super::jwt_keys::{self, JwtKey};
use crate::domain::scope::{Rights, Scope};
use crate::domain::secret::Secret;
use crate::domain::time::Timestamp;
use crate::store::api_keys::KeyHash;

/// The longest name of a credential, which `sub` and `iss` make.
const NAME_CHARACTERS_MAX: usize = 500;
/// Keys that are tried for a token that names none.
const CANDIDATES_MAX: usize = 16;

/// Which JWTs are taken.
#[derive(Debug, Clone, Default)]
pub struct JwtSettings {
    /// Keys from files.
    pub keys: Vec<JwtKey>,
    pub jwks: Option<JwksSettings>,
    /// A token must name one of these, if there are any.
    pub audiences: Vec<String>,
    /// A token must come from one of these, if there are any.
    pub issuers: Vec<String>,
    /// How far clocks may differ.
    pub leeway: Duration,
}

/// Why a JWT is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    #[error("it cannot be read")]
    Malformed,
    #[error("no key of this service is for its algorithm and its `kid`")]
    NoKey,
    #[error("its signature is wrong")]
    Signature,
    #[error("it has expired")]
    Expired,
    #[error("it is not valid yet (`nbf`)")]
    NotYet,
    #[error("its `aud` is not one that this service has")]
    Audience,
    #[error("its `iss` is not one that this service trusts")]
    Issuer,
    #[error("it has no `exp`, or one that is no number")]
    NoExpiry,
    #[error("it has a `crit` header, whose extensions this service does not know")]
    Critical,
}

/// Checks JWTs.
pub struct Jwts {
    settings: JwtSettings,
    jwks: Option<Arc<Jwks>>,
}

#[derive(Deserialize)]
struct Claims {
    /// A number, as the library has seen.
    #[serde(default)]
    exp: serde_json::Value,
    #[serde(default)]
    sub: Option<String>,
    /// Some write a list.
    #[serde(default)]
    iss: Option<Texts>,
    #[serde(default)]
    scope: Option<Texts>,
    #[serde(default)]
    scopes: Option<Texts>,
}

/// A text with blanks, or a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum Texts {
    Words(String),
    List(Vec<String>),
}

impl Texts {
    fn text(&self) -> String {
        match self {
            Self::Words(text) => text.clone(),
            Self::List(texts) => texts.join(" "),
        }
    }

    fn scopes(&self) -> Vec<Scope> {
        // Other services have scopes of their own in the same token, which mean nothing here.
        match self {
            Self::Words(text) => text.split(' ').filter_map(|scope| scope.parse().ok()).collect(),
            Self::List(texts) => texts.iter().filter_map(|scope| scope.parse().ok()).collect(),
        }
    }
}

impl Jwts {
    pub fn new(settings: JwtSettings, jwks: Option<Arc<Jwks>>) -> Self {
        jwt_keys::use_ring();
        Self { settings, jwks }
    }

    /// The caller whose token this is.
    pub async fn caller(&self, token: &Secret) -> Result<Caller, JwtError> {
        let token = token.expose();
        let header = decode_header(token).map_err(|_| JwtError::Malformed)?;
        if header.crit.is_some() {
            return Err(JwtError::Critical);
        }
        let (alg, kid) = (header.alg, header.kid.as_deref());
        let mut candidates = self.candidates(alg, kid);
        if candidates.is_empty()
            && let Some(jwks) = &self.jwks
        {
            jwks.look_for_unknown().await;
            candidates = self.candidates(alg, kid);
        }
        let mut refused = JwtError::NoKey;
        for key in &candidates {
            match self.check(token, key, alg) {
                Ok(claims) => return Ok(self.caller_of(&claims, key)),
                Err(error) => refused = error,
            }
            // Another key says nothing else of a token whose signature is right.
            if refused != JwtError::Signature {
                break;
            }
        }
        Err(refused)
    }

    /// The key of which this is true, by its hash, as long as it is one of this service's.
    pub async fn find_key(&self, is_it: impl Fn(&KeyHash) -> bool) -> Option<KeyHash> {
        let find = || self.keys().iter().map(JwtKey::hash).find(&is_it);
        if let Some(found) = find() {
            return Some(found);
        }
        self.jwks.as_ref()?.look_for_unknown().await;
        find()
    }

    fn keys(&self) -> Vec<JwtKey> {
        let fetched = self.jwks.as_ref().map(|jwks| jwks.keys());
        self.settings.keys.iter().chain(fetched.iter().flat_map(|keys| keys.iter())).cloned().collect()
    }

    /// The keys that this token may be signed with. What a key is for is the key's to say, never the token's.
    fn candidates(&self, alg: Algorithm, kid: Option<&str>) -> Vec<JwtKey> {
        let is_named = |key: &JwtKey| kid.is_none() || key.id.is_none() || key.id.as_deref() == kid;
        let is_for = |key: &JwtKey| key.algorithms.contains(&alg) && is_named(key);
        self.keys().into_iter().filter(is_for).take(CANDIDATES_MAX).collect()
    }

    fn check(&self, token: &str, key: &JwtKey, alg: Algorithm) -> Result<Claims, JwtError> {
        let mut rules = Validation::new(alg);
        let JwtSettings { audiences, issuers, leeway, .. } = &self.settings;
        rules.leeway = leeway.as_secs();
        rules.validate_nbf = true;
        let mut required = vec!["exp"];
        // Without an audience of its own the service takes no token that is meant for somebody.
        if !audiences.is_empty() {
            rules.set_audience(audiences);
            required.push("aud");
        }
        if !issuers.is_empty() {
            rules.set_issuer(issuers);
            required.push("iss");
        }
        rules.set_required_spec_claims(&required);
        decode::<Claims>(token, &key.key, &rules).map(|data| data.claims).map_err(|error| reason(error.kind()))
    }

    fn caller_of(&self, claims: &Claims, key: &JwtKey) -> Caller {
        let scopes = claims.scope.iter().chain(&claims.scopes).flat_map(Texts::scopes);
        let leeway = self.settings.leeway.as_micros() as i64;
        let expires_at = Timestamp(((claims.exp.as_f64().unwrap_or(0.0) * 1e6) as i64).saturating_add(leeway));
        let issuer = claims.iss.as_ref().map_or_else(String::new, |issuer| format!(" of {}", issuer.text()));
        let name = format!("jwt:{}{issuer}", claims.sub.as_deref().unwrap_or("without sub"));
        let name: String = name.chars().filter(|one| !one.is_control()).take(NAME_CHARACTERS_MAX).collect();
        Caller::signed(name, Rights::of(scopes), Some(expires_at), key.hash())
    }
}

fn reason(kind: &ErrorKind) -> JwtError {
    match kind {
        ErrorKind::InvalidSignature => JwtError::Signature,
        ErrorKind::ExpiredSignature => JwtError::Expired,
        ErrorKind::ImmatureSignature => JwtError::NotYet,
        ErrorKind::InvalidAudience => JwtError::Audience,
        ErrorKind::InvalidIssuer => JwtError::Issuer,
        ErrorKind::MissingRequiredClaim(claim) if claim == "aud" => JwtError::Audience,
        ErrorKind::MissingRequiredClaim(claim) if claim == "iss" => JwtError::Issuer,
        ErrorKind::MissingRequiredClaim(_) => JwtError::NoExpiry,
        ErrorKind::InvalidClaimFormat(claim) if claim == "exp" => JwtError::NoExpiry,
        // The library's list may grow.
        _ => JwtError::Malformed,
    }
}
