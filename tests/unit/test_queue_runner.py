"""The slots of a queue: what is taken, what is handed back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest
import structlog

from ironflow.broker.local import LocalServer
from ironflow.broker.protocol import ConsumerSpec, ConsumerState, Delivery, Publication, StreamSpec
from ironflow_worker.queue_runner import QueueRunner
from ironflow_worker.slots import Slot

pytestmark = pytest.mark.virtual_time

STREAM, QUEUE = "TASKS", "orders"


class Bench:
    """A queue, a runner for it, and what was executed."""

    def __init__(self, server: LocalServer) -> None:
        self.server = server
        self.broker = server.connect()
        self.executed: list[str] = []

    def runner(self, slots: int, execute: Callable[[Delivery], Awaitable[None]]) -> QueueRunner:
        async def run(queue: str, delivery: Delivery, slot: Slot) -> None:
            assert queue == QUEUE
            await slot.take()
            self.executed.append(delivery.payload.decode())
            await execute(delivery)

        return QueueRunner(self.broker, STREAM, QUEUE, slots, run)

    def put(self, *tasks: str) -> None:
        for task in tasks:
            self.server.store(Publication(subject=f"tasks.{task}", payload=task.encode()))

    async def state(self) -> ConsumerState:
        return await self.broker.consumer_state(STREAM, QUEUE)


@pytest.fixture
async def bench() -> AsyncGenerator[Bench]:
    made = Bench(LocalServer())
    await made.broker.ensure_stream(StreamSpec(name=STREAM, subjects=("tasks.>",), retention="work_queue"))
    await made.broker.ensure_consumer(
        ConsumerSpec(stream=STREAM, name=QUEUE, filters=("tasks.>",), ack_wait_seconds=10.0, max_ack_pending=1000)
    )
    yield made
    await made.broker.close()


async def acknowledge(delivery: Delivery) -> None:
    delivery.ack()


async def hang(_delivery: Delivery) -> None:
    await asyncio.Event().wait()


async def settle() -> None:
    """Let everything happen that takes no time."""
    await asyncio.sleep(0.001)


async def end(running: asyncio.Task[None]) -> None:
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_it_takes_as_many_as_it_has_slots_and_one_more_for_each_that_ends(bench: Bench) -> None:
    bench.put(*"abcdef")
    gate = asyncio.Event()

    async def execute(delivery: Delivery) -> None:
        if delivery.payload != b"b":
            await gate.wait()
        delivery.ack()

    running = asyncio.create_task(bench.runner(3, execute).run())
    await settle()
    assert bench.executed == ["a", "b", "c", "d"]
    gate.set()
    await settle()
    assert bench.executed == list("abcdef")
    await end(running)


async def test_a_mistake_in_one_task_is_logged_and_costs_no_slot(bench: Bench) -> None:
    bench.put(*"abc")

    async def execute(delivery: Delivery) -> None:
        delivery.ack()
        if delivery.payload == b"a":
            raise ZeroDivisionError

    with structlog.testing.capture_logs() as logs:
        running = asyncio.create_task(bench.runner(1, execute).run())
        await settle()
    assert bench.executed == ["a", "b", "c"]
    (entry,) = logs
    assert isinstance(entry["exc_info"], ZeroDivisionError)
    await end(running)


async def test_one_that_was_told_to_take_no_more_finishes_what_it_has(bench: Bench) -> None:
    bench.put(*"ab")
    gate = asyncio.Event()

    async def execute(delivery: Delivery) -> None:
        await gate.wait()
        delivery.ack()

    runner = bench.runner(1, execute)
    running = asyncio.create_task(runner.run())
    await settle()
    runner.withdraw()
    finishing = asyncio.create_task(runner.finish())
    await settle()
    assert not finishing.done()
    gate.set()
    await finishing
    await settle()
    assert bench.executed == ["a"]
    await end(running)


async def test_one_that_was_told_so_before_it_began_takes_nothing(bench: Bench) -> None:
    bench.put("a")
    runner = bench.runner(1, acknowledge)
    runner.withdraw()
    running = asyncio.create_task(runner.run())
    await settle()
    assert bench.executed == []
    assert (await bench.state()).waiting_pulls == 0
    await end(running)


async def test_giving_up_stops_all_and_takes_nothing_instead(bench: Bench) -> None:
    bench.put(*"abcd")
    runner = bench.runner(2, hang)
    running = asyncio.create_task(runner.run())
    await settle()
    await runner.give_up()
    await settle()
    assert bench.executed == ["a", "b"]
    await runner.give_up()
    await end(running)


async def test_a_task_that_was_taken_and_not_begun_is_handed_back(bench: Bench) -> None:
    runner = bench.runner(1, hang)
    running = asyncio.create_task(runner.run())
    await settle()
    bench.put("a")
    for _ in range(50):
        await asyncio.sleep(0)
        if runner._passes:  # noqa: SLF001 - the very moment matters
            break
    assert bench.executed == []
    await runner.give_up()
    await end(running)
    await settle()
    assert bench.executed == []
    state = await bench.state()
    assert (state.pending, state.ack_pending) == (0, 1)
    second = asyncio.create_task(bench.runner(1, acknowledge).run())
    await settle()  # a lease that nobody gave back would end in ten seconds
    assert bench.executed == ["a"]
    await end(second)
