"""What a worker tells of the tasks that it has, on either loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from ironflow.broker.local import LocalServer
from ironflow.broker.protocol import Request
from ironflow.codec import decode_record, encode_record
from ironflow.messages import AskForClaims, Claims
from ironflow.names import Names
from ironflow_worker.presence import Presence

NAMES = Names("test")
Loop = Callable[[], asyncio.AbstractEventLoop]


@dataclass
class Delivered:
    """A task that this worker got."""

    sequence: int
    subject: str = "test.tasks.q.r.0"
    payload: bytes = b""
    time_ms: int = 0
    delivered: int = 1
    lease: str = "lease"

    def ack(self) -> None:
        """Be done with it."""

    def nak(self, delay_seconds: float = 0.0) -> None:
        """Give it back."""


def uvloops() -> asyncio.AbstractEventLoop:
    uvloop = pytest.importorskip("uvloop")
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


async def turns() -> None:
    """Let the loop do what it has to, but for what waits for a time."""
    for _ in range(10):
        await asyncio.sleep(0)


async def heard_of_a_task_behind_one_that_ended() -> list[Claims]:
    broker = LocalServer().connect()
    heard: list[Claims] = []

    async def hear(request: Request) -> None:
        heard.append(decode_record(Claims, request.payload))

    await broker.listen(NAMES.every_claim, hear)
    presence = Presence(broker, NAMES, "w")
    with presence.holds("q", Delivered(sequence=1)):
        await turns()
    with presence.holds("q", Delivered(sequence=2)):
        await turns()
    await broker.close()
    return heard


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloops], ids=["asyncio", "uvloop"])
def test_that_a_task_was_taken_is_told_at_once_also_while_the_end_of_another_waits_to_be(loop: Loop) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        heard = runner.run(heard_of_a_task_behind_one_that_ended())
    assert [([claim.task for claim in news.begun], news.ended) for news in heard] == [([1], ()), ([2], (1,))]


@pytest.mark.virtual_time
async def test_tasks_that_do_not_fit_into_one_hint_are_told_of_in_several() -> None:
    broker = LocalServer(max_payload=200_000).connect()
    heard: list[Claims] = []

    async def hear(request: Request) -> None:
        heard.append(decode_record(Claims, request.payload))

    await broker.listen(NAMES.every_claim, hear)
    presence = Presence(broker, NAMES, "w")
    with contextlib.ExitStack() as held:
        for sequence in range(1, 3_001):
            held.enter_context(presence.holds("q", Delivered(sequence, lease="$JS.ACK." + "x" * 100)))
        await turns()
    await asyncio.sleep(1)
    assert [claim.task for news in heard for claim in news.begun] == list(range(1, 3_001))
    assert sorted(task for news in heard for task in news.ended) == list(range(1, 3_001))
    assert len(heard) > 2
    await broker.close()


@pytest.mark.virtual_time
async def test_a_worker_answers_with_all_that_it_has_also_where_that_is_nothing() -> None:
    server = LocalServer()
    broker, engine = server.connect(), server.connect()
    heard: list[tuple[str, list[int], bool]] = []

    async def hear(request: Request) -> None:
        told = decode_record(Claims, request.payload)
        heard.append((request.subject.rpartition(".")[2], [claim.task for claim in told.begun], told.anew))

    async def answers(*asked: bytes) -> list[tuple[str, list[int], bool]]:
        heard.clear()
        for payload in asked:
            engine.notify(NAMES.ask_for_claims, payload)
        await asyncio.sleep(1)
        return list(heard)

    await engine.listen(NAMES.every_claim, hear)
    presence = Presence(broker, NAMES, "w")
    await presence.start()
    everybody = encode_record(AskForClaims())
    assert await answers(everybody) == []
    with presence.holds("q", Delivered(sequence=1)), presence.holds("p", Delivered(sequence=2)):
        await asyncio.sleep(1)
        assert await answers(everybody) == [("p", [2], True), ("q", [1], True)]
    await asyncio.sleep(1)
    for asked in (b"", b"[", everybody, encode_record(AskForClaims(workers=("v", "w")))):
        assert await answers(asked) == [("p", [], True), ("q", [], True)]
    assert await answers(encode_record(AskForClaims(workers=("v",)))) == []
    assert await answers(everybody, everybody) == [("p", [], True), ("q", [], True)]
    await presence.stop()
    await broker.close()
    await engine.close()
