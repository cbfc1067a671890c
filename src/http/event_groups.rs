//! Groups of connections that get the same bytes.
//!
//! Connections that follow one log live with the same options get the same bytes. So they form groups: one task asks for
//! the next event, makes its frames once, and gives all connections what they take at once: over plain HTTP/1.1 it writes
//! to their sockets, the others have hyper take it. It waits for none of them: a connection that does not take all of it
//! leaves the group with the rest, goes on by itself, and comes back when it is live again.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::event_stream::{Audience, Chunk, Writer};
use crate::domain::closing::ClosingReason;
use crate::service::auth::Caller;
use crate::service::event_streams::Event;

/// The most members of one group, so that its task works for less than a millisecond at once, and several groups use
/// several processors.
const MEMBERS_MAX: usize = 256;
/// Attempts to bring a joiner to the group's place: others may append meanwhile.
const LEVEL_ATTEMPTS_MAX: usize = 4;

/// All groups of one listener. Cheap to clone.
#[derive(Clone, Default)]
pub struct Groups(Arc<Mutex<GroupTable>>);

#[derive(Default)]
struct GroupTable {
    groups: HashMap<Audience, Vec<Door>>,
    /// How many groups were made.
    made: u64,
}

/// Where connections ask to join a group. It is open while the group has members.
struct Door {
    number: u64,
    requests: mpsc::WeakSender<Request>,
}

enum Request {
    Join(Joiner),
    /// The credential of a member has ended: it has to go on by itself.
    LetGo,
}

struct Joiner {
    writer: Box<Writer>,
    member: Member,
}

/// Where a connection takes frames.
pub enum Outlet {
    /// A socket. It belongs to the connection, and is closed when that ends.
    Socket(Weak<TcpStream>),
    /// The body of an answer.
    Body(mpsc::Sender<Told>),
}

/// Frames for a body, and up to which global position they tell.
pub struct Told {
    pub frames: Bytes,
    pub up_to: Option<i64>,
}

/// One connection of a group.
struct Member {
    outlet: Outlet,
    caller: Option<Caller>,
    leaves: oneshot::Sender<Departure>,
}

/// What a connection that leaves a group goes on with.
pub struct Departure {
    /// The rest of the frames that were not taken.
    pub rest: Bytes,
    pub writer: Box<Writer>,
}

/// A connection's place in a group.
pub struct GroupMembership {
    departure: oneshot::Receiver<Departure>,
    open: mpsc::Sender<Request>,
    /// Whether it has asked to leave.
    has_asked: bool,
}

struct Group {
    writer: Box<Writer>,
    members: Vec<Member>,
    requests: mpsc::Receiver<Request>,
    groups: Groups,
    audience: Audience,
    number: u64,
}

impl Groups {
    /// Enters a group with others that get the same bytes.
    pub fn join(
        &self,
        audience: Audience,
        writer: Box<Writer>,
        outlet: Outlet,
        caller: Option<&Caller>,
    ) -> GroupMembership {
        let (leaves, departure) = oneshot::channel();
        let member = Member { outlet, caller: caller.cloned(), leaves };
        let open = self.enter(audience, Joiner { writer, member });
        GroupMembership { departure, open, has_asked: false }
    }

    /// Enters the first group that has room, or a new one.
    fn enter(&self, audience: Audience, joiner: Joiner) -> mpsc::Sender<Request> {
        let mut request = Request::Join(joiner);
        let mut listed = self.0.lock();
        for door in listed.groups.get(&audience).into_iter().flatten() {
            let Some(open) = door.requests.upgrade().filter(|open| open.strong_count() <= MEMBERS_MAX) else {
                continue;
            };
            match open.try_send(request) {
                Ok(()) => return open,
                // The group is being dissolved, or too many ask at once.
                Err(refused) => request = refused.into_inner(),
            }
        }
        let (open, requests) = mpsc::channel(MEMBERS_MAX);
        let Request::Join(Joiner { writer, member }) = request else { return open };
        listed.made += 1;
        let (number, door) = (listed.made, open.downgrade());
        listed.groups.entry(audience.clone()).or_default().push(Door { number, requests: door });
        let group = Group { writer, members: vec![member], requests, groups: self.clone(), audience, number };
        tokio::spawn(group.run());
        open
    }
}

impl GroupMembership {
    /// What the group tells a body next; `None`: it has left the group, and has had everything from it.
    pub async fn next(&mut self, told: &mut mpsc::Receiver<Told>, caller: Option<&Caller>) -> Option<Told> {
        if let Some(caller) = caller.filter(|_| !self.has_asked) {
            tokio::select! {
                biased;
                () = caller.ended() => {}
                told = told.recv() => return told,
            }
            // The group says where it is: it may be telling something at this moment.
            self.has_asked = self.open.send(Request::LetGo).await.is_ok();
        }
        told.recv().await
    }

    /// Stays in the group until the connection has to go on by itself; `None`: it is lost. May be given up at any point.
    pub async fn ended(mut self, caller: Option<&Caller>) -> Option<Departure> {
        if let Some(caller) = caller {
            tokio::select! {
                biased;
                departure = &mut self.departure => return departure.ok(),
                // The group says where it is: it may be writing to the socket at this moment.
                () = caller.ended() => drop(self.open.send(Request::LetGo).await),
            }
        }
        self.departure.await.ok()
    }
}

