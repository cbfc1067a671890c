//! The servers that a URL names, and how each of them is connected to, by either driver.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use futures_util::future::join_all;
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio_postgres::config::Host;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{APPLICATION_NAME, OpenError, source_text, tls};
use crate::domain::database_url::Parts;

const DEFAULT_PORT: u16 = 5432;

/// What a URL says.
pub(super) struct Target {
    hosts: Vec<Named>,
    /// Without a host, as the following one.
    config: tokio_postgres::Config,
    plain: PgConnectOptions,
    pub tls: MakeRustlsConnect,
}

/// A host as it is named.
#[derive(Debug, Clone)]
struct Named {
    host: Option<Host>,
    address: Option<IpAddr>,
    port: u16,
}

/// The way to one server, for both drivers.
#[derive(Clone)]
pub(super) struct Way {
    /// As log lines name it.
    pub name: String,
    pub config: tokio_postgres::Config,
    pub plain: PgConnectOptions,
}

impl Target {
    pub fn parse(url: &str, connect_timeout: Duration, silence_timeout: Duration) -> Result<Self, OpenError> {
        let parts = Parts::of(url).ok_or_else(|| OpenError::Url("it does not begin with postgresql://".into()))?;
        let (url, tls) = tls::connector(&parts.with_hosts())?;
        let parse =
            |url: &str| tokio_postgres::Config::from_str(url).map_err(|error| OpenError::Url(source_text(&error)));
        let hosts = Named::all(&parse(&url)?)?;
        let mut config = match Parts::of(&url) {
            Some(parts) => parse(&parts.with_host(""))?,
            None => parse(&url)?,
        };
        config.connect_timeout(connect_timeout);
        config.tcp_user_timeout(silence_timeout);
        config.keepalives_idle(silence_timeout);
        config.keepalives_interval(Duration::from_secs(1));
        config.keepalives_retries(3);
        if config.get_application_name().is_none() {
            config.application_name(APPLICATION_NAME);
        }
        let plain = PgConnectOptions::from_str(&parts.with_host("localhost"))
            .map_err(|error| OpenError::Url(error.to_string()))?
            .application_name(config.get_application_name().unwrap_or(APPLICATION_NAME))
            // Poolers refuse it, and every PostgreSQL that can be used prints floats exactly without it.
            .extra_float_digits(None::<i8>)
            .disable_statement_logging();
        Ok(Self { hosts, config, plain, tls })
    }

    /// The ways to all of its servers. A name may have several addresses, each of which may be another server's; a
    /// name that has none, or cannot be looked up in time, is a way that leads nowhere.
    pub async fn ways(&self, within: Duration) -> Vec<Way> {
        let resolving = self.hosts.iter().map(|named| async move {
            let Some(Host::Tcp(name)) = &named.host else { return Vec::new() };
            if named.address.is_some() {
                return Vec::new();
            }
            let looking = tokio::net::lookup_host((name.as_str(), named.port));
            match tokio::time::timeout(within, looking).await {
                Ok(Ok(found)) => found.map(|address| address.ip()).collect(),
                Ok(Err(_)) | Err(_) => Vec::new(),
            }
        });
        let found = join_all(resolving).await;
        self.hosts.iter().zip(found).flat_map(|(named, found)| self.ways_to(named, found)).collect()
    }

    fn ways_to(&self, named: &Named, found: Vec<IpAddr>) -> Vec<Way> {
        // The addresses of this machine are one server.
        if found.len() < 2 || found.iter().all(IpAddr::is_loopback) {
            return vec![self.way(named)];
        }
        found.into_iter().map(|address| self.way(&Named { address: Some(address), ..named.clone() })).collect()
    }

    fn way(&self, named: &Named) -> Way {
        let Named { host, address, port } = named;
        let (mut config, mut plain) = (self.config.clone(), self.plain.clone().port(*port));
        config.port(*port);
        let mut name = String::new();
        match host {
            Some(Host::Tcp(host)) => {
                config.host(host);
                plain = plain.host(host);
                name = format!("{host}:{port}");
            }
            Some(Host::Unix(path)) => {
                config.host_path(path);
                plain = plain.socket(path);
                name = format!("{}:{port}", path.display());
            }
            None => {}
        }
        if let Some(address) = address {
            config.hostaddr(*address);
            // sqlx connects to the name that the certificate has to have.
            if !matches!(plain.get_ssl_mode(), PgSslMode::VerifyFull) || name.is_empty() {
                plain = plain.host(&address.to_string());
            }
            name = if name.is_empty() { format!("{address}:{port}") } else { format!("{name} ({address})") };
        }
        Way { name, config, plain }
    }
}

impl Named {
    fn all(config: &tokio_postgres::Config) -> Result<Vec<Self>, OpenError> {
        let (hosts, addresses, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
        let count = hosts.len().max(addresses.len());
        let is_one_for_each = |len: usize| len == 0 || len == count;
        if count == 0 {
            return Err(OpenError::Url("it names no host".into()));
        }
        if !is_one_for_each(hosts.len()) || !is_one_for_each(addresses.len()) {
            return Err(OpenError::Url("it has another number of host addresses than of hosts".into()));
        }
        if ports.len() > 1 && ports.len() != count {
            return Err(OpenError::Url("it has another number of ports than of hosts".into()));
        }
        let named = |at: usize| Self {
            host: hosts.get(at).cloned(),
            address: addresses.get(at).copied(),
            port: ports.get(at).or_else(|| ports.first()).copied().unwrap_or(DEFAULT_PORT),
        };
        Ok((0..count).map(named).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Target, OpenError> {
        Target::parse(url, Duration::from_secs(1), Duration::from_secs(1))
    }

    async fn names(url: &str) -> Vec<String> {
        parse(url).unwrap().ways(Duration::from_secs(1)).await.into_iter().map(|way| way.name).collect()
    }

    #[tokio::test]
    async fn every_host_is_a_way_for_both_drivers() {
        assert_eq!(names("postgresql://u:p@127.0.0.1:1,127.0.0.2:2/d").await, ["127.0.0.1:1", "127.0.0.2:2"]);
        assert_eq!(names("postgresql:///d?host=127.0.0.1,/tmp/x&port=7").await, ["127.0.0.1:7", "/tmp/x:7"]);
        assert_eq!(names("postgresql://[::1]:4,127.0.0.1/d").await, ["::1:4", "127.0.0.1:5432"]);
        assert_eq!(names("postgresql://localhost/d").await, ["localhost:5432"]);
        let target = parse("postgresql://u:p@a.invalid:1,%2Ftmp%2Fx:2/d?hostaddr=127.0.0.9,127.0.0.8").unwrap();
        let ways = target.ways(Duration::from_secs(1)).await;
        assert_eq!(ways[0].name, "a.invalid:1 (127.0.0.9)");
        assert_eq!((ways[0].plain.get_host(), ways[0].plain.get_port()), ("127.0.0.9", 1));
        assert_eq!(ways[0].config.get_hosts(), [Host::Tcp("a.invalid".into())]);
        assert_eq!(ways[0].config.get_ports(), [1]);
    }

    #[tokio::test]
    async fn what_an_address_stands_for_is_not_guessed() {
        for url in [
            "postgresql:///d",
            "postgresql://a,b,c/d?hostaddr=127.0.0.1,127.0.0.2",
            "postgresql:///d?host=a,b,c&port=1,2",
            "nonsense",
        ] {
            assert!(matches!(parse(url), Err(OpenError::Url(_))), "{url}");
        }
    }
}
