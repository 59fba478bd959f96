"""The laws of replay, for workflows of every shape, with trouble at every moment.

R1  For every prefix of a run's journal, a pass sees the values that are recorded and begins no recorded body.
R2  A worker may die at every write, before it is stored or after; another goes on, and it makes no difference.
R3  Two workers may execute one task at the same time: all that differs is how often bodies ran.
R4  What the first pass sees of a result is what every replay sees, in value and in type.
R5  An engine may die at every write; so may the only one, and one of two.
R6  The server may restart at every write.
R7  A fifth of all writes may be stored or not without an answer that says so.
R8  All of that may come together.

"No difference" means: the run completes; all passes saw the same values, and the output is made of them; no body
began once its result was recorded; each event was published once. A run that fails with undos ends as failed, and
each of its steps that has a result was undone once, the newest first, with what it returned.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
import random
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, TypedDict

import attrs
import msgspec
import pydantic
import pytest

import ironflow
from ironflow import Context
from ironflow.broker.local import Interceptor, LocalServer, Stage
from ironflow.broker.protocol import Ambiguous, BrokerError, Publication, StorageFull, StoredMessage, Unavailable
from ironflow.broker.topology import streams
from ironflow.clock import now_ms
from ironflow.codec import decode_record, decode_value
from ironflow.errors import EngineUnavailableError, RunFailedError
from ironflow.function import forget_functions
from ironflow.handles import RunHandle
from ironflow.journal import Journal
from ironflow.limits import DEFAULT_LIMITS
from ironflow.names import COMPENSATE_PREFIX, Names, parse_journal, step_token
from ironflow.records import EventRecord, StepRecord, Task, TaskMode
from ironflow.server_clock import ServerClock
from ironflow_worker.bodies import Bodies
from ironflow_worker.memo import Memo
from ironflow_worker.metrics import Metrics
from ironflow_worker.pass_tools import PassTools
from ironflow_worker.replay import Replay
from tests.laws.shapes import SHAPES, Probe, function_of
from tests.support.inprocess import System, is_of_duties, running_system

pytestmark = pytest.mark.virtual_time

STAGES: tuple[Stage, ...] = ("before", "after")
MANY_WRITES = 10

CLOSED = ("parallel_failure", "parallel_saga")
"""Shapes with a branch whose failure closes its group."""

shapes = pytest.mark.parametrize("shape", SHAPES)


class Trouble:
    """Sits between all processes and the server, and does something at a chosen write.

    Args:
        probe: learns which results are recorded.
        at: the number of the write; -1 for none.
        stage: before the write is stored, or after.
        what: what happens then; it may keep the answer back.

    """

    def __init__(
        self, probe: Probe, at: int = -1, stage: Stage = "after", what: Callable[[], BrokerError | None] | None = None
    ) -> None:
        self.writes = 0
        self._probe = probe
        self._at = at
        self._stage = stage
        self._what = what

    def __call__(self, stage: Stage, verb: str, subject: str) -> BrokerError | None:
        if verb != "publish" or is_of_duties(subject):
            return None
        if stage == "before":
            self.writes += 1
        if stage == self._stage and self.writes == self._at and self._what is not None:
            what, self._what = self._what, None
            error = what()
            if error is not None:
                return error
        if stage == "after" and ".journal." in subject:
            note_recorded(self._probe, subject)
        return None


def note_recorded(probe: Probe, subject: str) -> None:
    """Note that a step's result is recorded."""
    address = parse_journal(subject)
    if address.kind == "step":
        probe.recorded.add(address.rest[0])


async def run_to_its_end(system: System, shape: str, probe: Probe, trouble: Interceptor) -> None:
    """Start a shape, let trouble come, and check that it makes no difference."""
    run = await system.client.start(shape)
    system.server.interceptor = trouble
    output = await output_of(run, probe)
    system.server.interceptor = None
    assert probe.violations == []
    assert [each for each in probe.returned if each != output] == []
    if shape == "invoking":
        children = [await each.state() async for each in system.client.runs() if each.id != run.id]
        assert sorted(child.status for child in children) == ["cancelled", "completed", "completed"]
    assert {step.status for step in await run.steps()} <= {"completed", "failed"}
    if shape in ("saga", "parallel_saga"):
        await check_undone(system, run)
    if shape == "publishing":
        assert len([event async for event in system.client.events(name="order.sold")]) == 1


