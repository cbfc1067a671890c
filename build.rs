//! Tells the program what it was built from and with.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=HEADWATER_COMMIT");
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    println!("cargo::rustc-env=HEADWATER_RUSTC={}", output(&rustc, &["--version"]).unwrap_or_default());
    let commit = std::env::var("HEADWATER_COMMIT").ok().filter(|commit| !commit.is_empty());
    // A build for development would be made anew after every commit.
    let is_release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = commit.or_else(|| is_release.then(commit_of_checkout).flatten());
    println!("cargo::rustc-env=HEADWATER_BUILT_COMMIT={}", commit.unwrap_or_default());
}

fn commit_of_checkout() -> Option<String> {
    if let Some(log) = output("git", &["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
    output("git", &["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"])
}

/// The first line of what a program says; `None` if it cannot be run or fails.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()?.lines().next().map(str::to_owned)
}
