//! Which requests of browsers are trusted: by the origin of the page, and by the name that the request calls the service.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The origin of a page, as browsers write it: `https://app.example`, `http://localhost:3000`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(String);

/// A name of a service: `headwater.internal`. In lower case, without a dot at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostName(String);

/// The origins and names that are trusted.
#[derive(Debug, Clone, Default)]
pub struct Trusted {
    /// Pages of these origins may call the service, beside its own pages.
    pub origins: Vec<Origin>,
    /// Names of the service, beside addresses and `localhost`.
    pub hosts: Vec<HostName>,
    /// Whether the service itself speaks TLS, so that its own pages are `https` pages.
    pub speaks_tls: bool,
}

impl Trusted {
    /// Whether a request to this authority (`Host: localhost:8080`) calls the service by a name of its own.
    ///
    /// A page that was loaded from a foreign name can have that name point at our address afterwards (DNS rebinding)
    /// and is of the same origin then. That takes a name: an address cannot be made to point elsewhere, and no name server
    /// answers for `localhost`.
    pub fn takes_host(&self, authority: &str) -> bool {
        let Some((host, _)) = split_authority(authority) else { return false };
        if is_address(host) {
            return true;
        }
        let host = normal_name(host);
        host == "localhost" || host.ends_with(".localhost") || self.hosts.iter().any(|known| known.0 == host)
    }

    /// Whether a page of this origin may change something, in a request that names these authorities.
    pub fn takes_origin<'a>(&self, origin: &str, authorities: impl IntoIterator<Item = &'a str>) -> bool {
        self.origins.iter().any(|known| known.0 == origin)
            || authorities.into_iter().any(|authority| self.is_own(origin, authority))
    }

    fn is_own(&self, origin: &str, authority: &str) -> bool {
        let (scheme, default_port) = match origin.split_once("://") {
            Some((scheme @ "https", _)) => (scheme, 443),
            // If the service does not speak TLS, a proxy before it may or may not: only the name is compared.
            Some((scheme @ "http", _)) if !self.speaks_tls => (scheme, 80),
            _ => return false,
        };
        let theirs = split_authority(&origin[scheme.len() + "://".len()..]);
        let (Some((host, port)), Some((own_host, own_port))) = (theirs, split_authority(authority)) else {
            return false;
        };
        host.eq_ignore_ascii_case(own_host) && port.unwrap_or(default_port) == own_port.unwrap_or(default_port)
    }
}

impl Origin {
    /// The origin as it is compared: in lower case, without a port that the scheme has anyway.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Only what a browser can send: anything else would be a rule that never holds.
impl FromStr for Origin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "*" {
            return Err("every page could call the service then: name each origin");
        }
        if text == "null" {
            return Err("files and sandboxed pages of anybody are `null`: serve the page from an origin of its own");
        }
        let Some((scheme, authority)) = text.split_once("://") else {
            return Err("must begin with a scheme, as in https://app.example");
        };
        if scheme.is_empty() || !scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) {
            return Err("must begin with a scheme, as in https://app.example");
        }
        if authority.contains(['/', '?', '#', '\\']) {
            return Err("must end after host and port, without a path and without a / at the end");
        }
        if authority.contains('@') {
            return Err("must have no user and no password in it");
        }
        if authority.contains('*') {
            return Err("must name one host; patterns are not known");
        }
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err("must be in lower case, as browsers send it");
        }
        let Some((host, port)) = split_authority(authority) else {
            return Err("must have a host and, after a :, a port from 1 to 65535 or none");
        };
        if matches!((scheme, port), ("http", Some(80)) | ("https", Some(443))) {
            return Err("must leave out the port that its scheme has anyway, as browsers do");
        }
        check_host(host)?;
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for HostName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains('*') {
            return Err("must be one name; patterns are not known");
        }
        if text.contains("://") || text.contains(['/', '?', '#', '\\', '@']) {
            return Err("must be a name alone, as in headwater.internal");
        }
        if !is_address(text) && text.contains(':') {
            return Err("must be a name without a port: it counts for every port");
        }
        check_host(&text.to_ascii_lowercase())?;
        Ok(Self(normal_name(text)))
    }
}