async def check_undone(system: System, run: RunHandle[Any]) -> None:
    """Check that all that a run did is undone, the newest first."""
    state = await run.state()
    assert (state.status, state.compensation) == ("failed", "completed")
    done: list[str] = []
    undone: list[str] = []
    for message in await journal_of(system, run.id):
        if parse_journal(message.subject).kind != "step":
            continue
        record = decode_record(StepRecord, message.payload)
        token = step_token(record.scope, record.name.removeprefix(COMPENSATE_PREFIX))
        if record.kind == "compensate":
            assert record.status == "completed"
            undone.append(token)
        elif record.kind == "run" and record.status == "completed":
            done.append(token)
    assert undone == done[::-1] != []


async def journal_of(system: System, run: str) -> list[StoredMessage]:
    """Return all that is recorded of a run."""
    wanted = system.names.journal_of_run("default", run)
    return [
        message async for page in system.broker.read(system.names.all_shards[0].journal, wanted) for message in page
    ]


async def output_of(run: RunHandle[Any], probe: Probe) -> Any:
    """Return the output of a run, which is retried as often as it fails; one that was unwound has none."""
    for _ in range(100):
        try:
            return await run.result("5h")
        except RunFailedError:
            # Where an engine died, it may be told twice that the run has failed.
            with contextlib.suppress(EngineUnavailableError):
                if (await run.state()).compensation is not None:
                    return None
                probe.forgive(
                    step_token(step.scope, step.name) for step in await run.steps() if step.status == "failed"
                )
                await run.retry()
            await asyncio.sleep(1)
    raise AssertionError("it fails again and again")


async def writes_of(shape: str) -> int:
    """Return how many writes a run of a shape takes, with nothing in its way."""
    probe = Probe()
    async with running_system(function_of(shape, probe)) as system:
        trouble = Trouble(probe)
        await run_to_its_end(system, shape, probe, trouble)
    return trouble.writes


async def at_every_write(
    shape: str, what: Callable[[System], BrokerError | None], *, engines: int = 1, overlap: bool = False
) -> None:
    """Run a shape once for every write of it, with something happening there, before it is stored and after.

    A run of many writes gets the two in turns.

    Args:
        shape: the shape.
        what: what happens.
        engines: how many engines there are.
        overlap: whether a run's task may be executed by two workers at a time; a body may begin then that the
            other has just recorded.

    """
    writes = await writes_of(shape)
    for at in range(1, writes + 1):
        for stage in STAGES if writes < MANY_WRITES else (STAGES[at % 2],):
            probe = Probe()
            forget_functions()
            async with running_system(function_of(shape, probe), engines=engines) as system:
                trouble = Trouble(Probe() if overlap else probe, at, stage, partial(what, system))
                await run_to_its_end(system, shape, probe, trouble)
                assert trouble.writes >= at


@shapes
async def test_r1_a_pass_sees_what_is_recorded_and_begins_no_recorded_body(shape: str) -> None:
    original = Probe()
    function = function_of(shape, original)
    async with running_system(function) as system:
        run = await system.client.start(function)
        output = await output_of(run, original)
        journal = await journal_of(system, run.id)
    for length in range(len(journal) + 1):
        probe = Probe(first_value=1000)
        probe.passes = original.passes
        forget_functions()
        tools, memo = await prefix(journal[:length], run.id)
        mode: TaskMode = "run" if memo.unwinding is None else "compensate"
        task = Task(run=run.id, function=shape, number=100, started_at=0, attempt=memo.epoch + 1, mode=mode)
        event = EventRecord(id="e", name="ironflow.invoked", time="2026-01-01T00:00:00Z")
        outcome = await Replay(function_of(shape, probe), task, event, memo, tools).run()
        recorded = {token for token in original.runs if memo.step(memo.key(token, "run")) is not None}
        seen = recorded & set(probe.seen)
        assert {token: probe.seen[token] for token in seen} == {token: original.seen[token] for token in seen}
        assert not recorded & set(probe.runs)
        if length == len(journal):
            assert probe.runs == {}
            assert (outcome.status, outcome.compensation) == (
                ("completed", None) if mode == "run" else ("failed", "completed")
            )
            assert decode_value(outcome.output, Any, "output") == output


