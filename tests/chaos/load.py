"""Submits orders at a pace, answers the waits of their runs, and waits until all have ended."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from ironflow.client import Client
from ironflow.errors import IronflowError
from ironflow.names import run_id
from ironflow.records import TERMINAL
from tests.chaos.collector import Collector
from tests.chaos.history import Submitted
from tests.chaos.programs import (
    Child,
    Map,
    Order,
    Parallel,
    Program,
    Publish,
    Saga,
    Sleep,
    Wait,
    Work,
    answer_key,
    harness_waits,
)
from tests.chaos.workflow import ANSWER, FUNCTION, START

TRY_AGAIN_SECONDS = 0.05
LOOK_SECONDS = 0.25


def ten_steps(chance: random.Random) -> Program:
    """Return the program of load W: ten steps of all kinds."""
    return (
        Work("reserve", milliseconds=chance.randrange(2, 40)),
        Sleep("settle", milliseconds=chance.randrange(200, 2_000)),
        Work("charge", milliseconds=chance.randrange(20, 400), failures=chance.randrange(2)),
        Wait("approval"),
        Child("pack", (Work("box", milliseconds=chance.randrange(20, 200)), Work("label"))),
        Parallel(
            "checks",
            (
                (Work("stock"),),
                (Sleep("patience", milliseconds=chance.randrange(200, 600)), Work("late")),
                (Work("fraud", failures=1),),
                (Work("address"), Work("region")),
                (Work("limits", milliseconds=chance.randrange(2, 100)),),
            ),
        ),
        Map("items", 20, (Work("item", milliseconds=chance.randrange(5, 200)),)),
        Publish("tell"),
        Sleep("cool-off", milliseconds=chance.randrange(200, 2_000)),
        _saga(chance),
    )


def _saga(chance: random.Random) -> Saga:
    """Return three steps with undos; of five sagas one fails at its last step."""
    steps = [Work(name, milliseconds=chance.randrange(2, 60)) for name in ("flight", "hotel")]
    last = Work("car", milliseconds=chance.randrange(2, 60), fatal=chance.random() < 0.2)
    return Saga("trip", (*steps, last), undo_failures=chance.randrange(2))


def orders_of(count: int, seed: int) -> list[Order]:
    """Return the orders of load W."""
    chance = random.Random(seed)
    return [
        Order(number, ten_steps(chance), answer_after=round(chance.uniform(0.0, 4.0), 2)) for number in range(count)
    ]


class Load:
    """Orders on their way.

    Args:
        client: a connection that only the server's own faults reach.
        orders: what to submit.
        seconds: over how long to spread the submissions.

    Attributes:
        submitted: what was acknowledged.
        refused: how often each kind of error was raised instead.

    """

    def __init__(self, client: Client, orders: Sequence[Order], seconds: float) -> None:
        self.submitted: list[Submitted] = []
        self.refused: Counter[str] = Counter()
        self._client = client
        self._orders = orders
        self._pause = seconds / max(1, len(orders))

    async def run(self) -> None:
        """Submit everything, and answer every wait; return when all of it is acknowledged."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for index, order in enumerate(self._orders):
                await asyncio.sleep(began + index * self._pause - time.monotonic())
                group.create_task(self._submit(order))

    async def _submit(self, order: Order) -> None:
        event_id = f"order-{order.number}"
        await self._publish(START, order, event_id, order)
        await asyncio.sleep(order.answer_after)
        for wait in harness_waits(order.program):
            key = answer_key(order.number, wait)
            await self._publish(ANSWER, {"key": key}, f"answer-{key}")

    async def _publish(self, event: str, data: object, event_id: str, order: Order | None = None) -> None:
        while True:
            try:
                published = await self._client.publish_record(event, data, id=event_id)
            except IronflowError as error:
                self.refused[type(error).__name__] += 1
                await asyncio.sleep(TRY_AGAIN_SECONDS)
                continue
            run = "" if order is None else run_id(FUNCTION, event_id)
            self.submitted.append(Submitted(event_id, published.sequence, time.time() * 1000, order, run))
            return


async def all_end(
    collector: Collector, submitted: Sequence[Submitted], within: float
) -> tuple[bool, Mapping[str, int]]:
    """Wait until all runs have ended and everything is used up; tell whether that came in time, and what is left.

    What is left is of that moment: timers of waits that an event has ended fire later, and mean nothing.
    """
    wanted = {each.run for each in submitted if each.order is not None}
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        states = await collector.states()
        ended = {run for run, state in states.items() if state.status in TERMINAL}
        leftovers = await collector.leftovers()
        if wanted <= ended and not any(leftovers.values()):
            return True, leftovers
        await asyncio.sleep(LOOK_SECONDS)
    return False, await collector.leftovers()
