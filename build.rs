//! Tells the program what it was built from and with, and gives it the files that it carries.

use std::path::Path;
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
    embed("console", "include_bytes", |file| Some(file));
    embed("migrations", "include_str", |file| {
        file.strip_suffix(".sql").filter(|name| name.starts_with(|first: char| first.is_ascii_digit()))
    });
    embed("migrations/functions", "include_str", |file| file.strip_suffix(".sql"));
}

/// Makes a list of the files below a folder, as `(name, content)` in the order of their names: `OUT_DIR/<folder>.rs`, with
/// `_` for `/`. `name_of` gives the name of a file that is in it.
fn embed(folder: &str, include: &str, name_of: impl Fn(&str) -> Option<&str>) {
    println!("cargo::rerun-if-changed={folder}");
    let variable = |name| std::env::var(name).expect("cargo sets it");
    let root = Path::new(&variable("CARGO_MANIFEST_DIR")).join(folder);
    let mut files = Vec::new();
    find_files(&root, "", &mut files);
    let mut named: Vec<_> = files.iter().filter_map(|file| Some((name_of(file)?, root.join(file)))).collect();
    named.sort();
    let lines: String = named.iter().map(|(name, path)| format!("({name:?}, {include}!({path:?})),\n")).collect();
    let list = Path::new(&variable("OUT_DIR")).join(format!("{}.rs", folder.replace('/', "_")));
    std::fs::write(list, format!("&[\n{lines}]")).expect("cargo's folder can be written to");
}

/// All files below a folder that are not hidden, with the way to them.
fn find_files(folder: &Path, way: &str, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("the folder is there").map(|entry| entry.expect("it can be read")) {
        let name = entry.file_name().into_string().expect("file names are UTF-8");
        match entry.path().is_dir() {
            _ if name.starts_with('.') => {}
            true => find_files(&entry.path(), &format!("{way}{name}/"), found),
            false => found.push(format!("{way}{name}")),
        }
    }
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
