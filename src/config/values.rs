//! Reads values of settings: from the TOML file, and within their bounds.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::domain::duration;

/// The file that the flag or the variable names; read before all else, because it holds defaults for the rest.
pub(super) fn config_file(arguments: &[std::ffi::OsString]) -> Option<PathBuf> {
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if argument == "--config" {
            return rest.next().map(PathBuf::from);
        }
        if let Some(file) = argument.to_str().and_then(|text| text.strip_prefix("--config=")) {
            return Some(file.into());
        }
    }
    std::env::var_os("HEADWATER_CONFIG").map(PathBuf::from)
}

/// Makes the file's values the defaults, so that they are checked like any other.
pub(super) fn with_file(mut command: clap::Command, file: &Path) -> Result<clap::Command, clap::Error> {
    let wrong = |message: String| {
        clap::Error::raw(clap::error::ErrorKind::ValueValidation, format!("{}: {message}\n", file.display()))
    };
    let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| wrong(error.to_string()))?;
    for (key, value) in table {
        let known = command.get_arguments().find(|argument| argument.get_id() == key.as_str() && key != "config");
        let Some(is_list) = known.map(|argument| argument.get_value_delimiter().is_some()) else {
            return Err(wrong(format!("there is no setting `{key}`")));
        };
        let value = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Boolean(flag) => flag.to_string(),
            toml::Value::Array(items) if is_list && items.is_empty() => continue,
            toml::Value::Array(items) if is_list && items.iter().all(toml::Value::is_str) => {
                items.iter().filter_map(toml::Value::as_str).collect::<Vec<_>>().join(",")
            }
            other => {
                return Err(wrong(format!("`{key}` must be a text, a number or a boolean, not {}", other.type_str())));
            }
        };
        command = command.mut_arg(key, |argument| argument.default_value(value));
    }
    Ok(command)
}

/// A number within bounds, both included.
pub(super) fn within(min: usize, max: usize) -> impl Fn(&str) -> Result<usize, String> + Clone {
    move |text| match text.parse::<usize>() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ => Err(format!("must be a number from {min} to {max}")),
    }
}

/// A duration within bounds, both included.
pub(super) fn lasting(min: &'static str, max: &'static str) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    move |text| {
        let bound = |text| duration::parse(text).unwrap_or_default();
        match duration::parse(text) {
            Some(duration) if (bound(min)..=bound(max)).contains(&duration) => Ok(duration),
            _ => Err(format!("must be a duration from {min} to {max}, such as 30s")),
        }
    }
}

/// A URL whose answers nobody can change on their way: they bring keys that are trusted, or programs that are run.
pub(super) fn secure_url(text: &str) -> Result<String, &'static str> {
    const RULE: &str = "must be an https URL, or an http one on this machine";
    let (scheme, rest) = text.split_once("://").ok_or(RULE)?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err("must have no user and no password in it");
    }
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    let is_here = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    match scheme {
        "https" if !host.is_empty() => Ok(text.to_owned()),
        "http" if is_here => Ok(text.to_owned()),
        _ => Err(RULE),
    }
}

#[cfg(test)]
mod tests {
    use super::secure_url;
    use crate::config::{Cli, Settings};

    fn read(file: &str, arguments: &[&str]) -> Result<Settings, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("headwater.toml");
        std::fs::write(&path, file).unwrap();
        let own = ["headwater", "--config", path.to_str().unwrap()];
        let arguments = own.iter().chain(arguments).map(Into::into).collect();
        Cli::read_from(arguments).map(|cli| cli.settings).map_err(|error| error.to_string())
    }

    #[test]
    fn a_certificate_and_its_key_go_together_wherever_they_are_given() {
        let error = read("tls_certificate = 'chain.pem'", &[]).unwrap_err();
        assert!(error.contains("--tls-certificate") && error.contains("--tls-key"), "{error}");
        let error = read("tls_key = 'key.pem'", &[]).unwrap_err();
        assert!(error.contains("--tls-certificate") && error.contains("--tls-key"), "{error}");
        assert!(read("", &["--tls-key", "key.pem"]).is_err());
        assert!(read("tls_certificate = 'chain.pem'", &["--tls-key", "key.pem"]).unwrap().tls_certificate.is_some());
        assert!(read("tls_key = 'key.pem'\ntls_certificate = 'chain.pem'", &[]).unwrap().tls_key.is_some());
    }

    #[test]
    fn an_empty_list_in_the_file_has_nothing_in_it() {
        let settings = read("cors_origin = []\nallowed_host = []", &[]).unwrap();
        assert!(settings.cors_origin.is_empty() && settings.allowed_host.is_empty());
        assert_eq!(read("cors_origin = []", &["--cors-origin", "https://a.example"]).unwrap().cors_origin.len(), 1);
    }

    #[test]
    fn what_is_trusted_is_fetched_where_nobody_else_can_change_it() {
        for url in ["https://id.example/keys", "http://localhost:1/k", "http://127.0.0.1:9", "http://[::1]:9/k"] {
            assert!(secure_url(url).is_ok(), "{url}");
        }
        for url in [
            "",
            "id.example",
            "http://id.example/keys",
            "http://localhost.evil.example/",
            "http://localhost@evil.example/",
            "https://user:secret@id.example/",
            "https:///keys",
            "ftp://localhost/",
            "file:///etc/keys",
        ] {
            assert!(secure_url(url).is_err(), "{url}");
        }
    }
}
