"""The service as a program sees it."""

import copy
import threading
import time
import uuid
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from .consuming import Consumer, Handler
from .errors import Conflict, Unavailable
from .following import Followed, followed
from .generated.api.append import append_messages
from .generated.api.follow import follow_all, follow_category, follow_several, follow_stream
from .generated.api.aggregate import follow_aggregated_stream
from .generated.api.read import read_stream
from .generated.api.subscribe import create_subscription
from .generated.models import AppendRequest, AppendResult, Message, NewMessage, StreamPage, SubscriptionDefinition
from .generated.types import UNSET
from .transport import Credential, Transport

PAGE_MESSAGES = 1000
CONFLICTS_MAX = 100
CONFLICT_PAUSE_MAX = 0.05
HEARTBEAT = 5.0

Decide = Callable[[Sequence[Message]], Iterable[NewMessage]]


class Headwater:
    """A service at a URL. `credential` is an API key or a JWT, or a function that gets one, which is asked again when it has
    ended. What cannot be done within `timeout` seconds, the service being away, is `Unavailable`. May be shared by threads."""

    def __init__(self, url: str, credential: Credential = None, timeout: float = 30.0) -> None:
        self.transport = Transport(url, credential, timeout)

    def __enter__(self) -> "Headwater":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes its connections."""
        self.transport.close()

    def append(self, stream_name: str, messages: Iterable[NewMessage], expected_version: int | None = None) -> AppendResult:
        """Appends all messages or none. Each gets an id unless it has one, so an answer that was lost is asked for again, and
        nothing is written twice; yours stay as they are. Raises `Conflict` if the stream has another version; -1 is that of
        an empty one. `Unavailable` has what was sent in `messages`: sent again, it is written once."""
        sent = [with_id(message) for message in messages]
        body = AppendRequest(messages=sent, expected_version=expected_version)
        try:
            return AppendResult.from_dict(self.transport.send(append_messages._get_kwargs(stream_name, body=body)))
        except Unavailable as error:
            error.messages = sent
            raise

    def read(self, stream_name: str, from_: int | None = None, from_last: str | None = None) -> tuple[list[Message], int]:
        """All messages from a position on, or from the newest one of a type (a snapshot), and the stream's version."""
        messages: list[Message] = []
        while True:
            # A stream that was trimmed has no position 0: where it begins is for the service to say.
            start: dict[str, Any] = {"from_last": from_last or UNSET} if from_ is None else {"from_": from_}
            page = StreamPage.from_dict(self.transport.send(read_stream._get_kwargs(stream_name, limit=PAGE_MESSAGES, **start)))
            messages += page.messages
            if page.at_end or not isinstance(page.next_, int):
                return messages, page.version
            from_ = page.next_

    def change(self, stream_name: str, decide: Decide, from_last: str | None = None) -> AppendResult | None:
        """Loads, decides and appends. If somebody else has appended meanwhile, reads what has come and decides again, at most
        100 times. `decide` gets the stream's messages, or those from the newest of a type on; what it raises is
        raised here. `None` if it wants nothing appended."""
        history, version = self.read(stream_name, from_last=from_last)
        for conflicts in range(CONFLICTS_MAX + 1):
            messages = list(decide(history))
            if not messages:
                return None
            try:
                return self.append(stream_name, messages, expected_version=version)
            except Conflict:
                if conflicts == CONFLICTS_MAX:
                    raise
            time.sleep(random.uniform(0, CONFLICT_PAUSE_MAX))
            news, version = self.read(stream_name, from_=version + 1)
            history = [*history, *news]
        raise AssertionError("unreachable")

    def follow(
        self,
        *,
        stream_name: str | None = None,
        category: str | None = None,
        aggregated_stream: str | None = None,
        streams: Sequence[str] | None = None,
        categories: Sequence[str] | None = None,
        from_: str | int = "end",
        last_event_id: str = "",
        types: Sequence[str] = (),
        filter_: str | None = None,
        stop: threading.Event | None = None,
    ) -> Iterator[Followed]:
        """Follows a stream, a category, an aggregated stream, several of them (`streams`, `categories`), or the whole log, and
        goes on where it was after every lost connection. Raises `Refused` if that cannot be: `/problems/history-changed`
        (begin anew), `/problems/not-found` (deleted); `ValueError` if `streams` and `categories` are empty."""
        several = [*(streams or ()), *(categories or ())]
        if not several and not (streams is None and categories is None):
            raise ValueError("there is nothing to follow: streams and categories are empty")
        query: dict[str, Any] = {
            "types": list(types) or UNSET, "filter_": filter_ or UNSET, "heartbeat": f"{HEARTBEAT:.0f}s", "from_": str(from_),
        }

        def request(cursor: str) -> dict[str, Any]:
            start = {**query, "last_event_id": cursor or UNSET}
            if stream_name is not None:
                return follow_stream._get_kwargs(stream_name, **start)
            if category is not None:
                return follow_category._get_kwargs(category, **start)
            if aggregated_stream is not None:
                return follow_aggregated_stream._get_kwargs(aggregated_stream, **start)
            if several:
                return follow_several._get_kwargs(stream_name=list(streams or ()), category=list(categories or ()), **start)
            return follow_all._get_kwargs(**start)

        events = self.transport.events(request, last_event_id, HEARTBEAT, stop or threading.Event())
        return (told for event in events if (told := followed(event)) is not None)

    def subscribe(self, name: str, definition: SubscriptionDefinition) -> None:
        """Makes the subscription unless it exists with this definition. Raises `Refused` if it has another one."""
        self.transport.send(create_subscription._get_kwargs(name, body=definition))

    def consume(
        self, subscription: str, handler: Handler, *, consumer: str | None = None, max_in_flight: int = 32, stop: threading.Event | None = None
    ) -> None:
        """Calls `handler` for each message of a subscription until `stop` is set; see `Consumer`."""
        Consumer(self.transport, subscription, handler, consumer or f"consumer-{uuid.uuid4()}", max_in_flight).run(stop or threading.Event())


def with_id(message: NewMessage) -> NewMessage:
    sent = copy.copy(message)
    sent.id = message.id or uuid.uuid4()
    return sent
