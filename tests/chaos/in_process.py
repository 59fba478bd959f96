"""Experiments within this process and on a virtual clock, where every write can be reached in no time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import msgspec

from ironflow import Function
from ironflow.broker.local import Interceptor, LocalServer
from ironflow.broker.protocol import BrokerError
from ironflow.broker.topology import TASK_LEASE_SECONDS
from ironflow.errors import IronflowError
from ironflow.function import forget_functions
from ironflow.names import run_id
from ironflow.records import TERMINAL
from tests.chaos.collector import Collector
from tests.chaos.history import History, Submitted
from tests.chaos.programs import Order, answer_key, harness_waits
from tests.chaos.witness import MemoryWitness
from tests.chaos.workflow import ANSWER, FUNCTION, START, program_functions
from tests.support.inprocess import System, running_system

LONGEST_SECONDS = 60 * 60.0
USED_UP_SECONDS = 60
LOOK_SECONDS = 0.25


class Simulated(msgspec.Struct, frozen=True):
    """What came of it.

    Attributes:
        seconds: from the first event to the end of the last run, by the virtual clock.

    """

    history: History
    seconds: float


async def simulate(
    orders: Sequence[Order],
    trouble: Callable[[System], Interceptor],
    *,
    engines: int = 1,
    workers: int = 1,
    lease: float = TASK_LEASE_SECONDS,
    meanwhile: Callable[[System, Sequence[Submitted]], Awaitable[None]] | None = None,
) -> Simulated:
    """Execute orders in trouble, and return what is stored and witnessed once all have ended.

    Args:
        orders: the load; all of it comes at once.
        trouble: makes what sits between the processes and the server.
        engines: how many there are at first.
        workers: how many there are at first.
        lease: seconds that a worker keeps a task without renewing it.
        meanwhile: what else to do once all is submitted and answered.

    Raises:
        TimeoutError: it does not end.

    """
    server = LocalServer()
    witness = MemoryWitness(lambda: server.clock.now_us() / 1000)
    with _functions(witness) as functions:
        async with running_system(
            *functions, server=server, engines=engines, workers=workers, lease_seconds=lease
        ) as system:
            loop = asyncio.get_running_loop()
            began = loop.time()
            server.interceptor = trouble(system)
            submitted = [each for several in await _submit_all(system, orders) for each in several]
            if meanwhile is not None:
                await meanwhile(system, submitted)
            await _ended(system, {each.run for each in submitted if each.order is not None})
            seconds = loop.time() - began
            server.interceptor = None
            await _used_up(system)
            return Simulated(await _history(system, submitted, witness), seconds)


async def _submit_all(system: System, orders: Sequence[Order]) -> list[list[Submitted]]:
    return await asyncio.gather(*(_submit(system, order) for order in orders))


async def _submit(system: System, order: Order) -> list[Submitted]:
    event_id = f"order-{order.number}"
    sequence = await _publish(system, START, order, event_id)
    submitted = [Submitted(event_id, sequence, system.now_ms(), order, run_id(FUNCTION, event_id))]
    await asyncio.sleep(order.answer_after)
    for wait in harness_waits(order.program):
        key = answer_key(order.number, wait)
        sequence = await _publish(system, ANSWER, {"key": key}, f"answer-{key}")
        submitted.append(Submitted(f"answer-{key}", sequence, system.now_ms()))
    return submitted


async def _publish(system: System, event: str, data: object, event_id: str) -> int:
    """Publish until it is acknowledged."""
    async with asyncio.timeout(LONGEST_SECONDS):
        while True:
            try:
                return (await system.client.publish_record(event, data, id=event_id)).sequence
            except IronflowError:
                await asyncio.sleep(LOOK_SECONDS)


async def _ended(system: System, runs: set[str]) -> None:
    collector = Collector(system.broker, system.names)
    async with asyncio.timeout(LONGEST_SECONDS):
        while True:
            with suppress(BrokerError):  # what goes wrong does so for everybody
                states = await collector.states()
                if runs <= {run for run, state in states.items() if state.status in TERMINAL}:
                    return
            await asyncio.sleep(LOOK_SECONDS)


async def _used_up(system: System) -> None:
    """Let what is under way come to its end; what is left then is found by the checker."""
    collector = Collector(system.broker, system.names)
    for _ in range(USED_UP_SECONDS):
        if not any((await collector.leftovers()).values()):
            return
        await asyncio.sleep(1.0)


async def _history(system: System, submitted: Sequence[Submitted], witness: MemoryWitness) -> History:
    collector = Collector(system.broker, system.names)
    return History(
        submitted=submitted,
        events=await collector.events(),
        journal=await collector.journal(),
        states=await collector.states(),
        lines=witness.lines,
        leftovers=await collector.leftovers(),
        timers=await collector.timers(),
    )


@contextmanager
def _functions(witness: MemoryWitness) -> Iterator[Sequence[Function[Any, Any]]]:
    forget_functions()
    try:
        yield program_functions(witness)
    finally:
        forget_functions()
