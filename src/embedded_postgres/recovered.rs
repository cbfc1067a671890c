//! Where a recovery has ended, and whether that is as far as it had to come: PostgreSQL takes a damaged change for the end of
//! all changes.
use super::error::EmbeddedPostgresError;
use super::restore::RestorePlan;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Changes are written page by page, each with a header; the first page of a file has a longer one.
const PAGE_BYTES: i64 = 8192;
const PAGE_HEADER_BYTES: i64 = 24;
const FILE_HEADER_BYTES: i64 = 40;
const HISTORY: &str = ".history";

/// Refuses data whose recovery has ended before the place that was promised.
pub(super) fn check_end(pgdata: &Path, plan: &RestorePlan) -> Result<(), EmbeddedPostgresError> {
    let (end, files) = (end_of(pgdata)?, Files::of(plan)?);
    // The server brings whole pages to disk, so the last change that it has may be cut: it was not acknowledged.
    if end >= plan.up_to || (plan.up_to % PAGE_BYTES == 0 && files.is_cut(end, plan.up_to)?) {
        return Ok(());
    }
    let (file, _) = files.at(end).unwrap_or_else(|| (pgdata.join("pg_wal"), 0));
    Err(EmbeddedPostgresError::ChangesDamaged { file, end: place(end), up_to: place(plan.up_to) })
}

/// As PostgreSQL writes places: `0/3000028`.
fn place(at: i64) -> String {
    format!("{:X}/{:X}", at >> 32, at & 0xffff_ffff)
}

/// The place at which the newest timeline begins: where the recovery has ended.
fn end_of(pgdata: &Path) -> Result<i64, EmbeddedPostgresError> {
    let directory = pgdata.join("pg_wal");
    let entries = fs::read_dir(&directory).map_err(EmbeddedPostgresError::io("read", &directory))?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let newest = names.filter(|name| name.ends_with(HISTORY)).max();
    let path = directory.join(newest.unwrap_or_else(|| HISTORY.to_owned()));
    let text = fs::read_to_string(&path).map_err(EmbeddedPostgresError::io("read", &path))?;
    end_in(&text).ok_or_else(|| {
        let problem = io::Error::other("it does not say where the timeline begins");
        EmbeddedPostgresError::io("understand", path)(problem)
    })
}

/// The last line says, after a tab, where its timeline was left: `0/3000028`.
fn end_in(history: &str) -> Option<i64> {
    let line = history.lines().rfind(|line| !line.trim().is_empty())?;
    let (high, low) = line.split('\t').nth(1)?.split_once('/')?;
    let half = |text| i64::from_str_radix(text, 16).ok();
    Some((half(high)? << 32) + half(low)?)
}

/// The files of changes: they follow each other without a gap.
struct Files<'a> {
    files: &'a [(PathBuf, String)],
    first_at: i64,
    bytes: i64,
}

impl<'a> Files<'a> {
    fn of(plan: &'a RestorePlan) -> Result<Self, EmbeddedPostgresError> {
        let bytes = plan.wal_file_bytes;
        // Timeline, and two halves of the number.
        let half = |name: &str, at: usize| name.get(at..at + 8).and_then(|half| i64::from_str_radix(half, 16).ok());
        let first = plan.wal.first().and_then(|(_, name)| Some((half(name, 8)?, half(name, 16)?)));
        let (high, low) = first.unwrap_or((0, 0));
        Ok(Self { files: &plan.wal, first_at: (high << 32) + low * bytes, bytes })
    }

    /// The file that has this place, and where in it.
    fn at(&self, place: i64) -> Option<(PathBuf, i64)> {
        let after = place - self.first_at;
        let (path, _) = self.files.get(usize::try_from(after / self.bytes).ok()?)?;
        Some((path.clone(), after % self.bytes))
    }

    /// Whether the change that begins at one place goes on beyond the other.
    fn is_cut(&self, begin: i64, up_to: i64) -> Result<bool, EmbeddedPostgresError> {
        let Some((path, within)) = self.at(behind_header(begin, self.bytes)) else { return Ok(false) };
        let mut length = [0; 4];
        let file = File::open(&path).map_err(EmbeddedPostgresError::io("open", &path))?;
        file.read_exact_at(&mut length, within as u64).map_err(EmbeddedPostgresError::io("read", &path))?;
        Ok(goes_beyond(begin, i64::from(u32::from_ne_bytes(length)), up_to, self.bytes))
    }
}

/// The same place, or the one behind the header if a page begins there.
fn behind_header(place: i64, file_bytes: i64) -> i64 {
    match place {
        place if place % file_bytes == 0 => place + FILE_HEADER_BYTES,
        place if place % PAGE_BYTES == 0 => place + PAGE_HEADER_BYTES,
        place => place,
    }
}

/// Whether so many bytes, with the headers between them, go beyond a place.
fn goes_beyond(begin: i64, mut length: i64, up_to: i64, file_bytes: i64) -> bool {
    let mut at = begin;
    while length > 0 && at < up_to {
        let from = behind_header(at, file_bytes);
        let page_end = (at / PAGE_BYTES + 1) * PAGE_BYTES;
        let taken = length.min(page_end - from);
        (at, length) = (from + taken, length - taken);
    }
    length > 0 || at > up_to
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: i64 = 16 << 20;

    #[test]
    fn history_says_where_the_recovery_has_ended() {
        assert_eq!(end_in("1\t0/3000028\tno recovery target specified\n"), Some(0x300_0028));
        assert_eq!(end_in("1\t0/3000028\tbefore 2026\n\n2\tA/000000FF\tno recovery target\n"), Some(0xA_0000_00FF));
        assert_eq!(end_in(""), None);
        assert_eq!(place(0xA_0000_00FF), "A/FF");
    }

    #[test]
    fn change_is_cut_only_if_it_goes_beyond_what_was_promised() {
        // On one page, up to its end and beyond.
        assert!(!goes_beyond(FILE + 8000, 192, FILE + 8192, FILE));
        assert!(goes_beyond(FILE + 8000, 193, FILE + 8192, FILE));
        // Over a page with its header.
        assert!(!goes_beyond(FILE + 8000, 192 + 8192 - 24, FILE + 2 * 8192, FILE));
        assert!(goes_beyond(FILE + 8000, 192 + 8192 - 23, FILE + 2 * 8192, FILE));
        // From the beginning of a file, which has a longer header.
        assert!(!goes_beyond(FILE, 8192 - 40, FILE + 8192, FILE));
        assert!(goes_beyond(FILE, 8192 - 39, FILE + 8192, FILE));
        // Nothing is there at all.
        assert!(!goes_beyond(FILE + 8000, 0, FILE + 8192, FILE));
    }
}
