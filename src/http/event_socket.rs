//! An event stream written straight to a socket, over plain HTTP/1.1.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::net::TcpStream;

use super::event_groups::{Departure, Groups, Outlet};
use super::event_stream::{EventStream, Writer};
use crate::service::open_streams::OpenStream;

/// So much of what a client sends after its request is thrown away. Whoever sends more loses the connection: the answer says
/// that it is the last one, so nothing may follow.
const IGNORED_BYTES_MAX: usize = 16 << 10;

/// Writes an event stream until its end, or until the client goes.
pub async fn serve(socket: TcpStream, head: Bytes, stream: EventStream) -> io::Result<()> {
    let EventStream { admission, writer, groups } = stream;
    let socket = Arc::new(socket);
    let outcome = tokio::select! {
        outcome = write(&socket, head, writer, &groups, admission.stream()) => outcome,
        outcome = client_gone(&socket) => outcome,
    };
    drop(admission);
    outcome
}

async fn write(
    socket: &Arc<TcpStream>,
    head: Bytes,
    mut writer: Box<Writer>,
    groups: &Groups,
    open: &Arc<OpenStream>,
) -> io::Result<()> {
    write_all(socket, head, open).await?;
    // Boxed, because most connections are members of a group and do not wait here.
    while let Some(chunk) = Box::pin(writer.next_chunk()).await {
        write_all(socket, chunk.framed(), open).await?;
        if writer.audience().is_none() {
            continue;
        }
        while let Some(chunk) = writer.try_next_chunk() {
            write_all(socket, chunk.framed(), open).await?;
        }
        // Asked again and not kept, as it is large.
        if let Some(audience) = writer.audience() {
            // A group is nobody's: each of its connections ends by itself.
            let caller = writer.events.share();
            // A connection that has left a group takes its next event by itself before it joins again.
            let outlet = Outlet::Socket(Arc::downgrade(socket));
            let membership = groups.join(audience, writer, outlet, caller.as_ref());
            let Some(departure) = membership.ended(caller.as_ref()).await else { return Ok(()) };
            let Departure { rest, writer: own } = departure;
            writer = own;
            writer.events.go_on_for(caller, open);
            write_all(socket, rest, open).await?;
        }
    }
    write_all(socket, Bytes::from_static(b"0\r\n\r\n"), open).await
}

async fn write_all(socket: &TcpStream, mut bytes: Bytes, open: &OpenStream) -> io::Result<()> {
    let mut is_stalled = false;
    while !bytes.is_empty() {
        match socket.try_write(&bytes) {
            Ok(written) => drop(bytes.split_to(written)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if !std::mem::replace(&mut is_stalled, true) {
                    open.stalled();
                }
                socket.writable().await?;
            }
            Err(error) => return Err(error),
        }
    }
    if is_stalled {
        open.taken();
    }
    Ok(())
}

/// Waits until the client has gone. It has sent its request, and sends nothing more.
async fn client_gone(socket: &TcpStream) -> io::Result<()> {
    let mut left = IGNORED_BYTES_MAX;
    loop {
        socket.readable().await?;
        match read_away(socket) {
            Ok(0) => return Ok(()),
            Ok(count) if count > left => return Err(io::ErrorKind::InvalidData.into()),
            Ok(count) => left -= count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        // A socket that always has something to read never waits, and nobody else would have their turn.
        tokio::task::consume_budget().await;
    }
}

/// Not in [`client_gone`], whose future would keep the buffer for as long as the event stream is open.
fn read_away(socket: &TcpStream) -> io::Result<usize> {
    socket.try_read(&mut [0; 4 << 10])
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// Has a client send so many bytes, or for ever, and waits for its end on a runtime of one thread. `None`: nobody else
    /// had their turn, or it did not end.
    fn end_of_client_that_sends(bytes: Option<usize>) -> Option<io::Result<()>> {
        let (ended, end) = mpsc::channel();
        // Not joined: a runtime that is held up is left alone.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let outcome = runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                let (socket, _) = listener.accept().await.unwrap();
                std::thread::spawn(move || match bytes {
                    Some(bytes) => client.write_all(&vec![b'x'; bytes]).unwrap(),
                    None => while client.write_all(&[b'x'; 64 << 10]).is_ok() {},
                });
                let other = tokio::spawn(tokio::task::yield_now());
                let outcome = client_gone(&socket).await;
                other.await.unwrap();
                outcome
            });
            let _ = ended.send(outcome);
        });
        end.recv_timeout(Duration::from_secs(10)).ok()
    }

    #[test]
    fn a_client_that_never_stops_sending_loses_its_connection_and_holds_nobody_up() {
        let end = end_of_client_that_sends(None).expect("the connection is given up");
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_client_that_sends_a_little_is_there_until_it_goes() {
        assert!(end_of_client_that_sends(Some(100)).expect("the client has gone").is_ok());
    }
}
