//! A small file system in memory, for what happens when a disk is full.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::Command;

use super::database::temporary_dir;

/// Set to anything, tests that must mount say that they were left out, in place of failing where nothing can be mounted.
const WITHOUT_VARIABLE: &str = "HEADWATER_TEST_WITHOUT_MOUNT";

/// A mounted file system; it goes with the value.
pub struct Tmpfs {
    path: PathBuf,
    _parent: tempfile::TempDir,
}

impl Tmpfs {
    /// So many MB. `None`: nothing can be mounted here, and the variable says that this is known.
    pub fn mount(megabytes: usize) -> Option<Self> {
        let parent = temporary_dir();
        let path = parent.path().join("disk");
        std::fs::create_dir(&path).unwrap();
        let options = format!("size={megabytes}m,mode=755");
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&path).output().unwrap();
        if output.status.success() {
            return Some(Self { path, _parent: parent });
        }
        let reason = String::from_utf8_lossy(&output.stderr);
        let said = format!("a tmpfs cannot be mounted here ({}), so a full disk was NOT tried", reason.trim());
        assert!(
            std::env::var_os(WITHOUT_VARIABLE).is_some(),
            "{said}: run the tests as root where mounting is allowed, or set {WITHOUT_VARIABLE}=1 to go without"
        );
        eprintln!("{said}");
        None
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The disk becomes larger.
    pub fn grow(&self, megabytes: usize) {
        let options = format!("remount,size={megabytes}m");
        assert!(Command::new("mount").args(["-o", &options]).arg(&self.path).status().unwrap().success());
    }

    /// Leaves so many bytes free, and no more; answers the file that takes the rest.
    pub fn fill(&self, bytes_left: u64) -> PathBuf {
        let file = self.path.join("filler");
        let mut said = String::new();
        // Whoever else writes here may take what was free a moment ago: then less is free, and that is taken.
        for _ in 0..1_000 {
            let free = self.free_bytes().saturating_sub(bytes_left).max(1);
            let output = Command::new("fallocate").args(["-l", &free.to_string()]).arg(&file).output().unwrap();
            if output.status.success() {
                return file;
            }
            said = String::from_utf8_lossy(&output.stderr).into_owned();
        }
        panic!("{said}")
    }

    pub fn free_bytes(&self) -> u64 {
        use std::os::unix::ffi::OsStrExt;
        let path = std::ffi::CString::new(self.path.as_os_str().as_bytes()).unwrap();
        // SAFETY: the structure is filled by the call before it is read.
        unsafe {
            let mut about: libc::statvfs = std::mem::zeroed();
            assert_eq!(libc::statvfs(path.as_ptr(), &mut about), 0);
            about.f_bavail as u64 * about.f_frsize as u64
        }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily, because a process that is just ending may still have a file open.
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}
