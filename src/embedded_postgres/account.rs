//! The user that PostgreSQL runs as: our own; if we are root, the owner of the data, or else `postgres`.
use super::error::EmbeddedPostgresError;
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{io, ptr};

/// The account that PostgreSQL runs as when we are root, from Debian's and Red Hat's packages.
const CUSTOMARY_ACCOUNT: &CStr = c"postgres";
/// The largest buffer for one entry of the user database, in bytes.
const ENTRY_BYTES_MAX: usize = 64 * 1024;
/// Linux's own limit for the groups of a process.
const GROUPS_MAX: usize = 65_536;

/// A user to run programs as.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub name: String,
    pub uid: libc::uid_t,
    gid: libc::gid_t,
    groups: Vec<libc::gid_t>,
    /// False: this process runs as this user already.
    switch: bool,
}

impl Account {
    /// Chooses the user to run PostgreSQL as on this data.
    pub fn choose(data_dir: &Path, pgdata: &Path) -> Result<Account, EmbeddedPostgresError> {
        let uid = effective_uid();
        if uid != 0 {
            return Ok(Self::own());
        }
        let owner = [pgdata, data_dir].into_iter().filter_map(owner_of).find(|uid| *uid != 0);
        let entry = match owner {
            Some(uid) => lookup(By::Uid(uid)),
            None => lookup(By::Name(CUSTOMARY_ACCOUNT)),
        };
        let entry = entry
            .filter(|entry| entry.uid != 0)
            .ok_or_else(|| EmbeddedPostgresError::NoAccountToRunAs { data_dir: data_dir.to_owned() })?;
        if owner_of(pgdata) == Some(0) {
            return Err(EmbeddedPostgresError::DataBelongsToRoot { path: pgdata.to_owned(), account: entry.name });
        }
        let groups = groups_of(&entry);
        Ok(Account { name: entry.name, uid: entry.uid, gid: entry.gid, groups, switch: true })
    }

    /// The user that we are.
    pub fn own() -> Account {
        let uid = effective_uid();
        let name = lookup(By::Uid(uid)).map_or_else(|| uid.to_string(), |entry| entry.name);
        Account { name, uid, gid: 0, groups: Vec::new(), switch: false }
    }

