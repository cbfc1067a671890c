//! The directory of backups: which store they are of, base backups, and runs of changes without a gap.
//!
//! ```text
//! store.json            which store
//! lock, bases.lock      one backup at a time; no base backup is removed while one is restored
//! base/TIME/data        the server's files
//! base/TIME/base.json   when, and where its changes begin; TIME exists only when all of it is there
//! wal/RUN/…             the changes as they came; another run begins where some could not be received
//! wal/RUN/complete.json up to when all changes are there
//! ```

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{BackupError, sync, wal};
use crate::domain::time::Timestamp;

const STORE: &str = "store.json";
const LOCK: &str = "lock";
const BASES_LOCK: &str = "bases.lock";
const FACTS: &str = "base.json";
const COMPLETE: &str = "complete.json";
/// Names that begin with it are of no use any more, or not yet.
const HIDDEN: char = '.';
const UNFINISHED: &str = ".unfinished-";
const REMOVED: &str = ".removed-";

/// Which store backups are of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreFacts {
    pub system_identifier: String,
    pub timeline: String,
    /// Made by each restore: two restores of one store may have the same timeline.
    pub restored_as: Option<String>,
}

/// A base backup.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BaseFacts {
    /// By the server's clock; it can be restored to this time and any later one.
    pub finished_at: String,
    /// The first file of changes that it needs.
    pub first_wal_file: String,
    /// The size of each file of changes.
    pub wal_file_bytes: i64,
    /// The run of changes that goes on from it.
    pub run: String,
}

/// Up to when all changes of a run are there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Complete {
    /// All that was acknowledged before.
    pub time: String,
    /// Up to this place in the log of changes.
    pub up_to: i64,
}

#[derive(Debug, Clone)]
pub struct Base {
    pub name: String,
    pub facts: BaseFacts,
}

/// The directory, opened.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    /// What was said to be no base backup.
    passed_over: Mutex<HashSet<String>>,
    /// Held as long as this exists.
    _lock: File,
}

