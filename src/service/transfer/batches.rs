//! Reads exported messages line by line, in batches that are written together.

use std::collections::HashSet;
use std::io::{self, BufRead, Read};

use crate::domain::exported_message::ExportedMessage;
use crate::domain::stream_name::category;

/// The bounds of a batch. Other writers of its categories wait while it is written.
const BATCH_MESSAGES_MAX: usize = 5_000;
const BATCH_BYTES_MAX: usize = 4 << 20;
/// Each category is a lock, of which PostgreSQL has some thousands for all sessions together.
const BATCH_CATEGORIES_MAX: usize = 500;
/// The longest line. PostgreSQL's `jsonb` has an end at 256 MB, and a text of 1 GB.
const LINE_BYTES_MAX: u64 = 1 << 30;

/// Messages in order of their global positions.
#[derive(Debug, Default)]
pub struct Batch {
    pub messages: Vec<ExportedMessage>,
    /// The global position of the message before the batch, 0 for none.
    pub after: i64,
    /// The number of each message's line, from 1.
    pub lines: Vec<u64>,
    /// What was read for it.
    pub bytes: u64,
}

/// Why no more can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("line {number}: {reason}")]
    Line { number: u64, reason: String },
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// The batches of a source.
pub struct Batches<R> {
    source: R,
    line: u64,
    after: i64,
    text: Vec<u8>,
    is_over: bool,
}

impl<R: BufRead> Batches<R> {
    pub fn new(source: R) -> Self {
        Self { source, line: 0, after: 0, text: Vec::new(), is_over: false }
    }

    fn read(&mut self) -> Result<Option<Batch>, ReadError> {
        let mut batch = Batch { after: self.after, ..Batch::default() };
        let (mut bytes, mut categories) = (0, HashSet::new());
        while batch.messages.len() < BATCH_MESSAGES_MAX
            && bytes < BATCH_BYTES_MAX
            && categories.len() < BATCH_CATEGORIES_MAX
        {
            let Some(message) = self.read_message(&mut batch.bytes)? else { break };
            bytes += message.memory_bytes();
            let name = category(&message.stream_name);
            if !categories.contains(name) {
                categories.insert(name.to_owned());
            }
            batch.messages.push(message);
            batch.lines.push(self.line);
        }
        Ok((!batch.messages.is_empty() || batch.bytes > 0).then_some(batch))
    }

    /// The next line that is not blank.
    fn read_message(&mut self, bytes: &mut u64) -> Result<Option<ExportedMessage>, ReadError> {
        loop {
            self.text.clear();
            let read = (&mut self.source).take(LINE_BYTES_MAX).read_until(b'\n', &mut self.text)? as u64;
            if read == 0 {
                return Ok(None);
            }
            *bytes += read;
            self.line += 1;
            if read == LINE_BYTES_MAX {
                return Err(self.refused(format!("longer than {LINE_BYTES_MAX} bytes")));
            }
            if !self.text.trim_ascii().is_empty() {
                return self.parse().map(Some);
            }
        }
    }

    fn parse(&mut self) -> Result<ExportedMessage, ReadError> {
        let text = std::str::from_utf8(&self.text).map_err(|error| self.refused(format!("not UTF-8: {error}")))?;
        let message = ExportedMessage::parse(text.trim_ascii()).map_err(|error| match self.text.last() {
            Some(b'\n') => self.refused(error.to_string()),
            _ => self.refused(format!("cut short: the input ends in the middle of it ({error})")),
        })?;
        if message.global_position <= self.after {
            let (after, position) = (self.after, message.global_position);
            return Err(self.refused(format!("global_position {position} must be higher than {after} before it")));
        }
        self.after = message.global_position;
        Ok(message)
    }

    fn refused(&self, reason: String) -> ReadError {
        ReadError::Line { number: self.line, reason }
    }
}

impl<R: BufRead> Iterator for Batches<R> {
    type Item = Result<Batch, ReadError>;

    /// Ends after an error.
    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let next = self.read().transpose();
        self.is_over = !matches!(next, Some(Ok(_)));
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(global_position: usize) -> String {
        let id = uuid::Uuid::from_u128(global_position as u128);
        format!(
            r#"{{"id":"{id}","stream_name":"a-1","type":"T","position":{global_position},"global_position":{global_position},"time":0}}"#
        )
    }

    fn read(text: &str) -> (Vec<Batch>, Option<String>) {
        let (mut batches, mut error) = (Vec::new(), None);
        for batch in Batches::new(text.as_bytes()) {
            match batch {
                Ok(batch) => batches.push(batch),
                Err(refused) => error = Some(refused.to_string()),
            }
        }
        (batches, error)
    }

    #[test]
    fn batches_are_bounded_and_have_every_line_once() {
        let count = 2 * BATCH_MESSAGES_MAX + 7;
        let text: String = (1..=count).map(|nth| line(nth) + "\n").collect();
        let (batches, error) = read(&text);
        assert_eq!((batches.len(), error), (3, None));
        let lines: Vec<u64> = batches.iter().flat_map(|batch| batch.lines.clone()).collect();
        assert_eq!(lines, (1..=count as u64).collect::<Vec<_>>());
        assert_eq!(batches.iter().map(|batch| batch.bytes).sum::<u64>(), text.len() as u64);
        assert_eq!(batches[1].after, batches[0].messages.last().unwrap().global_position);
    }

    #[test]
    fn blank_lines_and_a_missing_end_of_line_are_taken() {
        let (batches, error) = read(&format!("\n{}\r\n\n  \n{}", line(1), line(2)));
        assert_eq!((batches[0].lines.clone(), error), (vec![2, 5], None));
        assert_eq!(read(""), (Vec::new(), None));
    }

    impl PartialEq for Batch {
        fn eq(&self, other: &Self) -> bool {
            self.messages == other.messages
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, part) in [
            (format!("{}\n{}\n", line(1), &line(2)[..40]), "line 2: not a message"),
            (format!("{}\n{}", line(1), &line(2)[..40]), "line 2: cut short"),
            (format!("{}\n{}\n", line(2), line(2)), "line 2: global_position 2 must be higher than 2"),
            (format!("{}\n\n{}\n", line(2), line(1)), "line 3: global_position 1 must be higher than 2"),
        ] {
            let (batches, error) = read(&text);
            let error = error.unwrap();
            assert!(error.contains(part) && batches.is_empty(), "{error}");
        }
        let error = Batches::new(&b"\xff\xfe\n"[..]).next().unwrap().unwrap_err().to_string();
        assert!(error.contains("line 1: not UTF-8"), "{error}");
    }
}
