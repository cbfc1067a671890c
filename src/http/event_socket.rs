//! An event stream written straight to a socket, over plain HTTP/1.1.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::net::TcpStream;

use super::event_groups::{Departure, Groups, Outlet};
use super::event_stream::{EventStream, Writer};
use crate::service::open_streams::OpenStream;

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
