//! JWTs as somebody else makes them, and a server of their keys.
#![allow(dead_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use parking_lot::Mutex;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A key that tokens are signed with. It was made for these tests, and is nobody's.
const RSA_PRIVATE: &[u8] = include_bytes!("../fixtures/jwt_rsa_private.der");
pub const RSA_PUBLIC_PEM: &str = include_str!("../fixtures/jwt_rsa_public.pem");

/// Whoever makes tokens.
pub enum Issuer {
    Secret(Vec<u8>),
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

pub fn now() -> i64 {
    headwater::domain::time::Timestamp::now().0 / 1_000_000
}

/// Claims that are right where nothing else is asked for.
pub fn claims(scope: &str) -> Value {
    json!({ "sub": "ada", "exp": now() + 600, "scope": scope })
}

impl Issuer {
    pub fn secret(secret: &str) -> Self {
        Self::Secret(secret.as_bytes().to_vec())
    }

    pub fn rsa() -> Self {
        Self::Rsa(RsaKeyPair::from_pkcs8(RSA_PRIVATE).unwrap())
    }

    pub fn p256() -> Self {
        let (algorithm, random) = (&signature::ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Self::P256(EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).unwrap())
    }

    pub fn p384() -> Self {
        let (algorithm, random) = (&signature::ECDSA_P384_SHA384_FIXED_SIGNING, SystemRandom::new());
        let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Self::P384(EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).unwrap())
    }

    pub fn ed25519() -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::Ed25519(Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap())
    }

    /// The algorithms that it can sign with.
    pub fn algorithms(&self) -> &'static [&'static str] {
        match self {
            Self::Secret(_) => &["HS256", "HS384", "HS512"],
            Self::Rsa(_) => &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"],
            Self::P256(_) => &["ES256"],
            Self::P384(_) => &["ES384"],
            Self::Ed25519(_) => &["EdDSA"],
        }
    }

    /// The public key, as `--jwt-public-key-file` has it.
    pub fn pem(&self) -> String {
        let (prefix, key): (&[u8], &[u8]) = match self {
            Self::Rsa(_) => return RSA_PUBLIC_PEM.into(),
            Self::Secret(_) => panic!("a secret is not public"),
            Self::P256(key) => (
                &[
                    0x30, 0x59, 0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48, 0xce,
                    0x3d, 3, 1, 7, 3, 0x42, 0,
                ],
                key.public_key().as_ref(),
            ),
            Self::P384(key) => (
                &[
                    0x30, 0x76, 0x30, 0x10, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 5, 0x2b, 0x81, 4, 0, 0x22, 3,
                    0x62, 0,
                ],
                key.public_key().as_ref(),
            ),
            Self::Ed25519(key) => {
                (&[0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0], key.public_key().as_ref())
            }
        };
        let text = STANDARD.encode([prefix, key].concat());
        format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n")
    }

    /// The public key, as a JWKS has it.
    pub fn jwk(&self, kid: &str) -> Value {
        let point = |curve: &str, key: &[u8]| {
            let (x, y) = key[1..].split_at(key.len() / 2);
            json!({ "kty": "EC", "crv": curve, "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y), "kid": kid })
        };
        match self {
            Self::Secret(secret) => json!({ "kty": "oct", "k": URL_SAFE_NO_PAD.encode(secret), "kid": kid }),
            Self::Rsa(key) => {
                let public = ring::rsa::PublicKeyComponents::<Vec<u8>>::from(key.public());
                let (n, e) = (URL_SAFE_NO_PAD.encode(public.n), URL_SAFE_NO_PAD.encode(public.e));
                json!({ "kty": "RSA", "n": n, "e": e, "kid": kid })
            }
            Self::P256(key) => point("P-256", key.public_key().as_ref()),
            Self::P384(key) => point("P-384", key.public_key().as_ref()),
            Self::Ed25519(key) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(key.public_key()), "kid": kid })
            }
        }
    }

    /// A token with a header that says only how it is signed.
    pub fn token(&self, algorithm: &str, claims: &Value) -> String {
        self.token_with(&json!({ "alg": algorithm, "typ": "JWT" }), claims)
    }

    /// A token of the key with this id.
    pub fn token_of(&self, kid: &str, claims: &Value) -> String {
        self.token_with(&json!({ "alg": self.algorithms()[0], "kid": kid }), claims)
    }

    pub fn token_with(&self, header: &Value, claims: &Value) -> String {
        let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let signature = self.sign(header["alg"].as_str().unwrap_or_default(), message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// Signs, with an algorithm of its own kind if it knows none of this name.
    fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Secret(secret) => {
                let algorithm = match algorithm {
                    "HS384" => ring::hmac::HMAC_SHA384,
                    "HS512" => ring::hmac::HMAC_SHA512,
                    _ => ring::hmac::HMAC_SHA256,
                };
                ring::hmac::sign(&ring::hmac::Key::new(algorithm, secret), message).as_ref().to_vec()
            }
            Self::Rsa(key) => {
                let padding: &dyn signature::RsaEncoding = match algorithm {
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    "PS256" => &signature::RSA_PSS_SHA256,
                    "PS384" => &signature::RSA_PSS_SHA384,
                    "PS512" => &signature::RSA_PSS_SHA512,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(padding, &random, message, &mut signature).unwrap();
                signature
            }
            Self::P256(key) | Self::P384(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Ed25519(key) => key.sign(message).as_ref().to_vec(),
        }
    }
}

/// What a server of keys does when it is asked.
#[derive(Clone)]
pub enum Answers {
    /// With this status and body.
    With(u16, String),
    /// With headers, and then nothing.
    NeverWhole,
    /// By going away.
    Closed,
}

/// A JWKS URL.
pub struct JwksServer {
    pub url: String,
    answers: Arc<Mutex<Answers>>,
    asked: Arc<AtomicUsize>,
}

impl JwksServer {
    pub async fn start(keys: &[Value]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let server = Self { url, answers: Arc::new(Mutex::new(Answers::Closed)), asked: Arc::default() };
        server.has(keys);
        let (answers, asked) = (server.answers.clone(), server.asked.clone());
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                asked.fetch_add(1, Ordering::SeqCst);
                let answer = answers.lock().clone();
                tokio::spawn(async move {
                    let mut head = [0; 4096];
                    let _ = socket.read(&mut head).await;
                    match answer {
                        Answers::With(status, body) => {
                            let length = body.len();
                            let more = if status == 302 { "location: /other\r\n" } else { "" };
                            let text = format!(
                                "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n{more}connection: close\r\n\r\n{body}"
                            );
                            let _ = socket.write_all(text.as_bytes()).await;
                        }
                        Answers::NeverWhole => {
                            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{").await;
                            std::future::pending::<()>().await;
                        }
                        Answers::Closed => {}
                    }
                });
            }
        });
        server
    }

    /// From now on it has these keys.
    pub fn has(&self, keys: &[Value]) {
        self.answers(Answers::With(200, json!({ "keys": keys }).to_string()));
    }

    pub fn answers(&self, answers: Answers) {
        *self.answers.lock() = answers;
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}
