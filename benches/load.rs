//! Load over raw connections: the generator shares the machine with what it measures, so it does as little as it can.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::report::Times;

/// A connection that sends one request after another.
pub struct Http {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
    body: Vec<u8>,
}

impl Http {
    pub async fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.expect("the server listens");
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: vec![0; 1 << 20], filled: 0, body: Vec::new() }
    }

    /// Sends a request and reads its answer; returns the status and the body's bytes.
    pub async fn send(&mut self, request: &[u8]) -> (u16, usize) {
        self.stream.write_all(request).await.unwrap();
        loop {
            if let Some(end) = find(&self.buffer[..self.filled], b"\r\n\r\n") {
                let head = std::str::from_utf8(&self.buffer[..end]).unwrap();
                let status = head[9..12].parse().unwrap();
                let length = head
                    .lines()
                    .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:").map(str::to_owned))
                    .map_or(0, |length| length.trim().parse::<usize>().unwrap());
                let whole = end + 4 + length;
                if self.buffer.len() < whole {
                    self.buffer.resize(whole, 0);
                }
                while self.filled < whole {
                    self.read().await;
                }
                self.body.clear();
                self.body.extend_from_slice(&self.buffer[end + 4..whole]);
                self.buffer.copy_within(whole..self.filled, 0);
                self.filled -= whole;
                return (status, length);
            }
            self.read().await;
        }
    }

    /// The body of the last answer.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    async fn read(&mut self) {
        let count = self.stream.read(&mut self.buffer[self.filled..]).await.unwrap();
        assert!(count > 0, "the server closed the connection");
        self.filled += count;
    }
}

pub fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    memchr::memmem::find(text, part)
}

/// A POST of JSON.
pub fn post(address: &str, path: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// About a hundred bytes of data.
pub fn data(text: &str) -> String {
    format!(r#"{{"amount":125,"currency":"EUR","note":"{text:-<54}","at":"2026"}}"#)
}

/// Sends requests from many connections for a time; the rate of answers with `status`, and their times.
pub async fn closed_loop(
    address: &str,
    connections: usize,
    span: Duration,
    status: u16,
    request: impl Fn(u64) -> Vec<u8> + Send + Sync + 'static,
) -> (f64, Times) {
    let request = Arc::new(request);
    let counter = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let tasks: Vec<_> = (0..connections)
        .map(|_| {
            let (request, counter, address) = (request.clone(), counter.clone(), address.to_owned());
            tokio::spawn(async move {
                let mut http = Http::connect(&address).await;
                let mut times = Times::default();
                while begun.elapsed() < span {
                    let request = request(counter.fetch_add(1, Ordering::Relaxed));
                    let sent = Instant::now();
                    let (answered, _) = http.send(&request).await;
                    assert_eq!(answered, status, "an unexpected answer");
                    times.add(sent.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Times::default();
    for task in tasks {
        times.join(task.await.unwrap());
    }
    (times.len() as f64 / begun.elapsed().as_secs_f64(), times)
}
