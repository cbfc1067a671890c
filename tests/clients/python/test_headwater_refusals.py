"""The Python client's consumer when handlers fail, and when it is stopped while they run."""

import threading
import time
import unittest
import unittest.mock

from headwater import Message, Park
from headwater.generated.api.subscribe import change_subscription, list_parked, replay_parked
from headwater.generated.models import AckMode, ReplayRequest, SubscriptionSettings
from headwater_support import WAIT, Consuming, LosingProxy, until

# Less than any `ack_timeout` here: what has to wait for that is too late.
PROMPTLY = 10.0


class Wordless(Exception):
    def __repr__(self) -> str:
        raise RuntimeError("an exception that cannot say what it is")


class Halved(Exception):
    def __repr__(self) -> str:
        return "half of a character: \ud83d"


class Refusals(Consuming):
    def parked(self, subscription: str) -> list[tuple[int, str]]:
        found = self.headwater.transport.send(list_parked._get_kwargs(subscription))["parked"]
        return [(one["message"]["data"]["n"], one["reason"]) for one in found]

    def replay(self, subscription: str) -> None:
        request = replay_parked._get_kwargs(subscription, body=ReplayRequest(all_=True))
        self.assertGreater(self.headwater.transport.send(request)["replayed"], 0)

    def change(self, subscription: str, settings: SubscriptionSettings) -> None:
        self.headwater.transport.send(change_subscription._get_kwargs(subscription, body=settings))

    def test_what_fails_is_passed_over_where_messages_are_acked_as_they_are_delivered(self) -> None:
        subscription = self.subscription(partitions=1, ack=AckMode.AUTO)
        self.fill(subscription, range(5), streams=1)
        seen: list[int] = []

        def handler(message: Message) -> None:
            seen.append(message.data["n"])
            if message.data["n"] in (1, 6):
                raise ValueError("never")

        end = self.start(subscription, handler)
        until(lambda: 4 in seen, PROMPTLY)
        self.fill(subscription, range(5, 10), streams=1)
        until(lambda: 9 in seen, PROMPTLY)
        end()
        self.assertEqual(seen, list(range(10)))

    def fail_after_change(self, before: int, after: int, failures: int) -> list[int]:
        """What is handled if 1 fails so often, after `max_deliveries` was changed while 0 was being handled."""
        subscription = self.subscription(partitions=1, max_deliveries=before)
        self.fill(subscription, range(7), streams=1)
        seen: list[int] = []
        begun, go_on = threading.Event(), threading.Event()

        def handler(message: Message) -> None:
            n = message.data["n"]
            seen.append(n)
            if n == 0:
                begun.set()
                go_on.wait(WAIT)
            if n == 1 and seen.count(1) <= failures:
                raise ValueError("not yet")

        end = self.start(subscription, handler)
        self.assertTrue(begun.wait(WAIT))
        self.change(subscription, SubscriptionSettings(max_deliveries=after))
        go_on.set()
        until(lambda: 6 in seen and self.lag(subscription) == 0, PROMPTLY)
        end()
        return seen

    def test_deliveries_that_become_fewer_while_it_consumes_lose_nothing(self) -> None:
        self.assertEqual(self.fail_after_change(before=5, after=1, failures=1), list(range(7)))

    def test_deliveries_that_become_more_while_it_consumes_keep_the_order(self) -> None:
        self.assertEqual(self.fail_after_change(before=1, after=3, failures=2), [0, 1, 1, 1, 2, 3, 4, 5, 6])

    def test_acks_that_become_needless_after_a_failure_are_not_waited_for(self) -> None:
        subscription = self.subscription(partitions=1, max_deliveries=1)
        self.fill(subscription, range(1), streams=1)
        seen: list[int] = []

        def handler(message: Message) -> None:
            seen.append(message.data["n"])
            if message.data["n"] == 0:
                raise ValueError("never")

        end = self.start(subscription, handler)
        until(lambda: self.parked(subscription))
        self.change(subscription, SubscriptionSettings(ack=AckMode.AUTO))
        self.fill(subscription, range(1, 4), streams=1)
        until(lambda: 3 in seen, PROMPTLY)
        end()
        self.assertEqual(seen, list(range(4)))

    def test_a_replayed_message_that_fails_again_holds_up_nobody(self) -> None:
        subscription = self.subscription(partitions=1, backoff=["1s"])
        self.fill(subscription, range(3), streams=1)
        seen: list[int] = []
        begun, go_on = threading.Event(), threading.Event()

        def handler(message: Message) -> None:
            n = message.data["n"]
            seen.append(n)
            if n == 0 and seen.count(0) == 1:
                raise Park("not yet")
            if n == 0 and seen.count(0) == 2:
                begun.set()
                go_on.wait(WAIT)
                raise ValueError("not yet")

        end = self.start(subscription, handler)
        until(lambda: 2 in seen and self.lag(subscription) == 0)
        self.replay(subscription)
        self.assertTrue(begun.wait(WAIT))
        self.fill(subscription, range(3, 8), streams=1)
        go_on.set()
        failed = time.monotonic()
        until(lambda: 7 in seen, PROMPTLY)
        self.assertLess(time.monotonic() - failed, 1)
        until(lambda: seen.count(0) == 3 and self.lag(subscription) == 0, PROMPTLY)
        end()
        self.assertEqual(seen, [0, 1, 2, 0, 3, 4, 5, 6, 7, 0])
        self.assertEqual(self.parked(subscription), [])

    def test_a_nack_of_a_replayed_message_whose_answer_is_lost_does_not_end_the_partition(self) -> None:
        subscription = self.subscription(partitions=1)
        self.fill(subscription, range(2), streams=1)
        seen: list[int] = []

        def handler(message: Message) -> None:
            n = message.data["n"]
            seen.append(n)
            if n == 0 and seen.count(0) == 1:
                raise Park("not yet")
            if n == 0 and seen.count(0) < 6:
                raise ValueError("not yet")

        proxy = LosingProxy(self.service.url)
        end = self.start(subscription, handler, self.client(proxy.url))
        until(lambda: 1 in seen and self.lag(subscription) == 0)
        self.change(subscription, SubscriptionSettings(max_deliveries=10))
        self.replay(subscription)
        until(lambda: seen.count(0) >= 6 and self.lag(subscription) == 0, PROMPTLY)
        self.fill(subscription, range(2, 5), streams=1)
        until(lambda: 4 in seen and self.lag(subscription) == 0, PROMPTLY)
        end()
        proxy.listener.close()

    def test_a_retry_whose_answer_is_lost_keeps_the_order(self) -> None:
        subscription = self.subscription(partitions=1, backoff=["1s"])
        self.fill(subscription, range(6), streams=1)
        seen: list[int] = []

        def handler(message: Message) -> None:
            n = message.data["n"]
            seen.append(n)
            if n in (0, 3) and seen.count(n) == 1:
                raise ValueError("not yet")

        proxy = LosingProxy(self.service.url)
        end = self.start(subscription, handler, self.client(proxy.url))
        until(lambda: 5 in seen and self.lag(subscription) == 0)
        end()
        self.assertEqual(seen, [0, 0, 1, 2, 3, 3, 4, 5])
        proxy.listener.close()

    def test_whatever_an_exception_says_the_consumer_goes_on(self) -> None:
        subscription = self.subscription(partitions=1, max_deliveries=1)
        self.fill(subscription, range(5), streams=1)
        failures = [Park("a\0b"), Park("c\udc80d"), Wordless(), Halved()]

        def handler(message: Message) -> None:
            if message.data["n"] < 4:
                raise failures[message.data["n"]]

        end = self.start(subscription, handler)
        until(lambda: self.lag(subscription) == 0, PROMPTLY)
        end()
        reasons = [(0, "a\ufffdb"), (1, "c?d"), (2, "Wordless"), (3, "half of a character: ?")]
        self.assertEqual(self.parked(subscription), reasons)

    def test_a_reason_that_the_service_refuses_is_left_out(self) -> None:
        subscription = self.subscription(partitions=1)
        self.fill(subscription, range(2), streams=1)

        def handler(message: Message) -> None:
            if message.data["n"] == 0:
                raise Park("x" * 20_000)

        with unittest.mock.patch("headwater.consuming.REASON_MAX", 20_000):
            end = self.start(subscription, handler)
            until(lambda: self.lag(subscription) == 0, PROMPTLY)
            end()
        self.assertEqual([n for n, _ in self.parked(subscription)], [0])

    def test_what_is_being_handled_when_it_is_stopped_is_finished_before_it_leaves(self) -> None:
        subscription = self.subscription(partitions=1)
        self.fill(subscription, range(4), streams=1)
        first: list[int] = []
        second: list[int] = []
        begun, go_on = threading.Event(), threading.Event()

        def handler(message: Message) -> None:
            first.append(message.data["n"])
            begun.set()
            go_on.wait(WAIT)

        one = self.start(subscription, handler)
        self.assertTrue(begun.wait(WAIT))
        two = self.start(subscription, lambda message: second.append(message.data["n"]))
        until(lambda: len(self.consumers(subscription)) == 2)
        stopping = threading.Thread(target=one)
        stopping.start()
        # In less the other one would have the messages, if the event stream had ended.
        time.sleep(5)
        self.assertEqual((len(self.consumers(subscription)), second), (2, []))
        go_on.set()
        stopping.join()
        self.assertEqual(len(self.consumers(subscription)), 1)
        until(lambda: self.lag(subscription) == 0)
        two()
        self.assertEqual((first, second), ([0], [1, 2, 3]))


if __name__ == "__main__":
    unittest.main()
