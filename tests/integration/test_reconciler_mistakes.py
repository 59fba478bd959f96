"""Records and runs that nobody can make anything of keep no other run from going on, on a virtual clock."""

from __future__ import annotations

import asyncio

import pytest

import ironflow
from ironflow import Context
from ironflow.broker.protocol import Publication
from ironflow.codec import decode_record, encode_record
from ironflow.messages import FunctionsPage, RegisterFunctions, Reply
from ironflow.names import ENGINE_CONSUMER
from ironflow.records import FunctionRecord, OutcomeRecord, RunState
from ironflow_engine import conductor
from ironflow_engine.facts import Decision, Fact, StateReviewed, WaitRecorded
from ironflow_engine.overdue import RunJournal
from ironflow_engine.reducer import decide
from tests.integration.overdue_runs import WITHIN_SECONDS, dies_ending_runs, purge, seconds_of
from tests.support.inprocess import running_system

pytestmark = pytest.mark.virtual_time


@pytest.mark.parametrize("rest", ["wait.x.y", "wait.x", "try.x.1", "try.x", "step.x", "closed.x.y", "began.x.y"])
@pytest.mark.parametrize("payload", [b"{}", b'{"name": "x", "kind": "sleep", "token": "x", "delay_ms": 1}'])
async def test_a_record_that_nobody_can_read_keeps_no_other_run_from_going_on(rest: str, payload: bytes) -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        await ctx.step.sleep("nap", 60)

    async with running_system(f) as system:
        poisoned, run = await system.client.start(f), await system.client.start(f)
        await asyncio.sleep(5)
        subject = f"{system.names.journal_of_run('default', poisoned.id).removesuffix('>')}{rest}"
        await system.broker.publish(Publication(subject=subject, payload=payload))
        await purge(system, system.names.all_shards[0].timers)
        assert await seconds_of(run) <= 60 + WITHIN_SECONDS
        state = await system.broker.consumer_state(system.names.all_shards[0].journal, ENGINE_CONSUMER)
        assert (state.pending, state.ack_pending) == (0, 0)


@pytest.mark.parametrize("is_lost", [False, True])
@pytest.mark.parametrize("payload", [b"", b"{}", b'{"token": "x", "status": 7}'])
async def test_a_run_whose_wait_has_an_end_that_nobody_can_read_goes_on_and_fails(
    payload: bytes, *, is_lost: bool
) -> None:
    @ironflow.function(id="child")
    async def child(ctx: Context) -> None:
        await ctx.step.sleep("nap", "1h")

    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        if ctx.event.data == "invoke":
            await ctx.step.invoke(child, timeout="1m")
        await ctx.step.sleep("nap", 60)

    async with running_system(f, child) as system:
        runs = {"nap": await system.client.start(f), "child": await system.client.start(f, "invoke")}
        await asyncio.sleep(5)
        for step, run in runs.items():
            subject = system.names.journal_step("default", run.id, step)
            await system.broker.publish(Publication(subject=subject, payload=payload))
        timers = system.names.all_shards[0].timers
        if is_lost:
            await purge(system, timers)
        for run in runs.values():
            error = (await run.wait("3h")).error
            assert error is not None
            assert error.type == "TaskUnreadable"
        assert (await system.broker.consumer_state(timers, ENGINE_CONSUMER)).ack_pending == 0


@pytest.mark.parametrize("rest", ["wait.x.y", "wait.x", "try.x"])
async def test_a_run_whose_timer_is_lost_goes_on_and_fails_where_a_record_of_it_cannot_be_read(rest: str) -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        await ctx.step.sleep("nap", 60)

    async with running_system(f) as system:
        run = await system.client.start(f)
        await asyncio.sleep(5)
        subject = f"{system.names.journal_of_run('default', run.id).removesuffix('>')}{rest}"
        await system.broker.publish(Publication(subject=subject, payload=b"{}"))
        await purge(system, system.names.all_shards[0].timers)
        error = (await run.wait("3h")).error
        assert error is not None
        assert error.type == "TaskUnreadable"


