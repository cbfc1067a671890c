//! Many followers on one thread, over raw sockets and `epoll`: what is measured is the server, so they do as little as
//! they can.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::load::find;
use crate::report::Times;

/// Of the followers, every so-many-th measures times; the others only count.
const MEASURED_EVERY: usize = 50;

/// What followers have seen.
#[derive(Default)]
pub struct Counted {
    pub deliveries: AtomicU64,
    is_over: AtomicBool,
}

pub struct Crowd {
    pub counted: Arc<Counted>,
    thread: JoinHandle<Times>,
}

struct Follower {
    socket: TcpStream,
    /// What the last read ended with: an event ends with an empty line.
    ended_line: bool,
    measured: Option<Vec<u8>>,
}

impl Crowd {
    /// Opens so many event streams on one path.
    pub async fn open(address: &str, path: &str, count: usize, epoch: Instant) -> Self {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n");
        let followers = (0..count).map(|n| {
            let mut socket = TcpStream::connect(address).expect("the server listens");
            socket.write_all(request.as_bytes()).unwrap();
            // Answered before the next one connects, so no queue of the server overflows.
            assert!(socket.read(&mut [0; 1024]).unwrap() > 0);
            Follower::new(socket, n)
        });
        Self::of(followers.collect(), epoch).await
    }

    /// Of connections that a server has been given the other ends of.
    pub async fn of_sockets(sockets: Vec<TcpStream>, epoch: Instant) -> Self {
        Self::of(sockets.into_iter().enumerate().map(|(n, socket)| Follower::new(socket, n)).collect(), epoch).await
    }

    async fn of(followers: Vec<Follower>, epoch: Instant) -> Self {
        let counted = Arc::new(Counted::default());
        let counting = counted.clone();
        let thread = std::thread::spawn(move || read_all(followers, &counting, epoch));
        // What events come first is not counted.
        tokio::time::sleep(Duration::from_millis(700)).await;
        counted.deliveries.store(0, Ordering::Relaxed);
        Self { counted, thread }
    }

    pub fn deliveries(&self) -> u64 {
        self.counted.deliveries.load(Ordering::Relaxed)
    }

    /// Closes all of them, and gives the times.
    pub fn close(self) -> Times {
        self.counted.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

impl Follower {
    fn new(socket: TcpStream, n: usize) -> Self {
        socket.set_nonblocking(true).unwrap();
        Self { socket, ended_line: false, measured: (n.is_multiple_of(MEASURED_EVERY)).then(Vec::new) }
    }

    /// How many events end in what was read.
    fn take(&mut self, bytes: &[u8], times: &mut Times, epoch: Instant) -> u64 {
        if let Some(rest) = &mut self.measured {
            measure(rest, bytes, times, epoch.elapsed());
        }
        let begins = u64::from(self.ended_line && bytes[0] == b'\n');
        self.ended_line = bytes.ends_with(b"\n");
        begins + memchr::memmem::find_iter(bytes, b"\n\n").count() as u64
    }
}

/// Times of the events that hold `"sent": <microseconds>`; what is not whole yet is kept.
fn measure(rest: &mut Vec<u8>, bytes: &[u8], times: &mut Times, now: Duration) {
    rest.extend_from_slice(bytes);
    let mut at = 0;
    while let Some(found) = find(&rest[at..], b"\"sent\":") {
        let from = at + found + 7;
        let digits = rest[from..].iter().take_while(|byte| byte.is_ascii_digit() || **byte == b' ').count();
        if from + digits >= rest.len() {
            break;
        }
        let text = std::str::from_utf8(&rest[from..from + digits]).unwrap().trim();
        times.add(now.saturating_sub(Duration::from_micros(text.parse().unwrap_or(0))));
        at = from + digits;
    }
    let keep = at.max(rest.len().saturating_sub(32));
    rest.drain(..keep.min(rest.len()));
}

fn read_all(mut followers: Vec<Follower>, counted: &Counted, epoch: Instant) -> Times {
    // SAFETY: plain system calls on descriptors that live as long as the followers.
    let poll = unsafe { libc::epoll_create1(0) };
    for (n, follower) in followers.iter().enumerate() {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: n as u64 };
        // SAFETY: the event is read by the call only.
        unsafe { libc::epoll_ctl(poll, libc::EPOLL_CTL_ADD, follower.socket.as_raw_fd(), &mut event) };
    }
    let mut times = Times::default();
    let mut buffer = vec![0; 64 << 10];
    let mut ready = vec![libc::epoll_event { events: 0, u64: 0 }; 256];
    while !counted.is_over.load(Ordering::Relaxed) {
        // SAFETY: as many events as there is room for.
        let count = unsafe { libc::epoll_wait(poll, ready.as_mut_ptr(), ready.len() as i32, 100) };
        let mut events = 0;
        for one in &ready[..count.max(0) as usize] {
            let follower = &mut followers[one.u64 as usize];
            match follower.socket.read(&mut buffer) {
                Ok(0) => panic!("the server closed a connection"),
                Ok(read) => events += follower.take(&buffer[..read], &mut times, epoch),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
        }
        counted.deliveries.fetch_add(events, Ordering::Relaxed);
    }
    // SAFETY: it is used no more.
    unsafe { libc::close(poll) };
    times
}
