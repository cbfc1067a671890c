//! What one connection of a subscription's consumer is to write next: nothing is queued for it, and what it has not
//! acked is its credit.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio_util::task::AbortOnDropHandle;

use super::events::{AssignedEvent, RevokedEvent, RevokedReason};
use crate::domain::time::Timestamp;
use crate::http::App;
use crate::http::event_stream::{CLOSING_RETRY_SPREAD, RETRY_MIN, jittered};
use crate::http::events::{CaughtUpEvent, ClosingEvent, ClosingReason, HeartbeatEvent};
use crate::http::frames::Frames;
use crate::service::FollowerPlace;
use crate::service::subscriptions::{Change, Consumer, End, Round, SubscriptionError, Wish};
use crate::service::tail::heartbeat::Beat;

/// After a round for which there was no room.
const BUSY_PAUSE: Duration = Duration::from_millis(250);

/// A round that is under way, and the consumer that takes it.
///
/// A task of its own, because the connection asks for nothing while its client does not read: the round would hold up
/// the others until then.
type Working = AbortOnDropHandle<(Box<Consumer>, Result<Round, SubscriptionError>)>;

/// Where a connection is.
enum Phase {
    /// It may take a round.
    Ready(Box<Consumer>),
    Working(Working),
    /// It waits for a change, at most until then.
    Waiting(Box<Consumer>, Option<Instant>),
    Closed,
}

/// One connection of a consumer.
pub(super) struct ConsumerStream {
    app: App,
    phase: Phase,
    wish: Wish,
    frames: Frames,
    heartbeat: Duration,
    beat: Option<Beat>,
    sent_at: Instant,
    is_begun: bool,
    is_caught_up: bool,
    position: i64,
    _place: FollowerPlace,
}

impl ConsumerStream {
    pub fn new(
        app: App,
        consumer: Consumer,
        wish: Wish,
        frames: Frames,
        heartbeat: Duration,
        place: FollowerPlace,
    ) -> Self {
        Self {
            app,
            phase: Phase::Ready(Box::new(consumer)),
            wish,
            frames,
            heartbeat,
            beat: None,
            sent_at: Instant::now(),
            is_begun: false,
            is_caught_up: false,
            position: 0,
            _place: place,
        }
    }

    /// What is to be written next; `None` at the end.
    pub async fn next_chunk(&mut self) -> Option<Bytes> {
        let mut out = BytesMut::new();
        if !std::mem::replace(&mut self.is_begun, true) {
            self.frames.retry(&mut out, jittered(RETRY_MIN, RETRY_MIN));
        }
        while out.is_empty() {
            if matches!(self.phase, Phase::Closed) {
                return None;
            }
            self.step(&mut out).await;
        }
        self.sent_at = Instant::now();
        Some(out.freeze())
    }

    /// Takes one step; writes nothing where there is nothing to say. May be given up at any point without a loss.
    async fn step(&mut self, out: &mut BytesMut) {
        let draining = self.app.lifecycle.draining().clone();
        if draining.is_cancelled() {
            return self.close(out, ClosingReason::Draining);
        }
        let beat = self.beat.get_or_insert_with(|| self.app.heartbeats.after(self.heartbeat));
        match &mut self.phase {
            Phase::Ready(_) => self.begin_round(),
            Phase::Working(working) => {
                tokio::select! {
                    done = working => match done {
                        Ok((consumer, Ok(round))) => self.write(consumer, round, out),
                        Ok((consumer, Err(error))) => self.failed(consumer, error, out),
                        // It panicked, which is logged; the client comes back by itself.
                        Err(_) => self.phase = Phase::Closed,
                    },
                    () = beat => self.on_beat(out),
                    () = draining.cancelled() => {}
                }
            }
            Phase::Waiting(consumer, next) => {
                let left = next.map(|next| next.saturating_duration_since(Instant::now()));
                tokio::select! {
                    () = consumer.changed(left) => self.begin_round(),
                    () = beat => self.on_beat(out),
                    () = draining.cancelled() => {}
                }
            }
            Phase::Closed => {}
        }
    }

