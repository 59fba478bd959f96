"""What api.md says of child runs, from the outside: client, engine and workers on a virtual clock."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

import ironflow
from ironflow import Context, Function, InvokeError, InvokeTimeoutError, NonRetryableError, Retry
from ironflow.function import forget_functions
from ironflow.handles import RunHandle
from ironflow.limits import KIBIBYTE
from tests.support.inprocess import System, running_system

pytestmark = pytest.mark.virtual_time


@dataclasses.dataclass
class Amount:
    cents: int


@dataclasses.dataclass
class Receipt:
    paid: int
    by: str


@ironflow.function(id="charge", queue="payments")
async def charge(ctx: Context[Amount]) -> Receipt:
    by = await ctx.step.run("ask", lambda: "card")
    await ctx.step.sleep("settle", "10m")
    return Receipt(ctx.event.data.cents, by)


@ironflow.function(id="nap")
async def nap(ctx: Context) -> str:
    await ctx.step.sleep("nap", ctx.event.data)
    return f"slept {ctx.event.data}"


@ironflow.function(id="broken", retry=Retry(max_attempts=1))
async def broken(ctx: Context) -> None:
    await ctx.step.run("work", fail, ctx.event.data)


def fail(message: str) -> None:
    raise ValueError(message)


def calls(callee: Function[Any, Any] | str, data: object = None, **options: Any) -> Function[Any, Any]:
    """Return a function that invokes another one, notes what each pass sees of it, and returns that."""

    @ironflow.function(id="caller")
    async def caller(ctx: Context) -> Any:
        try:
            seen = await ctx.step.invoke(callee, data, **options)
        except ironflow.IronflowError as error:
            seen = f"{type(error).__name__}: {error}"
        SEEN.append(seen)
        await ctx.step.sleep("afterwards", "1s")
        return seen

    return caller


SEEN: list[Any] = []


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    SEEN.clear()


async def runs_of(system: System, function: str) -> list[RunHandle[Any]]:
    """Return the runs of a function, oldest first."""
    return [run async for run in system.client.runs(function=function)][::-1]


async def only_run_of(system: System, function: str) -> RunHandle[Any]:
    """Return the one run of a function."""
    (run,) = await runs_of(system, function)
    return run


# What comes back


async def test_the_output_of_a_child_is_decoded_into_what_its_function_returns() -> None:
    caller = calls(charge, Amount(500))
    async with running_system(caller, charge) as system:
        assert await system.output(caller) == {"paid": 500, "by": "card"}
    assert [Receipt(500, "card")] * 2 == SEEN


async def test_by_its_id_a_child_returns_plain_json() -> None:
    caller = calls("charge", {"cents": 5})
    async with running_system(caller, charge) as system:
        assert await system.output(caller) == {"paid": 5, "by": "card"}
    assert SEEN == [{"paid": 5, "by": "card"}] * 2


async def test_a_child_is_executed_by_the_workers_of_its_own_queue() -> None:
    caller = calls(charge, Amount(1))
    async with running_system(caller, charge, workers=0) as system:
        payments = await system.add_worker("payments", functions=("charge",))
        await system.add_worker("default", functions=("caller",))
        await system.kill(payments)
        run = await system.client.start(caller)
        await asyncio.sleep(60)
        child = await only_run_of(system, "charge")
        assert [(await each.state()).status for each in (run, child)] == ["waiting", "queued"]
        await system.add_worker("payments", functions=("charge",))
        assert await run.result("1h") == {"paid": 1, "by": "card"}


async def test_a_child_sees_an_event_of_its_own_with_what_it_was_given() -> None:
    @ironflow.function(id="tell")
    async def tell(ctx: Context) -> Any:
        return [ctx.event.name, ctx.event.data, ctx.event.source]

    caller = calls(tell, {"a": [1, None]})
    async with running_system(caller, tell) as system:
        run = await system.client.start(caller)
        assert await run.result("1h") == ["ironflow.invoked", {"a": [1, None]}, f"run/{run.id}"]


async def test_a_child_without_data_is_given_null() -> None:
    @ironflow.function(id="tell")
    async def tell(ctx: Context) -> Any:
        return {"data": ctx.event.data}

    caller = calls(tell)
    async with running_system(caller, tell) as system:
        assert await system.output(caller) == {"data": None}


async def test_a_run_waits_for_its_child_without_a_worker() -> None:
    caller = calls(nap, "9h")
    async with running_system(caller, nap, concurrency=1) as system:
        run = await system.client.start(caller)
        await asyncio.sleep(1800)
        assert (await run.state()).status == "waiting"
        (step,) = await run.steps()
        assert (step.name, step.kind, step.status) == ("invoke:nap", "invoke", "waiting")
        assert await run.result("10h") == "slept 9h"
        step, _ = await run.steps()
        assert (step.status, bytes(step.output)) == ("completed", b'"slept 9h"')
        assert (await (await only_run_of(system, "nap")).state()).status == "completed"


async def test_data_and_output_may_be_as_large_as_payloads_may_be() -> None:
    @ironflow.function(id="echo")
    async def echo(ctx: Context) -> Any:
        return ctx.event.data

    caller = calls(echo, "x" * (512 * KIBIBYTE - 2))
    async with running_system(caller, echo) as system:
        assert len(await system.output(caller)) == 512 * KIBIBYTE - 2


@pytest.mark.parametrize(
    ("callee", "data", "options", "expected"),
    [
        ("nap", "x" * 512 * KIBIBYTE, {}, "PayloadTooLargeError: data for 'nap' is 524,290 bytes as JSON"),
        ("nap", object(), {}, "SerializationError: data: Objects of type object cannot"),
        ("nap", [1, float("nan")], {}, "SerializationError: data[1]: nan is not a JSON number"),
        ("no such id", None, {}, "DefinitionError: function id 'no such id' is not allowed"),
        (
            "my-child",
            nap,
            {},
            "DefinitionError: the function to invoke comes before its data, and a name for the step is given as name=…",
        ),
        (len, None, {}, "DefinitionError: invoke takes an ironflow function or its id, got <built-in function len>"),
        ("nap", None, {"timeout": 0}, "DefinitionError: timeout must be longer than zero"),
        ("nap", None, {"timeout": "367d"}, "LimitError: timeout"),
        ("nap", None, {"name": ""}, "DefinitionError: a step's name must be a non-empty text"),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_what_makes_no_sense_is_refused_at_once_and_nothing_is_stored(
    callee: Any, data: object, options: dict[str, Any], expected: str
) -> None:
    caller = calls(callee, data, **options)
    async with running_system(caller, nap) as system:
        assert (await system.output(caller)).startswith(expected)
        assert await system.subjects("wait") == ["wait.afterwards"]
        assert await runs_of(system, "nap") == []


# Failures


async def test_the_failure_of_a_child_is_raised_in_every_pass_with_its_id_its_cause_and_its_message() -> None:
    errors: list[InvokeError] = []

    @ironflow.function(id="caller")
    async def caller(ctx: Context) -> None:
        try:
            await ctx.step.invoke(broken, "boom")
        except InvokeError as error:
            errors.append(error)
        await ctx.step.sleep("afterwards", "1s")

    async with running_system(caller, broken) as system:
        assert (await system.run(caller)).status == "completed"
        child = await only_run_of(system, "broken")
    said = "step 'work' failed after 1 attempt(s): ValueError: boom"
    assert [(error.run_id, error.cause_type, error.message) for error in errors] == [(child.id, "StepError", said)] * 2
    assert {str(error) for error in errors} == {f"child run {child.id} failed: StepError: {said}"}


async def test_a_failure_that_is_not_caught_fails_the_parent_at_once() -> None:
    @ironflow.function(id="caller")
    async def caller(ctx: Context) -> Any:
        return await ctx.step.invoke(broken, "boom")

    async with running_system(caller, broken) as system:
        run = await system.client.start(caller)
        view = await run.wait("1h")
        assert view.status == "failed"
        assert view.error is not None
        assert (view.error.type, view.error.message.split(": ", 1)[1]) == (
            "InvokeError",
            "StepError: step 'work' failed after 1 attempt(s): ValueError: boom",
        )
        (step,) = await run.steps()
        assert step.status == "failed"
        assert step.error is not None
        assert (step.error.type, step.error.step) == ("InvokeError", "invoke:broken")
        assert len(await runs_of(system, "broken")) == 1


async def test_a_child_of_a_function_that_nobody_has_fails() -> None:
    caller = calls("nowhere")
    async with running_system(caller) as system:
        output = await system.output(caller)
    assert "InvokeError: child run" in output
    assert "failed: FunctionNotFound: no function 'nowhere' is registered" in output
    assert [output] * 2 == SEEN


@pytest.mark.parametrize(("reason", "said"), [("", "it was cancelled"), ("too dear", "too dear")])
async def test_a_child_that_is_cancelled_fails_the_step_of_its_parent(reason: str, said: str) -> None:
    caller = calls(nap, "5h")
    async with running_system(caller, nap) as system:
        run = await system.client.start(caller)
        await asyncio.sleep(60)
        child = await only_run_of(system, "nap")
        assert await child.cancel(reason or None)
        assert await run.result("1m") == f"InvokeError: child run {child.id} failed: Cancelled: {said}"
    assert len(set(SEEN)) == 1


async def test_an_output_that_does_not_decode_is_an_error_of_the_parent() -> None:
    @ironflow.function(id="count")
    async def count(ctx: Context) -> int:
        return 3

    caller = calls(count)

    forget_functions()  # the workers of the child have its next release already

    @ironflow.function(id="count")
    async def count_in_words(ctx: Context) -> str:
        return "three"

    async with running_system(caller, count_in_words) as system:
        assert (await system.output(caller)).startswith("SerializationError: output of 'invoke:count': Expected `int`")


async def test_a_child_whose_output_is_not_of_its_type_has_failed() -> None:
    @ironflow.function(id="liar")
    async def liar(ctx: Context) -> int:
        return "three"  # type: ignore[return-value]  # pyright: ignore[reportReturnType]

    caller = calls(liar)
    async with running_system(caller, liar) as system:
        output = await system.output(caller)
    assert "InvokeError: child run" in output
    assert "failed: SerializationError: output: Expected `int`, got `str`" in output


# Timeouts


async def test_a_child_that_takes_too_long_is_cancelled() -> None:
    caller = calls(nap, "5h", timeout="2h")
    async with running_system(caller, nap) as system:
        began = system.now_ms()
        output = await system.output(caller)
        assert system.now_ms() - began == pytest.approx(2 * 3600 * 1000, abs=3_000)
        child = await only_run_of(system, "nap")
        said = "timed out: it did not end within 2h, and was cancelled"
        assert output == f"InvokeTimeoutError: child run {child.id} {said}"
        view = await child.state()
        assert view.status == "cancelled"
        assert view.error is not None
        assert view.error.message == "the time that the run waited for it was over"
    assert [output] * 2 == SEEN


async def test_a_timeout_is_an_invoke_error_too() -> None:
    assert issubclass(InvokeTimeoutError, InvokeError)
    caller = calls(nap, "5m", timeout="6m")
    async with running_system(caller, nap) as system:
        assert await system.output(caller) == "slept 5m"
        await asyncio.sleep(3600)
        assert len(SEEN) == 2


async def test_a_child_that_ends_at_the_moment_of_its_timeout_has_done_one_of_the_two() -> None:
    seen: set[str] = set()
    for offset in range(-12, 13):
        SEEN.clear()
        caller = calls(nap, 120, timeout=120 + offset / 100)
        async with running_system(caller, nap, engines=2) as system:
            run = await system.client.start(caller)
            output = await run.result("3h")
            await asyncio.sleep(60)
            assert [output] * 2 == SEEN
            assert await system.subjects("step", run) == ["step.invoke=3Anap", "step.afterwards"]
            status = (await (await only_run_of(system, "nap")).state()).status
            # A child may complete although its parent has just ceased to wait; not the other way round.
            assert (output, status) == ("slept 120", "completed") or output.startswith("InvokeTimeoutError: child run")
            seen |= {output.split(":")[0], status}
    assert seen == {"slept 120", "InvokeTimeoutError", "completed", "cancelled"}


# Names


async def test_invokes_without_a_name_are_numbered_in_their_scope() -> None:
    @ironflow.function(id="caller")
    async def caller(ctx: Context) -> list[Any]:
        async def branch(step: ironflow.Step) -> Any:
            return [await step.invoke(nap, 1), await step.invoke("nap", 1), await step.invoke_async(nap, 1)]

        return [
            await ctx.step.invoke(nap, 1),
            await ctx.step.invoke("nap", 2),
            await ctx.step.invoke(nap, 3, name="mine"),
            await ctx.step.invoke(nap, 4),
            await ctx.step.parallel("both", [branch, branch]),
        ]

    async with running_system(caller, nap) as system:
        run = await system.client.start(caller)
        await run.result("1h")
        names = [(step.name, step.scope) for step in await run.steps()]
        assert names[:4] == [("invoke:nap", ()), ("invoke:nap#2", ()), ("mine", ()), ("invoke:nap#3", ())]
        for index in range(2):
            inner = ["invoke:nap", "invoke:nap#2", "invoke_async:nap"]
            assert [name for name, scope in names if scope == ("both", index)] == inner
        assert len(await runs_of(system, "nap")) == 10


async def test_one_name_twice_is_refused() -> None:
    @ironflow.function(id="caller")
    async def caller(ctx: Context) -> None:
        await ctx.step.invoke(nap, 1, name="same")
        await ctx.step.invoke_async(nap, 1, name="same")

    async with running_system(caller, nap) as system:
        view = await system.run(caller)
        assert view.error is not None
        assert view.error.type == "DuplicateStepError"


# Depth


def recursion(call: str) -> Function[Any, Any]:
    @ironflow.function(id="deep")
    async def deep(ctx: Context) -> Any:
        if not ctx.event.data:
            return "bottom"
        try:
            return await getattr(ctx.step, call)("deep", ctx.event.data - 1)
        except ironflow.LimitError as error:
            return str(error)

    return deep


@pytest.mark.parametrize("call", ["invoke", "invoke_async"])
async def test_ten_runs_may_stand_above_one_and_eleven_may_not(call: str) -> None:
    deep = recursion(call)
    async with running_system(deep) as system:
        for levels in (10, 11):
            await (await system.client.start(deep, levels)).result("1h")
            await asyncio.sleep(60)
        # Eleven runs each: the one that was started, and ten below it.
        runs = await runs_of(system, "deep")
        assert len(runs) == 22
        states = {run.id: await system.run_state(run.id) for run in runs}
        assert sorted(state.depth for state in states.values()) == sorted([*range(11)] * 2)
        deepest = [run for run in runs if states[run.id].depth == 10]
        outputs = [await run.result("1m") for run in deepest]
        assert outputs[0] == "bottom"
        assert outputs[1].startswith("'deep' is not invoked: at most 10 runs may stand above one")
        # Nothing was stored of what was refused.
        assert await system.subjects("", deepest[1]) == ["outcome.0"]


# Started and left to itself


@pytest.mark.parametrize("ending", ["completes", "fails", "is cancelled"])
async def test_a_run_that_was_started_asynchronously_survives_its_starter(ending: str) -> None:
    @ironflow.function(id="starter")
    async def starter(ctx: Context) -> str:
        run = await ctx.step.invoke_async(nap, "5h")
        if ending == "fails":
            raise NonRetryableError(run)
        if ending == "is cancelled":
            await ctx.step.sleep("for ever", "9h")
        return run

    async with running_system(starter, nap) as system:
        run = await system.client.start(starter)
        await asyncio.sleep(60)
        if ending == "is cancelled":
            assert await run.cancel()
        await run.wait("1m")
        (step, *_) = await run.steps()
        child = await only_run_of(system, "nap")
        assert (step.kind, step.status, bytes(step.output)) == ("invoke_async", "completed", f'"{child.id}"'.encode())
        assert await child.result("6h") == "slept 5h"
        assert (await run.state()).status == {"completes": "completed", "fails": "failed"}.get(ending, "cancelled")
