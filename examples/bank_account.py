#!/usr/bin/env python3
"""An event-sourced bank account: load, decide, append; on a conflict, load and decide again.

Python's standard library is enough:

    ./examples/bank_account.py open acc1 Ann
    ./examples/bank_account.py deposit acc1 100
    ./examples/bank_account.py withdraw acc1 30
    ./examples/bank_account.py show acc1

HEADWATER_URL says where the service is; http://127.0.0.1:8080 unless it is set. HEADWATER_KEY is an API key, if one is
required: with the scopes read:account-* and append:account-*.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

SERVICE = os.environ.get("HEADWATER_URL", "http://127.0.0.1:8080")
KEY = os.environ.get("HEADWATER_KEY")
ATTEMPTS_MAX = 10
SECONDS_MAX = 10


# What an account is: pure functions, no service in sight.


class Refused(Exception):
    """A rule of the bank says no."""


@dataclass
class Account:
    """An account as its events have made it."""

    owner: str | None = None
    balance: int = 0

    def apply(self, event: dict[str, Any]) -> None:
        match event["type"]:
            case "Opened":
                self.owner = event["data"]["owner"]
            case "Deposited":
                self.balance += event["data"]["amount"]
            case "Withdrawn":
                self.balance -= event["data"]["amount"]


Event = tuple[str, dict[str, Any]]
Decision = Callable[[Account], Event]


def open_account(owner: str) -> Decision:
    def decide(account: Account) -> Event:
        if account.owner is not None:
            raise Refused(f"the account is {account.owner}'s already")
        return "Opened", {"owner": owner}

    return decide


def deposit(amount: int) -> Decision:
    def decide(account: Account) -> Event:
        check(account, amount)
        return "Deposited", {"amount": amount}

    return decide


def withdraw(amount: int) -> Decision:
    def decide(account: Account) -> Event:
        check(account, amount)
        if amount > account.balance:
            raise Refused(f"the balance is {account.balance}")
        return "Withdrawn", {"amount": amount}

    return decide


def check(account: Account, amount: int) -> None:
    if account.owner is None:
        raise Refused("there is no such account")
    if amount < 1:
        raise Refused("the amount must be 1 or more")


# Where it is kept.


class WrongVersion(Exception):
    """Somebody appended since the account was loaded."""


def request(method: str, where: str, body: Any = None) -> Any:
    """Sends a request; again if the service cannot be reached, which is why a message brings its id."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    if KEY:
        headers["Authorization"] = f"Bearer {KEY}"
    call = urllib.request.Request(SERVICE + where, data=data, headers=headers, method=method)
    for attempt in range(ATTEMPTS_MAX):
        try:
            with urllib.request.urlopen(call, timeout=SECONDS_MAX) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            problem = json.load(error)
            if problem["type"] == "/problems/wrong-expected-version":
                raise WrongVersion(problem["detail"]) from None
            if error.code != 503:
                raise SystemExit(f"{problem['title']}: {problem['detail']}") from None
            reason = problem["detail"]
        except OSError as error:
            reason = str(error)
        time.sleep(0.1 * 2**attempt)
    raise SystemExit(f"{SERVICE} does not answer: {reason}")


def path(number: str) -> str:
    return f"/v1/streams/{urllib.parse.quote(f'account-{number}', safe='')}/messages"


def load(number: str) -> tuple[Account, int]:
    """The account and its version: -1 if it has no event yet, so that a new account is no special case."""
    account, position = Account(), 0
    while True:
        page = request("GET", f"{path(number)}?limit=1000&from={position}")
        for event in page["messages"]:
            account.apply(event)
        if page["at_end"]:
            return account, page["version"]
        position = page["next"]


def change(number: str, decide: Decision) -> Account:
    """Loads, decides and appends; loads and decides again if somebody was faster."""
    while True:
        account, version = load(number)
        kind, data = decide(account)
        event = {"id": str(uuid.uuid4()), "type": kind, "data": data}
        try:
            request("POST", path(number), {"expected_version": version, "messages": [event]})
        except WrongVersion:
            continue
        account.apply(event)
        return account


def main(arguments: list[str]) -> None:
    match arguments:
        case ["open", number, owner]:
            account = change(number, open_account(owner))
        case ["deposit", number, amount]:
            account = change(number, deposit(int(amount)))
        case ["withdraw", number, amount]:
            account = change(number, withdraw(int(amount)))
        case ["show", number]:
            account, _ = load(number)
        case _:
            raise SystemExit(__doc__)
    if account.owner is None:
        raise SystemExit("there is no such account")
    print(f"{account.owner}: {account.balance}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Refused as refused:
        raise SystemExit(f"refused: {refused}") from None