impl Directory {
    /// For a backup: makes it where there is none, and removes what an earlier backup did not finish.
    pub fn open(root: &Path) -> Result<Self, BackupError> {
        make_dir(root)?;
        let root = root.canonicalize().map_err(BackupError::io("find", root))?;
        let has_backups = root.join(LOCK).exists();
        if !has_backups && read_dir(&root)?.next().is_some() {
            return Err(BackupError::NoBackups { path: root });
        }
        let lock = lock_file(&root, LOCK)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(BackupError::InUse { path: root }),
            Err(TryLockError::Error(error)) => return Err(BackupError::io("lock", root)(error)),
        }
        let directory = Self { root, passed_over: Mutex::default(), _lock: lock };
        make_dir(&directory.bases_dir())?;
        make_dir(&directory.runs_dir())?;
        directory.remove_hidden()?;
        Ok(directory)
    }

    /// For a restore: no base backup is removed as long as the value exists.
    pub fn open_to_read(root: &Path) -> Result<Self, BackupError> {
        let root = root.canonicalize().map_err(BackupError::io("find", root))?;
        if !root.join(STORE).exists() {
            let reason = format!("there are no backups of Headwater in {}", root.display());
            return Err(BackupError::CannotRestore(reason));
        }
        let path = root.join(BASES_LOCK);
        let lock = File::open(&path).map_err(BackupError::io("open", &path))?;
        lock.lock_shared().map_err(BackupError::io("lock", &path))?;
        Ok(Self { root, passed_over: Mutex::default(), _lock: lock })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Refuses another store than the one that the backups are of; a new directory takes any.
    pub fn check_store(&self, store: &StoreFacts) -> Result<(), BackupError> {
        let path = self.root.join(STORE);
        if !path.exists() {
            drop(lock_file(&self.root, BASES_LOCK)?);
            return write_json(&path, store);
        }
        match read_json::<StoreFacts>(&path)? == *store {
            true => Ok(()),
            false => Err(BackupError::OtherStore { path: self.root.clone() }),
        }
    }

    /// The base backups that are whole, the oldest first. What cannot be read is none, and is said once.
    pub fn bases(&self) -> Result<Vec<Base>, BackupError> {
        let mut bases = Vec::new();
        for name in visible_names(&self.bases_dir())? {
            match read_json(&self.base_dir(&name).join(FACTS)) {
                Ok(facts) => bases.push(Base { name, facts }),
                Err(error) if self.passed_over.lock().insert(name) => {
                    tracing::warn!("what is no base backup is passed over: {error}");
                }
                Err(_) => {}
            }
        }
        // Names are times that sort as text.
        bases.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(bases)
    }

    /// The name of a base backup that is taken at a time. It comes after all others, even if the clock was ahead for them.
    pub fn base_name_at(&self, time: Timestamp) -> Result<String, BackupError> {
        Ok(name_after(names(&self.bases_dir())?, time))
    }

    /// The same for a run.
    pub fn run_name_at(&self, time: Timestamp) -> Result<String, BackupError> {
        Ok(name_after(names(&self.runs_dir())?, time))
    }

    /// Where the server's files of a base backup are.
    pub fn data_of(&self, base: &Base) -> PathBuf {
        self.base_dir(&base.name).join("data")
    }

    /// A directory for the files of a new base backup, which does not count yet.
    pub fn begin_base(&self, name: &str) -> Result<PathBuf, BackupError> {
        let unfinished = self.bases_dir().join(format!("{UNFINISHED}{name}"));
        make_dir(&unfinished)?;
        Ok(unfinished.join("data"))
    }

    /// From now on the base backup counts.
    pub fn finish_base(&self, base: &Base) -> Result<(), BackupError> {
        let unfinished = self.bases_dir().join(format!("{UNFINISHED}{}", base.name));
        write_json(&unfinished.join(FACTS), &base.facts)?;
        fs::rename(&unfinished, self.base_dir(&base.name)).map_err(BackupError::io("rename", &unfinished))?;
        sync(&self.bases_dir())
    }

    /// The runs of changes, the oldest first.
    pub fn runs(&self) -> Result<Vec<String>, BackupError> {
        let mut runs = visible_names(&self.runs_dir())?;
        runs.sort();
        Ok(runs)
    }

    pub fn run_dir(&self, run: &str) -> PathBuf {
        self.runs_dir().join(run)
    }

    pub fn begin_run(&self, name: &str) -> Result<(), BackupError> {
        make_dir(&self.run_dir(name))?;
        sync(&self.runs_dir())
    }

    /// Up to when a run is complete; `None`: nothing is known of it.
    pub fn complete(&self, run: &str) -> Result<Option<Complete>, BackupError> {
        let path = self.run_dir(run).join(COMPLETE);
        if path.exists() { read_json(&path).map(Some) } else { Ok(None) }
    }

    pub fn set_complete(&self, run: &str, complete: &Complete) -> Result<(), BackupError> {
        write_json(&self.run_dir(run).join(COMPLETE), complete)
    }

    /// Keeps the newest base backups, so many, and the changes since the oldest of them. Does nothing while one is restored.
    pub fn keep(&self, count: usize, current_run: &str) -> Result<(), BackupError> {
        let lock = lock_file(&self.root, BASES_LOCK)?;
        if lock.try_lock().is_err() {
            return Ok(());
        }
        if self.is_any_base_out_of_reach()? {
            return Ok(());
        }
        let mut bases = self.bases()?;
        let kept = bases.split_off(bases.len().saturating_sub(count));
        for base in bases {
            // Renamed first, so that what a crash leaves behind does not count.
            let removed = self.bases_dir().join(format!("{REMOVED}{}", base.name));
            fs::rename(self.base_dir(&base.name), &removed).map_err(BackupError::io("rename", &removed))?;
            sync(&self.bases_dir())?;
            remove(&removed)?;
        }
        for run in self.runs()? {
            let needed = kept.iter().filter(|base| base.facts.run == run).map(|base| &base.facts.first_wal_file);
            match needed.min() {
                Some(first) => wal::remove_before(&self.run_dir(&run), first)?,
                None if run == current_run => {}
                None => remove(&self.run_dir(&run))?,
            }
        }
        Ok(())
    }

    /// Whether there is a base backup that cannot be read just now: it may need any changes.
    fn is_any_base_out_of_reach(&self) -> Result<bool, BackupError> {
        let names = visible_names(&self.bases_dir())?;
        let mut read = names.iter().filter(|name| time_of(name).is_some()).filter_map(|name| {
            File::open(self.base_dir(name).join(FACTS)).and_then(|mut file| file.read(&mut [0])).err()
        });
        Ok(read.any(|error| error.kind() != ErrorKind::NotFound))
    }

    /// Removes what was not finished, and what was to be removed.
    pub fn remove_hidden(&self) -> Result<(), BackupError> {
        for name in names(&self.bases_dir())?.iter().filter(|name| name.starts_with(HIDDEN)) {
            remove(&self.bases_dir().join(name))?;
        }
        Ok(())
    }

    fn bases_dir(&self) -> PathBuf {
        self.root.join("base")
    }

    fn base_dir(&self, name: &str) -> PathBuf {
        self.bases_dir().join(name)
    }

    fn runs_dir(&self) -> PathBuf {
        self.root.join("wal")
    }
}

/// `20261122T071500.123456Z`: sorts as text.
fn name_at(time: Timestamp) -> String {
    time.to_rfc3339().replace(['-', ':'], "")
}

/// The time that a name says.
fn time_of(name: &str) -> Option<Timestamp> {
    let part = |from, to| name.get(from..to);
    let (year, month, day, hour) = (part(0, 4)?, part(4, 6)?, part(6, 8)?, part(9, 11)?);
    let (minute, rest) = (part(11, 13)?, name.get(13..)?);
    let time = Timestamp::parse_rfc3339(&format!("{year}-{month}-{day}T{hour}:{minute}:{rest}"))?;
    (name_at(time) == name).then_some(time)
}

