//! How many connections may be open: in all, and from one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::problem::{Problem, ProblemKind};
use super::problem_bodies::as_http1;
use crate::domain::observation::Observation;
use crate::telemetry::Observer;

/// Refused connections that are told so at the same time; more are closed without a word.
pub const REFUSALS_MAX: usize = 64;
/// How long a refused connection stays, so that its client reads the answer.
const REFUSAL_TIME_MAX: Duration = Duration::from_secs(1);

/// The connections of one listener. Cheap to clone.
#[derive(Clone)]
pub struct Connections(Arc<Shared>);

struct Shared {
    max: usize,
    /// 0: as many as in all.
    per_address_max: usize,
    observer: Observer,
    open: Mutex<OpenConnections>,
    refusals: AtomicUsize,
}

#[derive(Default)]
struct OpenConnections {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// An open connection. Its place is free again when this is dropped.
pub struct Permit {
    connections: Connections,
    address: IpAddr,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    InAll,
    OfAddress,
}

impl Full {
    pub fn setting(self) -> &'static str {
        match self {
            Self::InAll => "--connections-max",
            Self::OfAddress => "--connections-per-address-max",
        }
    }
}

impl Connections {
    pub fn new(max: usize, per_address_max: usize, observer: Observer) -> Self {
        let (open, refusals) = Default::default();
        Self(Arc::new(Shared { max, per_address_max, observer, open, refusals }))
    }

    /// A place for a connection from this address.
    pub fn enter(&self, address: IpAddr) -> Result<Permit, Full> {
        let address = counted_as(address);
        let outcome = self.0.open.lock().enter(address, self.0.max, self.0.per_address_max);
        match outcome {
            Ok(()) => {
                self.0.observer.record(Observation::ConnectionOpened);
                Ok(Permit { connections: self.clone(), address })
            }
            Err(full) => {
                let setting = full.setting();
                self.0.observer.record(Observation::ConnectionRefused { setting, address });
                Err(full)
            }
        }
    }

    /// Tells a client over plain HTTP/1.1 why its connection is closed, if that can be said without waiting.
    pub async fn refuse(&self, mut stream: TcpStream, full: Full) {
        let _refusal = match self.0.refusals.fetch_add(1, Ordering::Relaxed) {
            others if others < REFUSALS_MAX => Refusal(&self.0.refusals),
            _ => return drop(Refusal(&self.0.refusals)),
        };
        let (setting, which) = match full {
            Full::InAll => (full.setting(), "open"),
            Full::OfAddress => (full.setting(), "open from this address"),
        };
        let detail = format!("As many connections are {which} as {setting} allows.");
        let answer: Bytes = as_http1(Problem::new(ProblemKind::Overloaded, detail).with("setting", setting));
        if stream.try_write(&answer).is_err() {
            return;
        }
        // What the client has sent is read: a socket that is closed before is reset, and takes the answer with it.
        let _ = socket2::SockRef::from(&stream).shutdown(std::net::Shutdown::Write);
        let mut thrown_away = [0; 1 << 10];
        let reading = async { while stream.read(&mut thrown_away).await.is_ok_and(|count| count > 0) {} };
        let _ = tokio::time::timeout(REFUSAL_TIME_MAX, reading).await;
    }
}

impl OpenConnections {
    fn enter(&mut self, address: IpAddr, max: usize, per_address_max: usize) -> Result<(), Full> {
        if self.all >= max {
            return Err(Full::InAll);
        }
        if per_address_max > 0 {
            let of_address = self.by_address.get(&address).copied().unwrap_or_default();
            if of_address >= per_address_max {
                return Err(Full::OfAddress);
            }
            self.by_address.insert(address, of_address + 1);
        }
        self.all += 1;
        Ok(())
    }

    fn leave(&mut self, address: IpAddr) {
        self.all -= 1;
        if let Some(count) = self.by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&address);
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.connections.0.open.lock().leave(self.address);
        self.connections.0.observer.record(Observation::ConnectionClosed);
    }
}

struct Refusal<'a>(&'a AtomicUsize);

impl Drop for Refusal<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An address as it is counted: a client with one address of IPv6 has all that begin with the same 64 bits.
fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(max: usize, per_address_max: usize) -> Connections {
        Connections::new(max, per_address_max, Observer::new())
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_place_is_free_again_when_its_connection_ends() {
        let connections = connections(2, 0);
        let first = connections.enter(address("10.0.0.1")).ok().unwrap();
        let _second = connections.enter(address("10.0.0.1")).ok().unwrap();
        assert_eq!(connections.enter(address("10.0.0.2")).err(), Some(Full::InAll));
        drop(first);
        assert!(connections.enter(address("10.0.0.2")).is_ok());
    }

    #[test]
    fn one_address_takes_no_more_than_its_share_and_nothing_is_kept_of_one_that_has_gone() {
        let connections = connections(10, 2);
        let _first = connections.enter(address("10.0.0.1")).ok().unwrap();
        let second = connections.enter(address("::ffff:10.0.0.1")).ok().unwrap();
        assert_eq!(connections.enter(address("10.0.0.1")).err(), Some(Full::OfAddress));
        let other = connections.enter(address("2001:db8::1")).ok().unwrap();
        let another = connections.enter(address("2001:db8::ffff:1")).ok().unwrap();
        assert_eq!(connections.enter(address("2001:db8::2")).err(), Some(Full::OfAddress));
        assert!(connections.enter(address("2001:db8:0:1::1")).is_ok());
        drop((second, other, another));
        assert_eq!(connections.0.open.lock().by_address.len(), 1);
        assert_eq!(connections.0.open.lock().all, 1);
    }
}