impl Group {
    /// Runs until all members have gone, or cannot get the same bytes any more.
    async fn run(mut self) {
        loop {
            tokio::select! {
                event = self.writer.events.next() => match event {
                    Some(event) => self.tell(event),
                    None => return self.dissolve(None),
                },
                request = self.requests.recv() => match request {
                    Some(Request::Join(joiner)) => self.take_in(joiner),
                    Some(Request::LetGo) => self.let_go(),
                    None => return,
                },
            }
            if !self.writer.events.is_live() {
                return self.dissolve(None);
            }
            // If messages come faster than they are written, nothing else lets other tasks run.
            tokio::task::yield_now().await;
        }
    }

    /// Writes an event to all members. A member that does not take all of it leaves with the rest.
    fn tell(&mut self, event: Event) {
        if let Event::Closing(closing) = event {
            // Each connection writes the end itself, with a `retry` of its own.
            return self.dissolve(Some(closing));
        }
        let Self { writer, members, .. } = self;
        members.retain(Member::is_there);
        let printed = Printed::of(writer.chunk(event, members.len()), writer);
        let mut at = 0;
        while let Some(member) = members.get(at) {
            match member.write(&printed) {
                None => at += 1,
                Some(rest) => members.swap_remove(at).leave(rest, writer.fork(None)),
            }
        }
    }

    /// Brings a joiner and the group to one place: writes to each what is in memory for it, until neither has more.
    fn take_in(&mut self, Joiner { mut writer, member }: Joiner) {
        for _ in 0..LEVEL_ATTEMPTS_MAX {
            self.tell_what_is_there();
            while let Some(chunk) = writer.try_next_chunk() {
                let rest = member.write(&Printed::of(chunk, &writer));
                if rest.is_some() || !writer.events.is_live() {
                    return member.leave(rest.unwrap_or_default(), Some(writer));
                }
            }
            // Nothing came in between: the next event is next for both.
            if !self.tell_what_is_there() {
                if !writer.events.is_level_with(&self.writer.events) {
                    break;
                }
                return self.members.push(member);
            }
        }
        member.leave(Bytes::new(), Some(writer));
    }

    /// Members whose credential has ended go on by themselves: each writes its end.
    fn let_go(&mut self) {
        let has_ended = |member: &mut Member| member.caller.as_ref().is_some_and(Caller::has_ended);
        for member in self.members.extract_if(.., has_ended) {
            member.leave(Bytes::new(), self.writer.fork(None));
        }
    }

    /// Writes what is in memory to all members. Answers whether there was anything.
    fn tell_what_is_there(&mut self) -> bool {
        let mut told = false;
        while let Some(event) = self.writer.events.try_next() {
            self.tell(event);
            told = true;
        }
        told
    }

    /// Ends the group: all members go on by themselves.
    fn dissolve(&mut self, closing: Option<ClosingReason>) {
        self.requests.close();
        for member in std::mem::take(&mut self.members) {
            member.leave(Bytes::new(), self.writer.fork(closing));
        }
        while let Ok(request) = self.requests.try_recv() {
            if let Request::Join(Joiner { writer, member }) = request {
                member.leave(Bytes::new(), Some(writer));
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let mut listed = self.groups.0.lock();
        let Some(doors) = listed.groups.get_mut(&self.audience) else { return };
        doors.retain(|door| door.number != self.number);
        if doors.is_empty() {
            listed.groups.remove(&self.audience);
        }
    }
}

/// What is written to each member.
struct Printed {
    bytes: Bytes,
    /// The same as HTTP/1.1 has it in a chunked body.
    framed: Bytes,
    up_to: Option<i64>,
}

impl Printed {
    fn of(chunk: Chunk, writer: &Writer) -> Self {
        let (bytes, framed) = chunk.both();
        Self { bytes, framed, up_to: writer.events.told_up_to() }
    }
}

impl Member {
    /// Whether the connection is there still.
    fn is_there(&self) -> bool {
        match &self.outlet {
            Outlet::Socket(socket) => socket.strong_count() > 0,
            Outlet::Body(body) => !body.is_closed(),
        }
    }

    /// Writes what is taken at once, and answers the rest, if there is any. A connection that has gone needs nothing.
    fn write(&self, Printed { bytes, framed, up_to }: &Printed) -> Option<Bytes> {
        match &self.outlet {
            Outlet::Socket(socket) => match socket.upgrade()?.try_write(framed) {
                Ok(written) if written == framed.len() => None,
                Ok(written) => Some(framed.slice(written..)),
                // If the socket is broken, the connection finds out by writing the rest.
                Err(_) => Some(framed.clone()),
            },
            Outlet::Body(body) => match body.try_send(Told { frames: bytes.clone(), up_to: *up_to }) {
                Ok(()) | Err(TrySendError::Closed(_)) => None,
                Err(TrySendError::Full(Told { frames, .. })) => Some(frames),
            },
        }
    }

    fn leave(self, rest: Bytes, writer: Option<Box<Writer>>) {
        if let Some(writer) = writer {
            // A connection that has gone does not receive this.
            let _ = self.leaves.send(Departure { rest, writer });
        }
    }
}
