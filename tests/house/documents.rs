//! What the documents name exists.

use std::path::{Path, PathBuf};

use super::root;

/// Every file below a folder, by its path from the root of the project.
fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, found);
        } else {
            found.push(path.strip_prefix(root()).unwrap().to_owned());
        }
    }
}

/// A file is named by the end of its path: `tail/reader.rs`, `append_batch.sql`.
#[test]
fn the_walk_through_the_code_names_files_that_exist() {
    let mut files = Vec::new();
    for folder in ["src", "tests", "benches", "migrations", "console"] {
        files_below(&root().join(folder), &mut files);
    }
    let text = std::fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    let named = text.split('`').skip(1).step_by(2);
    let is_file = |name: &&str| [".rs", ".sql"].iter().any(|end| name.ends_with(end)) && !name.contains('*');
    let missing: Vec<&str> =
        named.filter(is_file).filter(|name| !files.iter().any(|file| file.ends_with(name))).collect();
    assert_eq!(missing, Vec::<&str>::new());
}
