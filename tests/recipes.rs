//! The files in `operations/` do what they say: proxies pass events on at once, units and manifests can be read and name what
//! exists, and every metric of the dashboard and the alerts is one of the service.

mod manifests;
mod metrics;
mod proxies;
mod upgrade;

use std::path::PathBuf;
use std::process::{Command, Output};

/// A file of `operations/`.
fn recipe(name: &str) -> String {
    let path = root().join("operations").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The text with one thing in place of another, which must be there.
fn with(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from} is not in the recipe");
    text.replace(from, to)
}

/// Runs a program of a Debian package to its end.
fn run(package: &str, command: &mut Command) -> Output {
    let name = command.get_program().to_string_lossy().into_owned();
    command.output().unwrap_or_else(|error| panic!("{name} cannot be run ({error}): install the package {package}"))
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
