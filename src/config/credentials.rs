//! Settings of credentials: whether there must be any, and which are taken.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{lasting, secure_url, within};

/// Whether requests need a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CredentialsMode {
    /// Everybody may do everything
    Off,
    /// Each request needs an API key, a JWT or a ticket
    Required,
}

/// What is said of credentials.
#[derive(Debug, Clone, Args)]
pub struct CredentialSettings {
    /// Whether requests need a credential [default: off on loopback addresses, required elsewhere]
    #[arg(long, env = "HEADWATER_CREDENTIALS", global = true, value_enum, value_name = "MODE")]
    pub credentials: Option<CredentialsMode>,
    /// File with the secret that JWTs are signed with (HS256, HS384, HS512); at least 32 bytes
    #[arg(long, env = "HEADWATER_JWT_SECRET_FILE", global = true, value_name = "FILE")]
    pub jwt_secret_file: Option<PathBuf>,
    /// PEM file with a public key that JWTs are signed with (RSA, P-256, P-384, Ed25519); may be given several times
    #[arg(long, env = "HEADWATER_JWT_PUBLIC_KEY_FILE", global = true, value_delimiter = ',', value_name = "FILE")]
    pub jwt_public_key_file: Vec<PathBuf>,
    /// URL of the keys that JWTs are signed with (JWKS); https, or http on this machine
    #[arg(long, env = "HEADWATER_JWKS_URL", global = true, value_parser = secure_url, value_name = "URL")]
    pub jwks_url: Option<String>,
    /// How often the keys of the JWKS URL are fetched (1s to 24h)
    #[arg(long, env = "HEADWATER_JWKS_REFRESH", global = true, default_value = "5m", value_parser = lasting("1s", "24h"), value_name = "DURATION")]
    pub jwks_refresh: Duration,
    /// Audience (`aud`) that a JWT must name; may be given several times
    #[arg(long, env = "HEADWATER_JWT_AUDIENCE", global = true, value_delimiter = ',', value_name = "TEXT")]
    pub jwt_audience: Vec<String>,
    /// Issuer (`iss`) that a JWT must come from; may be given several times
    #[arg(long, env = "HEADWATER_JWT_ISSUER", global = true, value_delimiter = ',', value_name = "TEXT")]
    pub jwt_issuer: Vec<String>,
    /// How far the clocks of issuers of JWTs may be off (0s to 5m)
    #[arg(long, env = "HEADWATER_JWT_LEEWAY", global = true, default_value = "30s", value_parser = lasting("0s", "5m"), value_name = "DURATION")]
    pub jwt_leeway: Duration,
    /// API keys that can be used, in all (1 to 100000)
    #[arg(long, env = "HEADWATER_API_KEYS_MAX", global = true, default_value_t = 1_000, value_parser = within(1, 100_000), value_name = "COUNT")]
    pub api_keys_max: usize,
    /// Tickets and JWTs that are remembered, so that they are not checked again, beside those in use (1 to 1000000)
    #[arg(long, env = "HEADWATER_CREDENTIALS_CACHED_MAX", global = true, default_value_t = 10_000, value_parser = within(1, 1_000_000), value_name = "COUNT")]
    pub credentials_cached_max: usize,
    /// The longest that a ticket may be valid (1s to 24h)
    #[arg(long, env = "HEADWATER_TICKET_TTL_MAX", global = true, default_value = "1h", value_parser = lasting("1s", "24h"), value_name = "DURATION")]
    pub ticket_ttl_max: Duration,
}
