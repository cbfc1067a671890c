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
    let mut files = vec![root().join("build.rs")];
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

/// The anchor that a heading gets: as on code hosts.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase().replace(' ', "-");
    kept.chars().filter(|character| character.is_alphanumeric() || ['-', '_'].contains(character)).collect()
}

/// The targets of a document's links, those in code aside.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut is_code = false;
    for line in text.lines() {
        if line.starts_with("```") {
            is_code = !is_code;
        }
        if is_code {
            continue;
        }
        let prose: String = line.split('`').step_by(2).collect();
        found.extend(prose.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())));
    }
    found
}

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    let mut files = Vec::new();
    for folder in ["docs", "examples"] {
        files_below(&root().join(folder), &mut files);
    }
    files.retain(|file| {
        file.extension().is_some_and(|end| end == "md") && !file.to_string_lossy().contains("node_modules")
    });
    files.extend(["README.md", "CHANGELOG.md"].map(PathBuf::from));
    let mut broken = Vec::new();
    for file in &files {
        let text = std::fs::read_to_string(root().join(file)).unwrap();
        for link in links(&text).into_iter().filter(|link| !link.contains("://") && !link.starts_with("mailto:")) {
            let (path, heading) = link.split_once('#').map_or((link.as_str(), None), |(path, to)| (path, Some(to)));
            let target = match path {
                "" => root().join(file),
                path => root().join(file).parent().unwrap().join(path),
            };
            let leads = match heading {
                None => target.exists(),
                Some(heading) => std::fs::read_to_string(&target).is_ok_and(|text| {
                    text.lines().any(|line| line.starts_with('#') && anchor(line.trim_start_matches('#')) == heading)
                }),
            };
            if !leads {
                broken.push(format!("{}: {link}", file.display()));
            }
        }
    }
    assert_eq!(broken, Vec::<String>::new());
}
