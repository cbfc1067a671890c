//! Keys that JWTs are signed with, each for the algorithms of its own kind; and ring, which checks the signatures.

use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, new_error};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::signature::{self, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use ring::digest;
use ring::signature::{self as ring_signature, RsaPublicKeyComponents, UnparsedPublicKey};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;

use crate::domain::secret::Secret;
use crate::store::api_keys::KeyHash;

/// A secret that is shorter can be guessed: RFC 7518 wants as many bits as the hash has.
const SECRET_BYTES_MIN: usize = 32;

const OF_SECRETS: &[Algorithm] = &[Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
const OF_RSA: &[Algorithm] =
    &[Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384, Algorithm::PS512];
const OF_P256: &[Algorithm] = &[Algorithm::ES256];
const OF_P384: &[Algorithm] = &[Algorithm::ES384];
const OF_ED25519: &[Algorithm] = &[Algorithm::EdDSA];

/// Object identifiers, as DER has them.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

/// Tags of DER.
const SEQUENCE: u8 = 0x30;
const OBJECT_IDENTIFIER: u8 = 0x06;
const BIT_STRING: u8 = 0x03;

/// A key, and what it may be used for.
#[derive(Debug, Clone, PartialEq)]
pub struct JwtKey {
    /// The `kid` of tokens that are signed with it; `None`: whatever they have.
    pub id: Option<String>,
    pub algorithms: Vec<Algorithm>,
    pub key: Key,
}

/// A key as the library has it, compared by what it is made of.
#[derive(Debug, Clone)]
pub struct Key(DecodingKey);

impl std::ops::Deref for Key {
    type Target = DecodingKey;

    fn deref(&self) -> &DecodingKey {
        &self.0
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        match (self.kind(), other.kind()) {
            (DecodingKeyKind::SecretOrDer(one), DecodingKeyKind::SecretOrDer(two)) => one == two,
            (
                DecodingKeyKind::RsaModulusExponent { n, e },
                DecodingKeyKind::RsaModulusExponent { n: other_n, e: other_e },
            ) => n == other_n && e == other_e,
            _ => false,
        }
    }
}

/// Why a text is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("has less than {SECRET_BYTES_MIN} bytes, so that it could be guessed")]
    ShortSecret,
    #[error("has no public key in PEM (`-----BEGIN PUBLIC KEY-----`)")]
    NoPem,
    #[error("has a public key of another kind than RSA, P-256, P-384 or Ed25519")]
    OtherKind,
}

impl JwtKey {
    /// What it is recognised by, whatever it is called. Of a secret that is no secret only as long as it is kept in here.
    pub fn hash(&self) -> KeyHash {
        let mut digest = digest::Context::new(&digest::SHA256);
        match self.key.kind() {
            DecodingKeyKind::SecretOrDer(bytes) => digest.update(bytes),
            DecodingKeyKind::RsaModulusExponent { n, e } => [n, e].into_iter().for_each(|part| {
                digest.update(&(part.len() as u64).to_be_bytes());
                digest.update(part);
            }),
        }
        digest.finish().as_ref().try_into().unwrap_or_else(|_| unreachable!("SHA-256 has 32 bytes"))
    }

    /// A secret that both sides have, for HS256, HS384 and HS512. A line end after it is not part of it.
    pub fn of_secret(secret: &Secret) -> Result<Self, KeyError> {
        let secret = secret.expose().trim_end_matches(['\r', '\n']).as_bytes();
        if secret.len() < SECRET_BYTES_MIN {
            return Err(KeyError::ShortSecret);
        }
        Ok(Self::new(None, OF_SECRETS, DecodingKey::from_secret(secret)))
    }

    /// The public key of a PEM text.
    pub fn of_pem(pem: &str) -> Result<Self, KeyError> {
        let info = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).map_err(|_| KeyError::NoPem)?;
        let PublicKey { kind, curve, key } = PublicKey::read(&info).ok_or(KeyError::NoPem)?;
        let (algorithms, key) = match (kind, curve) {
            (RSA, _) => (OF_RSA, DecodingKey::from_rsa_der(key)),
            (EC, Some(P256)) => (OF_P256, DecodingKey::from_ec_der(key)),
            (EC, Some(P384)) => (OF_P384, DecodingKey::from_ec_der(key)),
            (ED25519, _) => (OF_ED25519, DecodingKey::from_ed_der(key)),
            _ => return Err(KeyError::OtherKind),
        };
        Ok(Self::new(None, algorithms, key))
    }

    /// A key of a JWKS; `None`: it is of a kind that this service does not know, is for something else, or is a secret,
    /// which has no place in a public document.
    pub fn of_jwk(jwk: &Jwk) -> Option<Self> {
        let common = &jwk.common;
        let is_to_sign = common.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature);
        let is_to_verify = common.key_operations.as_ref().is_none_or(|all| all.contains(&KeyOperations::Verify));
        if !is_to_sign || !is_to_verify {
            return None;
        }
        let of_kind = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => OF_RSA,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => OF_P256,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => OF_P384,
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => OF_ED25519,
            _ => return None,
        };
        let mut key = Self::new(common.key_id.clone(), of_kind, DecodingKey::from_jwk(jwk).ok()?);
        if let Some(only) = common.key_algorithm {
            let only = Algorithm::try_from(only).ok();
            key.algorithms.retain(|algorithm| Some(*algorithm) == only);
        }
        (!key.algorithms.is_empty()).then_some(key)
    }

    fn new(id: Option<String>, algorithms: &[Algorithm], key: DecodingKey) -> Self {
        Self { id, algorithms: algorithms.to_vec(), key: Key(key) }
    }
}

