"""What users see of a broker that refuses, forgets to answer, or is gone for a while: nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest

import ironflow
from ironflow import Context, Retry
from ironflow.broker.local import Interceptor, LocalServer, Stage
from ironflow.broker.protocol import Ambiguous, BrokerError, Denied, Publication, StorageFull, Unavailable
from ironflow.codec import encode_record
from tests.support.inprocess import System, running_system

pytestmark = pytest.mark.virtual_time

ONCE = Retry(max_attempts=1)


def failing(
    error: Callable[[], BrokerError], verb: str, part: str, *, stage: Stage = "before", times: int = 1_000_000
) -> Interceptor:
    """Make calls fail, so many times, whose subject has a part."""
    left = [times]

    def intercept(at: Stage, what: str, subject: str) -> BrokerError | None:
        if (at, what) != (stage, verb) or part not in subject or not left[0]:
            return None
        left[0] -= 1
        return error()

    return intercept


def full() -> BrokerError:
    return StorageFull("no room")


def lost() -> BrokerError:
    return Ambiguous("no answer")


def gone() -> BrokerError:
    return Unavailable("nobody there")


def forbidden() -> BrokerError:
    return Denied("not allowed")


class Sale:
    """A function that catches what it can, and counts what it did."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.function = ironflow.function(id="sale", retry=ONCE)(self.handle)

    async def handle(self, ctx: Context) -> str:
        try:
            await ctx.step.run("charge", self.charge)
            await ctx.step.sleep("nap", "1m")
            await ctx.step.publish("order.sold")
        except Exception:  # noqa: BLE001 - what users write
            self.done["refund"] += 1
        return "sold"

    async def charge(self) -> None:
        self.done["charge"] += 1


PLACES = [
    pytest.param("publish", ".step.charge", id="recording a step"),
    pytest.param("publish", ".wait.nap", id="recording a wait"),
    pytest.param("publish", ".events.order", id="publishing an event"),
    pytest.param("publish", ".outcome.", id="recording an outcome"),
    pytest.param("publish", ".tasks.", id="publishing a task"),
    pytest.param("publish", ".timers.", id="setting a timer"),
    pytest.param("publish", ".step.nap", id="ending a wait"),
    pytest.param("publish", "$KV.test_runs", id="storing a state"),
    pytest.param("read", "TEST_JOURNAL", id="reading the journal"),
    pytest.param("last", "KV_test_runs", id="reading a state"),
    pytest.param("stream_state", "KV_test_functions", id="reading the functions"),
]


@pytest.mark.parametrize("error", [full, lost, gone], ids=lambda error: error.__name__)
@pytest.mark.parametrize(("verb", "part"), PLACES)
async def test_trouble_for_ten_minutes_delays_a_run_and_changes_nothing_else(
    verb: str, part: str, error: Callable[[], BrokerError]
) -> None:
    sale = Sale()
    async with running_system(sale.function) as system:
        system.server.interceptor = failing(error, verb, part)
        run = await system.client.start(sale.function, id="x")
        await asyncio.sleep(600)
        system.server.interceptor = None
        assert await run.result("10m") == "sold"
    # The lease was held all the time, so there was no reason to do anything twice.
    assert sale.done == {"charge": 1}


@pytest.mark.parametrize(("verb", "part"), PLACES)
async def test_an_answer_that_is_lost_once_changes_nothing(verb: str, part: str) -> None:
    sale = Sale()
    async with running_system(sale.function) as system:
        system.server.interceptor = failing(lost, verb, part, stage="after", times=1)
        assert await system.output(sale.function) == "sold"
        assert len([event async for event in system.client.events(name="order.sold")]) == 1
    assert sale.done == {"charge": 1}


async def test_a_worker_may_be_stopped_while_it_cannot_record() -> None:
    sale = Sale()
    async with running_system(sale.function) as system:
        (worker,) = system.workers
        system.server.interceptor = failing(full, "publish", ".step.charge")
        run = await system.client.start(sale.function)
        await asyncio.sleep(60)
        await worker.drain()
        system.server.interceptor = None
        await system.add_worker()
        assert await run.result("10m") == "sold"


