//! Files of changes: their names, and whether they follow each other without a gap.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::BackupError;

/// A file that is still being received.
const PARTIAL: &str = ".partial";
/// How much is compared with what the server has: some changes, each with its place, its checksum and the one before it.
const COMPARED_BYTES_MAX: i64 = 64 << 10;
/// Digits of a file's name: timeline, and two halves of its number.
const NAME_LENGTH: usize = 24;

/// A file's timeline and number.
fn parse(name: &str, file_bytes: i64) -> Option<(&str, i64)> {
    if name.len() != NAME_LENGTH || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let half = |text: &str| i64::from_str_radix(text, 16).ok();
    let each = (1_i64 << 32) / file_bytes;
    Some((&name[..8], half(&name[8..16])? * each + half(&name[16..])?))
}

fn name_of(timeline: &str, number: i64, file_bytes: i64) -> String {
    let each = (1_i64 << 32) / file_bytes;
    format!("{timeline}{:08X}{:08X}", number / each, number % each)
}

/// The files from `first` on. Refused, naming the file, if one is missing before the place `up_to`, or is too short.
///
/// Answers where they are, and their names.
pub fn chain_from(
    directory: &Path,
    first: &str,
    up_to: i64,
    file_bytes: i64,
) -> Result<Vec<(PathBuf, String)>, BackupError> {
    let mut found = BTreeMap::new();
    let entries = std::fs::read_dir(directory).map_err(BackupError::io("read", directory))?;
    for entry in entries {
        let entry = entry.map_err(BackupError::io("read", directory))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let whole = name.strip_suffix(PARTIAL).unwrap_or(&name);
        let about = entry.metadata().map_err(BackupError::io("look at", entry.path()))?;
        if whole.len() == NAME_LENGTH && about.is_file() && (whole == name || !found.contains_key(whole)) {
            found.insert(whole.to_owned(), (entry.path(), about.len() as i64));
        }
    }
    let missing = |name: &str| {
        let place = directory.join(name);
        BackupError::CannotRestore(format!("changes are missing: there is no whole file {}", place.display()))
    };
    let (timeline, mut number) = parse(first, file_bytes).ok_or_else(|| missing(first))?;
    let mut files = Vec::new();
    loop {
        let name = name_of(timeline, number, file_bytes);
        match found.remove(&name) {
            // A partial one has this size, too; one that was cut off is shorter.
            Some((path, bytes)) if bytes == file_bytes => files.push((path, name)),
            // Nothing that was promised is in it, or after it.
            _ if number * file_bytes >= up_to && !found.keys().any(|later| *later > name) => break,
            _ => return Err(missing(&name)),
        }
        number += 1;
    }
    Ok(files)
}

/// The number of the file that is received next: the one that is not whole yet, or the one after the last. `None`: none was
/// received, so it is whichever the server keeps.
pub fn next_file(directory: &Path, file_bytes: i64) -> Result<Option<i64>, BackupError> {
    let mut next = None;
    for entry in std::fs::read_dir(directory).map_err(BackupError::io("read", directory))? {
        let name = entry.map_err(BackupError::io("read", directory))?.file_name().to_string_lossy().into_owned();
        let (name, after) = name.strip_suffix(PARTIAL).map_or((name.as_str(), 1), |name| (name, 0));
        next = next.max(parse(name, file_bytes).map(|(_, number)| number + after));
    }
    Ok(next)
}

/// The last bytes that were received before a place: the name of the server's file, where they begin in it, and they
/// themselves. `None` if they are not there.
pub fn received_before(
    directory: &Path,
    timeline: &str,
    place: i64,
    file_bytes: i64,
) -> Result<Option<(String, i64, Vec<u8>)>, BackupError> {
    if place <= 0 {
        return Ok(None);
    }
    let number = (place - 1) / file_bytes;
    let end = place - number * file_bytes;
    let begin = (end - COMPARED_BYTES_MAX).max(0);
    let name = name_of(timeline, number, file_bytes);
    let whole = directory.join(&name);
    let path = if whole.exists() { whole } else { directory.join(format!("{name}{PARTIAL}")) };
    let Ok(file) = File::open(&path) else { return Ok(None) };
    let mut bytes = vec![0; (end - begin) as usize];
    match file.read_exact_at(&mut bytes, begin as u64) {
        Ok(()) => Ok(Some((name, begin, bytes))),
        // It was cut off.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(BackupError::io("read", path)(error)),
    }
}