    fn begin_round(&mut self) {
        let (Phase::Ready(mut consumer) | Phase::Waiting(mut consumer, _)) =
            std::mem::replace(&mut self.phase, Phase::Closed)
        else {
            return;
        };
        let wish = self.wish;
        self.phase = Phase::Working(AbortOnDropHandle::new(tokio::spawn(async move {
            let round = consumer.round(wish).await;
            (consumer, round)
        })));
    }

    fn write(&mut self, consumer: Box<Consumer>, round: Round, out: &mut BytesMut) {
        for change in &round.changes {
            match *change {
                Change::Assigned { partition, epoch, position } => {
                    self.frames.event(out, "assigned", None, &AssignedEvent { partition, epoch, position });
                }
                Change::Revoked { partition, reason } => {
                    let reason = if reason == "reset" { RevokedReason::Reset } else { RevokedReason::Rebalance };
                    self.frames.event(out, "revoked", None, &RevokedEvent { partition, reason });
                }
            }
        }
        for delivery in &round.deliveries {
            self.frames.delivery(out, delivery);
            self.position = self.position.max(delivery.message.global_position);
        }
        if let Some(end) = round.end {
            return self.close(
                out,
                match end {
                    End::Deleted | End::SourceDeleted => ClosingReason::Deleted,
                    End::Removed => ClosingReason::Removed,
                    End::Replaced => ClosingReason::Replaced,
                    End::HistoryChanged => ClosingReason::HistoryChanged,
                },
            );
        }
        if round.is_caught_up && !self.is_caught_up {
            let data = CaughtUpEvent { position: self.position, time: Timestamp::now().to_rfc3339() };
            self.frames.event(out, "caught-up", None, &data);
        }
        self.is_caught_up |= round.is_caught_up;
        // There may be more where something came from.
        self.phase = match round.deliveries.is_empty() {
            true => Phase::Waiting(consumer, round.next.map(|next| Instant::now() + next)),
            false => Phase::Ready(consumer),
        };
    }

    fn failed(&mut self, mut consumer: Box<Consumer>, error: SubscriptionError, out: &mut BytesMut) {
        let pause = match &error {
            SubscriptionError::NotFound { .. } => return self.close(out, ClosingReason::Deleted),
            SubscriptionError::Draining => return self.close(out, ClosingReason::Draining),
            SubscriptionError::Store(error) => consumer.wait_after(error),
            SubscriptionError::TooManyConsumers { .. } | SubscriptionError::Overloaded => Some(BUSY_PAUSE),
            // Said of other requests.
            SubscriptionError::Differs { .. }
            | SubscriptionError::Invalid(_)
            | SubscriptionError::TooManySubscriptions { .. }
            | SubscriptionError::Fenced(_) => None,
        };
        match pause {
            Some(pause) => self.phase = Phase::Waiting(consumer, Some(Instant::now() + pause)),
            None => self.close(out, ClosingReason::InternalError),
        }
    }

    /// The timer is only asked for again when it has come, so a busy connection does not touch it.
    fn on_beat(&mut self, out: &mut BytesMut) {
        let quiet = self.sent_at.elapsed();
        if quiet < self.heartbeat {
            self.beat = Some(self.app.heartbeats.after(self.heartbeat - quiet));
            return;
        }
        self.beat = None;
        let (head, settled) = (self.app.tail.head(), self.app.tail.settled());
        let data = HeartbeatEvent { head, settled, lag: (head - settled).max(0) };
        self.frames.event(out, "heartbeat", None, &data);
    }

    fn close(&mut self, out: &mut BytesMut, reason: ClosingReason) {
        self.frames.retry(out, jittered(RETRY_MIN, CLOSING_RETRY_SPREAD));
        self.frames.event(out, "closing", None, &ClosingEvent { reason });
        // What it holds goes to the others now.
        self.phase = Phase::Closed;
    }
}