@pytest.mark.parametrize("due_ms", [2**63 - 1, 2**63, 10**30])
async def test_a_run_that_says_it_rests_for_ever_stops_neither_lists_nor_others(due_ms: int) -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        await ctx.step.sleep("nap", 60)

    @ironflow.function(id="hostile")
    async def hostile(ctx: Context) -> None:
        await ctx.step.run("work", asyncio.sleep, 3_600)

    async with running_system(f, hostile) as system:
        poisoned, run = await system.client.start(hostile), await system.client.start(f)
        await asyncio.sleep(5)
        outcome = OutcomeRecord(number=0, status="suspended", token="x", seen=10**6, due_ms=due_ms)
        subject = system.names.journal_outcome("default", poisoned.id, 0)
        await system.broker.publish(Publication(subject=subject, payload=encode_record(outcome)))
        await purge(system, system.names.all_shards[0].timers)
        assert await seconds_of(run) <= 60 + WITHIN_SECONDS
        assert {each.id async for each in system.client.runs()} == {run.id, poisoned.id}


@pytest.mark.parametrize("timeout_ms", [-1, 0, 366 * 86_400_000 + 1, 2**63])
async def test_a_function_whose_runs_could_take_longer_than_any_may_is_not_registered(timeout_ms: int) -> None:
    async with running_system(workers=0) as system:
        request = RegisterFunctions(functions=(FunctionRecord(id="f", queue="q", timeout_ms=timeout_ms),))
        answer = await system.broker.request(system.names.api("functions.register"), encode_record(request), 10.0)
        failure = decode_record(Reply, answer).failure
        assert failure is not None
        assert failure.type == "BadRequest"
        assert "timeout" in failure.message
        assert await system.client.engine.functions() == FunctionsPage(functions=())


@pytest.mark.parametrize("fact", [WaitRecorded, StateReviewed])
async def test_a_run_about_which_the_engine_makes_a_mistake_keeps_no_other_from_going_on(
    fact: type[Fact], monkeypatch: pytest.MonkeyPatch
) -> None:
    mistaken: set[str] = set()

    def decides(state: RunState | None, about: Fact) -> Decision:
        if about.run in mistaken and isinstance(about, fact):
            raise AssertionError(about.run)
        return decide(state, about)

    monkeypatch.setattr(conductor, "decide", decides)

    @ironflow.function(id="f", timeout="1m")
    async def f(ctx: Context) -> None:
        await ctx.step.sleep("nap", "2m" if ctx.event.data == "too long" else 50)

    async with running_system(f) as system:
        runs = [await system.client.start(f, data) for data in ("a nap", "too long") for _ in range(20)]
        await asyncio.sleep(5)
        mistaken |= {run.id for run in runs[::7]}
        await purge(system, system.names.all_shards[0].timers)
        for run in runs:
            if run.id not in mistaken:
                assert await seconds_of(run) <= 60 + WITHIN_SECONDS


async def test_a_run_that_the_engine_fails_to_look_at_keeps_no_other_from_going_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mistaken: set[str] = set()
    facts = RunJournal.facts

    def looks(journal: RunJournal, now_ms: int) -> list[Fact]:
        found = facts(journal, now_ms)
        if any(fact.run in mistaken for fact in found):
            raise AssertionError
        return found

    monkeypatch.setattr(RunJournal, "facts", looks)

    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        await ctx.step.sleep("nap", 60)

    async with running_system(f) as system:
        mistaken.add((await system.client.start(f)).id)
        run = await system.client.start(f)
        await asyncio.sleep(5)
        await purge(system, system.names.all_shards[0].timers)
        assert await seconds_of(run) <= 60 + WITHIN_SECONDS


async def test_runs_whose_waits_timed_out_fail_although_what_one_of_them_did_cannot_be_read() -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        await ctx.step.wait_for_event("approval", event="approved", timeout="1m")

    async with running_system(f) as system:
        poisoned = await system.client.start(f)
        await asyncio.sleep(0.5)
        run = await system.client.start(f)
        await asyncio.sleep(49)
        subject = system.names.journal_step("default", poisoned.id, "aaa")
        await system.broker.publish(Publication(subject=subject, payload=b'{"status":7}'))
        await dies_ending_runs(system).wait()
        await system.add_engine()
        assert await seconds_of(run) <= WITHIN_SECONDS
        # It may have something to undo, and when no worker can tell what, it ends all the same.
        await poisoned.wait("1h")
        state = await poisoned.state()
        assert (state.status, state.compensation) == ("failed", "failed")
