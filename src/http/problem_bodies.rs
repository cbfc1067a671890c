//! hyper answers requests that it cannot read by itself, with an empty body: this makes problem documents of those answers,
//! and keeps the connection open until the client has read them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::http::StatusCode;
use axum_server::accept::Accept;
use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Limits;
use super::body;
use super::problem::{Problem, ProblemKind, RETRY_AFTER_SECONDS};
use super::wire::{AnnouncedLength, Lingering, Opening};
use crate::domain::Violation;

/// A connection whose bare errors are explained.
pub struct ProblemBodies<S> {
    stream: S,
    limits: Arc<Limits>,
    /// What is written in place of a bare error.
    explanation: Bytes,
    /// Until it is clear which version of HTTP the client speaks.
    opening: Option<Opening>,
    announced_length: AnnouncedLength,
    /// Whether the last answer was a refusal.
    refused: bool,
    lingering: Option<Lingering>,
}

impl<S> ProblemBodies<S> {
    pub fn new(stream: S, limits: Arc<Limits>) -> Self {
        let opening = Some(Opening::new(limits.request_timeout));
        let announced_length = AnnouncedLength::default();
        Self { stream, limits, explanation: Bytes::new(), opening, announced_length, refused: false, lingering: None }
    }

    /// Looks at what is about to be written. True: an explanation is written instead.
    fn explains(&mut self, written: &[u8]) -> bool {
        let Some(rest) = written.strip_prefix(b"HTTP/1.1 ") else { return false };
        self.refused = matches!(rest.first(), Some(b'4' | b'5'));
        match explain(written, &self.limits, self.announced_length.is_beyond()) {
            Some(problem) => {
                self.explanation = as_http1(problem);
                true
            }
            None => {
                // What was seen belongs to the request that is answered with this, if only to its body.
                self.announced_length = AnnouncedLength::default();
                false
            }
        }
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
    type Stream = ProblemBodies<A::Stream>;
    type Service = A::Service;
    type Future = Pin<Box<dyn Future<Output = io::Result<(Self::Stream, Self::Service)>> + Send>>;

    fn accept(&self, stream: I, service: S) -> Self::Future {
        let accepting = self.acceptor.accept(stream, service);
        let limits = self.limits.clone();
        Box::pin(async move {
            let (stream, service) = accepting.await?;
            Ok((ProblemBodies::new(stream, limits), service))
        })
    }
}

/// The whole answer as HTTP/1.1; the connection ends with it.
pub fn as_http1(problem: Problem) -> Bytes {
    let status = problem.kind().status();
    let body = problem.document();
    let reason = status.canonical_reason().unwrap_or("Error");
    let retry_after = if status == StatusCode::SERVICE_UNAVAILABLE {
        format!("retry-after: {RETRY_AFTER_SECONDS}\r\n")
    } else {
        String::new()
    };
    let (status, length) = (status.as_u16(), body.len());
    Bytes::from(format!(
        "HTTP/1.1 {status} {reason}\r\ncontent-type: application/problem+json\r\ncontent-length: {length}\r\n\
         {retry_after}x-content-type-options: nosniff\r\nconnection: close\r\n\r\n{body}"
    ))
}

/// The problem for a bare answer of hyper; `None` for every other write.
fn explain(written: &[u8], limits: &Limits, announces_too_much: bool) -> Option<Problem> {
    let status = written.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    if !status.starts_with(b"4") {
        return None;
    }
    // Answers of the service have a Content-Type; hyper's have none.
    let head = written.to_ascii_lowercase();
    let has = |text: &[u8]| head.windows(text.len()).any(|window| window == text);
    if has(b"content-type") || !has(b"content-length: 0\r\n") {
        return None;
    }
    Some(match status {
        b"400" | b"431" if announces_too_much => body::too_large(limits.body_bytes_max),
        b"414" => Problem::new(ProblemKind::UrlTooLong, "The URL is longer than this service can read.")
            .with("limit", limits.url_bytes_max),
        b"431" => {
            let detail = format!(
                "The request has more than {} header lines, or headers of far more than {} bytes.",
                limits.headers_max, limits.header_bytes_max
            );
            Problem::new(ProblemKind::HeadersTooLarge, detail).with("limit", limits.headers_max)
        }
        b"400" => Problem::malformed(vec![Violation::new("request", "is not well-formed HTTP")]),
        _ => return None,
    })
}

impl<S: AsyncWrite + Unpin> ProblemBodies<S> {
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

impl<S: AsyncRead + Unpin> AsyncRead for ProblemBodies<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.opening.as_mut().is_some_and(|opening| opening.is_over(context)) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buffer.filled().len();
        let outcome = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        let read = &buffer.filled()[before..];
        if self.opening.as_mut().is_some_and(|opening| opening.is_clear(read)) {
            self.opening = None;
        }
        self.announced_length.take(read);
        Poll::Ready(outcome)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ProblemBodies<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_explanation(context))?;
        if self.explains(bytes) {
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
        if slices.first().is_some_and(|slice| self.explains(slice)) {
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
        let Self { stream, refused, lingering, .. } = &mut *self;
        if let Some(lingering) = lingering {
            return lingering.poll(context, stream);
        }
        ready!(Pin::new(&mut *stream).poll_shutdown(context))?;
        if !*refused {
            return Poll::Ready(Ok(()));
        }
        lingering.insert(Lingering::new()).poll(context, stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn written(bytes: &[u8]) -> String {
        let (ours, mut theirs) = tokio::io::duplex(10_000);
        let mut problem_bodies =
            ProblemBodies::new(ours, Arc::new(crate::app::limits(&crate::config::Settings::defaults())));
        problem_bodies.write_all(bytes).await.unwrap();
        let read = async {
            let mut out = String::new();
            theirs.read_to_string(&mut out).await.unwrap();
            drop(theirs);
            out
        };
        let (shut, out) = tokio::join!(problem_bodies.shutdown(), read);
        shut.unwrap();
        out
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

    #[tokio::test]
    async fn a_length_in_a_body_is_none_of_the_next_request() {
        let bare = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let answer = b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\n{}";
        let request = b"POST / HTTP/1.1\r\n\r\n\ncontent-length:99999999999999999999999\n";
        for (answers, status) in [(0, "413"), (1, "400")] {
            let (ours, mut theirs) = tokio::io::duplex(10_000);
            let limits = Arc::new(crate::app::limits(&crate::config::Settings::defaults()));
            let mut problem_bodies = ProblemBodies::new(ours, limits);
            theirs.write_all(request).await.unwrap();
            problem_bodies.read_exact(&mut vec![0; request.len()]).await.unwrap();
            for _ in 0..answers {
                problem_bodies.write_all(answer).await.unwrap();
                theirs.read_exact(&mut vec![0; answer.len()]).await.unwrap();
            }
            problem_bodies.write_all(bare).await.unwrap();
            problem_bodies.flush().await.unwrap();
            let mut head = vec![0; "HTTP/1.1 400".len()];
            theirs.read_exact(&mut head).await.unwrap();
            assert_eq!(String::from_utf8(head).unwrap(), format!("HTTP/1.1 {status}"), "after {answers} answers");
        }
    }
}
