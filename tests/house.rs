//! The rules of the house: which room may use which, how long a file is, and what is generated from the code.

mod clients;
mod documents;
mod layers;
mod openapi;
mod settings;
mod sqlx_metadata;

use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 450;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file under `src/`, with its path from there.
fn sources() -> Vec<(PathBuf, String)> {
    let src = root().join("src");
    let mut open = vec![src.clone()];
    let mut found = Vec::new();
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(&src).unwrap().to_owned(), text));
            }
        }
    }
    assert!(found.len() > 20, "src/ was not found");
    found.sort();
    found
}

/// Asserts that a generated file is what the code says now; says how to make it again.
fn assert_generated(path: &str, expected: &str, command: &str) {
    let found = std::fs::read_to_string(root().join(path)).unwrap_or_default();
    if found == expected {
        return;
    }
    let line = found.lines().zip(expected.lines()).position(|(found, expected)| found != expected);
    let line = line.unwrap_or_else(|| found.lines().count().min(expected.lines().count()));
    panic!(
        "{path} is not what the code says, from line {} on: `{}` instead of `{}`. Make it again: {command}",
        line + 1,
        found.lines().nth(line).unwrap_or_default(),
        expected.lines().nth(line).unwrap_or_default()
    );
}

#[test]
fn a_file_is_read_in_one_sitting() {
    let too_long: Vec<_> = sources()
        .into_iter()
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > FILE_LINES_MAX)
        .collect();
    assert!(too_long.is_empty(), "split by thought what has more than {FILE_LINES_MAX} lines: {too_long:#?}");
}

#[test]
fn a_file_opens_with_what_lives_in_it() {
    let silent: Vec<_> =
        sources().into_iter().filter(|(_, text)| !text.starts_with("//! ")).map(|(path, _)| path).collect();
    assert!(silent.is_empty(), "begin with one `//!` sentence: {silent:#?}");
}
