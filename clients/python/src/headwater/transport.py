"""Requests that are sent again while the service is away, and event streams that are opened again."""

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from .errors import Conflict, HeadwaterError, Refused, Unavailable
from .generated.models import Problem, ProblemType

PAUSE_FIRST = 0.1
PAUSE_MAX = 30.0
CONNECT_TIMEOUT = 10.0
TIME_LEFT_MIN = 0.001
# A connection is dead if it was quiet for so many heartbeats.
HEARTBEATS_MISSED_MAX = 3
# Problems and gateways' answers that pass.
PASSING = (408, 429, 502, 503, 504)
# To these, an answer without a body is a whole one.
BODILESS = (204, 205)

Credential = str | Callable[[], str] | None


class BackOff:
    """Pauses that grow, each with up to a quarter on top, so that not all come back at once."""

    def __init__(self) -> None:
        self.failures = 0

    def next(self, at_least: float = PAUSE_FIRST) -> float:
        pause = min(PAUSE_MAX, at_least * float(1 << self.failures))
        self.failures = min(self.failures + 1, 20)
        return pause * random.uniform(1, 1.25)


@dataclass
class Event:
    """An event of an event stream."""

    name: str
    cursor: str
    data: Any


class Closed(HeadwaterError):
    """The event stream has ended for good: `replaced` by another consumer of the same name, or the like."""


class Cut(Exception):
    """An answer of which not enough is left to be understood."""


class Transport:
    """Sends what the generated code has put together."""

    def __init__(self, url: str, credential: Credential, timeout: float) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"the URL of a service begins with http:// or https://, which {url!r} does not")
        self._http = httpx.Client(base_url=url, timeout=timeout)
        self._credential = credential
        self._token: str | None = None
        self._timeout = timeout

    def close(self) -> None:
        self._http.close()

    def send(self, request: dict[str, Any]) -> Any:
        """The JSON of a successful answer. Requests are sent again, so they must be safe to repeat."""
        back_off, end, is_renewed = BackOff(), time.monotonic() + self._timeout, False
        while True:
            pause = PAUSE_FIRST
            try:
                response, body = self._ask(request, end)
                if response.is_success:
                    return whole(response, body)
            except (httpx.TransportError, httpx.DecodingError, Cut) as error:
                failure: Exception = error
            else:
                if self._renews(response) and not is_renewed:
                    is_renewed = True
                    continue
                failure = refusal(response, body)
                if response.status_code not in PASSING:
                    raise failure
                pause = retry_after(response)
            pause = back_off.next(pause)
            if time.monotonic() + pause > end:
                raise Unavailable(f"{self._http.base_url} cannot be used: {failure}") from failure
            time.sleep(pause)

    def _ask(self, request: dict[str, Any], end: float) -> tuple[httpx.Response, bytes]:
        """An answer with its body, if it is there in time."""
        body = bytearray()
        with self._http.stream(**self._signed(request), timeout=max(end - time.monotonic(), TIME_LEFT_MIN)) as response:
            # Until here it may have taken its time already.
            response.request.extensions["timeout"]["read"] = max(end - time.monotonic(), TIME_LEFT_MIN)
            for chunk in response.iter_bytes():
                body += chunk
                if time.monotonic() > end:
                    raise httpx.ReadTimeout("the answer was not whole in time", request=response.request)
        return response, bytes(body)

    def events(self, request: Callable[[str], dict[str, Any]], cursor: str, heartbeat: float, stop: threading.Event) -> Iterator[Event]:
        """The events of an event stream, across connections. `request` makes the request that begins after a cursor. The
        event `disconnected` says that a connection has ended."""
        back_off = BackOff()
        retry, is_renewed = 1.0, False
        while not stop.is_set():
            reason = ""
            opened = time.monotonic()
            try:
                with self._http.stream(**self._signed(request(cursor)), timeout=httpx.Timeout(CONNECT_TIMEOUT, read=heartbeat * HEARTBEATS_MISSED_MAX)) as response:
                    if not response.is_success:
                        body = response.read()
                        if self._renews(response) and not is_renewed:
                            is_renewed = True
                            continue
                        if response.status_code not in PASSING and response.status_code < 500:
                            raise refusal(response, body)
                        retry = retry_after(response)
                    else:
                        for fields in frames(response):
                            back_off.failures, is_renewed = 0, False
                            retry = float(fields["retry"]) / 1000 if "retry" in fields else retry
                            cursor = fields.get("id", cursor)
                            if fields.get("event") == "closing":
                                reason = json.loads(fields["data"])["reason"]
                            elif "data" in fields:
                                yield Event(fields["event"], cursor, json.loads(fields["data"]))
                            if stop.is_set():
                                return
            except httpx.TransportError:
                pass
            if reason == "replaced":
                raise Closed("another consumer has joined under the same name")
            if reason == "expired":
                self._token = None
            yield Event("disconnected", cursor, reason)
            # What was deleted or has another history refuses the next request, and says why.
            is_prompt = reason in ("expired", "removed", "deleted", "history-changed") and time.monotonic() - opened > 1
            if not is_prompt and stop.wait(back_off.next(retry)):
                return

    def _signed(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._token is None and self._credential is not None:
            self._token = self._credential if isinstance(self._credential, str) else self._credential()
        if self._token is None:
            return request
        return {**request, "headers": {**request.get("headers", {}), "Authorization": f"Bearer {self._token}"}}

    def _renews(self, response: httpx.Response) -> bool:
        """Whether another credential may be had in place of one that has ended."""
        if response.status_code != 401 or not callable(self._credential):
            return False
        self._token = None
        return True


def whole(response: httpx.Response, body: bytes) -> Any:
    """The JSON of a successful answer. What is none came from elsewhere, or was cut off: the answer is lost."""
    if not body and response.status_code in BODILESS:
        return None
    try:
        return json.loads(body)
    except ValueError as error:
        raise Cut(f"{response.status_code} without JSON, which is no answer of the service") from error


def refusal(response: httpx.Response, body: bytes) -> HeadwaterError:
    """The problem of an answer that is no success."""
    try:
        problem = Problem.from_dict(json.loads(body))
    except (ValueError, KeyError, TypeError, AttributeError):
        return Unavailable(f"{response.status_code} {response.reason_phrase}, which is no answer of the service")
    return Conflict(problem) if problem.type_ == ProblemType.WRONG_EXPECTED_VERSION else Refused(problem)


def retry_after(response: httpx.Response) -> float:
    try:
        return max(PAUSE_FIRST, float(response.headers.get("Retry-After", PAUSE_FIRST)))
    except ValueError:
        return PAUSE_FIRST


def frames(response: httpx.Response) -> Iterator[dict[str, str]]:
    """The fields of each event. Lines end with a line feed and nothing else: payloads may have Unicode's other ends of lines."""
    rest = b""
    for chunk in response.iter_bytes():
        *whole, rest = (rest + chunk).split(b"\n\n")
        for frame in whole:
            yield dict(line.split(": ", 1) for line in frame.decode().split("\n") if ": " in line)
