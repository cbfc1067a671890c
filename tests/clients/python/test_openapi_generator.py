"""The Python client that openapi-generator generates, against a running service."""

import os
import unittest
import uuid
from collections.abc import Iterator

from headwater_api import AggregateApi, ApiClient, AppendApi, Configuration, FollowApi, ReadApi, SubscribeApi
from headwater_api.exceptions import ApiException, ConflictException, UnprocessableEntityException
from headwater_api.models import (
    AckRequest,
    AggregatedStreamDefinition,
    AppendCondition,
    AppendRequest,
    AppendsRequest,
    CaughtUpEventLine,
    CelPartitioner,
    DeliveryPlace,
    Direction,
    EventLine,
    FetchRequest,
    Message,
    MessageEventLine,
    NewMessage,
    Partitioner,
    Problem,
    ProblemType,
    StreamAppend,
    SubscriptionDefinition,
    SubscriptionSettings,
)

CLIENT = ApiClient(Configuration(host=os.environ["HEADWATER_URL"], access_token=os.environ["HEADWATER_KEY"]))


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


def deposited(*amounts: int, expected_version: int | None = None) -> AppendRequest:
    messages = [NewMessage(type="Deposited", data={"amount": amount}) for amount in amounts]
    return AppendRequest(messages=messages, expected_version=expected_version)


def amount(message: Message) -> int:
    assert isinstance(message.data, dict)
    return int(message.data["amount"])


def problem_of(error: ApiException) -> Problem:
    assert isinstance(error.data, Problem)
    return error.data


def events(stream_name: str, last_event_id: str | None = None) -> Iterator[MessageEventLine | CaughtUpEventLine]:
    """Follows a stream by lines of JSON: the call "without preload content" hands them out as they come."""
    response = FollowApi(CLIENT).follow_stream_without_preload_content(
        stream_name,
        var_from="beginning",
        last_event_id=last_event_id,
        _headers={"Accept": "application/x-ndjson"},
    )
    try:
        for line in response:
            event = EventLine.from_json(line.decode()).actual_instance
            if isinstance(event, MessageEventLine | CaughtUpEventLine):
                yield event
    finally:
        response.close()


