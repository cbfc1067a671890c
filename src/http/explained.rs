//! hyper answers by itself, and without a word, what it cannot read: this makes problem documents of those answers.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum_server::accept::Accept;
use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Limits;
use super::problem::{Problem, ProblemKind};
use crate::domain::Violation;

/// A connection whose bare errors are explained.
pub struct Explained<S> {
    stream: S,
    limits: Arc<Limits>,
    /// What is written in place of a bare error.
    explanation: Bytes,
}

impl<S> Explained<S> {
    pub fn new(stream: S, limits: Arc<Limits>) -> Self {
        Self { stream, limits, explanation: Bytes::new() }
    }
}

/// Explains the connections that another acceptor accepts.
#[derive(Clone)]
pub struct ExplainedAcceptor<A> {
    pub acceptor: A,
    pub limits: Arc<Limits>,
}

impl<A, I, S> Accept<I, S> for ExplainedAcceptor<A>
where
    A: Accept<I, S>,
    A::Future: Send + 'static,
{
    type Stream = Explained<A::Stream>;
    type Service = A::Service;
    type Future = Pin<Box<dyn Future<Output = io::Result<(Self::Stream, Self::Service)>> + Send>>;

    fn accept(&self, stream: I, service: S) -> Self::Future {
        let accepting = self.acceptor.accept(stream, service);
        let limits = self.limits.clone();
        Box::pin(async move {
            let (stream, service) = accepting.await?;
            Ok((Explained::new(stream, limits), service))
        })
    }
}

/// The problem that a bare answer of hyper stands for; `None` for every other write.
fn explain(written: &[u8], limits: &Limits) -> Option<Problem> {
    let status = written.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    if !status.starts_with(b"4") {
        return None;
    }
    // Our own answers have a type; hyper's have nothing.
    let head = written.to_ascii_lowercase();
    let has = |text: &[u8]| head.windows(text.len()).any(|window| window == text);
    if has(b"content-type") || !has(b"content-length: 0\r\n") {
        return None;
    }
    Some(match status {
        b"414" => Problem::new(ProblemKind::UrlTooLong, "The URL is longer than this service can read.")
            .with("limit", limits.url_bytes_max),
        b"431" => {
            let detail = format!(
                "There are more than {} header lines, or they are far beyond {} bytes.",
                limits.headers_max, limits.header_bytes_max
            );
            Problem::new(ProblemKind::HeadersTooLarge, detail).with("limit", limits.headers_max)
        }
        b"400" => Problem::malformed(vec![Violation::new("request", "is no well-formed HTTP")]),
        _ => return None,
    })
}

impl<S: AsyncWrite + Unpin> Explained<S> {
    /// Writes what is left of an explanation.
    fn poll_explanation(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.explanation.has_remaining() {
            let count = ready!(Pin::new(&mut self.stream).poll_write(context, &self.explanation))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.explanation.advance(count);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Explained<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Explained<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_explanation(context))?;
        if let Some(problem) = explain(bytes, &self.limits) {
            self.explanation = problem.into_http1();
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_explanation(context))?;
        if let Some(problem) = slices.first().and_then(|slice| explain(slice, &self.limits)) {
            self.explanation = problem.into_http1();
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_explanation(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_explanation(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    async fn written(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        let mut explained =
            Explained::new(&mut out, Arc::new(crate::app::limits(&crate::config::Settings::defaults())));
        explained.write_all(bytes).await.unwrap();
        explained.shutdown().await.unwrap();
        String::from_utf8(out).unwrap()
    }

    #[tokio::test]
    async fn a_bare_error_becomes_a_problem_document() {
        let bare = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let answer = written(bare).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
        assert!(answer.contains("content-type: application/problem+json\r\n"), "{answer}");
        assert!(answer.contains(r#""type":"/problems/headers-too-large""#), "{answer}");
    }

    #[tokio::test]
    async fn everything_else_is_written_as_it_is() {
        for other in [
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\ncontent-type: application/problem+json\r\ncontent-length: 3\r\n\r\n{}\n",
            "data: HTTP/1.1 400",
        ] {
            assert_eq!(written(other.as_bytes()).await, other);
        }
    }
}
