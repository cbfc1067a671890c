//! Where an export goes: standard output, a new file, or one that it goes on with.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::{ExportOptions, STANDARD};
use crate::domain::event_id::EventId;
use crate::domain::exported_message::ExportedMessage;

/// How much of a file is looked at at once for the beginning of its last line.
const LOOK_BACK: u64 = 64 << 10;
/// Bytes of one write.
const WRITE_AT_ONCE: usize = 256 << 10;

pub enum Output {
    Standard(BufWriter<io::Stdout>),
    File(BufWriter<File>),
}

impl Output {
    /// Opens it, and says after which message to begin. A file that has something is not touched, unless that is asked
    /// for.
    pub fn open(options: &ExportOptions) -> Result<(Self, EventId), String> {
        let after = EventId::from(options.after);
        if options.file == Path::new(STANDARD) {
            let output = Self::Standard(BufWriter::with_capacity(WRITE_AT_ONCE, io::stdout()));
            return if options.resume { Err("--resume needs a file".into()) } else { Ok((output, after)) };
        }
        let name = options.file.display();
        let cannot = |error: io::Error| format!("{name} cannot be written: {error}");
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&options.file);
        let mut file = open.map_err(cannot)?;
        file.try_lock().map_err(|_| format!("{name} is being written by another export"))?;
        let size = file.metadata().map_err(cannot)?.len();
        if size > 0 && !options.resume {
            return Err(format!("{name} is there already: --resume goes on after its last whole line"));
        }
        let whole = end_of_last_line(&mut file, size).map_err(cannot)?;
        let last = last_line(&mut file, whole).map_err(cannot)?;
        let last = last.map(|line| ExportedMessage::parse(line.trim_ascii())).transpose();
        let last = last.map_err(|error| format!("{name}: its last whole line is no exported message: {error}"))?;
        // What was cut when an export was killed is written again.
        file.set_len(whole).and_then(|()| file.seek(SeekFrom::End(0))).map_err(cannot)?;
        let output = Self::File(BufWriter::with_capacity(WRITE_AT_ONCE, file));
        Ok((output, last.map_or(after, |last| EventId::at(last.global_position, last.id))))
    }

    /// Everything is on disk after this.
    pub fn sync(self) -> io::Result<()> {
        match self {
            Self::Standard(mut output) => output.flush(),
            Self::File(output) => output.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all(),
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Standard(output) => output.write(bytes),
            Self::File(output) => output.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Standard(output) => output.flush(),
            Self::File(output) => output.flush(),
        }
    }
}

/// The byte after the last end of a line before `end`, 0 if there is none.
fn end_of_last_line(file: &mut File, end: u64) -> io::Result<u64> {
    let mut before = end;
    while before > 0 {
        let from = before.saturating_sub(LOOK_BACK);
        let mut text = vec![0; (before - from) as usize];
        file.seek(SeekFrom::Start(from))?;
        file.read_exact(&mut text)?;
        if let Some(at) = text.iter().rposition(|byte| *byte == b'\n') {
            return Ok(from + at as u64 + 1);
        }
        before = from;
    }
    Ok(0)
}

/// The line that ends there.
fn last_line(file: &mut File, end: u64) -> io::Result<Option<String>> {
    if end == 0 {
        return Ok(None);
    }
    let from = end_of_last_line(file, end - 1)?;
    let mut text = vec![0; (end - from) as usize];
    file.seek(SeekFrom::Start(from))?;
    file.read_exact(&mut text)?;
    String::from_utf8(text).map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_whole_line_is_found_however_long_lines_are() {
        let long = "x".repeat(2 * LOOK_BACK as usize + 10);
        for (text, line) in [
            (String::new(), None),
            ("cut".into(), None),
            ("a\nb\n".into(), Some("b\n".to_owned())),
            ("a\nb\ncut".into(), Some("b\n".into())),
            (format!("a\n{long}\n{long}"), Some(format!("{long}\n"))),
            (format!("{long}\ncut"), Some(format!("{long}\n"))),
        ] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            let end = end_of_last_line(&mut file, text.len() as u64).unwrap();
            assert_eq!(last_line(&mut file, end).unwrap(), line);
        }
    }
}