@pytest.mark.parametrize("part", [".step.charge", ".wait.nap", ".outcome."])
async def test_a_worker_without_permission_to_record_hands_its_task_to_others(part: str) -> None:
    sale = Sale()
    async with running_system(sale.function) as system:
        system.server.interceptor = failing(forbidden, "publish", part, times=1)
        assert await system.output(sale.function) == "sold"
    assert sale.done["refund"] == 0


async def test_an_event_that_may_not_be_published_fails_its_step() -> None:
    @ironflow.function(id="f", retry=Retry(max_attempts=3))
    async def f(ctx: Context) -> str:
        try:
            await ctx.step.publish("order.sold")
        except ironflow.StepError as error:
            return f"{error.step} {error.attempts} {error.cause_type}"
        return ""

    async with running_system(f) as system:
        system.server.interceptor = failing(forbidden, "publish", ".events.order")
        assert await system.output(f) == "publish:order.sold 1 PublishError"


async def test_a_result_that_the_server_finds_too_large_fails_its_step_and_is_not_made_again() -> None:
    bodies: Counter[str] = Counter()

    @ironflow.function(id="f", retry=Retry(max_attempts=3))
    async def f(ctx: Context) -> str:
        def large() -> str:
            bodies["large"] += 1
            return "x" * 20_000

        try:
            await ctx.step.run("large", large)
        except ironflow.PayloadTooLargeError as error:
            return str(error)
        return ""

    async with running_system(f, server=LocalServer(max_payload=10_000)) as system:
        assert "result of step 'large'" in await system.output(f)
    assert bodies == {"large": 1}


async def test_an_output_that_the_server_finds_too_large_fails_the_run() -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> str:
        return "x" * 20_000

    async with running_system(f, server=LocalServer(max_payload=10_000)) as system:
        run = await system.run(f)
        assert run.error is not None
        assert run.error.type == "PayloadTooLargeError"


async def test_an_event_that_does_not_fit_beside_what_has_failed_is_recorded_by_itself_and_the_run_is_undone() -> None:
    undone: list[str] = []

    @ironflow.function(id="f", retry=Retry(max_attempts=1))
    async def f(ctx: Context[str]) -> None:
        async def fails() -> None:
            raise ValueError("x" * 5_000)

        await ctx.step.run("charge", lambda: None)
        ctx.step.compensate("charge", undone.append, ctx.event.data[:3])
        await ctx.step.run("send", fails)

    async with running_system(f, server=LocalServer(max_payload=10_000)) as system:
        run = await system.client.start(f, "abc" * 2_500)
        state = await run.wait("1h")
        assert (state.status, state.compensation) == ("failed", "completed")
        assert await system.subjects("input", run) == ["input"]
    assert undone == ["abc"]


async def test_a_failed_run_whose_event_does_not_fit_beside_its_error_can_be_retried_when_the_event_is_gone() -> None:
    @ironflow.function(id="f", retry=Retry(max_attempts=1))
    async def f(ctx: Context[str]) -> int:
        if ctx.run.attempt == 1:
            raise ValueError("x" * 5_000)
        return len(ctx.event.data)

    async with running_system(f, server=LocalServer(max_payload=10_000)) as system:
        run = await system.client.start(f, "abc" * 2_500)
        assert (await run.wait("1h")).status == "failed"
        await system.broker.purge(system.names.events, ">")
        assert await run.retry()
        assert await run.result("1h") == 7_500


