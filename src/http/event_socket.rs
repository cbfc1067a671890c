//! An event stream written straight to a socket, over plain HTTP/1.1.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::net::TcpStream;

use super::event_groups::{Departure, Groups};
use super::event_stream::{EventStream, Writer};

/// Writes an event stream until its end, or until the client goes.
pub async fn serve(socket: TcpStream, head: Bytes, stream: EventStream, groups: Groups) -> io::Result<()> {
    let EventStream { admission, writer } = stream;
    let socket = Arc::new(socket);
    let outcome = tokio::select! {
        outcome = write(&socket, head, writer, &groups) => outcome,
        outcome = client_gone(&socket) => outcome,
    };
    drop(admission);
    outcome
}

async fn write(socket: &Arc<TcpStream>, head: Bytes, mut writer: Box<Writer>, groups: &Groups) -> io::Result<()> {
    write_all(socket, head).await?;
    // Boxed, because most connections are members of a group and do not wait here.
    while let Some(chunk) = Box::pin(writer.next_chunk()).await {
        write_all(socket, chunk.framed()).await?;
        let Some(audience) = writer.audience() else { continue };
        while let Some(chunk) = writer.try_next_chunk() {
            write_all(socket, chunk.framed()).await?;
        }
        if writer.events.is_live() {
            // A group is nobody's: each of its connections ends by itself.
            let caller = writer.events.caller().cloned();
            writer.events.belong_to(None);
            // A connection that has left a group takes its next event by itself before it joins again.
            let Some(departure) = groups.join(audience, writer, socket, caller.as_ref()).await else { return Ok(()) };
            let Departure { rest, writer: own } = departure;
            writer = own;
            writer.events.belong_to(caller);
            write_all(socket, rest).await?;
        }
    }
    write_all(socket, Bytes::from_static(b"0\r\n\r\n")).await
}

async fn write_all(socket: &TcpStream, mut bytes: Bytes) -> io::Result<()> {
    while !bytes.is_empty() {
        match socket.try_write(&bytes) {
            Ok(written) => drop(bytes.split_to(written)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits until the client has gone. It has sent its request, and sends nothing more.
async fn client_gone(socket: &TcpStream) -> io::Result<()> {
    let mut ignored = [0; 32];
    loop {
        socket.readable().await?;
        match socket.try_read(&mut ignored) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}
