//! The certificate of the listening socket: read from files, and read again when they change.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum_server::tls_rustls::RustlsConfig;
use rustls::ServerConfig;
use rustls::version::{TLS12, TLS13};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// What clients may choose from when the handshake asks which protocol comes next.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Where a certificate chain and its key are, and how often the files are looked at.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub reload_interval: Duration,
}

/// The certificate in use, and what the files had when they were last looked at.
pub struct Certificate {
    files: TlsFiles,
    config: RustlsConfig,
    last: Look,
}

/// What the files have, or why they cannot be read.
type Look = Result<Pair, String>;

#[derive(PartialEq, Eq)]
struct Pair {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Certificate {
    /// Reads the files for the first time.
    pub async fn read(files: TlsFiles) -> io::Result<Self> {
        let pair = look(&files).await.map_err(io::Error::other)?;
        let config = pair.config(&files).map_err(io::Error::other)?;
        Ok(Self { files, config: RustlsConfig::from_config(config), last: Ok(pair) })
    }

    /// What handshakes go by: always the certificate in use.
    pub fn config(&self) -> RustlsConfig {
        self.config.clone()
    }

    /// Looks at the files again and again.
    pub async fn keep_up<Never>(mut self) -> Never {
        loop {
            tokio::time::sleep(self.files.reload_interval).await;
            self.look_again().await;
        }
    }

    /// Takes what the files have now, if it is another pair. A broken or half-written one changes nothing, and is logged
    /// once: not again before the files have changed. Open connections go on as they are.
    async fn look_again(&mut self) {
        let look = look(&self.files).await;
        if look == self.last {
            return;
        }
        match look.as_ref().map_err(Clone::clone).and_then(|pair| pair.config(&self.files)) {
            Ok(config) => {
                self.config.reload_from_config(config);
                tracing::info!(file = %self.files.certificate.display(), "new connections get the new certificate");
            }
            Err(reason) => {
                tracing::warn!(%reason, "the certificate or its key has changed and cannot be used: the former stays");
            }
        }
        self.last = look;
    }
}

async fn look(files: &TlsFiles) -> Look {
    let certificate = bytes_of(&files.certificate).await?;
    Ok(Pair { certificate, key: bytes_of(&files.key).await? })
}

async fn bytes_of(file: &Path) -> Result<Vec<u8>, String> {
    tokio::fs::read(file).await.map_err(|error| format!("{}: {error}", file.display()))
}

impl Pair {
    /// TLS 1.3 and 1.2, with this certificate, if the key is its key.
    fn config(&self, files: &TlsFiles) -> Result<Arc<ServerConfig>, String> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.certificate).collect();
        let chain = chain.map_err(|error| format!("{}: {error}", files.certificate.display()))?;
        if chain.is_empty() {
            return Err(format!("{}: has no certificate in PEM", files.certificate.display()));
        }
        // The error says nothing of what the file has.
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| format!("{}: has no private key in PEM", files.key.display()))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key));
        let mut config = config.map_err(|error| format!("{}: {error}", files.certificate.display()))?;
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        Ok(Arc::new(config))
    }
}
