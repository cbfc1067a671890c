"""The Python client that openapi-python-client generates, against a running service."""

import json
import os
import unittest
import uuid
from collections.abc import Iterator
from http import HTTPStatus

from headwater_client import AuthenticatedClient
from headwater_client.api.aggregate import define_aggregated_stream, read_aggregated_stream, read_partition
from headwater_client.api.append import append_messages, append_to_streams
from headwater_client.api.follow import follow_stream
from headwater_client.api.read import read_category, read_stream
from headwater_client.api.subscribe import ack_messages, change_subscription, create_subscription, fetch_messages
from headwater_client.models import (
    AckRequest,
    AckResult,
    AggregatedStream,
    AggregatedStreamDefinition,
    AppendCondition,
    AppendRequest,
    AppendResult,
    AppendsRequest,
    AppendsResult,
    CaughtUpEventLine,
    DeliveryPlace,
    Direction,
    FetchRequest,
    FetchResult,
    HashedName,
    HashPartitioner,
    MessageEventLine,
    NewMessage,
    Page,
    PartitionPage,
    Problem,
    ProblemType,
    StreamAppend,
    StreamPage,
    Subscription,
    SubscriptionDefinition,
    SubscriptionMode,
    SubscriptionSettings,
    SubscriptionSource,
)
from headwater_client.types import UNSET

CLIENT = AuthenticatedClient(base_url=os.environ["HEADWATER_URL"], token=os.environ["HEADWATER_KEY"])


# None of these is what a subscription has unless it is given.
SETTINGS = {
    "ack": "auto",
    "ack_timeout": "20s",
    "consumer_timeout": "20s",
    "max_in_flight": 7,
    "max_deliveries": 9,
    "backoff": ["3s"],
    "on_exhausted": "skip",
}


def a_stream() -> str:
    return f"account-{uuid.uuid4()}"


def deposited(*amounts: int) -> AppendRequest:
    return AppendRequest(messages=[NewMessage(type_="Deposited", data={"amount": amount}) for amount in amounts])


def events(stream_name: str, last_event_id: str | None = None) -> Iterator[MessageEventLine | CaughtUpEventLine]:
    """Follows a stream by lines of JSON; the generated request says all but how to read them one by one."""
    request = follow_stream._get_kwargs(stream_name, from_="beginning", last_event_id=last_event_id or UNSET)
    request["headers"] = {"Accept": "application/x-ndjson"}
    with CLIENT.get_httpx_client().stream(**request, timeout=None) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            event = json.loads(line)
            if event["event"] == "message":
                yield MessageEventLine.from_dict(event)
            elif event["event"] == "caught-up":
                yield CaughtUpEventLine.from_dict(event)


