//! Which credentials there must be, and which are taken: from settings to the service.

use std::path::Path;

use super::AppError;
use crate::config::{CredentialsMode, PageCache, Settings};
use crate::domain::secret::Secret;
use crate::service::Service;
use crate::service::auth::{CredentialSettings, JwksSettings, JwtKey, JwtSettings, KeyError};

/// All that needs no file; what does is in [`jwt_settings`].
pub fn settings_of(settings: &Settings) -> CredentialSettings {
    CredentialSettings {
        are_required: are_required(settings),
        api_keys_max: settings.auth.api_keys_max,
        callers_cached_max: settings.auth.credentials_cached_max,
        ticket_ttl_max: settings.auth.ticket_ttl_max,
        jwt: None,
    }
}

/// Whether requests need a credential: by the setting, else by the address.
fn are_required(settings: &Settings) -> bool {
    match settings.auth.credentials {
        Some(mode) => mode == CredentialsMode::Required,
        None => !settings.listen.ip().is_loopback() && !settings.insecure,
    }
}

pub fn check_address(settings: &Settings) -> Result<(), AppError> {
    if settings.page_cache == PageCache::Public && are_required(settings) {
        return Err(AppError::PublicPages);
    }
    let is_safe = settings.listen.ip().is_loopback() || are_required(settings) || settings.insecure;
    if is_safe { Ok(()) } else { Err(AppError::NeedsInsecure { address: settings.listen }) }
}

/// Says what an operator should know of what callers may do.
pub fn warn_of_them(settings: &Settings, service: &Service) {
    let address = settings.listen;
    if !service.credentials.are_required() {
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "--insecure: everybody who reaches this address can read and write everything");
        }
        return;
    }
    if !address.ip().is_loopback() && settings.tls_certificate.is_none() {
        tracing::warn!(
            %address,
            "without --tls-certificate credentials pass the network as they are, unless a proxy before this service speaks TLS"
        );
    }
    if service.credentials.live_keys() == 0 && !service.credentials.take_jwts() {
        tracing::warn!(
            "there is no API key yet, so nobody can do anything; make one: headwater keys create --name admin --scope admin"
        );
    }
}

/// Which JWTs are taken; `None`: none.
pub fn jwt_settings(settings: &Settings) -> Result<Option<JwtSettings>, AppError> {
    let read = |flag: &str, file: &Path| {
        let text = std::fs::read_to_string(file);
        text.map_err(|error| AppError::Failed(format!("{flag} {}: {error}", file.display())))
    };
    let refused = |flag: &str, file: &Path, error: KeyError| {
        AppError::Failed(format!("{flag} {}: the file {error}", file.display()))
    };
    let mut keys = Vec::new();
    if let Some(file) = &settings.auth.jwt_secret_file {
        let flag = "--jwt-secret-file";
        let secret = Secret::new(read(flag, file)?);
        keys.push(JwtKey::of_secret(&secret).map_err(|error| refused(flag, file, error))?);
    }
    for file in &settings.auth.jwt_public_key_file {
        let flag = "--jwt-public-key-file";
        keys.push(JwtKey::of_pem(&read(flag, file)?).map_err(|error| refused(flag, file, error))?);
    }
    let jwks = settings.auth.jwks_url.clone().map(|url| JwksSettings { url, refresh: settings.auth.jwks_refresh });
    if keys.is_empty() && jwks.is_none() {
        return Ok(None);
    }
    let (audiences, issuers) = (settings.auth.jwt_audience.clone(), settings.auth.jwt_issuer.clone());
    Ok(Some(JwtSettings { keys, jwks, audiences, issuers, leeway: settings.auth.jwt_leeway }))
}
