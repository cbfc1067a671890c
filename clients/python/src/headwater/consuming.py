"""A consumer of a subscription: its handlers, its acks, and what it does when a partition is taken from it."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from .errors import HeadwaterError, Refused, Unavailable
from .generated.api.subscribe import (
    ack_messages, follow_subscription, list_pending, nack_messages, read_subscription, remove_consumer,
)
from .generated.models import (
    AckMode, AckRequest, DeliveredMessage, DeliveryPlace, Message, Nack, NackAction, NackRequest, NackResult, PendingList,
    Subscription, SubscriptionMode,
)
from .generated.types import UNSET
from .transport import Transport

HEARTBEAT = 2.0
# Acks wait so long for others to be sent with them, unless half of what may be in flight waits already.
ACK_DELAY = 0.05
ACKS_MAX = 1000
PENDING_MAX = 1000
REASON_MAX = 2000

# What a reason may be refused as.
UNREADABLE = ("/problems/invalid", "/problems/malformed-request")

Handler = Callable[[Message], object]
log = logging.getLogger("headwater")


class Park(Exception):
    """Raised by a handler: no attempt will ever change this message, so put it aside, where people can look at it."""


@dataclass
class Lane:
    """What is handled in order, one after the other: a partition under one epoch, or a message of a competing subscription."""

    epoch: int
    waiting: deque[DeliveredMessage] = field(default_factory=deque)
    is_lost: bool = False
    # The message that was refused last. Does it come again, then what was on its way behind it comes again too, after it;
    # was it parked, then that is all there is of it. Only the service knows: see `_is_stale`.
    refused: DeliveredMessage | None = None


class Consumer:
    """Consumes a subscription.

    Messages of a partition are handled in order, one after the other; those of different partitions, and of competing
    subscriptions, by at most `max_in_flight` threads at once. A message is acked once its handler has returned; acks are sent in batches.
    A handler that raises has its message delivered again as the subscription says, after those before it in its partition were acked;
    `Park` puts it aside. Of a partition that goes to another consumer what waits is dropped; what is being handled is acked as long as the service
    takes it, unless the partition begins anew.
    Handlers may see a message twice, after a crash for example: that is for them to bear.
    """

    def __init__(self, transport: Transport, subscription: str, handler: Handler, consumer: str, max_in_flight: int) -> None:
        self.transport, self.subscription, self.handler = transport, subscription, handler
        self.consumer, self.max_in_flight = consumer, max_in_flight
        self.changed = threading.Condition()
        self.lanes: dict[int, Lane] = {}
        self.running: set[int] = set()
        # What was handled and is to be acked.
        self.acks: list[tuple[Lane, DeliveryPlace]] = []
        self.sending = threading.Lock()
        self.stop = threading.Event()
        # No handler begins any more, but the event stream stays open for those that run: without it, the messages that they
        # handle would go to other consumers at once.
        self.stopping = threading.Event()
        self.leaving = threading.Event()
        self.failure: BaseException | None = None

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set: then what is being handled is finished and acked, and the consumer leaves."""
        self.stop = stop
        found = Subscription.from_dict(self.transport.send(read_subscription._get_kwargs(self.subscription)))
        self.is_competing = found.definition.mode == SubscriptionMode.COMPETING
        self.threads = ThreadPoolExecutor(self.max_in_flight, "headwater-handler")
        reader = threading.Thread(target=self._read, name="headwater-reader", daemon=True)
        reader.start()
        try:
            while not stop.is_set() and self.failure is None:
                self._send_acks_when_due()
        except Exception as error:  # noqa: BLE001 - raised below
            self.failure = error
        finally:
            self._end()
            reader.join()
        if self.failure is not None:
            raise self.failure

    def _end(self) -> None:
        self.stopping.set()
        try:
            while self._is_finishing():
                self._send_acks_when_due()
        except Exception as error:  # noqa: BLE001 - `run` raises it
            self.failure = error
        finally:
            if self.failure is not None:
                self.leaving.set()
            self.threads.shutdown(wait=True)
            self._leave()
            self.leaving.set()

    def _is_finishing(self) -> bool:
        with self.changed:
            return bool(self.running) and self.failure is None

    def _begins(self) -> bool:
        """Whether handlers may begin."""
        return not (self.stop.is_set() or self.stopping.is_set()) and self.failure is None

    def _read(self) -> None:
        request = follow_subscription._get_kwargs(
            self.subscription, consumer=self.consumer, max_in_flight=self.max_in_flight, heartbeat=f"{HEARTBEAT:.0f}s"
        )
        try:
            for event in self.transport.events(lambda _: request, "", HEARTBEAT, self.leaving):
                with self.changed:
                    self._take(event.name, event.data)
                if event.name == "disconnected" and not self._begins():
                    break
        except BaseException as error:  # noqa: BLE001 - the caller's thread raises it
            self.failure = error
        with self.changed:
            self.changed.notify_all()

    def _take(self, name: str, data: Any) -> None:
        match name:
            case "message":
                self._begin(DeliveredMessage.from_dict(data))
            case "assigned":
                self._lose(data["partition"])
                self.lanes[data["partition"]] = Lane(data["epoch"])
            case "revoked" if data["reason"] == "rebalance":
                # What is done, and what is being handled, is acked as long as it is this consumer's: the service judges.
                lane = self.lanes.pop(data["partition"], None)
                if lane is not None:
                    lane.waiting.clear()
            case "revoked":
                self._lose(data["partition"])
            case "disconnected":
                # Whatever is still this consumer's is delivered again. What is being handled is acked: the service judges.
                for lane in self.lanes.values():
                    lane.waiting.clear()
                self.lanes.clear()

    def _lose(self, partition: int) -> None:
        """What waits of it is dropped. What is being handled is finished, and only then the partition's next message begins."""
        lane = self.lanes.pop(partition, None)
        if lane is not None:
            lane.is_lost = True

    def _begin(self, delivery: DeliveredMessage) -> None:
        if not self._begins():
            return
        if self.is_competing:
            lane = Lane(delivery.epoch)
        else:
            known = self.lanes.get(delivery.partition)
            if known is None or known.epoch != delivery.epoch:
                return
            lane = known
        lane.waiting.append(delivery)
        self._start(lane, delivery.partition)

    def _start(self, lane: Lane, partition: int) -> None:
        # One thread for a partition, across epochs: order is kept while a message of an earlier epoch is being handled.
        key = id(lane) if self.is_competing else partition
        if key not in self.running:
            self.running.add(key)
            self.threads.submit(self._work, lane, key, partition)

    def _work(self, lane: Lane, key: int, partition: int) -> None:
        while True:
            with self.changed:
                if not self.is_competing:
                    lane = self.lanes.get(partition, lane)
                if not self._begins() or lane.is_lost or not lane.waiting:
                    self.running.discard(key)
                    self.changed.notify_all()
                    return
                delivery = lane.waiting.popleft()
            try:
                # Each by itself: what waits behind a stale message may have come anew already, where that one was parked.
                if not self._is_stale(lane, delivery):
                    self._handle(lane, delivery)
            except BaseException as error:  # noqa: BLE001 - the caller's thread raises it
                self.failure = error
                lane.is_lost = True

    def _is_stale(self, lane: Lane, delivery: DeliveredMessage) -> bool:
        """Whether it was on its way behind a refused message that comes again, and so comes again itself."""
        refused = lane.refused
        if refused is None or delivery.position < refused.position:
            return False
        if delivery.position > refused.position and not self._is_still_due(refused, delivery):
            return True
        lane.refused = None
        return False

    def _is_still_due(self, refused: DeliveredMessage, delivery: DeliveredMessage) -> bool:
        """Whether a message behind a refused one is to be handled as it came. `max_deliveries` does not tell, since it may
        be changed at any time; but what comes again is not pending until then."""
        request = list_pending._get_kwargs(
            self.subscription, consumer=self.consumer, after=f"{refused.partition}:{refused.position - 1}", limit=PENDING_MAX
        )
        try:
            found = PendingList.from_dict(self.transport.send(request)).pending
        except Unavailable as error:
            log.warning("%s: %s", self.subscription, error)
            return False
        counts = {one.position: one.delivery_count for one in found if one.partition == refused.partition}
        # Its nack has not arrived: an ack of what is behind it would be its ack, too.
        if counts.get(refused.position) == refused.delivery_count:
            return False
        # One before it that is pending is yet to come, and it comes again behind that.
        first = min((position for position in counts if position > refused.position), default=None)
        return delivery.position == first or (first is None and self._is_acked_as_delivered())

    def _is_acked_as_delivered(self) -> bool:
        """Whether the subscription is one of `ack: "auto"` now."""
        try:
            answer = self.transport.send(read_subscription._get_kwargs(self.subscription))
        except Unavailable as error:
            log.warning("%s: %s", self.subscription, error)
            return False
        return Subscription.from_dict(answer).definition.ack == AckMode.AUTO

    def _handle(self, lane: Lane, delivery: DeliveredMessage) -> None:
        place = DeliveryPlace(partition=delivery.partition, position=delivery.position, epoch=delivery.epoch)
        try:
            self.handler(delivery.message)
        except Park as error:
            self._refuse(lane, delivery, NackAction.PARK, text_of(error, str))
        except Exception as error:  # noqa: BLE001 - whatever a handler raises
            reason = text_of(error, repr)
            log.warning("%s: %s at %s: %s", self.subscription, delivery.message.type_, place.position, reason)
            self._refuse(lane, delivery, NackAction.RETRY, reason)
        else:
            with self.changed:
                if not lane.is_lost:
                    # Each by itself: the ack of a later message stands for those before it, but not for a parked one that is
                    # replayed, and a delivery does not say which it is.
                    self.acks.append((lane, place))
                    self.changed.notify_all()

    def _send_acks_when_due(self) -> None:
        with self.changed:
            if not self.acks and self.failure is None:
                self.changed.wait(ACK_DELAY)
            due = time.monotonic() + ACK_DELAY
            while self.acks and len(self.acks) < max(1, self.max_in_flight // 2) and (left := due - time.monotonic()) > 0:
                self.changed.wait(left)
        self._send_acks()

    def _send_acks(self) -> None:
        with self.sending:
            with self.changed:
                # A lane that was lost is not acked: another consumer has its messages.
                acks = [place for lane, place in self.acks if not lane.is_lost]
                self.acks.clear()
            for first in range(0, len(acks), ACKS_MAX):
                body = AckRequest(consumer=self.consumer, acks=acks[first : first + ACKS_MAX])
                self._answer(ack_messages._get_kwargs(self.subscription, body=body))

    def _refuse(self, lane: Lane, delivery: DeliveredMessage, action: NackAction, reason: str) -> None:
        # What was handled before it is acked first, so that it does not come again with it.
        self._send_acks()
        if lane.is_lost:
            return
        nack = Nack(
            partition=delivery.partition, position=delivery.position, epoch=delivery.epoch, action=action, reason=reason[:REASON_MAX]
        )
        result = self._nack(nack)
        if result is not None and result.nacked > 0 and action == NackAction.PARK:
            return
        # Missing: by an earlier request whose answer was lost, because its time was over, or because it never was to be acked.
        if result is not None and result.missing > 0 and self._is_acked_as_delivered():
            log.warning("%s: %s does not come again, it was acked as it was delivered", self.subscription, delivery.position)
            return
        lane.refused = delivery

    def _nack(self, nack: Nack) -> NackResult | None:
        """`None`: it was fenced, or there was no answer."""
        request = NackRequest(consumer=self.consumer, nacks=[nack])
        try:
            return NackResult.from_dict(self.transport.send(nack_messages._get_kwargs(self.subscription, body=request)))
        except Unavailable as error:
            # The message comes again once its time is over.
            log.warning("%s: not nacked: %s", self.subscription, error)
            return None
        except Refused as error:
            if error.type == "/problems/fenced":
                # Of the partition, or only of a parked message that is replayed: what is pending tells.
                return None
            if nack.reason is UNSET or error.type not in UNREADABLE:
                raise
            log.warning("%s: nacked without its reason: %s", self.subscription, error)
            nack.reason = UNSET
            return self._nack(nack)

    def _answer(self, request: dict[str, Any]) -> None:
        try:
            self.transport.send(request)
        except Unavailable as error:
            # The messages come again once their time is over.
            log.warning("%s: not acked: %s", self.subscription, error)
        except Refused as error:
            if error.type != "/problems/fenced":
                raise
            with self.changed:
                partition = error.problem.partition
                lane = self.lanes.get(partition) if isinstance(partition, int) else None
                if lane is not None and isinstance(partition, int) and lane.epoch == error.problem.epoch:
                    self._lose(partition)

    def _leave(self) -> None:
        """Others get what is left at once."""
        try:
            self._send_acks()
            self.transport.send(remove_consumer._get_kwargs(self.subscription, self.consumer))
        except HeadwaterError as error:
            # It has left already, where its event stream has ended first.
            if not (isinstance(error, Refused) and error.type == "/problems/not-found"):
                log.warning("%s: %s", self.subscription, error)


def text_of(error: BaseException, show: Callable[[BaseException], str]) -> str:
    """What an exception says, as text that JSON and PostgreSQL can keep: no NUL characters, no half of a character."""
    try:
        text = show(error)
    except Exception:  # noqa: BLE001 - of its author's making
        text = type(error).__name__
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()
