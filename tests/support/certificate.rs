//! Certificates for 127.0.0.1 that nobody has signed, made by openssl.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The files of a certificate and its key.
#[derive(Clone)]
pub struct PemPair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl PemPair {
    /// Makes a new pair with this name.
    pub fn make(directory: &Path, name: &str) -> Self {
        let certificate = directory.join(format!("{name}-certificate.pem"));
        let key = directory.join(format!("{name}-key.pem"));
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .output()
            .expect("openssl makes certificates");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self { certificate, key }
    }

    /// A client that trusts this certificate and no other.
    pub fn client(&self) -> reqwest::ClientBuilder {
        super::http_client(); // installs the provider of TLS
        let root = reqwest::Certificate::from_pem(&std::fs::read(&self.certificate).unwrap()).unwrap();
        reqwest::Client::builder().tls_certs_only([root])
    }
}
