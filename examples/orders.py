#!/usr/bin/env python3
"""Event-sourced orders: load, decide, append; on a conflict, the client loads and decides again.

With the client installed (clients/python):

    ./examples/orders.py place 1 Tea 2
    ./examples/orders.py pack 1              or: cancel 1
    ./examples/orders.py ship 1
    ./examples/orders.py show 1

The order board shows these orders, too. HEADWATER_URL says where the service is; http://127.0.0.1:8080 unless it is set.
HEADWATER_KEY is an API key, if one is required: with the scopes read:order-* and append:order-*.
"""

import os
import sys
from collections.abc import Sequence

from headwater import Headwater, HeadwaterError, Message, NewMessage

STATES = {"OrderPlaced": "placed", "OrderPacked": "packed", "OrderShipped": "shipped", "OrderCancelled": "cancelled"}
# What each step appends, and the state in which an order may take it.
STEPS = {"pack": ("OrderPacked", "placed"), "cancel": ("OrderCancelled", "placed"), "ship": ("OrderShipped", "packed")}


def state(history: Sequence[Message]) -> str:
    return next((STATES[event.type_] for event in reversed(history) if event.type_ in STATES), "not there")


def placed(history: Sequence[Message], item: str, quantity: int) -> list[NewMessage]:
    if history:
        raise SystemExit(f"refused: the order is {state(history)}")
    if quantity < 1:
        raise SystemExit("refused: the quantity must be 1 or more")
    return [NewMessage("OrderPlaced", data={"item": item, "quantity": quantity})]


def moved(history: Sequence[Message], step: str) -> list[NewMessage]:
    type_, needed = STEPS[step]
    if state(history) != needed:
        raise SystemExit(f"refused: the order is {state(history)}")
    return [NewMessage(type_)]


def main(service: Headwater, arguments: list[str]) -> None:
    match arguments:
        case ["place", number, item, quantity]:
            service.change(f"order-{number}", lambda history: placed(history, item, int(quantity)))
        case [step, number] if step in STEPS:
            service.change(f"order-{number}", lambda history: moved(history, step))
        case ["show", number]:
            pass
        case _:
            raise SystemExit(__doc__)
    history, _ = service.read(f"order-{number}")
    if not history:
        raise SystemExit("refused: the order is not there")
    print(f"{history[0].data['quantity']} × {history[0].data['item']}, {state(history)}")


if __name__ == "__main__":
    try:
        main(Headwater(os.environ.get("HEADWATER_URL", "http://127.0.0.1:8080"), os.environ.get("HEADWATER_KEY")), sys.argv[1:])
    except HeadwaterError as error:
        raise SystemExit(str(error)) from None
