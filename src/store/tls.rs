//! TLS to the database, with libpq's meaning of `sslmode` and `sslrootcert`.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::OpenError;
use crate::domain::percent::percent_decode;

/// Takes the parameters out of the URL that tokio-postgres does not know, and makes the connector that they ask for. As in
/// libpq, `prefer` and `require` encrypt without checking the server's certificate; `verify-ca` and `verify-full` (both
/// mean `verify-full` here) check it against `sslrootcert`, or else against the system's roots.
pub fn connector(url: &str) -> Result<(String, MakeRustlsConnect), OpenError> {
    let mut root_file = None;
    let mut verify = false;
    let mut kept = Vec::new();
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("sslrootcert", file)) => {
                root_file = Some(String::from_utf8_lossy(&percent_decode(file)).into_owned());
            }
            Some(("sslmode", "verify-ca" | "verify-full")) => {
                verify = true;
                kept.push("sslmode=require");
            }
            _ => kept.push(pair),
        }
    }
    let url = if kept.is_empty() { base.to_owned() } else { format!("{base}?{}", kept.join("&")) };
    let config = client_config(verify || root_file.is_some(), root_file.as_deref())?;
    Ok((url, MakeRustlsConnect::new(config)))
}

fn client_config(verify: bool, root_file: Option<&str>) -> Result<ClientConfig, OpenError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| OpenError::Tls(error.to_string()))?;
    if !verify {
        let verifier = Arc::new(AcceptAnyServer { provider });
        return Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth());
    }
    let mut roots = RootCertStore::empty();
    match root_file {
        Some(file) => {
            let unreadable = |error| OpenError::Tls(format!("sslrootcert {file}: {error}"));
            for certificate in CertificateDer::pem_file_iter(file).map_err(unreadable)? {
                roots
                    .add(certificate.map_err(unreadable)?)
                    .map_err(|error| OpenError::Tls(format!("sslrootcert {file}: {error}")))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Accepts every certificate, as libpq does with `prefer` and `require`.
#[derive(Debug)]
struct AcceptAnyServer {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AcceptAnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_driver_cannot_read_is_taken_out_of_the_url() {
        let (url, _) = connector("postgresql://u@h/d?sslmode=verify-full&connect_timeout=3").unwrap();
        assert_eq!(url, "postgresql://u@h/d?sslmode=require&connect_timeout=3");
        let (url, _) = connector("postgresql://u@localhost/d?host=/tmp/x").unwrap();
        assert_eq!(url, "postgresql://u@localhost/d?host=/tmp/x");
        let missing = connector("postgresql://h/d?sslrootcert=%2Fno%20such/file").map(|_| ());
        assert!(matches!(&missing, Err(OpenError::Tls(text)) if text.contains("/no such/file")), "{missing:?}");
    }
}
