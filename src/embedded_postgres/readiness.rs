//! Asks a server whether it accepts connections, as libpq's `PQping` does: any answer but "not yet" is a yes.
//!
//! The few bytes are written by hand, because drivers belong to the store.
use super::data_dir::socket_path;
use super::{DATABASE, ROLE};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long to wait for an answer. A server answers at once, even while it recovers; one that hangs is asked again.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(2);
/// An answer is an error of a few lines, or a list of parameters.
const ANSWER_BYTES_MAX: u64 = 16 * 1024;
const PROTOCOL_3_0: i32 = 196_608;
const TERMINATE: &[u8] = b"X\0\0\0\x04";
/// "cannot connect now": it starts, recovers or shuts down.
const CANNOT_CONNECT_NOW: &[u8] = b"C57P03\0";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    Accepts,
    NotYet,
}

pub(super) fn ask(socket_dir: &Path) -> Readiness {
    // No socket yet, or one that nobody listens on any more.
    try_ask(socket_dir).unwrap_or(Readiness::NotYet)
}

/// The same for a server of another process. One that this process may not reach is there: connecting to it says why it
/// cannot be done.
pub(super) fn is_there(socket_dir: &Path) -> bool {
    match try_ask(socket_dir) {
        Ok(readiness) => readiness == Readiness::Accepts,
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
    }
}

fn try_ask(socket_dir: &Path) -> io::Result<Readiness> {
    let mut stream = UnixStream::connect(socket_path(socket_dir))?;
    stream.set_read_timeout(Some(ANSWER_WAIT_MAX))?;
    stream.set_write_timeout(Some(ANSWER_WAIT_MAX))?;
    stream.write_all(&startup_message())?;
    let mut kind = [0];
    stream.read_exact(&mut kind)?;
    match kind {
        [b'E'] => {
            // After an error the server closes the connection.
            let mut error = Vec::new();
            stream.take(ANSWER_BYTES_MAX).read_to_end(&mut error)?;
            let not_yet = error.windows(CANNOT_CONNECT_NOW.len()).any(|field| field == CANNOT_CONNECT_NOW);
            Ok(if not_yet { Readiness::NotYet } else { Readiness::Accepts })
        }
        _ => {
            // Saying goodbye keeps the server's log clean; whether it arrives does not matter.
            let _ = stream.write_all(TERMINATE);
            Ok(Readiness::Accepts)
        }
    }
}

fn startup_message() -> Vec<u8> {
    let mut body = PROTOCOL_3_0.to_be_bytes().to_vec();
    for text in ["user", ROLE, "database", DATABASE, "application_name", "headwater supervisor", ""] {
        body.extend_from_slice(text.as_bytes());
        body.push(0);
    }
    let mut message = (body.len() as i32 + 4).to_be_bytes().to_vec();
    message.append(&mut body);
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// A server that gives one answer to the startup message.
    fn answer_to(answer: &'static [u8]) -> Readiness {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(socket_path(dir.path())).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut length = [0; 4];
            stream.read_exact(&mut length).unwrap();
            let mut rest = vec![0; u32::from_be_bytes(length) as usize - length.len()];
            stream.read_exact(&mut rest).unwrap();
            stream.write_all(answer).unwrap();
        });
        let readiness = ask(dir.path());
        server.join().unwrap();
        readiness
    }

    #[test]
    fn server_that_starts_or_recovers_is_not_ready() {
        let starting = b"E\0\0\0\x40SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0";
        assert_eq!(answer_to(starting), Readiness::NotYet);
    }

    #[test]
    fn server_that_refuses_this_one_connection_is_ready() {
        let full = b"E\0\0\0\x40SFATAL\0VFATAL\0C53300\0Msorry, too many clients already\0\0";
        assert_eq!(answer_to(full), Readiness::Accepts);
        let authenticated = b"R\0\0\0\x08\0\0\0\0";
        assert_eq!(answer_to(authenticated), Readiness::Accepts);
    }

    #[test]
    fn server_that_is_not_there_or_hangs_up_is_not_ready() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(ask(dir.path()), Readiness::NotYet);
        assert_eq!(answer_to(b""), Readiness::NotYet);
    }
}
