"""The Python client's loops, against a service that is killed, answers that are lost, races, and credentials that end."""

import signal
import threading
import time
import unittest
import unittest.mock
from collections.abc import Callable, Iterator
from typing import Any

from headwater import Conflict, Followed, Headwater, Message, NewMessage, Park, Refused, Unavailable
from headwater.generated.api.aggregate import define_aggregated_stream, delete_aggregated_stream
from headwater.generated.api.credentials import create_api_key
from headwater.generated.api.subscribe import list_parked, replay_parked, seek_subscription
from headwater.generated.models import (
    AggregatedStreamDefinition,
    ApiKeyRequest,
    ConstantPartitioner,
    ReplayRequest,
    SeekRequest,
    SubscriptionDefinition,
    SubscriptionMode,
    SubscriptionSource,
)
from headwater.transport import Event
from headwater_support import WAIT, Client, Consuming, LosingProxy, Service, counted, name, until


class Appends(Client):
    def test_those_who_change_a_stream_at_once_decide_again_and_none_is_lost(self) -> None:
        stream = f"{name()}-1"

        def increment(history: object) -> list[NewMessage]:
            assert isinstance(history, list)
            return [counted(len(history))]

        def change() -> None:
            client = self.client(self.service.url)
            for _ in range(5):
                client.change(stream, increment)

        threads = [threading.Thread(target=change) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        messages, version = self.headwater.read(stream)
        self.assertEqual([message.data["n"] for message in messages], list(range(30)))
        self.assertEqual(version, 29)

    def test_a_decision_may_be_none_and_a_conflict_is_told(self) -> None:
        stream = f"{name()}-1"
        self.assertIsNone(self.headwater.change(stream, lambda _: []))
        self.headwater.append(stream, [counted(0)], expected_version=-1)
        with self.assertRaises(Conflict) as caught:
            self.headwater.append(stream, [counted(1)], expected_version=-1)
        self.assertEqual(caught.exception.problem.current_version, 0)
        with self.assertRaises(Refused) as refused:
            self.headwater.append(stream, [])
        self.assertEqual(refused.exception.type, "/problems/invalid")

    def test_an_answer_that_is_lost_is_asked_for_again_and_nothing_is_written_twice(self) -> None:
        proxy = LosingProxy(self.service.url)
        headwater = self.client(proxy.url)
        stream = f"{name()}-1"
        for n in range(5):
            result = headwater.change(stream, lambda history: [counted(len(history))])
            assert result is not None
            self.assertEqual((result.version, result.duplicate), (n, True))
        self.assertEqual([message.data["n"] for message in self.headwater.read(stream)[0]], list(range(5)))
        self.assertEqual(proxy.lost, 5)
        proxy.listener.close()

    def test_what_is_appended_while_the_service_is_killed_and_starts_again_is_written_once(self) -> None:
        stream = f"{name()}-1"
        restarted = threading.Thread(target=self.restart)
        for n in range(60):
            if n == 20:
                restarted.start()
            self.headwater.append(stream, [counted(n)], expected_version=n - 1)
        restarted.join()
        self.assertEqual([message.data["n"] for message in self.headwater.read(stream)[0]], list(range(60)))

    def test_a_service_that_stays_away_is_unavailable(self) -> None:
        with self.assertRaises(Unavailable):
            self.client("http://127.0.0.1:9", timeout=1).append("a-1", [counted(0)])


class Follows(Client):
    def numbers(self, events: Iterator[Followed], count: int) -> list[int]:
        found: list[int] = []
        for event in events:
            if event.name == "message":
                found.append(event.message.data["n"])
                if len(found) == count:
                    break
        return found

    def test_goes_on_where_it_was_when_the_service_is_killed_or_stops_and_starts_again(self) -> None:
        category = name()
        for n in range(10):
            self.headwater.append(f"{category}-1", [counted(n)])
        events = self.headwater.follow(category=category, from_="beginning")
        self.assertEqual(self.numbers(events, 5), list(range(5)))
        self.restart()
        for n in range(10, 20):
            self.headwater.append(f"{category}-1", [counted(n)])
        self.assertEqual(self.numbers(events, 15), list(range(5, 20)))
        self.restart(signal.SIGTERM)
        self.headwater.append(f"{category}-1", [counted(20)])
        self.assertEqual(self.numbers(events, 1), [20])

    def test_a_cursor_that_was_kept_goes_on_behind_its_message(self) -> None:
        stream = f"{name()}-1"
        # U+2028 ends a line in Unicode, and is no end of one in an event stream.
        self.headwater.append(stream, [NewMessage("Counted", data={"n": n, "text": "a\u2028b"}) for n in range(3)])
        cursor = ""
        for event in self.headwater.follow(stream_name=stream, from_="beginning"):
            if event.name == "message":
                cursor = event.cursor
                self.assertEqual(event.message.data["text"], "a\u2028b")
                break
        self.assertEqual(self.numbers(self.headwater.follow(stream_name=stream, last_event_id=cursor), 2), [1, 2])
        names = []
        for event in self.headwater.follow(streams=[stream], categories=["nothing"], from_="beginning"):
            names.append(event.name)
            if event.name == "caught-up":
                break
        self.assertEqual(names, ["message"] * 3 + ["caught-up"])

    def test_what_cannot_go_on_is_told(self) -> None:
        with self.assertRaises(Refused) as changed:
            next(self.headwater.follow(from_="end", last_event_id="999999999"))
        self.assertEqual(changed.exception.type, "/problems/history-changed")
        deleted = name()
        definition = AggregatedStreamDefinition(categories=[deleted], partitioner=ConstantPartitioner(kind="constant"))
        self.headwater.transport.send(define_aggregated_stream._get_kwargs(deleted, body=definition))
        self.headwater.append(f"{deleted}-1", [counted(0)])
        events = self.headwater.follow(aggregated_stream=deleted, from_="beginning")
        self.assertEqual(self.numbers(events, 1), [0])
        self.headwater.transport.send(delete_aggregated_stream._get_kwargs(deleted))
        with self.assertRaises(Refused) as gone:
            list(events)
        self.assertEqual(gone.exception.type, "/problems/not-found")


class Consumes(Consuming):
    def test_two_share_the_messages_each_comes_once_in_order_and_who_stops_leaves(self) -> None:
        subscription = self.subscription()
        seen: list[tuple[str, int]] = []

        def handler(message: Message) -> None:
            seen.append((message.stream_name, message.position))

        one = self.start(subscription, handler)
        two = self.start(subscription, handler)
        # Both are there before the first message: nothing that was handled and not acked changes hands.
        until(lambda: len(self.consumers(subscription)) == 2)
        self.fill(subscription, range(100))
        until(lambda: len(seen) >= 100 and self.lag(subscription) == 0)
        self.assertEqual(len(seen), 100)
        one()
        self.assertEqual(len(self.consumers(subscription)), 1)
        self.fill(subscription, range(100, 150))
        until(lambda: len(seen) >= 150 and self.lag(subscription) == 0)
        two()
        self.assertEqual(self.consumers(subscription), [])
        self.assertEqual(len(set(seen)), 150)
        self.in_order(seen)

    def test_goes_on_when_the_service_is_killed_or_stops_and_starts_again(self) -> None:
        subscription = self.subscription()
        self.fill(subscription, range(60))
        seen: list[tuple[str, int]] = []
        half = threading.Event()

        def handler(message: Message) -> None:
            seen.append((message.stream_name, message.position))
            if len(seen) == 30:
                half.set()

        end = self.start(subscription, handler, max_in_flight=8)
        self.assertTrue(half.wait(WAIT))
        self.restart()
        self.fill(subscription, range(60, 80))
        until(lambda: len(set(seen)) == 80 and self.lag(subscription) == 0)
        self.restart(signal.SIGTERM)
        self.fill(subscription, range(80, 90))
        until(lambda: len(set(seen)) == 90 and self.lag(subscription) == 0)
        end()
        self.in_order(seen)

    def test_is_told_that_the_service_drains_while_messages_are_being_handled_and_goes_on_after_it(self) -> None:
        subscription = self.subscription(partitions=2)
        self.fill(subscription, range(8), streams=2)
        told: list[str] = []
        begun, go_on = threading.Event(), threading.Event()
        seen: list[tuple[str, int]] = []

        def handler(message: Message) -> None:
            seen.append((message.stream_name, message.position))
            begun.set()
            go_on.wait(WAIT)

        client = self.client(self.service.url)
        events = client.transport.events

        def overheard(
            request: Callable[[str], dict[str, Any]], cursor: str, heartbeat: float, stop: threading.Event
        ) -> Iterator[Event]:
            for event in events(request, cursor, heartbeat, stop):
                if event.name == "disconnected":
                    told.append(event.data)
                    go_on.set()
                yield event

        with unittest.mock.patch.object(client.transport, "events", overheard):
            end = self.start(subscription, handler, client)
            self.assertTrue(begun.wait(WAIT))
            self.restart(signal.SIGTERM)
        until(lambda: len(set(seen)) == 8 and self.lag(subscription) == 0)
        end()
        # Not that the connection has ended, but why.
        self.assertEqual(told[0], "draining")
        self.in_order(seen)

    def test_acks_and_nacks_whose_answers_are_lost_are_sent_again(self) -> None:
        subscription = self.subscription()
        self.fill(subscription, range(30))
        proxy = LosingProxy(self.service.url)
        seen: list[tuple[str, int]] = []
        lock = threading.Lock()

        def handler(message: Message) -> None:
            with lock:
                seen.append((message.stream_name, message.position))
                is_poison = len(seen) == 10
            if is_poison:
                raise Park("never")

        end = self.start(subscription, handler, self.client(proxy.url), max_in_flight=4)
        until(lambda: len(seen) >= 30 and self.lag(subscription) == 0)
        end()
        self.in_order(seen)
        self.assertEqual(len(seen), 30)
        self.assertGreaterEqual(proxy.lost, 2)
        self.assertEqual(len(self.headwater.transport.send(list_parked._get_kwargs(subscription))["parked"]), 1)
        proxy.listener.close()

    def test_what_a_handler_raises_comes_again_in_order_and_poison_is_put_aside(self) -> None:
        subscription = self.subscription(partitions=1)
        self.fill(subscription, range(5), streams=1)
        seen: list[int] = []

        def handler(message: Message) -> None:
            n = message.data["n"]
            seen.append(n)
            if n == 1 and seen.count(1) < 3:
                raise ValueError("not yet")
            if n == 3:
                raise Park("never")

        end = self.start(subscription, handler)
        until(lambda: 4 in seen and self.lag(subscription) == 0)
        end()
        self.assertEqual(seen, [0, 1, 1, 1, 2, 3, 4])
        parked = self.headwater.transport.send(list_parked._get_kwargs(subscription))["parked"]
        self.assertEqual([(one["message"]["data"]["n"], one["reason"]) for one in parked], [(3, "never")])

    def test_parked_messages_that_are_replayed_are_acked_each_by_itself(self) -> None:
        subscription = self.subscription(partitions=1, ack_timeout="2s")
        self.fill(subscription, range(8), streams=1)
        seen: list[int] = []
        mended = threading.Event()

        def handler(message: Message) -> None:
            if not mended.is_set() and message.data["n"] < 5:
                raise Park("not yet")
            seen.append(message.data["n"])

        end = self.start(subscription, handler)
        until(lambda: len(seen) == 3 and self.lag(subscription) == 0)
        mended.set()
        replay = replay_parked._get_kwargs(subscription, body=ReplayRequest(all_=True))
        self.assertEqual(self.headwater.transport.send(replay)["replayed"], 5)
        until(lambda: len(seen) >= 8 and self.lag(subscription) == 0)
        end()
        self.assertEqual(sorted(seen), list(range(8)))
        self.assertEqual(self.headwater.transport.send(list_parked._get_kwargs(subscription))["parked"], [])

    def test_a_partition_that_was_taken_is_given_up_and_not_acked(self) -> None:
        subscription = self.subscription(partitions=2)
        self.fill(subscription, range(4), streams=1)
        seen: list[int] = []
        at_once = 0
        most = 0
        begun, elsewhere, go_on = threading.Event(), threading.Event(), threading.Event()

        def handler(message: Message) -> None:
            nonlocal at_once, most
            if not message.stream_name.endswith("-0"):
                elsewhere.set()
                return
            at_once += 1
            most = max(most, at_once)
            seen.append(message.data["n"])
            if len(seen) == 2:
                begun.set()
                go_on.wait(WAIT)
            at_once -= 1

        end = self.start(subscription, handler)
        self.assertTrue(begun.wait(WAIT))
        until(lambda: self.lag(subscription) == 3)
        # The partition is taken back while its second message is being handled.
        self.headwater.transport.send(seek_subscription._get_kwargs(subscription, body=SeekRequest(to="beginning")))
        self.assertEqual(self.lag(subscription), 4)
        # What comes of the other partition afterwards shows that the consumer has been told.
        for n in range(1, 9):
            self.headwater.append(f"{subscription}-{n}", [counted(n)])
        self.assertTrue(elsewhere.wait(WAIT))
        go_on.set()
        until(lambda: seen[-1] == 3 and self.lag(subscription) == 0)
        end()
        self.assertEqual((seen, most), ([0, 1, 0, 1, 2, 3], 1))

    def test_what_is_being_handled_when_a_partition_goes_to_another_consumer_is_acked_and_comes_once(self) -> None:
        # Time enough to ack: a consumer that is too late may see a message again.
        service = Service("--subscription-revoke-grace", "10s")
        self.addCleanup(service.remove)
        self.headwater = self.client(service.url)
        subscription = self.subscription(partitions=2)
        self.fill(subscription, range(16), streams=16)
        seen: list[int] = []
        go_on = threading.Event()

        def handler(message: Message) -> None:
            seen.append(message.data["n"])
            go_on.wait(WAIT)

        one = self.start(subscription, handler, self.client(service.url))
        # One of each partition.
        until(lambda: len(seen) == 2)
        two = self.start(subscription, lambda message: seen.append(message.data["n"]), self.client(service.url))
        until(lambda: len(self.consumers(subscription)) == 2)
        # The first one is told meanwhile that a partition goes.
        time.sleep(1)
        go_on.set()
        until(lambda: self.lag(subscription) == 0)
        one()
        two()
        self.assertEqual(sorted(seen), list(range(16)))

    def test_no_more_handlers_run_at_once_than_may(self) -> None:
        subscription = self.subscription(SubscriptionMode.COMPETING)
        self.fill(subscription, range(40))
        lock, all_of_them = threading.Lock(), threading.Barrier(4)
        running = most = 0
        seen: list[int] = []

        def handler(message: Message) -> None:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            # Only four at once get past here.
            all_of_them.wait(WAIT)
            with lock:
                running -= 1
                seen.append(message.data["n"])

        end = self.start(subscription, handler, max_in_flight=4)
        until(lambda: self.lag(subscription) == 0 and len(seen) == 40)
        end()
        self.assertEqual((sorted(seen), most), (list(range(40)), 4))

    def test_a_subscription_that_is_unknown_is_told(self) -> None:
        with self.assertRaises(Refused) as caught:
            self.headwater.consume("unknown", lambda _: None)
        self.assertEqual(caught.exception.type, "/problems/not-found")


class Credentials(unittest.TestCase):
    def test_a_credential_that_ends_is_renewed_and_nothing_is_lost(self) -> None:
        service = Service("--credentials", "required")
        try:
            admin = Headwater(service.url, service.key("admin"))
            self.addCleanup(admin.close)
            made = 0

            def credential() -> str:
                nonlocal made
                made += 1
                body = ApiKeyRequest(name="short", scopes=["read:*", "append:*", "subscribe:*"], expires_in="2s")
                return str(admin.transport.send(create_api_key._get_kwargs(body=body))["key"])

            headwater = Headwater(service.url, credential)
            self.addCleanup(headwater.close)
            source = SubscriptionSource(category="order")
            headwater.subscribe("orders", SubscriptionDefinition(source=source, from_="beginning"))
            consumed: list[int] = []
            stop = threading.Event()
            thread = threading.Thread(
                target=lambda: headwater.consume("orders", lambda message: consumed.append(message.data["n"]), stop=stop)
            )
            thread.start()
            followed = []
            written = 0
            for event in headwater.follow(category="order", from_="beginning"):
                if event.name == "message":
                    followed.append(event.message.data["n"])
                    if made > 3:
                        break
                headwater.append("order-1", [counted(written)])
                written += 1
            # A message may come twice, where the credential has ended between it and its ack.
            until(lambda: len(set(consumed)) >= len(followed))
            stop.set()
            thread.join(WAIT)
            self.assertEqual(followed, list(range(len(followed))))
            self.assertEqual(sorted(set(consumed))[: len(followed)], followed)
            with self.assertRaises(Refused) as caught, Headwater(service.url, "hw_wrong") as wrong:
                wrong.append("order-1", [counted(0)])
            self.assertEqual(caught.exception.type, "/problems/unauthenticated")
        finally:
            service.remove()


if __name__ == "__main__":
    unittest.main()