    /// Makes the process run as this account. Called between fork and exec, so it allocates nothing.
    pub fn assume(&self) -> io::Result<()> {
        if !self.switch {
            return Ok(());
        }
        // The groups first: after setuid we may no longer change them.
        // SAFETY: plain system calls; `groups` outlives the call.
        let done = unsafe {
            libc::setgroups(self.groups.len() as _, self.groups.as_ptr()) == 0
                && libc::setgid(self.gid) == 0
                && libc::setuid(self.uid) == 0
        };
        if done { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Makes this account the owner of a path that was just created, and is no link.
    pub fn give(&self, path: &Path) -> Result<(), EmbeddedPostgresError> {
        if !self.switch {
            return Ok(());
        }
        std::os::unix::fs::lchown(path, Some(self.uid), Some(self.gid))
            .map_err(EmbeddedPostgresError::io("change the owner of", path))
    }

    /// Checks that the account can enter every directory down to the data.
    pub fn check_reaches(&self, dir: &Path) -> Result<(), EmbeddedPostgresError> {
        let mut way: Vec<PathBuf> = dir.ancestors().map(Path::to_owned).collect();
        way.reverse();
        match self.first_not_executable(&way)? {
            None => Ok(()),
            Some(path) => Err(EmbeddedPostgresError::UnreachableForAccount { path, account: self.name.clone() }),
        }
    }

    /// Checks that the account can execute the program.
    pub fn check_executes(&self, program: &Path) -> Result<(), EmbeddedPostgresError> {
        match self.first_not_executable(&[program.to_owned()])? {
            None => Ok(()),
            Some(path) => Err(EmbeddedPostgresError::UnusableForAccount { path, account: self.name.clone() }),
        }
    }

    /// Asks the kernel as the account itself: mode bits alone would miss access lists and mount options.
    fn first_not_executable(&self, paths: &[PathBuf]) -> Result<Option<PathBuf>, EmbeddedPostgresError> {
        for path in paths {
            let text = CString::new(path.as_os_str().as_bytes())
                .map_err(|error| EmbeddedPostgresError::io("use", path)(error.into()))?;
            let allowed = if self.switch {
                self.ask_in_child(&text)
            } else {
                // SAFETY: `text` is a valid C string.
                Ok(unsafe { libc::access(text.as_ptr(), libc::X_OK) } == 0)
            };
            if !allowed.map_err(EmbeddedPostgresError::io("check access to", path))? {
                return Ok(Some(path.clone()));
            }
        }
        Ok(None)
    }

    fn ask_in_child(&self, path: &CStr) -> io::Result<bool> {
        // SAFETY: the child makes only async-signal-safe calls before `_exit`; the parent reaps it.
        unsafe {
            let pid = libc::fork();
            match pid {
                -1 => Err(io::Error::last_os_error()),
                0 => {
                    let allowed = self.assume().is_ok() && libc::access(path.as_ptr(), libc::X_OK) == 0;
                    libc::_exit(if allowed { 0 } else { 1 })
                }
                _ => {
                    let mut status = 0;
                    while libc::waitpid(pid, &mut status, 0) == -1 {
                        let error = io::Error::last_os_error();
                        if error.kind() != io::ErrorKind::Interrupted {
                            return Err(error);
                        }
                    }
                    Ok(status == 0)
                }
            }
        }
    }
}

pub(super) fn effective_uid() -> libc::uid_t {
    // SAFETY: cannot fail.
    unsafe { libc::geteuid() }
}

fn owner_of(path: &Path) -> Option<libc::uid_t> {
    std::fs::symlink_metadata(path).ok().map(|metadata| metadata.uid())
}

enum By<'a> {
    Uid(libc::uid_t),
    Name(&'a CStr),
}

struct Entry {
    name: String,
    uid: libc::uid_t,
    gid: libc::gid_t,
}

/// Looks up an entry of the user database.
fn lookup(by: By<'_>) -> Option<Entry> {
    let mut buffer = vec![0; ENTRY_BYTES_MAX];
    let mut found = ptr::null_mut();
    // SAFETY: all zeroes is a valid `passwd`; the pointers in it are read only while `buffer` lives.
    unsafe {
        let mut entry: libc::passwd = std::mem::zeroed();
        match by {
            By::Uid(uid) => libc::getpwuid_r(uid, &mut entry, buffer.as_mut_ptr(), buffer.len(), &mut found),
            By::Name(name) => {
                libc::getpwnam_r(name.as_ptr(), &mut entry, buffer.as_mut_ptr(), buffer.len(), &mut found)
            }
        };
        if found.is_null() {
            return None;
        }
        let name = CStr::from_ptr(entry.pw_name).to_string_lossy().into_owned();
        Some(Entry { name, uid: entry.pw_uid, gid: entry.pw_gid })
    }
}

/// The groups of a user. Looked up before fork, because `initgroups` reads files and allocates.
fn groups_of(entry: &Entry) -> Vec<libc::gid_t> {
    let Ok(name) = CString::new(entry.name.as_str()) else {
        return vec![entry.gid];
    };
    let mut room = 64;
    while room <= GROUPS_MAX {
        let mut groups = vec![0; room];
        let mut count = room as libc::c_int;
        // SAFETY: `groups` has room for `count` entries.
        let done = unsafe { libc::getgrouplist(name.as_ptr(), entry.gid as _, groups.as_mut_ptr(), &mut count) };
        if done >= 0 {
            groups.truncate(count.max(0) as usize);
            return groups.into_iter().map(|group| group as libc::gid_t).collect();
        }
        room *= 4;
    }
    vec![entry.gid]
}