async def prefix(messages: Sequence[StoredMessage], run: str) -> tuple[PassTools, Memo]:
    """Return a world in which only that is recorded."""
    names = Names("test")
    broker = LocalServer().connect()
    for stream in streams(names):
        await broker.ensure_stream(stream)
    for message in messages:
        await broker.publish(Publication(subject=message.subject, payload=message.payload))
    memo = Memo(sum(parse_journal(message.subject).kind == "retry" for message in messages))
    async for page in broker.read(names.all_shards[0].journal, names.journal_of_run("default", run)):
        memo.read(page)
    clock = ServerClock(asyncio.get_running_loop().time)
    clock.observe(now_ms())  # whoever has a task has seen when it was stored
    tools = PassTools(
        run=run,
        function="f",
        queue="default",
        worker="w",
        token="of this pass",
        names=names,
        limits=DEFAULT_LIMITS,
        broker=broker,
        journal=Journal(broker, names),
        bodies=Bodies(ThreadPoolExecutor(1)),
        metrics=Metrics(),
        still_holds=lambda: True,
        chance=lambda: 0.5,
        now_ms=now_ms,
        clock=clock,
    )
    return tools, memo


@shapes
async def test_r2_a_worker_may_die_at_every_write(shape: str) -> None:
    await at_every_write(shape, kill_worker)


@shapes
async def test_r5_the_only_engine_may_die_at_every_write(shape: str) -> None:
    await at_every_write(shape, kill_engine)


@shapes
async def test_r5_one_of_two_engines_may_die_at_every_write(shape: str) -> None:
    await at_every_write(shape, kill_engine, engines=2)


@shapes
async def test_r6_the_server_may_restart_at_every_write(shape: str) -> None:
    await at_every_write(shape, restart_server, overlap=True)


@shapes
async def test_r6_a_worker_may_die_together_with_the_server(shape: str) -> None:
    # The server forgets then how often it handed a task out, and it is the first time for the next worker.
    await at_every_write(shape, kill_worker_and_server)


def kill_worker(system: System) -> None:
    """Let the oldest worker die, and start another."""
    for worker in list(system.workers)[:1]:
        system.cut_off(worker)
        system.soon(system.kill(worker), system.add_worker())


def kill_engine(system: System) -> None:
    """Let the oldest engine die, and start another."""
    for engine in list(system.engines)[:1]:
        system.cut_off(engine)
        system.soon(system.kill(engine), system.add_engine())


def kill_worker_and_server(system: System) -> None:
    """Let both die, and come back."""
    kill_worker(system)
    restart_server(system)


def restart_server(system: System) -> None:
    """Let the server crash and come back."""
    system.server.restart()


@shapes
async def test_r3_two_workers_may_execute_one_task_at_the_same_time(shape: str) -> None:
    probe = Probe(body_seconds=25.0)
    # Each has one place. So what comes again goes to the other one, and is not joined to the pass that is there.
    async with running_system(function_of(shape, probe), workers=2, concurrency=1) as system:
        # Nobody keeps a lease, and so every task is handed out again while it is executed.
        await run_to_its_end(system, shape, probe, lambda _, verb, __: Unavailable() if verb == "renew" else None)
    # Where a branch fails, the other worker may have closed the group before it came to the body of a branch beside it.
    once = [token for token, count in probe.runs.items() if count == 1 and (shape not in CLOSED or "all/" not in token)]
    assert once == []


@shapes
@pytest.mark.parametrize("seed", range(3))
async def test_r7_a_fifth_of_all_writes_may_be_ambiguous(shape: str, seed: int) -> None:
    probe = Probe()
    chance = random.Random(seed)
    trouble = Trouble(probe)

    def ambiguous(stage: Stage, verb: str, subject: str) -> BrokerError | None:
        trouble(stage, verb, subject)
        return Ambiguous("no answer") if verb == "publish" and chance.random() < 0.1 else None

    async with running_system(function_of(shape, probe)) as system:
        await run_to_its_end(system, shape, probe, ambiguous)


