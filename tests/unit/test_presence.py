"""When a worker tells what it has taken, on each kind of event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest

from ironflow.broker.protocol import Broker, Delivery
from ironflow.codec import decode_record
from ironflow.messages import Claims
from ironflow.names import Names
from ironflow_worker.presence import Presence

NAMES = Names("test")


class Heard:
    """As much of a broker as it takes to hear what a worker tells."""

    def __init__(self) -> None:
        self.news: list[Claims] = []

    def notify(self, subject: str, payload: bytes) -> None:
        assert subject == NAMES.claims("orders")
        self.news.append(decode_record(Claims, payload))

    @property
    def begun(self) -> list[int]:
        return [claim.task for news in self.news for claim in news.begun]


class Taken:
    """A delivery."""

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        self.lease = f"lease of {sequence}"


def uvloops() -> Callable[[], asyncio.AbstractEventLoop]:
    made: Callable[[], asyncio.AbstractEventLoop] = pytest.importorskip("uvloop").new_event_loop
    return made


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    factory = uvloops() if request.param == "uvloop" else asyncio.new_event_loop

    def run_there(coroutine: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(coroutine)

    return run_there


def presence(heard: Heard) -> Presence:
    return Presence(cast("Broker", heard), NAMES, "w")


def delivery(sequence: int) -> Delivery:
    return cast("Delivery", Taken(sequence))


async def next_turn() -> None:
    """Let what was planned for the next turn of the loop happen."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def test_a_task_is_told_of_at_once_also_while_the_end_of_another_waits_for_company(
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    heard = Heard()

    async def take_one_after_the_other() -> None:
        told = presence(heard)
        with told.holds("orders", delivery(1)):
            await next_turn()
        with told.holds("orders", delivery(2)):
            await next_turn()
            # Whoever dies now has told what it had.
            assert heard.begun == [1, 2]

    run(take_one_after_the_other())


def test_what_ends_in_the_turn_that_it_began_in_is_not_told_of(
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    heard = Heard()

    async def take_and_end() -> None:
        with presence(heard).holds("orders", delivery(1)):
            pass
        await next_turn()
        assert heard.begun == []

    run(take_and_end())