async def test_an_event_from_elsewhere_that_nobody_can_read_stops_neither_engine_nor_worker() -> None:
    seen: list[str] = []

    @ironflow.function(id="f", triggers=[">"])
    async def f(ctx: Context) -> None:
        seen.append(ctx.event.name)

    async with running_system(f) as system:
        await publish_raw(system, "order.bad", b"\xff not json")
        await publish_raw(system, "order.bad", b'{"id": 5}')
        await publish_raw(system, "order.bad", b'{"id": "1", "name": "order.bad", "time": "yesterday"}')
        # Times that are none in UTC.
        await publish_raw(system, "order.bad", b'{"id": "2", "name": "order.bad", "time": "0001-01-01T00:00+14:00"}')
        await publish_raw(system, "order.bad", b'{"id": "3", "name": "order.bad", "time": "9999-12-31T23:59-14:00"}')
        published = await system.client.publish_record("order.good")
        (run,), _ = await system.client.runs_of(published)
        await system.client.run(run).result("1h")
        bad = [run async for run in system.client.runs(status="failed")]
        errors = [(await run.state()).error for run in bad]
        assert [(error.type, error.path) for error in errors if error is not None] == [
            ("EventUnreadable", None),
            ("EventUnreadable", None),
            *[("SerializationError", "time")] * 3,
        ]
    assert seen == ["order.good"]


async def test_an_event_from_elsewhere_that_fits_no_task_fails_its_runs() -> None:
    @ironflow.function(id="f", triggers=["order.large"])
    async def f(ctx: Context) -> None: ...

    async with running_system(f) as system:
        event = b'{"id": "%d", "name": "order.large", "time": "2026-01-01T00:00:00Z", "data": "%s"}'
        for size in (1_000, 1024 * 1024 - 100):
            await publish_raw(system, "order.large", event % (size, b"x" * size))
        await asyncio.sleep(60)
        states = [await run.state() async for run in system.client.runs()]
        assert sorted((run.status, run.error.type if run.error else "") for run in states) == [
            ("completed", ""),
            ("failed", "PayloadTooLargeError"),
        ]
        queues = await system.broker.consumer_state(system.names.events, "engine")
        assert (queues.pending, queues.ack_pending) == (0, 0)


async def test_a_client_tells_of_trouble_in_our_own_words() -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> str:
        return "done"

    async with running_system(f) as system:
        run = await system.client.start(f, id="x")
        assert await run.result("1h") == "done"
        system.server.interceptor = failing(gone, "at", "TEST_EVENTS")
        with pytest.raises(ironflow.EngineUnavailableError):
            await system.client.start(f, id="x")
        system.server.interceptor = failing(gone, "publish", ".events.")
        with pytest.raises(ironflow.PublishError):
            await system.client.start(f)
        system.server.interceptor = None
        await system.broker.close()
        for call in (run.state, run.steps, run.result, lambda: run.wait("1s")):
            with pytest.raises(ironflow.EngineUnavailableError):
                await call()


async def publish_raw(system: System, event: str, payload: bytes) -> None:
    """Publish as a client that is not ours."""
    await system.broker.publish(Publication(subject=system.names.event(event), payload=payload))


async def test_a_state_that_cannot_be_read_stops_no_other_run() -> None:
    @ironflow.function(id="f", triggers=["go"])
    async def f(ctx: Context) -> str:
        await ctx.step.sleep("nap", "1m")
        return "done"

    async with running_system(f) as system:
        spoilt = await system.client.start(f)
        await asyncio.sleep(1)
        state = await system.run_state(spoilt.id)
        await system.broker.publish(
            Publication(subject=system.names.run_key(spoilt.id), payload=b'{"status": "of a newer version"}')
        )
        (engine,) = system.engines
        await engine.stop()
        await system.add_engine()
        await asyncio.sleep(120)
        assert await system.output(f) == "done"
        assert [run.id async for run in system.client.runs(status="completed")]
        await system.broker.publish(Publication(subject=system.names.run_key(spoilt.id), payload=encode_record(state)))
        assert await spoilt.result("1h") == "done"


async def test_a_function_that_cannot_be_read_stops_no_other() -> None:
    @ironflow.function(id="f", triggers=["go"])
    async def f(ctx: Context) -> str:
        return "done"

    async with running_system(f) as system:
        await system.broker.publish(Publication(subject=system.names.function_key("bad"), payload=b'{"id": 5}'))
        (run,), _ = await system.client.runs_of(await system.client.publish_record("go"))
        assert await system.client.run(run).result("1h") == "done"
