"""What the Python client makes of answers that are cut off, slow or no service's, and what it refuses to ask for."""

import contextlib
import json
import socket
import threading
import time
import unittest
from collections.abc import Callable
from typing import Any

from headwater import Headwater, NewMessage, Refused, Unavailable
from headwater.generated.api.retain import trim_stream
from headwater.generated.models import TrimRequest
from headwater_support import Client, counted, cut, name

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
WRITTEN = b'{"stream_name": "a-1", "version": 0, "duplicate": true, "messages": []}'
CAUGHT_UP = b'retry: 100\n\nid: 1\nevent: caught-up\ndata: {"position":1,"time":"2026-11-23T12:00:00Z"}\n\n'

Answer = Callable[[socket.socket], object]


class Answering:
    """A gateway that gives these answers, one a connection, the last one again and again."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.bodies: list[dict[str, Any]] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                threading.Thread(target=self.serve, args=(client, answer), daemon=True).start()

    def serve(self, client: socket.socket, answer: Answer) -> None:
        with contextlib.suppress(OSError):
            text = b""
            while b"\r\n\r\n" not in text:
                text += client.recv(1 << 16)
            head, _, body = text.partition(b"\r\n\r\n")
            length = next((int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")), 0)
            while len(body) < length:
                body += client.recv(1 << 16)
            self.bodies.append(json.loads(body) if body else {})
            answer(client)
        cut(client)


def says(text: bytes) -> Answer:
    return lambda client: client.sendall(text)


def trickles(client: socket.socket) -> None:
    client.sendall(HEAD + b"Content-Length: 100000\r\n\r\n")
    for _ in range(100):
        client.sendall(b" ")
        time.sleep(0.1)


class Answers(Client):
    def gateway(self, *answers: Answer) -> Answering:
        gateway = Answering(*answers)
        self.addCleanup(gateway.listener.close)
        return gateway

    def unavailable_within(self, seconds: float, gateway: Answering, timeout: float) -> Unavailable:
        began = time.monotonic()
        with self.assertRaises(Unavailable) as caught:
            self.client(gateway.url, timeout=timeout).append("a-1", [counted(0)])
        self.assertLess(time.monotonic() - began, seconds)
        return caught.exception

    def test_an_answer_that_is_cut_off_is_asked_for_again_with_the_same_ids(self) -> None:
        for half in (b"\r\n" + WRITTEN[:20], b"Content-Length: 500\r\n\r\n" + WRITTEN[:20], b"\r\n", b"Content-Length: 0\r\n\r\n"):
            gateway = self.gateway(says(HEAD + half), says(HEAD + b"\r\n" + WRITTEN))
            self.assertTrue(self.client(gateway.url).append("a-1", [counted(0)]).duplicate)
            ids = [body["messages"][0]["id"] for body in gateway.bodies]
            self.assertEqual((len(ids), len(set(ids))), (2, 1))

    def test_a_page_in_the_place_of_an_answer_is_no_answer(self) -> None:
        page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n<p>We will be back soon.</p>"
        self.unavailable_within(2, self.gateway(says(page)), timeout=1)

    def test_a_body_that_stalls_or_trickles_is_given_up_in_time(self) -> None:
        def stalls(client: socket.socket) -> None:
            client.sendall(HEAD + b"Content-Length: 500\r\n\r\n" + WRITTEN[:20])
            time.sleep(10)

        self.unavailable_within(2, self.gateway(stalls), timeout=1)
        self.unavailable_within(2, self.gateway(trickles), timeout=1)

    def test_attempts_share_the_time_that_there_is(self) -> None:
        def hesitates(client: socket.socket) -> None:
            time.sleep(0.8)

        self.unavailable_within(1.5, self.gateway(hesitates, lambda client: time.sleep(10)), timeout=1.2)

    def test_what_may_have_been_written_can_be_sent_again_as_it_was(self) -> None:
        error = self.unavailable_within(2, self.gateway(says(b"")), timeout=0.5)
        stream = f"{name()}-1"
        for is_again in (False, True):
            self.assertEqual(self.headwater.append(stream, error.messages).duplicate, is_again)
        self.assertEqual(self.headwater.read(stream)[1], 0)

    def test_a_message_that_is_appended_twice_is_written_twice(self) -> None:
        stream = f"{name()}-1"
        message = NewMessage("Counted", data={"n": 1})
        for n in range(2):
            result = self.headwater.append(stream, [message])
            self.assertEqual((result.version, result.duplicate), (n, False))
        self.assertFalse(message.id)

    def test_a_stream_that_was_trimmed_is_read_and_changed_from_where_it_begins(self) -> None:
        stream = f"{name()}-1"
        self.headwater.append(stream, [counted(n) for n in range(5)])
        self.headwater.transport.send(trim_stream._get_kwargs(stream, body=TrimRequest(keep_last=2)))
        messages, version = self.headwater.read(stream)
        self.assertEqual(([message.data["n"] for message in messages], version), ([3, 4], 4))
        result = self.headwater.change(stream, lambda history: [counted(len(list(history)))])
        assert result is not None
        self.assertEqual(result.version, 5)
        # Whoever asks for what is gone is told so.
        with self.assertRaises(Refused) as caught:
            self.headwater.read(stream, from_=0)
        self.assertEqual(caught.exception.type, "/problems/position-trimmed")

    def test_nothing_to_follow_is_not_the_whole_log(self) -> None:
        for streams, categories in (([], None), (None, []), ([], [])):
            with self.assertRaises(ValueError):
                next(self.headwater.follow(from_="beginning", streams=streams, categories=categories))

    def test_a_url_without_a_scheme_is_refused(self) -> None:
        with self.assertRaises(ValueError):
            Headwater("127.0.0.1:8080")

    def test_what_a_gateway_says_while_the_service_is_away_does_not_end_a_follower(self) -> None:
        for status in (b"500", b"502", b"504", b"520"):
            away = b"HTTP/1.1 " + status + b" Away\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n<p>away</p>"
            stream = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" + CAUGHT_UP
            gateway = self.gateway(says(away), says(stream))
            self.assertEqual(next(self.client(gateway.url).follow(category="a")).name, "caught-up")


if __name__ == "__main__":
    unittest.main()
