"""The runs that the benches write by the thousand are what the product itself would have left."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from ironflow.function import Function
from ironflow.handles import RunHandle
from ironflow.names import Names, bucket_stream, run_id, start_event_id
from ironflow.records import FunctionRecord
from tests.bench import ironflow_app
from tests.bench.resting import DAY_MS, Filler, Planned, ended, sleeper, waiter
from tests.support.eventually import eventually
from tests.support.inprocess import System, running_system

pytestmark = pytest.mark.virtual_time

FUNCTIONS: tuple[Function[Any, Any], ...] = (ironflow_app.nap, ironflow_app.wait, ironflow_app.three)
DIFFERENT = frozenset(
    {"token", "time", "started_at", "finished_at", "duration_ms", "sequence", "time_ms", "output", "worker"}
) | {
    "waits_repeated"  # an engine meets the waits that were written for it once more, and cannot know by whom they were
}
"""What depends on chance, on the time, and on what stood in the streams before."""


async def write(system: System, *runs: Planned) -> None:
    records = {each.id: FunctionRecord(id=each.id, queue=each.queue) for each in FUNCTIONS}
    await Filler(system.broker, system.names, records).write(iter(runs))


async def left_by(system: System, run: str) -> dict[str, Any]:
    """Return all that is stored of a run, by subject, without what differs each time."""
    names = system.names
    found: dict[str, Any] = {}
    for stream in (
        names.all_shards[0].journal,
        names.all_shards[0].timers,
        bucket_stream(names.runs_bucket),
        bucket_stream(names.waits_bucket),
    ):
        async for page in system.broker.read(stream, ">"):
            found |= {
                _place(names, each.subject): _alike(msgspec.json.decode(each.payload))
                for each in page
                if run in each.subject
            }
    return found


def _place(names: Names, subject: str) -> str:
    """Return a subject without the time that a timer is due."""
    tokens = subject.split(".")
    return ".".join(tokens[:4] + tokens[5:]) if subject.startswith(f"{names.namespace}.timers.") else subject


def _alike(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _alike(each) for key, each in value.items() if key not in DIFFERENT and not _is_place(key)}
    return value


def _is_place(key: str) -> bool:
    return key == "sequence" or (key.endswith(("_ms", "_sequence", "_by")) and key != "delay_ms")


async def rests(system: System, run: RunHandle[Any]) -> None:
    async def waits() -> None:
        state = await system.run_state(run.id)
        assert (state.status, state.live) == ("waiting", False)

    await eventually(waits)


async def test_written_runs_are_like_executed_ones() -> None:
    async with running_system(*FUNCTIONS) as executed:
        await rests(executed, await executed.client.start("nap", 3600.0, id="a"))
        await rests(executed, await executed.client.start("wait", "b", id="b"))
        await executed.output("three", None)
        await (await executed.client.start("three", id="c")).wait("1m")
        wanted = [await left_by(executed, run_of(function, key)) for function, key in KEYS]
        now_ms = executed.now_ms()
    async with running_system(*FUNCTIONS, engines=0, workers=0) as written:
        await written.add_engine()
        await write(written, sleeper("a", now_ms, 3_600_000), waiter("b", now_ms), ended("c", now_ms, failed=False))
        found = [await left_by(written, run_of(function, key)) for function, key in KEYS]
    assert [len(each) for each in wanted] == [5, 5, 5]
    assert found == wanted


KEYS = (("nap", "a"), ("wait", "b"), ("three", "c"))


def run_of(function: str, key: str) -> str:
    return run_id(function, start_event_id(function, key))


async def test_written_runs_go_on() -> None:
    async with running_system(*FUNCTIONS) as system:
        now_ms = system.now_ms()
        await write(
            system,
            sleeper("a", now_ms, 60_000),
            sleeper("long", now_ms, 30 * DAY_MS),
            waiter("b", now_ms),
            ended("c", now_ms, failed=True),
        )
        client = system.client
        nap, long, wait, three = (client.run(run_of(*each)) for each in (*KEYS[:1], ("nap", "long"), *KEYS[1:]))
        await client.publish("bench.go", {"key": "b"})
        await three.retry()
        await long.cancel()
        ends = await asyncio.gather(*(run.wait("1h") for run in (nap, long, wait, three)))
        assert [end.status for end in ends] == ["completed", "cancelled", "completed", "completed"]