/// A public key as X.509 writes it: `SEQUENCE { SEQUENCE { kind, curve }, BIT STRING }`.
struct PublicKey<'a> {
    kind: &'a [u8],
    curve: Option<&'a [u8]>,
    key: &'a [u8],
}

impl<'a> PublicKey<'a> {
    fn read(der: &'a [u8]) -> Option<Self> {
        let (info, []) = element(der, SEQUENCE)? else { return None };
        let (algorithm, rest) = element(info, SEQUENCE)?;
        let (bits, []) = element(rest, BIT_STRING)? else { return None };
        let (kind, parameters) = element(algorithm, OBJECT_IDENTIFIER)?;
        let curve = element(parameters, OBJECT_IDENTIFIER).map(|(curve, _)| curve);
        // The first byte says how many bits of the last one do not count.
        Some(Self { kind, curve, key: bits.strip_prefix(&[0])? })
    }
}

/// The content of the first element, if it has this tag, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 | 0x82 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    if found == tag { rest.split_at_checked(length) } else { None }
}

/// From here on signatures are checked by ring, which the service has for TLS anyway.
pub fn use_ring() {
    // A second call finds it done.
    let _ = RING.install_default();
}

static RING: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(new_error(ErrorKind::UnsupportedAlgorithm)),
    verifier_factory: |algorithm, key| {
        if algorithm.family() != key.family() {
            return Err(new_error(ErrorKind::InvalidKeyFormat));
        }
        Ok(Box::new(RingVerifier { algorithm: *algorithm, key: key.clone() }))
    },
    key_utils: KeyUtils::new_unimplemented(),
};

struct RingVerifier {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        self.is_right(message, signature).ok_or_else(signature::Error::new)
    }
}

impl RingVerifier {
    fn is_right(&self, message: &[u8], signature: &[u8]) -> Option<()> {
        let by_secret = |algorithm| {
            let key = ring::hmac::Key::new(algorithm, self.key.try_get_as_bytes().ok()?);
            ring::hmac::verify(&key, message, signature).ok()
        };
        let by_key = |algorithm: &'static dyn ring_signature::VerificationAlgorithm| {
            UnparsedPublicKey::new(algorithm, self.key.try_get_as_bytes().ok()?).verify(message, signature).ok()
        };
        let by_rsa = |algorithm: &'static ring_signature::RsaParameters| match self.key.kind() {
            DecodingKeyKind::SecretOrDer(_) => by_key(algorithm),
            DecodingKeyKind::RsaModulusExponent { n, e } => {
                RsaPublicKeyComponents { n, e }.verify(algorithm, message, signature).ok()
            }
        };
        match self.algorithm {
            Algorithm::HS256 => by_secret(ring::hmac::HMAC_SHA256),
            Algorithm::HS384 => by_secret(ring::hmac::HMAC_SHA384),
            Algorithm::HS512 => by_secret(ring::hmac::HMAC_SHA512),
            Algorithm::RS256 => by_rsa(&ring_signature::RSA_PKCS1_2048_8192_SHA256),
            Algorithm::RS384 => by_rsa(&ring_signature::RSA_PKCS1_2048_8192_SHA384),
            Algorithm::RS512 => by_rsa(&ring_signature::RSA_PKCS1_2048_8192_SHA512),
            Algorithm::PS256 => by_rsa(&ring_signature::RSA_PSS_2048_8192_SHA256),
            Algorithm::PS384 => by_rsa(&ring_signature::RSA_PSS_2048_8192_SHA384),
            Algorithm::PS512 => by_rsa(&ring_signature::RSA_PSS_2048_8192_SHA512),
            Algorithm::ES256 => by_key(&ring_signature::ECDSA_P256_SHA256_FIXED),
            Algorithm::ES384 => by_key(&ring_signature::ECDSA_P384_SHA384_FIXED),
            Algorithm::EdDSA => by_key(&ring_signature::ED25519),
            // The library's list may grow.
            _ => None,
        }
    }
}