/// Removes what is left of a file that could not be made whole because the disk was full: nothing was received into it yet,
/// and `pg_receivewal` does not go on with it.
pub fn remove_cut_off(directory: &Path, file_bytes: i64) -> Result<(), BackupError> {
    for entry in std::fs::read_dir(directory).map_err(BackupError::io("read", directory))? {
        let path = entry.map_err(BackupError::io("read", directory))?.path();
        let bytes = path.metadata().map_err(BackupError::io("look at", &path))?.len() as i64;
        if path.to_string_lossy().ends_with(PARTIAL) && bytes < file_bytes {
            std::fs::remove_file(&path).map_err(BackupError::io("remove", &path))?;
        }
    }
    Ok(())
}

/// Removes the files before `first`; those on the history of timelines stay.
pub fn remove_before(directory: &Path, first: &str) -> Result<(), BackupError> {
    for entry in std::fs::read_dir(directory).map_err(BackupError::io("read", directory))? {
        let entry = entry.map_err(BackupError::io("read", directory))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_wal = name.len() == NAME_LENGTH && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_wal && name.as_str() < first {
            std::fs::remove_file(entry.path()).map_err(BackupError::io("remove", entry.path()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: i64 = 16 << 20;

    fn with_files(names: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for name in names {
            let (name, bytes) =
                name.split_once('=').map_or((*name, FILE as u64), |(name, n)| (name, n.parse().unwrap()));
            std::fs::File::create(directory.path().join(name)).unwrap().set_len(bytes).unwrap();
        }
        directory
    }

    fn names(numbers: &[i64]) -> Vec<String> {
        numbers.iter().map(|number| name_of("00000001", *number, FILE)).collect()
    }

    #[test]
    fn names_are_postgresqls_own() {
        assert_eq!(name_of("00000001", 255, FILE), "0000000100000000000000FF");
        assert_eq!(name_of("00000001", 256, FILE), "000000010000000100000000");
        assert_eq!(parse("000000010000000100000000", FILE), Some(("00000001", 256)));
        assert_eq!(parse("00000001.history", FILE), None);
    }

    #[test]
    fn files_follow_each_other_and_a_gap_is_named() {
        let all = names(&[254, 255, 256, 257]);
        let directory = with_files(&[&all[0], &all[1], &all[2], &format!("{}.partial", all[3]), "00000001.history"]);
        let chain = chain_from(directory.path(), &all[1], 257 * FILE + 5, FILE).unwrap();
        assert_eq!(chain.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>(), all[1..]);
        std::fs::remove_file(directory.path().join(&all[2])).unwrap();
        let error = chain_from(directory.path(), &all[1], 0, FILE).unwrap_err().to_string();
        assert!(error.contains(&all[2]), "{error}");
    }

    #[test]
    fn what_was_promised_and_is_not_there_is_missing() {
        let all = names(&[3, 4, 5]);
        let directory = with_files(&[&all[0], &all[1]]);
        assert!(chain_from(directory.path(), &all[0], 5 * FILE, FILE).is_ok());
        let error = chain_from(directory.path(), &all[0], 5 * FILE + 1, FILE).unwrap_err().to_string();
        assert!(error.contains(&all[2]), "{error}");
        assert!(chain_from(directory.path(), &names(&[2])[0], 0, FILE).is_err(), "the first is not there");
        let directory = with_files(&[&all[0], &format!("{}=100", all[1])]);
        assert!(chain_from(directory.path(), &all[0], 4 * FILE + 1, FILE).is_err(), "one is too short");
    }

    #[test]
    fn receiver_goes_on_with_the_file_that_is_not_whole() {
        let all = names(&[254, 255, 256]);
        let next = |names: &[&str]| next_file(with_files(names).path(), FILE).unwrap();
        assert_eq!(next(&["complete.json", "00000002.history"]), None);
        assert_eq!(next(&[&all[0], &all[1], &format!("{}.partial", all[2])]), Some(256));
        assert_eq!(next(&[&all[0], &all[1]]), Some(256));
    }

    #[test]
    fn older_files_go_and_histories_stay() {
        let all = names(&[254, 255, 256]);
        let directory = with_files(&[&all[0], &all[1], &all[2], "00000002.history"]);
        remove_before(directory.path(), &all[2]).unwrap();
        let mut left: Vec<_> =
            std::fs::read_dir(directory.path()).unwrap().map(|one| one.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [all[2].as_str(), "00000002.history"]);
    }
}
