//! A client of append sessions: lines go out and come in at the same time.
#![allow(dead_code)]

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use serde_json::Value;
use tokio::sync::mpsc;

use super::app::{Answer, PATIENCE, TestApp, encode};

/// An open append session.
pub struct AppendSession {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    body: Option<mpsc::Sender<std::io::Result<Bytes>>>,
    answer: BoxStream<'static, reqwest::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl AppendSession {
    pub async fn open(app: &TestApp, stream: &str) -> Self {
        Self::with(app, stream, &[]).await
    }

    pub async fn with(app: &TestApp, stream: &str, headers: &[(&str, &str)]) -> Self {
        Self::by(&app.http, app, stream, headers).await
    }

    pub async fn by(http: &reqwest::Client, app: &TestApp, stream: &str, headers: &[(&str, &str)]) -> Self {
        Self::at(http, &app.url, stream, headers).await
    }

    /// The answer's head is there before anything is sent.
    pub async fn at(http: &reqwest::Client, url: &str, stream: &str, headers: &[(&str, &str)]) -> Self {
        Self::beginning_with(http, url, stream, headers, None).await
    }

    /// Some proxies ask the service once the body has begun.
    pub async fn beginning_with(
        http: &reqwest::Client,
        url: &str,
        stream: &str,
        headers: &[(&str, &str)],
        first: Option<&Value>,
    ) -> Self {
        let (body, chunks) = mpsc::channel(1);
        if let Some(first) = first {
            body.send(Ok(format!("{first}\n").into())).await.expect("there is room for one");
        }
        let chunks = futures_util::stream::unfold(chunks, |mut chunks: mpsc::Receiver<_>| async move {
            Some((chunks.recv().await?, chunks))
        });
        let mut request = http
            .post(format!("{url}/v1/streams/{}/messages", encode(stream)))
            .header("content-type", "application/x-ndjson");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let sending = request.body(reqwest::Body::wrap_stream(chunks)).send();
        let response = tokio::time::timeout(PATIENCE, sending).await.expect("the head comes at once").unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Self { status, headers, body: Some(body), answer: response.bytes_stream().boxed(), buffer: Vec::new() }
    }

    /// Sends a piece of the body.
    pub async fn send(&self, text: impl Into<Bytes>) {
        // A session that has refused something does not take more.
        let _ = self.body.as_ref().expect("the body has not ended").send(Ok(text.into())).await;
    }

    /// Sends messages, each on its line.
    pub async fn write<'a>(&self, messages: impl IntoIterator<Item = &'a Value>) {
        self.send(messages.into_iter().map(|message| format!("{message}\n")).collect::<String>()).await;
    }

    /// Ends the body.
    pub fn end(&mut self) {
        self.body = None;
    }

    /// Ends the body amid it, as a connection does that is lost.
    pub async fn break_off(&mut self) {
        let body = self.body.take().expect("the body has not ended");
        let _ = body.send(Err(std::io::ErrorKind::ConnectionReset.into())).await;
    }

    /// The next line of the answer; `None` at its end.
    pub async fn line(&mut self) -> Option<Value> {
        tokio::time::timeout(PATIENCE, self.read_line()).await.expect("there is a line, or an end")
    }

    async fn read_line(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("a line is JSON"));
            }
            match self.answer.next().await {
                Some(chunk) => self.buffer.extend_from_slice(&chunk.expect("the answer ends whole")),
                None => {
                    assert!(self.buffer.is_empty(), "the answer ends with a whole line");
                    return None;
                }
            }
        }
    }

    /// The whole answer of a session that was not begun.
    pub async fn refused(mut self) -> Answer {
        let mut text = std::mem::take(&mut self.buffer);
        let reading = async {
            while let Some(chunk) = self.answer.next().await {
                text.extend_from_slice(&chunk.expect("the answer ends whole"));
            }
        };
        tokio::time::timeout(PATIENCE, reading).await.expect("a refusal ends at once");
        let text = String::from_utf8(text).expect("problems are text");
        Answer { status: self.status, headers: self.headers, text }
    }

    /// All lines up to the end of the answer.
    pub async fn rest(&mut self) -> Vec<Value> {
        let mut lines = Vec::new();
        while let Some(line) = self.line().await {
            lines.push(line);
        }
        lines
    }

    /// Reads commits until so many messages are written; panics at a problem.
    pub async fn committed(&mut self, count: u64) -> Vec<Value> {
        let mut commits = Vec::new();
        while counted(&commits) < count {
            let line = self.line().await.expect("there is another commit");
            assert!(line["count"].is_u64(), "{line}");
            commits.push(line);
        }
        commits
    }

    /// The last line: a problem of this kind; before it, so many messages are written.
    pub async fn refused_after(&mut self, count: u64, status: u16, slug: &str) -> Value {
        let mut commits = self.rest().await;
        let problem = commits.pop().expect("there is a problem");
        assert_eq!(problem["type"], format!("/problems/{slug}"), "{problem}");
        assert_eq!(problem["status"], status, "{problem}");
        assert_eq!(counted(&commits), count, "{commits:?}, then {problem}");
        problem
    }
}

/// How many messages these commits have.
pub fn counted(commits: &[Value]) -> u64 {
    commits.iter().map(|commit| commit["count"].as_u64().unwrap_or_else(|| panic!("no commit: {commit}"))).sum()
}
