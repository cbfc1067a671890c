//! Group commit against a scripted database, which answers, refuses, is locked, goes away, and loses answers: before it has
//! written, afterwards, or while it is still at work. Whatever it does, everybody is answered once, and nothing that was
//! written is said not to be.
//!
//! All of it follows from the seed: the script, and whose turn it is. Time passes only when everybody waits, so the longest
//! time-outs cost nothing.

mod script;

use std::collections::BTreeSet;
use std::time::Duration;

use fastrand::Rng;
use futures_util::future::join_all;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Append, AppendSettings, SessionSettings};
use crate::domain::append::{AppendError, AppendRequest, NewMessage, StreamAppend, WrittenMessage};
use crate::domain::scope::Rights;
use crate::domain::stream_name::StreamName;
use crate::service::seeds::seeds;
use crate::service::tail::Tail;
use crate::telemetry::Observer;
use script::{Script, Stored};

/// Seeds that are tried unless more are asked for.
const ROUNDS: u64 = 100;
/// Seeds that are tried twice.
const REPLAYS: u64 = 5;
const CLIENTS: usize = 10;
const REQUESTS: usize = 25;
/// Of this type, a message is refused with the whole batch.
const REFUSED: &str = "Refused";
const LOCK_TIMEOUT: Duration = Duration::from_millis(15);
const COMMIT_TIMEOUT: Duration = Duration::from_millis(25);
/// Everybody is answered by then, whatever happens.
const PATIENCE: Duration = Duration::from_secs(20);

/// One request after the other, each sent again with the same ids until it is answered for good.
async fn client(number: usize, seed: u64, append: Append, script: Script) {
    let begun = Instant::now();
    let mut random = Rng::with_seed(seed);
    let own = format!("own-{number}");
    let (mut last_position, mut seen) = (-1, BTreeSet::new());
    for _ in 0..REQUESTS {
        let stream = match random.u8(0..4) {
            0 => "shared-1".to_owned(),
            1 => format!("held-{}", random.u8(0..3)),
            _ => own.clone(),
        };
        let message = |random: &mut Rng| NewMessage {
            id: Uuid::from_u128(random.u128(..)),
            is_client_supplied_id: true,
            message_type: if random.u8(0..30) == 0 { REFUSED } else { "T" }.into(),
            data: "null".into(),
            metadata: None,
            time: None,
        };
        let mut request = AppendRequest::of(StreamAppend {
            stream_name: StreamName::parse(stream.as_str()).unwrap(),
            expected_version: (random.u8(0..8) == 0).then(|| random.i64(-1..6)),
            must_exist: false,
            messages: (0..random.usize(1..4)).map(|_| message(&mut random)).collect(),
        });
        if random.u8(0..4) == 0 {
            // A second stream, of a category that may be locked.
            request.streams.push(StreamAppend {
                stream_name: StreamName::parse(format!("held-{}", random.u8(3..6))).unwrap(),
                expected_version: (random.u8(0..8) == 0).then(|| random.i64(-1..6)),
                must_exist: false,
                messages: vec![message(&mut random)],
            });
        }
        let mut may_be_written = false;
        for _ in 0..4 {
            let answered = tokio::time::timeout(PATIENCE, append.append(request.clone(), &Rights::Everything)).await;
            let what = format!("client {number}: {request:?}: {answered:?}");
            script.told.lock().push(format!("{:?}: {what}", begun.elapsed()));
            let stored: Vec<Vec<Stored>> = request.streams.iter().map(|stream| script.stored(stream)).collect();
            match answered.unwrap_or_else(|_| panic!("no answer: {what}")) {
                Ok(appended) => {
                    assert!(!appended.duplicate || may_be_written, "said not to be written, and was: {what}");
                    for ((stream, stored), told) in request.streams.iter().zip(&stored).zip(&appended.streams) {
                        let name = stream.stream_name.as_str();
                        let messages: Vec<WrittenMessage> = stored.iter().map(|one| one.message).collect();
                        assert_eq!((&told.messages, messages.len()), (&messages, stream.messages.len()), "{what}");
                        assert!(stored.iter().all(|one| one.stream_name == name), "{what}");
                        for one in messages {
                            assert!(
                                seen.insert((name.to_owned(), one.position)),
                                "two messages at one position: {what}"
                            );
                            assert!(name != own || one.position == last_position + 1, "out of order: {what}");
                            last_position = if name == own { one.position } else { last_position };
                        }
                    }
                    may_be_written = false;
                    break;
                }
                Err(AppendError::OutcomeUnknown { .. }) => may_be_written = true,
                Err(error) => {
                    assert!(
                        may_be_written || stored.iter().all(Vec::is_empty),
                        "said not to be written, and was: {what}"
                    );
                    if matches!(error, AppendError::Mismatch { .. } | AppendError::Refused { .. }) {
                        break;
                    }
                }
            }
        }
        if may_be_written {
            // Nobody knows. It is settled by now, one way or the other.
            let last = script.stored(&request.streams[0]).into_iter().map(|one| one.message.position).max();
            last_position = if stream == own { last.unwrap_or(last_position) } else { last_position };
        }
    }
}

/// What everybody was told, in order.
async fn simulate(seed: u64) -> Vec<String> {
    fastrand::seed(seed);
    let script = Script::new(seed);
    let settings = AppendSettings {
        queue_max: 64,
        queue_bytes_max: 1 << 20,
        batch_messages_max: 6,
        batch_bytes_max: 1 << 20,
        condition_messages_max: 100,
        locked_categories_max: 2,
        sessions: SessionSettings { max: 0, messages_max: 1, bytes_max: 1 },
        lock_timeout: LOCK_TIMEOUT,
        commit_timeout: COMMIT_TIMEOUT,
        resolve_timeout: PATIENCE,
    };
    let (tail, draining) = (Tail::without_reader(1 << 10), CancellationToken::new());
    let (append, committer) = Append::new(script.clone(), tail, settings, draining, Observer::new());
    let stopping = CancellationToken::new();
    let running = tokio::spawn(committer.run(stopping.clone()));
    let is_over = CancellationToken::new();
    let (beside, over) = (script.clone(), is_over.clone());
    let mischief = tokio::spawn(async move { beside.mischief(over).await });
    let clients = (0..CLIENTS).map(|number| client(number, seed ^ number as u64, append.clone(), script.clone()));
    join_all(clients).await;
    is_over.cancel();
    mischief.await.unwrap();
    stopping.cancel();
    running.await.unwrap();
    assert_eq!(append.queued(), 0);
    std::mem::take(&mut script.told.lock())
}

/// In a runtime of its own, so that nothing is left of the one before.
fn run(seed: u64) -> Vec<String> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build().unwrap().block_on(simulate(seed))
}

#[test]
fn everybody_is_answered_once_and_nothing_that_was_written_is_said_not_to_be() {
    seeds(ROUNDS).for_each(|seed| drop(run(seed)));
}

#[test]
fn a_seed_is_replayed_exactly() {
    for seed in seeds(REPLAYS) {
        assert_eq!(run(seed), run(seed));
    }
}
