"""How workers start, share, drain and die, on a virtual clock."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from datetime import date
from typing import Any

import pytest
from structlog.testing import capture_logs

import ironflow
from ironflow import Context, NonRetryableError, Retry, Step
from ironflow.broker.local import Stage
from ironflow.broker.protocol import BrokerError, Unavailable
from ironflow_engine.engine import Engine, EngineSettings
from tests.support import eventually
from tests.support.inprocess import System, running_system

pytestmark = pytest.mark.virtual_time


class Work:
    """A function whose body takes its time; it knows how many run at once, and what became of each.

    Args:
        seconds: how long a body takes.

    """

    def __init__(self, id: str = "work", *, queue: str = "default", seconds: float = 100.0) -> None:
        self.begun = 0
        self.ended = 0
        self.cancelled = 0
        self.most_at_once = 0
        self._at_once = 0
        self._seconds = seconds
        self.function = ironflow.function(id=id, queue=queue, retry=Retry(max_attempts=1))(self.handle)

    async def handle(self, ctx: Context) -> str:
        await ctx.step.run("work", self.body)
        return "done"

    async def body(self) -> None:
        self.begun += 1
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await asyncio.sleep(self._seconds)
            self.ended += 1
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self._at_once -= 1


class Bodies:
    """Functions whose bodies take three seconds, so that many of them in a row take longer than a drain."""

    def __init__(self) -> None:
        self.begun = Counter[str]()
        self.ended = Counter[str]()
        self.in_a_row = ironflow.function(id="in-a-row")(self._in_a_row)
        self.side_by_side = ironflow.function(id="side-by-side")(self._side_by_side)
        self.undone = ironflow.function(id="undone", retry=Retry(max_attempts=1))(self._undone)

    async def _in_a_row(self, ctx: Context) -> str:
        for number in range(10):
            await ctx.step.run(f"{number}", self._body, f"{number}", 3.0)
        return "done"

    async def _side_by_side(self, ctx: Context) -> str:
        async def quick(step: Step) -> None:
            for number in range(10):
                await step.run(f"{number}", self._body, f"{number}", 3.0)

        async def slow(step: Step) -> None:
            await step.run("slow", self._body, "slow", 19.0)

        await ctx.step.parallel("both", (quick, slow))
        return "done"

    async def _undone(self, ctx: Context) -> None:
        for number in range(5):
            await ctx.step.run(f"{number}", self._body, f"{number}", 0.1)
            ctx.step.compensate(f"{number}", self._body, f"undo {number}", 3.0)
        raise NonRetryableError("as always")

    async def _body(self, name: str, seconds: float) -> None:
        self.begun[name] += 1
        await asyncio.sleep(seconds)
        self.ended[name] += 1


async def start(system: System, function: Any, count: int) -> list[Any]:
    return [await system.client.start(function) for _ in range(count)]


async def test_no_more_runs_are_executed_at_once_than_there_are_slots() -> None:
    work = Work()
    async with running_system(work.function, concurrency=3) as system:
        runs = await start(system, work.function, 10)
        assert [await run.result("1h") for run in runs] == ["done"] * 10
    assert work.most_at_once == 3
    assert work.begun == 10  # nothing was handed out again while it ran


async def test_two_queues_on_one_worker_share_its_slots_and_do_not_hold_each_other_up() -> None:
    slow = Work("slow", queue="slow", seconds=3600)
    quick = Work("quick", queue="quick", seconds=1)
    async with running_system(slow.function, quick.function, concurrency=5) as system:
        await start(system, slow.function, 20)
        runs = await start(system, quick.function, 10)
        assert [await run.result("20s") for run in runs] == ["done"] * 10
        assert slow.most_at_once + quick.most_at_once <= 5


async def test_a_worker_warns_of_annotations_that_cannot_be_read() -> None:
    @ironflow.function(id="misspelt")
    async def misspelt(ctx: Context[Ordr]) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    @ironflow.function(id="ambiguous")
    async def ambiguous(ctx: Context[str | date]) -> None: ...

    @ironflow.function(id="plain")
    async def plain(ctx: Context) -> None: ...

    with capture_logs() as logs:
        async with running_system(misspelt, ambiguous, plain):
            pass
    warnings = [entry for entry in logs if "annotations" in entry["event"]]
    assert [(warning["log_level"], warning["function"]) for warning in warnings] == [
        ("warning", "misspelt"),
        ("warning", "ambiguous"),
    ]
    assert warnings[0]["reason"] == "name 'Ordr' is not defined"
    assert "Type unions may not contain more than one str-like type" in warnings[1]["reason"]


async def test_a_worker_takes_tasks_of_its_own_queues_only() -> None:
    mine, other = Work("mine", queue="mine", seconds=1), Work("other", queue="other", seconds=1)
    async with running_system(mine.function, other.function, workers=0) as system:
        await (await system.add_worker("other")).stop()
        await system.add_worker("mine")
        (theirs,) = await start(system, other.function, 1)
        (ours,) = await start(system, mine.function, 1)
        assert await ours.result("1m") == "done"
        queues = (await system.client.engine.queues()).queues
        assert [(queue.name, queue.waiting, queue.running) for queue in queues] == [("mine", 0, 0), ("other", 1, 0)]
        await system.add_worker("other")
        assert await theirs.result("1m") == "done"


async def test_a_long_body_keeps_its_lease() -> None:
    work = Work(seconds=3600)
    async with running_system(work.function, workers=3) as system:
        assert await system.output(work.function) == "done"
    assert work.begun == 1


async def test_a_short_lease_is_kept_from_the_first_task_on() -> None:
    work = Work(seconds=60)
    async with running_system(engines=0, workers=0) as system:
        system.functions = {"work": work.function}
        broker = system.server.connect()
        engine = Engine(broker, system.names, EngineSettings(lease_seconds=1.0))
        system.engines[engine] = broker
        await engine.start()
        for _ in range(2):
            await system.add_worker()
        assert await system.output(work.function) == "done"
    assert work.begun == 1


async def test_a_drained_worker_finishes_its_passes_and_takes_no_more() -> None:
    work = Work(seconds=20)
    async with running_system(work.function, concurrency=2) as system:
        (worker,) = system.workers
        runs = await start(system, work.function, 5)
        await eventually(lambda: _assert(work.begun == 2))
        await worker.drain()
        assert (work.begun, work.ended, work.cancelled) == (2, 2, 0)
        await system.add_worker()
        assert [await run.result("1h") for run in runs] == ["done"] * 5
    assert work.begun == 5


async def test_a_worker_that_drains_begins_no_body_that_it_would_have_to_cut_off() -> None:
    bodies = Bodies()

    async with running_system(bodies.in_a_row, workers=0) as system:
        worker = await system.add_worker(drain_seconds=10.0)
        (run,) = await start(system, bodies.in_a_row, 1)
        await eventually(lambda: _assert(bodies.begun["0"] == 1))
        began = system.now_ms()
        await worker.drain()
        assert 5_000 <= system.now_ms() - began <= 8_000  # the body that is at work after half of the time ends
        assert bodies.ended == bodies.begun
        await system.add_worker()
        assert await run.result("1h") == "done"
    assert set(bodies.begun.values()) == {1}


async def test_a_branch_that_may_not_begin_waits_for_the_bodies_of_the_others() -> None:
    bodies = Bodies()

    async with running_system(bodies.side_by_side, workers=0) as system:
        worker = await system.add_worker(drain_seconds=20.0)
        (run,) = await start(system, bodies.side_by_side, 1)
        await eventually(lambda: _assert(bodies.begun["slow"] == 1))
        await worker.drain()
        assert bodies.ended == bodies.begun
        await system.add_worker()
        assert await run.result("1h") == "done"
    assert set(bodies.begun.values()) == {1}


async def test_a_worker_that_drains_begins_no_undo_that_it_would_have_to_cut_off() -> None:
    bodies = Bodies()

    async with running_system(bodies.undone, workers=0) as system:
        worker = await system.add_worker(drain_seconds=10.0)
        (run,) = await start(system, bodies.undone, 1)
        await eventually(lambda: _assert(bodies.begun["undo 4"] == 1), within=30.0)
        await worker.drain()
        assert bodies.ended == bodies.begun
        await system.add_worker()
        assert (await run.wait("1h")).compensation == "completed"
    assert set(bodies.begun.values()) == {1}


async def test_what_does_not_end_before_the_deadline_is_handed_back_at_once() -> None:
    work = Work(seconds=100)
    async with running_system(work.function, workers=0) as system:
        worker = await system.add_worker(drain_seconds=5.0)
        (run,) = await start(system, work.function, 1)
        await eventually(lambda: _assert(work.begun == 1))
        began = system.now_ms()
        await worker.drain()
        assert work.cancelled == 1
        assert 5_000 <= system.now_ms() - began < 6_000
        await system.add_worker()
        await eventually(lambda: _assert(work.begun == 2), within=1.0)  # a lapsed lease would take ten seconds
        assert await run.result("1h") == "done"


async def test_a_worker_that_is_stopped_begins_nothing_more_and_hands_everything_back() -> None:
    work = Work(seconds=100)
    async with running_system(work.function, workers=0) as system:
        worker = await system.add_worker(concurrency=3)
        await start(system, work.function, 10)
        await eventually(lambda: _assert(work.begun == 3))
        await worker.stop()
        assert (work.begun, work.cancelled) == (3, 3)
        await asyncio.sleep(0.01)
        (queue,) = (await system.client.engine.queues()).queues
        assert (queue.waiting, queue.running) == (queue.waiting, 10 - queue.waiting)
        taken = await system.add_worker(concurrency=20)
        await eventually(lambda: _assert(work.begun == 13), within=1.0)
        await taken.stop()


@pytest.mark.parametrize("turns", range(12))
async def test_a_task_that_arrives_while_the_worker_stops_is_handed_back(turns: int) -> None:
    work = Work(seconds=1)
    async with running_system(work.function, workers=0) as system:
        first = await system.add_worker()
        await system.add_worker()
        await first.stop()
        second = list(system.workers)[1]
        (run,) = await start(system, work.function, 1)
        for _ in range(turns):  # somewhere between the task's delivery and its first append
            await asyncio.sleep(0)
        await second.stop()
        await system.add_worker()
        assert await run.result("5s") == "done"  # before a lease that nobody gave back would end


async def test_a_handler_that_ignores_its_cancellation_does_not_hold_up_the_worker() -> None:
    released = asyncio.Event()

    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        while not released.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await released.wait()

    async with running_system(f, workers=0) as system:
        worker = await system.add_worker(drain_seconds=5.0)
        await start(system, f, 1)
        await asyncio.sleep(1)
        began = system.now_ms()
        await worker.drain()
        assert system.now_ms() - began < 20_000
        released.set()


async def test_a_worker_may_start_and_work_before_there_is_an_engine() -> None:
    work = Work(seconds=1)
    async with running_system(work.function) as system:
        (engine,) = system.engines
        run = (await start(system, work.function, 1))[0]
        await asyncio.sleep(0.1)
        await system.kill(engine)
        worker = await system.add_worker()
        await asyncio.sleep(60)
        assert not worker.registered.is_set()
        await system.add_engine()
        await asyncio.wait_for(worker.registered.wait(), 10)
        assert await run.result("1h") == "done"


async def test_a_function_that_no_worker_has_any_more_waits_for_one_that_has() -> None:
    old, new = Work("old", seconds=1), Work("new", seconds=1)
    async with running_system(old.function, new.function, workers=0) as system:
        first = await system.add_worker()
        await system.kill(first)
        (run,) = await start(system, old.function, 1)
        await system.add_worker(functions=("new",))
        assert await system.output(new.function) == "done"
        await asyncio.sleep(60)
        assert (await run.state()).status in ("queued", "running")
        await system.add_worker(functions=("old",))
        assert await run.result("1m") == "done"


async def test_an_engine_that_stops_gives_its_batch_to_another_at_once() -> None:
    work = Work(seconds=1)
    async with running_system(work.function, engines=2) as system:
        stuck = asyncio.Event()
        first, second = system.engines

        def hold(stage: Stage, verb: str, subject: str) -> BrokerError | None:
            if verb == "publish" and subject.startswith("$KV.test_runs"):
                stuck.set()
                return Unavailable("not now")
            return None

        system.server.interceptor = hold
        (run,) = await start(system, work.function, 1)
        await stuck.wait()
        system.server.interceptor = None
        await first.stop()
        await second.stop()
        await system.add_engine()
        assert await run.result("4s") == "done"  # before a lease that nobody gave back would end


async def test_a_process_that_loses_its_connection_for_good_ends_and_says_so() -> None:
    work = Work(seconds=1)
    async with running_system(work.function) as system:
        (engine,), (worker,) = system.engines, system.workers
        ends = [asyncio.create_task(process.wait()) for process in (engine, worker)]
        await asyncio.sleep(60)
        assert not any(end.done() for end in ends)
        system.cut_off(engine)
        system.cut_off(worker)
        for end in ends:
            with pytest.raises(Unavailable):
                await asyncio.wait_for(end, 60)
        await worker.stop()
        await engine.stop()


async def test_the_metrics_say_what_was_done() -> None:
    failures = Counter[str]()

    async def flaky() -> None:
        failures["x"] += 1
        if failures["x"] == 1:
            raise ValueError

    @ironflow.function(id="f", retry=Retry(max_attempts=2))
    async def f(ctx: Context) -> None:
        await ctx.step.run("steady", lambda: None)
        await ctx.step.run("flaky", flaky)
        await ctx.step.run("doomed", int, "x", retry=Retry(max_attempts=1))

    async with running_system(f) as system:
        assert (await system.run(f)).status == "failed"
        (worker,) = system.workers
        sample = worker.metrics.registry.get_sample_value
        steps = {
            outcome: sample("ironflow_worker_steps_total", {"function": "f", "outcome": outcome})
            for outcome in ("completed", "retried", "failed")
        }
        assert steps == {"completed": 2.0, "retried": 1.0, "failed": 1.0}
        passes = {
            outcome: sample("ironflow_worker_passes_total", {"function": "f", "outcome": outcome})
            for outcome in ("suspended", "failed")
        }
        assert passes == {"suspended": 1.0, "failed": 1.0}
        assert sample("ironflow_worker_running") == 0.0


def _assert(holds: bool) -> None:  # noqa: FBT001 - reads as an assertion
    assert holds


async def test_a_worker_without_work_sets_no_timers(monkeypatch: pytest.MonkeyPatch) -> None:
    @ironflow.function(id="sleepy")
    async def sleepy(ctx: Context) -> None:
        await ctx.step.sleep("long", "100d")

    async with running_system(sleepy, sweep_seconds=200 * 86_400) as system:
        published = await system.client.start(sleepy)
        await asyncio.sleep(60)  # all that follows the start is over
        loop, timers = asyncio.get_running_loop(), 0
        set_timer = loop.call_at

        def counting(when: float, callback: Any, *args: Any, **options: Any) -> asyncio.TimerHandle:
            nonlocal timers
            timers += 1
            return set_timer(when, callback, *args, **options)

        monkeypatch.setattr(loop, "call_at", counting)
        await system.end_of(published)
        assert loop.time() > 100 * 86_400
        assert timers < 100


async def test_a_task_that_comes_again_to_the_worker_that_has_it_makes_no_second_pass() -> None:
    begun: list[float] = []

    @ironflow.function(id="f")
    async def f(ctx: Context) -> str:
        async def work() -> str:
            begun.append(asyncio.get_running_loop().time())
            await asyncio.sleep(45)
            return "done"

        return await ctx.step.run("work", work)

    async with running_system(f) as system:
        # Nobody keeps a lease, and so the task is handed out again and again while it is executed.
        system.server.interceptor = lambda _, verb, __: Unavailable() if verb == "renew" else None
        assert await system.output(f) == "done"
        assert len(begun) == 1
        state = await system.broker.consumer_state(system.names.all_shards[0].tasks, "default")
        assert (state.pending, state.ack_pending) == (0, 0)


# Functions that two apps have


async def add_worker_with(system: System, function: ironflow.Function[Any, Any]) -> None:
    system.functions[function.id] = function
    await system.add_worker()


async def test_a_function_that_moves_to_another_queue_is_warned_about_by_engine_and_worker() -> None:
    async with running_system(Work("bill", queue="qa").function) as system:
        with capture_logs() as logs:
            await add_worker_with(system, Work("bill", queue="qz").function)
            await asyncio.sleep(10)
    warned = [line["event"] for line in logs if line["log_level"] == "warning"]
    assert len(warned) == 2
    assert all(text.startswith("function bill moved from queue qa to qz; ") for text in warned)


async def test_a_function_that_gets_other_triggers_is_warned_about_and_one_that_keeps_them_is_not() -> None:
    def bill(*triggers: str) -> ironflow.Function[Any, Any]:
        @ironflow.function(id="bill", triggers=triggers)
        async def handler(ctx: Context) -> None: ...

        return handler

    async with running_system(bill("a", "b")) as system:
        with capture_logs() as logs:
            await add_worker_with(system, bill("b", "a"))
            await asyncio.sleep(10)
            assert [line for line in logs if line["log_level"] == "warning"] == []
            await add_worker_with(system, bill())
            await asyncio.sleep(10)
    warned = [line["event"] for line in logs if line["log_level"] == "warning"]
    assert len(warned) == 2
    assert all(text.startswith("function bill is triggered by nothing now, before by b, a; ") for text in warned)