@shapes
@pytest.mark.parametrize("seed", range(3))
async def test_r8_all_of_it_may_come_together(shape: str, seed: int) -> None:
    probe = Probe()
    chance = random.Random(seed)

    async with running_system(function_of(shape, probe), workers=2, engines=2) as system:

        def trouble(stage: Stage, verb: str, subject: str) -> BrokerError | None:
            roll = chance.random()
            if verb in ("ack", "nak", "renew", "notify"):
                return Unavailable("lost") if roll < 0.1 else None
            if verb in ("last", "at", "read", "stream_state", "consumer_state", "server_time_ms"):
                return Unavailable("trouble") if roll < 0.1 else None
            if verb != "publish":
                return None
            if roll < 0.1:
                errors = [Ambiguous, StorageFull, Unavailable] if stage == "before" else [Ambiguous]
                return chance.choice(errors)("trouble")
            if roll < 0.13:
                chance.choice([kill_worker, kill_engine, restart_server])(system)
            return None

        await run_to_its_end(system, shape, probe, trouble)


# What a result may be


class Colour(enum.Enum):
    RED = "red"


class Struct(msgspec.Struct):
    when: datetime
    amount: Decimal
    colour: Colour
    inner: list[Point]


@dataclasses.dataclass
class Point:
    x: int
    y: float | None = None


class Typed(TypedDict):
    key: uuid.UUID


@attrs.define
class Attrs:
    name: str
    tags: set[str]


class Model(pydantic.BaseModel):
    name: str
    born: date


NOW = datetime(2026, 1, 2, 3, 4, 5, 678_901, UTC)

RESULTS: list[tuple[Any, Any]] = [
    (None, None),
    (bool, True),
    (int, 2**62),
    (float, 0.1),
    (str, "zürich \u2028 \x00 😀"),
    (bytes, b"\x00\xff"),
    (datetime, NOW),
    (date, NOW.date()),
    (timedelta, timedelta(seconds=1.5)),
    (uuid.UUID, uuid.UUID(int=5)),
    (Decimal, Decimal("1.10")),
    (Colour, Colour.RED),
    (tuple[int, str], (1, "a")),
    (set[int], {1, 2}),
    (frozenset[str], frozenset({"a"})),
    (list[Point], [Point(1), Point(2, 0.5)]),
    (dict[str, Point], {"a": Point(1)}),
    (dict[int, str], {1: "a"}),
    (Struct, Struct(NOW, Decimal(1), Colour.RED, [Point(1)])),
    (Typed, {"key": uuid.UUID(int=7)}),
    (Attrs, Attrs("a", {"x"})),
    (Model, Model(name="a", born=NOW.date())),
    (Point | None, None),
    (Any, {"a": [1, 2.5, None, "x"]}),
]


@pytest.mark.parametrize(("annotation", "value"), RESULTS, ids=lambda each: repr(each)[:30])
async def test_r4_the_first_pass_sees_what_every_replay_sees(annotation: Any, value: Any) -> None:
    seen: list[Any] = []

    def body() -> Any:
        return value

    body.__annotations__["return"] = annotation

    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        seen.append(await ctx.step.run("work", body))
        await ctx.step.sleep("nap", "1m")

    async with running_system(f) as system:
        assert (await system.run(f)).status == "completed"
    first, replay = seen
    assert first == replay == value
    assert type(first) is type(replay) is type(value)


async def test_r4_without_an_annotation_both_passes_see_plain_json() -> None:
    seen: list[Any] = []

    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        seen.append(await ctx.step.run("work", lambda: [NOW, {1}, (2,), b"x", Point(1)]))
        await ctx.step.sleep("nap", "1m")

    async with running_system(f) as system:
        assert (await system.run(f)).status == "completed"
    assert seen == [["2026-01-02T03:04:05.678901Z", [1], [2], "eA==", {"x": 1, "y": None}]] * 2