class GeneratedClient(unittest.TestCase):
    def test_appends_to_several_streams_under_conditions(self) -> None:
        left, right = a_stream(), a_stream()
        appends = [StreamAppend(stream_name=name, messages=deposited(1).messages) for name in (left, right)]
        body = AppendsRequest(appends=appends, conditions=[AppendCondition(stream_name=left, version=-1)])
        appended = append_to_streams.sync(client=CLIENT, body=body)
        assert isinstance(appended, AppendsResult)
        self.assertEqual([append.version for append in appended.appends], [0, 0])
        problem = append_to_streams.sync(client=CLIENT, body=body)
        assert isinstance(problem, Problem)
        self.assertEqual((problem.type_, problem.condition), (ProblemType.CONDITION_FAILED, 0))

    def test_appends_and_reads(self) -> None:
        stream_name = a_stream()
        appended = append_messages.sync(stream_name, client=CLIENT, body=deposited(5, 7))
        assert isinstance(appended, AppendResult)
        self.assertEqual((appended.version, appended.duplicate), (1, False))
        page = read_stream.sync(stream_name, client=CLIENT, types=["Deposited"], direction=Direction.BACKWARD)
        assert isinstance(page, StreamPage)
        self.assertEqual([message.data["amount"] for message in page.messages], [7, 5])
        self.assertEqual([message.id for message in page.messages], [message.id for message in appended.messages][::-1])
        self.assertEqual((page.version, page.next_), (1, None))
        category = read_category.sync("account", client=CLIENT, filter_="data.amount > 6")
        assert isinstance(category, Page)
        self.assertIn(stream_name, [message.stream_name for message in category.messages])

    def test_a_conflict_is_a_typed_problem(self) -> None:
        stream_name = a_stream()
        append_messages.sync(stream_name, client=CLIENT, body=deposited(5))
        again = deposited(1)
        again.expected_version = -1
        answer = append_messages.sync_detailed(stream_name, client=CLIENT, body=again)
        self.assertEqual(answer.status_code, HTTPStatus.CONFLICT)
        problem = answer.parsed
        assert isinstance(problem, Problem)
        self.assertEqual(problem.type_, ProblemType.WRONG_EXPECTED_VERSION)
        assert isinstance(problem.current_version, int)
        again.expected_version = problem.current_version
        retried = append_messages.sync(stream_name, client=CLIENT, body=again)
        assert isinstance(retried, AppendResult)
        self.assertEqual(retried.version, 1)

    def test_what_breaks_a_rule_is_told_field_by_field(self) -> None:
        problem = read_category.sync("account", client=CLIENT, filter_="data.amount >")
        assert isinstance(problem, Problem)
        self.assertEqual(problem.type_, ProblemType.INVALID)
        assert isinstance(problem.errors, list)
        self.assertEqual([error.field for error in problem.errors], ["filter"])

    def test_divides_messages_among_partitions(self) -> None:
        category = f"divided{uuid.uuid4().hex}"
        appended = append_messages.sync(f"{category}-1", client=CLIENT, body=deposited(5, 7))
        assert isinstance(appended, AppendResult)
        partitioner = HashPartitioner(kind=HashedName.CARDINAL_ID, partitions=4)
        body = AggregatedStreamDefinition(categories=[category], partitioner=partitioner)
        defined = define_aggregated_stream.sync(category, client=CLIENT, body=body)
        assert isinstance(defined, AggregatedStream)
        self.assertEqual(defined.definition.partitioner, partitioner)
        last = appended.messages[-1].global_position
        stream = read_aggregated_stream.sync(category, client=CLIENT, min_position=last, wait="30s")
        assert isinstance(stream, AggregatedStream) and isinstance(stream.status.partitions, list)
        [partition] = stream.status.partitions
        page = read_partition.sync(category, partition.partition, client=CLIENT)
        assert isinstance(page, PartitionPage)
        self.assertEqual([(one.position, one.message.data["amount"]) for one in page.messages], [(0, 5), (1, 7)])

    def test_shares_the_messages_of_a_subscription(self) -> None:
        category = f"shared{uuid.uuid4().hex}"
        append_messages.sync(f"{category}-1", client=CLIENT, body=deposited(5, 7))
        definition = SubscriptionDefinition(
            source=SubscriptionSource(category=category), from_="beginning", mode=SubscriptionMode.COMPETING
        )
        made = create_subscription.sync(category, client=CLIENT, body=definition)
        assert isinstance(made, Subscription)
        fetched = fetch_messages.sync(category, client=CLIENT, body=FetchRequest(consumer="w1", wait="30s"))
        assert isinstance(fetched, FetchResult)
        self.assertEqual([one.message.data["amount"] for one in fetched.messages], [5, 7])
        places = [DeliveryPlace(one.position, one.epoch, partition=one.partition) for one in fetched.messages]
        acked = ack_messages.sync(category, client=CLIENT, body=AckRequest(consumer="w1", acks=places))
        assert isinstance(acked, AckResult)
        self.assertEqual((acked.acked, acked.fenced, acked.missing), (2, 0, 0))

    def test_changes_what_is_given_of_a_subscription_and_nothing_else(self) -> None:
        name = f"changed{uuid.uuid4().hex}"
        definition = SubscriptionDefinition.from_dict({"source": {"all": True}, **SETTINGS})
        create_subscription.sync(name, client=CLIENT, body=definition)
        changed = change_subscription.sync(name, client=CLIENT, body=SubscriptionSettings(consumer_timeout="30s"))
        assert isinstance(changed, Subscription)
        after = changed.definition.to_dict()
        self.assertEqual({key: after[key] for key in SETTINGS}, {**SETTINGS, "consumer_timeout": "30s"})

    def test_follows_by_lines_and_goes_on_where_it_stopped(self) -> None:
        stream_name = a_stream()
        append_messages.sync(stream_name, client=CLIENT, body=deposited(1, 2))
        amounts = []
        cursor = None
        for event in events(stream_name):
            if isinstance(event, CaughtUpEventLine):
                # History is over, so this one comes live.
                append_messages.sync(stream_name, client=CLIENT, body=deposited(3, 4))
                continue
            amounts.append(event.data.data["amount"])
            cursor = event.id
            if len(amounts) == 3:
                break
        self.assertEqual(amounts, [1, 2, 3])
        event = next(events(stream_name, last_event_id=cursor))
        assert isinstance(event, MessageEventLine)
        self.assertEqual(event.data.data["amount"], 4)


if __name__ == "__main__":
    unittest.main()