class GeneratedClient(unittest.TestCase):
    def test_appends_and_reads(self) -> None:
        stream_name = a_stream()
        appended = AppendApi(CLIENT).append_messages(stream_name, deposited(5, 7, expected_version=-1))
        self.assertEqual((appended.version, appended.duplicate), (1, False))
        page = ReadApi(CLIENT).read_stream(stream_name, types=["Deposited"], direction=Direction.BACKWARD)
        self.assertEqual([amount(message) for message in page.messages], [7, 5])
        self.assertEqual((page.version, page.next), (1, None))
        self.assertEqual(page.messages[0].time, appended.messages[1].time)

    def test_appends_to_several_streams_under_conditions(self) -> None:
        left, right = a_stream(), a_stream()
        appends = [StreamAppend(stream_name=name, messages=deposited(1).messages) for name in (left, right)]
        body = AppendsRequest(appends=appends, conditions=[AppendCondition(stream_name=left, version=-1)])
        appended = AppendApi(CLIENT).append_to_streams(body)
        self.assertEqual([append.version for append in appended.appends], [0, 0])
        with self.assertRaises(ConflictException) as raised:
            AppendApi(CLIENT).append_to_streams(body)
        problem = problem_of(raised.exception)
        self.assertEqual((problem.type, problem.condition), (ProblemType.CONDITION_FAILED, 0))

    def test_a_conflict_is_a_typed_problem(self) -> None:
        stream_name = a_stream()
        append = AppendApi(CLIENT)
        append.append_messages(stream_name, deposited(5))
        with self.assertRaises(ConflictException) as raised:
            append.append_messages(stream_name, deposited(1, expected_version=-1))
        problem = problem_of(raised.exception)
        self.assertEqual(problem.type, ProblemType.WRONG_EXPECTED_VERSION)
        retried = append.append_messages(stream_name, deposited(1, expected_version=problem.current_version))
        self.assertEqual(retried.version, 1)

    def test_what_breaks_a_rule_is_told_field_by_field(self) -> None:
        with self.assertRaises(UnprocessableEntityException) as raised:
            ReadApi(CLIENT).read_category("account", filter="data.amount >")
        problem = problem_of(raised.exception)
        self.assertEqual(problem.type, ProblemType.INVALID)
        self.assertEqual([error.var_field for error in problem.errors or []], ["filter"])

    def test_divides_messages_among_partitions(self) -> None:
        category = f"divided{uuid.uuid4().hex}"
        appended = AppendApi(CLIENT).append_messages(f"{category}-1", deposited(5, 7))
        partitioner = CelPartitioner(kind="cel", expression="data.amount % 3")
        definition = AggregatedStreamDefinition(categories=[category], partitioner=Partitioner(partitioner))
        aggregate = AggregateApi(CLIENT)
        defined = aggregate.define_aggregated_stream(category, definition)
        self.assertEqual(defined.definition.partitioner.actual_instance, partitioner)
        last = appended.messages[-1].global_position
        stream = aggregate.read_aggregated_stream(category, min_position=last, wait="30s")
        self.assertEqual([one.partition for one in stream.status.partitions or []], [1, 2])
        page = aggregate.read_partition(category, 2)
        self.assertEqual([amount(one.message) for one in page.messages], [5])

    def test_shares_the_messages_of_a_subscription(self) -> None:
        category = f"shared{uuid.uuid4().hex}"
        AppendApi(CLIENT).append_messages(f"{category}-1", deposited(5, 7))
        # `from` is a word of the language, so the field has another name; a dictionary has the one on the wire.
        wish = {"source": {"category": category}, "from": "beginning", "ack_timeout": "20s"}
        definition = SubscriptionDefinition.from_dict(wish)
        assert definition is not None
        subscribe = SubscribeApi(CLIENT)
        made = subscribe.create_subscription(category, definition)
        self.assertEqual(made.definition.ack_timeout, "20s")
        fetched = subscribe.fetch_messages(category, FetchRequest(consumer="w1", wait="30s"))
        self.assertEqual([amount(one.message) for one in fetched.messages], [5, 7])
        last = fetched.messages[-1]
        place = DeliveryPlace(partition=last.partition, position=last.position, epoch=last.epoch)
        acked = subscribe.ack_messages(category, AckRequest(consumer="w1", acks=[place]))
        self.assertEqual((acked.fenced, acked.missing), (0, 0))

    def test_changes_what_is_given_of_a_subscription_and_nothing_else(self) -> None:
        name = f"changed{uuid.uuid4().hex}"
        definition = SubscriptionDefinition.from_dict({"source": {"all": True}, **SETTINGS})
        assert definition is not None
        subscribe = SubscribeApi(CLIENT)
        subscribe.create_subscription(name, definition)
        changed = subscribe.change_subscription(name, SubscriptionSettings(consumer_timeout="30s")).definition.to_dict()
        self.assertEqual({key: changed[key] for key in SETTINGS}, {**SETTINGS, "consumer_timeout": "30s"})

    def test_follows_by_lines_and_goes_on_where_it_stopped(self) -> None:
        stream_name = a_stream()
        AppendApi(CLIENT).append_messages(stream_name, deposited(1, 2))
        amounts = []
        cursor = None
        for event in events(stream_name):
            if isinstance(event, CaughtUpEventLine):
                # History is over, so this one comes live.
                AppendApi(CLIENT).append_messages(stream_name, deposited(3, 4))
                continue
            amounts.append(amount(event.data))
            cursor = event.id
            if len(amounts) == 3:
                break
        self.assertEqual(amounts, [1, 2, 3])
        event = next(events(stream_name, last_event_id=cursor))
        assert isinstance(event, MessageEventLine)
        self.assertEqual(amount(event.data), 4)


if __name__ == "__main__":
    unittest.main()
