//! Cursors that this service never gave.

use super::{Guarded, names};
use crate::support::app::Answer;
use crate::support::events::Events;

const GLOBAL: [&str; 3] = ["/v1/categories/account/events", "/v1/all/events", "/v1/events?stream_name=account-1"];
const IN_STREAM: &str = "/v1/streams/account-1/events";

async fn with_header(guarded: &Guarded, path: &str, cursor: &str) -> Answer {
    let request = guarded.app.http.get(format!("{}{path}", guarded.app.url)).header("last-event-id", cursor);
    Answer::of(request.send().await.unwrap()).await
}

async fn with_parameter(guarded: &Guarded, path: &str, cursor: &str) -> Answer {
    let separator = if path.contains('?') { '&' } else { '?' };
    guarded.app.get(&format!("{path}{separator}last_event_id={cursor}")).await
}

#[tokio::test]
async fn what_is_no_cursor_is_refused() {
    let guarded = Guarded::new().await;
    for path in GLOBAL.into_iter().chain([IN_STREAM]) {
        for cursor in
            ["abc", "1.5", "1~", "1~xyz", "1~5F3A09C1", "~5f3a09c1", "-2", "9223372036854775808", "1,2", "0x10", "null"]
        {
            let answer = with_header(&guarded, path, cursor).await;
            names(&answer.problem(400, "malformed-request"), "Last-Event-ID", "id of an event");
            let answer = with_parameter(&guarded, path, cursor).await;
            names(&answer.problem(400, "malformed-request"), "last_event_id", "id of an event");
        }
    }
    for path in GLOBAL {
        let answer = with_header(&guarded, path, "-1").await;
        names(&answer.problem(400, "malformed-request"), "Last-Event-ID", "id of an event");
    }
    guarded.end().await;
}

#[tokio::test]
async fn a_cursor_beyond_the_end_is_of_another_history() {
    let guarded = Guarded::new().await;
    for (paths, cursors) in [
        (&GLOBAL[..], ["3", "1000000", "9223372036854775807"]),
        (&[IN_STREAM][..], ["2", "1000000", "9223372036854775807"]),
        (&["/v1/streams/nothing-1/events"][..], ["0", "1", "9223372036854775807"]),
    ] {
        for path in paths {
            for cursor in cursors {
                for answer in [with_header(&guarded, path, cursor).await, with_parameter(&guarded, path, cursor).await]
                {
                    let problem = answer.problem(409, "history-changed");
                    assert_eq!(problem["position"].to_string(), cursor, "{problem}");
                    assert!(problem["head"].as_i64() < problem["position"].as_i64(), "{problem}");
                }
            }
        }
    }
    guarded.end().await;
}

#[tokio::test]
async fn the_last_cursor_and_the_one_before_the_first_are_no_future() {
    let guarded = Guarded::new().await;
    for (path, first, last) in [(GLOBAL[0], "0", "2"), (GLOBAL[1], "0", "2"), (IN_STREAM, "-1", "1")] {
        let url = format!("{}{path}", guarded.app.url);
        let mut events = Events::open(&url, &[("last-event-id", last)]).await;
        assert_eq!(events.next("caught-up").await.place(), Some(last));
        let mut events = Events::open(&url, &[("last-event-id", first)]).await;
        assert_eq!(events.messages(2).await.len(), 2);
    }
    guarded.end().await;
}

#[tokio::test]
async fn a_header_of_bytes_is_no_cursor() {
    let guarded = Guarded::new().await;
    let mut raw = crate::support::raw_http::RawHttp::connect(&guarded.app.url).await;
    raw.send(b"GET /v1/all/events HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: \xff\xfe\r\n\r\n").await;
    let answer = raw.answer().await.expect("an answer");
    names(&answer.problem(400, "malformed-request"), "Last-Event-ID", "id of an event");
    guarded.end().await;
}
