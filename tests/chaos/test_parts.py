"""The parts of the harness do what they are there for: a fault that is none would prove nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Literal

import pytest

from ironflow.broker.local import LocalServer
from ironflow.broker.protocol import Ambiguous, Publication, StreamSpec, SubjectTaken, Unavailable
from tests.chaos import timeline
from tests.chaos.checker import Violation
from tests.chaos.faulty_broker import NO_FAULTS, BrokerFaults, CrashPoint, FaultSwitch, FaultyBroker
from tests.chaos.proxy import MODES, Proxy
from tests.chaos.report import Figure, RowResult, render, summary
from tests.chaos.timeline import mixed
from tests.chaos.witness import FileWitness, Line, MemoryWitness, read_witness
from tests.support.eventually import eventually, holds_for

# Timelines


def test_a_seed_always_makes_the_same_timeline() -> None:
    assert mixed(1, 60.0, 1.0) == mixed(1, 60.0, 1.0)
    assert mixed(1, 60.0, 1.0) != mixed(2, 60.0, 1.0)


def test_a_timeline_that_was_kept_is_read_back(tmp_path: Path) -> None:
    faults = mixed(1, 60.0, 1.0)
    timeline.save(faults, tmp_path / "timeline.jsonl")
    assert timeline.load(tmp_path / "timeline.jsonl") == faults


def test_ten_minutes_of_everything_hold_every_kind_of_fault() -> None:
    kinds = {fault.kind for fault in mixed(1, 600.0, 1.0)}
    assert len(kinds) == 10
    assert all(0 < fault.at < 600 for fault in mixed(1, 600.0, 1.0))


# The witness


def test_lines_of_a_file_are_read_back_and_budgets_are_shared(tmp_path: Path) -> None:
    first, second = FileWitness(tmp_path), FileWitness(tmp_path)
    first.write(Line("begin", 1.0, step="a"))
    second.write(Line("end", 2.0, step="a"))
    assert [line.kind for line in read_witness(tmp_path)] == ["begin", "end"]
    assert [witness.spend("key", 2) for witness in (first, second, first)] == [True, True, False]


# The proxy


@contextlib.asynccontextmanager
async def echo_behind_proxy() -> AsyncGenerator[tuple[Proxy, asyncio.StreamReader, asyncio.StreamWriter, list[bytes]]]:
    """Have a connection, through a proxy, to a server that notes each line and sends it back."""
    arrived: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            arrived.append(line)
            writer.write(line)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with Proxy(server.sockets[0].getsockname()[1]) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        try:
            yield proxy, reader, writer, arrived
        finally:
            writer.close()
            server.close()


@pytest.mark.parametrize(("mode", "reaches_server"), [("black_hole", False), ("mute", False), ("deaf", True)])
async def test_a_proxy_holds_back_and_lets_go_on(mode: str, reaches_server: bool) -> None:  # noqa: FBT001
    async with echo_behind_proxy() as (proxy, reader, writer, arrived):
        writer.write(b"before\n")
        assert await reader.readline() == b"before\n"
        proxy.set(next(value for name, value in MODES.items() if name == mode))
        writer.write(b"during\n")
        answer = asyncio.create_task(reader.readline())

        def reached() -> None:
            assert (b"during\n" in arrived) == reaches_server

        await eventually(reached)
        await holds_for(lambda: _assert(not answer.done()), 0.2)
        proxy.set(MODES["pass"])
        assert await answer == b"during\n"


def _assert(holds: bool) -> None:  # noqa: FBT001
    assert holds


async def test_a_proxy_breaks_connections_off_and_serves_new_ones() -> None:
    async with echo_behind_proxy() as (proxy, reader, writer, _):
        writer.write(b"before\n")
        await reader.readline()
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            await reader.readline()
        again, other = await asyncio.open_connection("127.0.0.1", proxy.port)
        other.write(b"again\n")
        assert await again.readline() == b"again\n"
        other.close()


# The broker


@pytest.mark.parametrize(
    ("stage", "order"),
    [("before", ["before"] * 3), ("after", ["before"] * 5 + ["after"] * 3), ("after", ["before", "after"] * 3)],
)
def test_a_process_ends_at_a_write_of_its_stage_whatever_else_is_on_its_way(
    stage: Literal["before", "after"], order: list[Literal["before", "after"]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "kill", lambda _process, number: ended.append(number))
    crash = CrashPoint(3, stage)
    for each in order[:-1]:
        crash.reached(each)
    assert ended == []
    crash.reached(order[-1])
    assert ended == [signal.SIGKILL]


@pytest.fixture
async def faulty(tmp_path: Path) -> tuple[FaultyBroker, FaultSwitch, MemoryWitness]:
    inner = LocalServer().connect()
    await inner.ensure_stream(StreamSpec(name="S_JOURNAL", subjects=("s.>",), one_per_subject="keep_first"))
    switch, witness = FaultSwitch(tmp_path / "faults.json"), MemoryWitness(lambda: 0.0)
    return FaultyBroker(inner, switch, CrashPoint(0, "before"), witness, random.Random(1)), switch, witness


WRITE = Publication(subject="s.a", payload=b"x")


async def test_a_hidden_write_is_stored_and_its_second_is_refused_as_ones_own(
    faulty: tuple[FaultyBroker, FaultSwitch, MemoryWitness],
) -> None:
    broker, switch, witness = faulty
    switch.set(BrokerFaults(hidden=1.0))
    with pytest.raises(Ambiguous):
        await broker.publish(WRITE)
    assert await broker.last("S_JOURNAL", "s.a") is not None
    with pytest.raises(SubjectTaken):
        await broker.publish(WRITE)
    assert [(line.kind, line.own) for line in witness.lines] == [("hidden", False), ("refused", True)]


@pytest.mark.parametrize(
    ("faults", "error"), [(BrokerFaults(dropped=1.0), Ambiguous), (BrokerFaults(refused=1.0), Unavailable)]
)
async def test_a_write_that_is_dropped_or_refused_is_not_stored(
    faulty: tuple[FaultyBroker, FaultSwitch, MemoryWitness], faults: BrokerFaults, error: type[Exception]
) -> None:
    broker, switch, _ = faulty
    switch.set(faults)
    with pytest.raises(error):
        await broker.publish(WRITE)
    assert (await broker.stream_state("S_JOURNAL")).messages == 0


async def test_a_read_fails_and_works_again_once_the_fault_is_over(
    faulty: tuple[FaultyBroker, FaultSwitch, MemoryWitness],
) -> None:
    broker, switch, _ = faulty
    switch.set(BrokerFaults(unread=1.0))
    with pytest.raises(Unavailable):
        await broker.last("S_JOURNAL", "s.a")
    switch.set(NO_FAULTS)

    async def works() -> None:
        try:
            assert await broker.last("S_JOURNAL", "s.a") is None
        except Unavailable as error:
            raise AssertionError from error

    await eventually(works)


# The table


def test_a_row_holds_only_if_it_was_tested_and_nothing_exceeds_its_limit() -> None:
    good = RowResult(1, "kills", 3, [Figure("worst", 1.0, 2.0, " s")])
    assert good.ok
    for bad in (
        RowResult(1, "kills", 3, [Figure("worst", 2.5, 2.0, " s")]),
        RowResult(1, "kills", 3, [], [Violation("claim", "run", "detail")]),
        RowResult(1, "kills", 3, [], tested=False),
    ):
        assert not bad.ok
    assert "not tested" in render([RowResult(1, "kills", 3, [], tested=False)])
    table = render([RowResult(1, "kills", 3, [], [Violation("claim", "run", "detail")])])
    assert "row 1: claim: not so 1 times\n  run: detail" in table


def test_the_end_says_which_rows_were_kept_and_which_not() -> None:
    good, bad = RowResult(1, "kills", 3, []), RowResult(6, "kills", 3, [Figure("worst", 2.5, 2.0, " s")])
    untested = RowResult(9, "no room", 0, [], tested=False)
    assert summary([good, bad, untested, good]) == "kept: rows 1, 1\nNOT KEPT: row 6\nNOT TESTED: row 9"
