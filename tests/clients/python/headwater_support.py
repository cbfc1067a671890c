"""A service of a test's own, a proxy that loses answers, and what tests of the Python client share."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headwater import Headwater, Message, NewMessage
from headwater.generated.api.subscribe import list_consumers, read_subscription
from headwater.generated.models import SubscriptionDefinition, SubscriptionMode, SubscriptionSource

BINARY = os.environ["HEADWATER_TEST_BINARY"]
WAIT = 60.0


class Service:
    """A service with data of its own."""

    def __init__(self, *settings: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="headwater-client-"))
        # The embedded PostgreSQL runs as a user of its own, who must be able to reach its data.
        self.directory.chmod(0o755)
        self.settings = settings
        self.environment = {**os.environ, "HEADWATER_LOG": "warn", "DATABASE_URL": ""}
        self.listen = "127.0.0.1:0"
        self.start()

    def start(self) -> None:
        command = [BINARY, "serve", "--listen", self.listen, "--data-dir", str(self.directory / "data"), *self.settings]
        self.process = subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().removeprefix("headwater listening on ").strip()
        self.listen = self.url.removeprefix("http://")

    def restart(self, signal_: signal.Signals = signal.SIGKILL) -> None:
        """`SIGTERM`: in good order, so that event streams are told that the service drains."""
        self.process.send_signal(signal_)
        self.process.communicate()
        self.start()

    def key(self, *scopes: str) -> str:
        words = [word for scope in scopes for word in ("--scope", scope)]
        command = [BINARY, "keys", "create", "--data-dir", str(self.directory / "data"), "--name", "test", *words]
        return subprocess.run(command, env=self.environment, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()

    def remove(self) -> None:
        self.process.terminate()
        self.process.communicate()
        shutil.rmtree(self.directory)


class LosingProxy:
    """Passes requests on, and of every second answer to a POST nothing but the end of the connection."""

    def __init__(self, to: str) -> None:
        host, port = to.removeprefix("http://").split(":")
        self.to = (host, int(port))
        self.lost = 0
        self.posts = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client: socket.socket) -> None:
        upstream = socket.create_connection(self.to)
        is_lost = threading.Event()
        threading.Thread(target=self.answer, args=(client, upstream, is_lost), daemon=True).start()
        try:
            while request := client.recv(1 << 20):
                # The client sends the head and the body one after the other.
                if request.startswith(b"POST"):
                    self.posts += 1
                    (is_lost.set if self.posts % 2 == 1 else is_lost.clear)()
                upstream.sendall(request)
        except OSError:
            pass
        cut(client, upstream)

    def answer(self, client: socket.socket, upstream: socket.socket, is_lost: threading.Event) -> None:
        try:
            while answer := upstream.recv(1 << 20):
                if is_lost.is_set():
                    self.lost += 1
                    break
                client.sendall(answer)
        except OSError:
            pass
        cut(client, upstream)


def cut(*connections: socket.socket) -> None:
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()


def name() -> str:
    return f"c{uuid.uuid4().hex}"


def counted(n: int) -> NewMessage:
    return NewMessage("Counted", data={"n": n})


def until(condition: Callable[[], object], within: float = WAIT) -> None:
    """Waits for a fact, which the service or a thread brings about."""
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


class Client(unittest.TestCase):
    service: Service

    @classmethod
    def setUpClass(cls) -> None:
        cls.service = Service()

    @classmethod
    def tearDownClass(cls) -> None:
        cls.service.remove()

    def setUp(self) -> None:
        self.headwater = self.client(self.service.url)

    def client(self, url: str, timeout: float = 30.0) -> Headwater:
        client = Headwater(url, timeout=timeout)
        self.addCleanup(client.close)
        return client

    def restart(self, signal_: signal.Signals = signal.SIGKILL) -> None:
        self.service.restart(signal_)


class Consuming(Client):
    def subscription(
        self, mode: SubscriptionMode = SubscriptionMode.PARTITIONED, partitions: int | None = 4, **settings: Any
    ) -> str:
        category = name()
        source = SubscriptionSource(category=category)
        partitions = partitions if mode == SubscriptionMode.PARTITIONED else None
        settings = {"backoff": ["100ms"], **settings}
        definition = SubscriptionDefinition(source=source, from_="beginning", mode=mode, partitions=partitions, **settings)
        self.headwater.subscribe(category, definition)
        return category

    def fill(self, category: str, numbers: range, streams: int = 8) -> None:
        for n in numbers:
            self.headwater.append(f"{category}-{n % streams}", [counted(n)])

    def lag(self, subscription: str) -> int:
        found = self.headwater.transport.send(read_subscription._get_kwargs(subscription))
        return int(found["status"]["committed_lag"])

    def consumers(self, subscription: str) -> list[object]:
        return list(self.headwater.transport.send(list_consumers._get_kwargs(subscription))["consumers"])

    def start(
        self, subscription: str, handler: Callable[[Message], object], client: Headwater | None = None, **options: object
    ) -> Callable[[], None]:
        """Consumes in a thread; returns what stops it."""
        own = client or self.client(self.service.url)
        stop = threading.Event()
        failures: list[BaseException] = []

        def run() -> None:
            try:
                own.consume(subscription, handler, stop=stop, **options)  # type: ignore[arg-type]
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()

        def end() -> None:
            stop.set()
            thread.join(WAIT)
            self.assertEqual((failures, thread.is_alive()), ([], False))

        return end

    def in_order(self, seen: list[tuple[str, int]]) -> None:
        """Of each stream, every message came first in the order of its positions."""
        for stream in {stream for stream, _ in seen}:
            first = list(dict.fromkeys(position for of, position in seen if of == stream))
            self.assertEqual(first, list(range(len(first))), stream)
