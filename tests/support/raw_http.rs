//! Requests that no client library would send: bytes on a socket.
#![allow(dead_code)]

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::app::{Answer, PATIENCE};

/// An open connection to the service.
pub struct RawHttp {
    stream: TcpStream,
    /// Read, and not yet part of an answer.
    bytes: Vec<u8>,
}

impl RawHttp {
    /// Connects to the service at this URL.
    pub async fn connect(url: &str) -> Self {
        let address = url.strip_prefix("http://").expect("a URL of the service");
        Self::of(TcpStream::connect(address).await.expect("the service accepts connections"))
    }

    /// A connection that is open.
    pub fn of(stream: TcpStream) -> Self {
        Self { stream, bytes: Vec::new() }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        // A service that has refused already may have closed its side: what it answered is read all the same.
        let _ = self.stream.write_all(bytes).await;
    }

    /// Sends all of it, though the service may have refused it by then.
    pub async fn send_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Says that nothing more will be sent.
    pub async fn end_sending(&mut self) {
        self.stream.shutdown().await.expect("a connection can be closed on one side");
    }

    /// The same, though the service may have closed the connection by then.
    pub async fn try_end_sending(&mut self) -> std::io::Result<()> {
        self.stream.shutdown().await
    }

    /// One answer; `None` if the service closes without one.
    pub async fn answer(&mut self) -> Option<Answer> {
        self.answer_within(PATIENCE).await
    }

    /// One answer that must not take longer than this.
    pub async fn answer_within(&mut self, limit: Duration) -> Option<Answer> {
        tokio::time::timeout(limit, self.read_answer()).await.expect("the service answers or closes")
    }

    async fn read_answer(&mut self) -> Option<Answer> {
        let mut chunk = [0; 16 << 10];
        loop {
            if let Some((answer, length)) = whole_answer(&self.bytes) {
                self.bytes.drain(..length);
                return Some(answer);
            }
            match self.stream.read(&mut chunk).await {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.bytes.extend_from_slice(&chunk[..count]),
            }
        }
    }

    /// Waits until the service has closed the connection.
    pub async fn closed(&mut self, within: Duration) {
        let mut chunk = [0; 1 << 10];
        let reading = async { while self.stream.read(&mut chunk).await.is_ok_and(|count| count > 0) {} };
        tokio::time::timeout(within, reading).await.expect("the service closes the connection");
    }
}

/// The answer, once its head and as much body as it announces are there, and how long it is.
fn whole_answer(bytes: &[u8]) -> Option<(Answer, usize)> {
    let head_end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&bytes[..head_end]).expect("heads are text");
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().expect("a status");
    let mut headers = reqwest::header::HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let name: reqwest::header::HeaderName = name.parse().expect("a header name");
        headers.append(name, value.trim().parse().expect("a header value"));
    }
    let length: usize = headers.get("content-length").map_or(0, |length| length.to_str().unwrap().parse().unwrap());
    let body = bytes.get(head_end..head_end + length)?;
    let text = String::from_utf8(body.to_vec()).expect("bodies are UTF-8");
    Some((Answer { status, headers, text }, head_end + length))
}