fn name_after(names: Vec<String>, time: Timestamp) -> String {
    let others = names.iter().filter_map(|name| time_of(name.trim_start_matches(REMOVED)));
    name_at(others.map(|other| Timestamp(other.0 + 1)).fold(time, Timestamp::max))
}

/// Nobody else may read what is in it.
fn make_dir(path: &Path) -> Result<(), BackupError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(BackupError::io("create", path))
}

fn remove(directory: &Path) -> Result<(), BackupError> {
    fs::remove_dir_all(directory).map_err(BackupError::io("remove", directory))
}

fn lock_file(root: &Path, name: &str) -> Result<File, BackupError> {
    let path = root.join(name);
    let opened = File::options().write(true).create(true).truncate(false).mode(0o600).open(&path);
    opened.map_err(BackupError::io("open", path))
}

fn read_dir(path: &Path) -> Result<fs::ReadDir, BackupError> {
    fs::read_dir(path).map_err(BackupError::io("read", path))
}

fn names(path: &Path) -> Result<Vec<String>, BackupError> {
    let name = |entry: std::io::Result<fs::DirEntry>| {
        entry.map(|entry| entry.file_name().to_string_lossy().into_owned()).map_err(BackupError::io("read", path))
    };
    read_dir(path)?.map(name).collect()
}

fn visible_names(path: &Path) -> Result<Vec<String>, BackupError> {
    Ok(names(path)?.into_iter().filter(|name| !name.starts_with(HIDDEN)).collect())
}

pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, BackupError> {
    let text = fs::read(path).map_err(BackupError::io("read", path))?;
    let unreadable =
        |error: serde_json::Error| BackupError::Unreadable { path: path.to_owned(), reason: error.to_string() };
    serde_json::from_slice(&text).map_err(unreadable)
}

/// The file is there whole, or as it was.
fn write_json(path: &Path, value: &impl Serialize) -> Result<(), BackupError> {
    let text = serde_json::to_vec_pretty(value)
        .map_err(|error| BackupError::Unreadable { path: path.to_owned(), reason: error.to_string() })?;
    let unfinished = path.with_extension("unfinished");
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&unfinished)
        .map_err(BackupError::io("create", &unfinished))?;
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(BackupError::io("write", &unfinished))?;
    fs::rename(&unfinished, path).map_err(BackupError::io("rename", &unfinished))?;
    path.parent().map_or(Ok(()), sync)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: i64 = 16 << 20;

    fn base(name: &str, first_wal_file: &str) -> Base {
        let facts = BaseFacts {
            finished_at: "2026-11-20T12:00:00.000000Z".into(),
            first_wal_file: first_wal_file.into(),
            wal_file_bytes: FILE,
            run: "20260101T000000.000000Z".into(),
        };
        Base { name: name.into(), facts }
    }

    #[test]
    fn names_are_times_and_each_comes_after_all_before_it() {
        let time = Timestamp::parse_rfc3339("2026-11-22T07:15:00.123456Z").unwrap();
        assert_eq!(name_at(time), "20261122T071500.123456Z");
        assert_eq!(time_of("20261122T071500.123456Z"), Some(time));
        for other in ["lost+found", "20261122T071500Z", "20261322T071500.123456Z", "é0261122T071500.123456Z"] {
            assert_eq!(time_of(other), None, "{other}");
        }
        let after = |names: &[&str]| name_after(names.iter().copied().map(String::from).collect(), time);
        assert_eq!(after(&["lost+found", "20251122T071500.123456Z"]), "20261122T071500.123456Z");
        assert_eq!(after(&["20261122T071500.123456Z"]), "20261122T071500.123457Z");
        assert_eq!(after(&["20990101T000000.999999Z", "20251122T071500.123456Z"]), "20990101T000001.000000Z");
    }

    /// The clock went back between the two.
    #[test]
    fn changes_stay_that_any_base_backup_needs_whatever_it_is_called() {
        let root = tempfile::tempdir().unwrap();
        let directory = Directory::open(root.path()).unwrap();
        let (first, second) = ("000000010000000000000003", "000000010000000000000005");
        for base in [base("20990101T000000.000000Z", first), base("20260102T000000.000000Z", second)] {
            directory.begin_base(&base.name).unwrap();
            directory.finish_base(&base).unwrap();
        }
        let run = base("", "").facts.run;
        directory.begin_run(&run).unwrap();
        for name in ["000000010000000000000002", first, second] {
            fs::write(directory.run_dir(&run).join(name), "").unwrap();
        }
        directory.keep(2, &run).unwrap();
        let left = |name: &str| directory.run_dir(&run).join(name).exists();
        assert!(left(first) && left(second) && !left("000000010000000000000002"));
    }
}