/// Host and port of `localhost:8080`, `[::1]` or `a.example`.
fn split_authority(authority: &str) -> Option<(&str, Option<u16>)> {
    let host_end = match authority.starts_with('[') {
        true => authority.find(']')? + 1,
        false => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, port) = authority.split_at(host_end);
    let port = match port.strip_prefix(':') {
        // `Host: a.example:` is allowed, and means the same as without the colon.
        Some("") => None,
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => Some(port.parse().ok().filter(|p| *p > 0)?),
        None if port.is_empty() => None,
        _ => return None,
    };
    (!host.is_empty()).then_some((host, port))
}

/// An address as numbers, with brackets or without.
fn is_address(host: &str) -> bool {
    let unbracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    unbracketed.parse::<IpAddr>().is_ok()
}

/// As it is compared: `LOCALHOST.` is `localhost`.
fn normal_name(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// The host of an origin, as browsers write it.
fn check_host(host: &str) -> Result<(), &'static str> {
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        let is_usual = address.parse::<Ipv6Addr>().is_ok_and(|parsed| parsed.to_string() == address);
        return if is_usual {
            Ok(())
        } else {
            Err("must have an IPv6 address in its short form in brackets, as in [::1]")
        };
    }
    if host.parse::<Ipv6Addr>().is_ok() {
        return Ok(());
    }
    if !host.is_ascii() {
        return Err("must be in ASCII: international names as browsers send them, with xn--");
    }
    let is_label =
        |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    if !host.strip_suffix('.').unwrap_or(host).split('.').all(is_label) {
        return Err("must be a name of letters, digits, hyphens and dots");
    }
    // Browsers read whatever ends with a number as an address, and write it in four parts.
    let last = host.rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|byte| byte.is_ascii_digit()) && host.parse::<Ipv4Addr>().is_err() && !host.ends_with('.') {
        return Err("must have an IPv4 address in its four parts, as in 127.0.0.1");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trusted(origins: &[&str], hosts: &[&str]) -> Trusted {
        let origins = origins.iter().map(|origin| origin.parse().unwrap()).collect();
        let hosts = hosts.iter().map(|host| host.parse().unwrap()).collect();
        Trusted { origins, hosts, speaks_tls: false }
    }

    #[test]
    fn addresses_and_localhost_are_ours_and_other_names_are_not() {
        let trusted = trusted(&[], &["Headwater", "events.example."]);
        for host in [
            "localhost",
            "localhost:8080",
            "LOCALHOST.:8080",
            "tab-1.localhost:8080",
            "127.0.0.1",
            "127.0.0.1:8080",
            "[::1]",
            "[::1]:8080",
            "10.1.2.3:8080",
            "[2001:db8::1]:80",
            "headwater:8080",
            "HEADWATER",
            "events.example",
            "events.example.:443",
            "localhost:",
        ] {
            assert!(trusted.takes_host(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "evil-localhost",
            "localhost..",
            "localhost:0",
            "localhost:80:80",
            "localhost:8080@evil.example",
            "evil.example#localhost",
            "[::1",
            "[::1]x",
            "[localhost]",
            "127.1",
            "0x7f000001",
            "2130706433",
            "sub.events.example",
            "ｌocalhost",
            "localhost evil.example",
            "localhost,evil.example",
        ] {
            assert!(!trusted.takes_host(host), "{host}");
        }
    }

    #[test]
    fn an_origin_is_ours_by_scheme_host_and_port() {
        let mut trusted = trusted(&["https://app.example", "http://localhost:3000"], &[]);
        for (origin, host) in [
            ("http://localhost:8080", "localhost:8080"),
            ("http://localhost:8080", "LOCALHOST:8080"),
            ("http://localhost", "localhost:80"),
            ("http://localhost", "localhost"),
            ("https://events.example", "events.example"),
            ("https://events.example", "events.example:443"),
            ("http://[::1]:8080", "[::1]:8080"),
            ("https://app.example", "localhost:8080"),
            ("http://localhost:3000", "localhost:8080"),
        ] {
            assert!(trusted.takes_origin(origin, [host]), "{origin} {host}");
        }
        for (origin, host) in [
            ("http://localhost:8081", "localhost:8080"),
            ("http://localhost", "localhost:8080"),
            ("http://127.0.0.1:8080", "localhost:8080"),
            ("https://localhost", "localhost:80"),
            ("http://evil.example", "localhost"),
            ("http://localhost:8080.evil.example", "localhost:8080"),
            ("http://localhost:8080/", "localhost:8080"),
            ("ftp://localhost:8080", "localhost:8080"),
            ("null", "localhost:8080"),
            ("", "localhost:8080"),
            ("http://", ""),
            ("https://app.example.", "localhost"),
            ("https://app.example:444", "localhost"),
            ("http://app.example", "localhost"),
        ] {
            assert!(!trusted.takes_origin(origin, [host]), "{origin} {host}");
        }
        trusted.speaks_tls = true;
        assert!(trusted.takes_origin("https://localhost:8080", ["localhost:8080"]));
        assert!(!trusted.takes_origin("http://localhost:8080", ["localhost:8080"]));
        assert!(!trusted.takes_origin("http://localhost:8080", []));
    }

    #[test]
    fn an_origin_that_no_browser_sends_is_refused_with_the_reason() {
        for origin in [
            "https://app.example",
            "http://localhost:3000",
            "http://127.0.0.1:8000",
            "http://[::1]:8000",
            "https://xn--bcher-kva.example:444",
            "https://app_1.example.",
            "chrome-extension://abcdefghijklmnop",
            "capacitor://localhost",
        ] {
            assert_eq!(origin.parse::<Origin>().map(|origin| origin.to_string()).as_deref(), Ok(origin));
        }
        for (origin, reason) in [
            ("*", "name each origin"),
            ("null", "sandboxed"),
            ("", "scheme"),
            ("app.example", "scheme"),
            ("localhost:3000", "scheme"),
            ("://app.example", "scheme"),
            ("https://app.example/", "without a / at the end"),
            ("https://app.example/page", "without a path"),
            ("https://app.example?x", "without a path"),
            ("https://app.example#x", "without a path"),
            ("https://user@app.example", "no user"),
            ("https://*.example", "patterns"),
            ("HTTPS://app.example", "lower case"),
            ("https://App.example", "lower case"),
            ("https://app.example:443", "leave out the port"),
            ("http://app.example:80", "leave out the port"),
            ("https://", "a host"),
            ("https://:80", "a host"),
            ("https://app.example:99999", "a port"),
            ("https://app.example:x", "a port"),
            ("https://app..example", "letters"),
            ("https://app example", "letters"),
            ("https://bücher.example", "xn--"),
            ("http://127.1", "four parts"),
            ("http://[0:0:0:0:0:0:0:1]", "short form"),
        ] {
            let found = origin.parse::<Origin>().expect_err(origin);
            assert!(found.contains(reason), "{origin}: {found}");
        }
    }

    #[test]
    fn a_host_is_a_name_alone() {
        for host in ["headwater", "Headwater.Internal.", "10.0.0.1", "::1", "[::1]", "a_b"] {
            assert!(host.parse::<HostName>().is_ok(), "{host}");
        }
        for (host, reason) in [
            ("", "letters"),
            ("*", "patterns"),
            ("*.example", "patterns"),
            ("http://headwater", "a name alone"),
            ("headwater/", "a name alone"),
            ("headwater:8080", "without a port"),
            ("a..b", "letters"),
            ("bücher.example", "xn--"),
        ] {
            let found = host.parse::<HostName>().expect_err(host);
            assert!(found.contains(reason), "{host}: {found}");
        }
    }
}
