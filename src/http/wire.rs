//! What is kept of a connection's bytes for `problem_bodies`, because hyper does not tell or do it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Sleep, sleep};

/// A connection on which a request was refused is read until the client closes it, but for no longer than this.
pub const LINGER_TIME_MAX: Duration = Duration::from_secs(5);
pub const LINGER_BYTES_MAX: usize = 64 << 20;
/// The first bytes of an HTTP/2 connection.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The largest `Content-Length` that hyper takes: it uses the two highest numbers itself.
const LENGTH_MAX: u64 = u64::MAX - 2;

/// The beginning of a connection: hyper would wait without end for the bytes that tell the version of HTTP.
pub struct Opening {
    preface_bytes: usize,
    patience: Pin<Box<Sleep>>,
}

impl Opening {
    pub fn new(patience: Duration) -> Self {
        Self { preface_bytes: 0, patience: Box::pin(sleep(patience)) }
    }

    /// Whether the time is over before the version is clear.
    pub fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        self.patience.as_mut().poll(context).is_ready()
    }

    /// Takes in what came. True: the version of HTTP is clear.
    pub fn is_clear(&mut self, bytes: &[u8]) -> bool {
        let expected = &PREFACE[self.preface_bytes..];
        let is_preface = bytes.iter().zip(expected).all(|(byte, expected)| byte == expected);
        self.preface_bytes = PREFACE.len().min(self.preface_bytes + bytes.len());
        !is_preface || self.preface_bytes == PREFACE.len()
    }
}

/// Looks for a `Content-Length` that is larger than hyper takes: hyper's answer does not tell.
#[derive(Default)]
pub struct AnnouncedLength {
    /// How much of [`Self::FIELD`] has been seen.
    matched: usize,
    value: u64,
    is_beyond: bool,
}

impl AnnouncedLength {
    const FIELD: &[u8] = b"\ncontent-length:";

    pub fn is_beyond(&self) -> bool {
        self.is_beyond
    }

    pub fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.matched == 0 {
                let Some(line_end) = bytes.iter().position(|byte| *byte == b'\n') else { return };
                bytes = &bytes[line_end..];
            }
            self.step(bytes[0]);
            bytes = &bytes[1..];
        }
    }

    fn step(&mut self, byte: u8) {
        match Self::FIELD.get(self.matched) {
            Some(expected) if byte.eq_ignore_ascii_case(expected) => {
                self.matched += 1;
                self.value = 0;
            }
            None if byte.is_ascii_digit() => {
                self.value = self.value.saturating_mul(10).saturating_add(u64::from(byte - b'0'));
                self.is_beyond |= self.value > LENGTH_MAX;
            }
            None if byte == b' ' || byte == b'\t' => {}
            _ => self.matched = usize::from(byte == b'\n'),
        }
    }
}

/// Reads and drops what a client still sends after it was refused. If the connection were closed at once, it would be
/// reset, and a client that writes its whole body first would never read the answer.
pub struct Lingering {
    bytes_left: usize,
    patience: Pin<Box<Sleep>>,
}

impl Lingering {
    pub fn new() -> Self {
        Self { bytes_left: LINGER_BYTES_MAX, patience: Box::pin(sleep(LINGER_TIME_MAX)) }
    }

    /// Ready when the client has closed the connection, or has had enough time.
    pub fn poll(&mut self, context: &mut Context<'_>, mut stream: impl AsyncRead + Unpin) -> Poll<io::Result<()>> {
        let mut thrown_away = [0; 8 << 10];
        while self.bytes_left > 0 && self.patience.as_mut().poll(context).is_pending() {
            let mut buffer = ReadBuf::new(&mut thrown_away);
            let outcome = ready!(Pin::new(&mut stream).poll_read(context, &mut buffer));
            let count = buffer.filled().len();
            if outcome.is_err() || count == 0 {
                break;
            }
            self.bytes_left = self.bytes_left.saturating_sub(count);
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_beyond_all_counting_is_seen_however_it_arrives() {
        for (head, is_beyond) in [
            ("POST / HTTP/1.1\r\nContent-Length: 18446744073709551614\r\n\r\n", true),
            ("POST / HTTP/1.1\nhost: h\ncontent-LENGTH:99999999999999999999999\n\n", true),
            ("POST / HTTP/1.1\r\nContent-Length: 18446744073709551613\r\n\r\n", false),
            ("POST / HTTP/1.1\r\nContent-Length: 5\r\nX: 99999999999999999999999\r\n\r\n", false),
            ("POST / HTTP/1.1\r\nX-Content-Length: 99999999999999999999999\r\n\r\n", false),
            ("Content-Length: 99999999999999999999999\r\n\r\n", false),
        ] {
            for size in [1, 2, 7, head.len()] {
                let mut length = AnnouncedLength::default();
                head.as_bytes().chunks(size).for_each(|chunk| length.take(chunk));
                assert_eq!(length.is_beyond(), is_beyond, "{head} by {size}");
            }
        }
    }

    #[tokio::test]
    async fn which_http_it_is_is_clear_with_the_first_byte_that_differs_or_the_whole_preface() {
        let opening = || Opening::new(Duration::from_secs(1));
        assert!(opening().is_clear(b"GET / HTTP/1.1\r\n"));
        assert!(opening().is_clear(b"PUT"));
        assert!(opening().is_clear(PREFACE));
        let mut slow = opening();
        assert!(!slow.is_clear(b"PRI * HTTP/2.0\r\n") && !slow.is_clear(b"\r\nSM\r\n\r"));
        assert!(slow.is_clear(b"\nmore"));
        let mut other = opening();
        assert!(!other.is_clear(b"P") && other.is_clear(b"OST / HTTP/1.1"));
    }
}
