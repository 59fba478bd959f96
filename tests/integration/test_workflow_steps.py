"""What api.md says of steps, from the outside: client, engine and worker on a virtual clock."""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import pytest

import ironflow
from ironflow import Context, Retry, StepError
from ironflow.clock import to_iso
from ironflow.limits import Limits
from tests.support.inprocess import System, running_system

pytestmark = pytest.mark.virtual_time

ONCE = Retry(max_attempts=1)
THRICE = Retry(max_attempts=3, initial_delay="10s", backoff=2.0, jitter=0)


class Attempts:
    """A body that fails as often as it is told to, and knows when it was called.

    Args:
        *errors: raised one after the other; then it returns how often it was called.

    """

    def __init__(self, *errors: BaseException) -> None:
        self._errors = list(errors)
        self.times: list[float] = []

    async def __call__(self) -> int:
        self.times.append(asyncio.get_running_loop().time())
        if self._errors:
            raise self._errors.pop(0)
        return len(self.times)

    @property
    def pauses(self) -> list[int]:
        """The whole seconds between two calls."""
        return [round(later - earlier) for earlier, later in itertools.pairwise(self.times)]


async def steps_of(system: System, run: str) -> dict[str, tuple[str, int]]:
    """Return the status and the attempt of each step."""
    return {step.name: (step.status, step.attempt) for step in await system.client.run(run).steps()}


# Bodies


@pytest.mark.parametrize("undo", [False, True], ids=["run", "compensate"])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["plain", "async"])
async def test_a_body_that_was_called_instead_of_passed_is_refused_with_what_to_do(
    *, undo: bool, asynchronous: bool
) -> None:
    async def fetched() -> int:
        return 1

    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        body: Any = fetched() if asynchronous else 1
        if undo:
            ctx.step.compensate("a", body)
        await ctx.step.run("a", body)

    async with running_system(f) as system:
        run = await system.run(f)
        assert run.error is not None
        assert run.error.message.startswith("step 'a' takes a function to call, got ")
        hint = "; pass the function itself and its arguments after it, without calling it"
        assert run.error.message.endswith(hint)


@pytest.mark.parametrize("undo", [False, True], ids=["run", "compensate"])
async def test_a_workflow_as_a_body_is_refused_with_what_to_do(*, undo: bool) -> None:
    @ironflow.function(id="child")
    async def child(ctx: Context) -> None: ...

    @ironflow.function(id="f", retry=THRICE)
    async def f(ctx: Context) -> None:
        body: Any = child
        if undo:
            ctx.step.compensate("a", body)
        await ctx.step.run("a", body)

    async with running_system(f, child) as system:
        run = await system.run(f)
        assert run.error is not None
        assert run.error.type == "DefinitionError"
        said = "step 'a' takes a plain function, got the workflow 'child'; have it run with step.invoke"
        assert run.error.message == said
        assert await system.client.run(run.id).steps() == []


@pytest.mark.parametrize(
    ("method", "args", "options", "expected"),
    [
        (
            "sleep",
            ("5s",),
            {},
            "step.sleep: missing a required argument: 'duration'; it is called as {}(name, duration)",
        ),
        (
            "sleep",
            ("a", "5s"),
            {"until": 1},
            "step.sleep: got an unexpected keyword argument 'until'; it is called as {}(",
        ),
        (
            "publish",
            ("tell", "order.placed", {}),
            {},
            "step.publish: too many positional arguments; it is called as {}(event, data=None, *, name=None, id=None)",
        ),
        (
            "wait_for_event",
            ("paid", "payment.settled"),
            {},
            "step.wait_for_event: too many positional arguments; it is called as {}(name, *, event, match=None",
        ),
    ],
)
async def test_a_call_with_arguments_that_do_not_fit_fails_the_run_at_once_and_says_how_it_is_written(
    method: str, args: tuple[Any, ...], options: dict[str, Any], expected: str
) -> None:
    begun: list[str] = []

    @ironflow.function(id="f", retry=THRICE)
    async def f(ctx: Context) -> None:
        begun.append("pass")
        await getattr(ctx.step, method)(*args, **options)

    async with running_system(f) as system:
        run = await system.run(f)
    assert run.error is not None
    assert run.error.type == "DefinitionError"
    assert run.error.message.startswith(expected.format(f"step.{method}"))
    assert begun == ["pass"]


async def test_every_kind_of_body_runs_and_gives_its_result() -> None:
    async def asynchronous(number: int) -> int:
        return number + 1

    def plain(number: int, *, by: int = 1) -> int:
        return number + by

    class Caller:
        async def __call__(self, number: int) -> int:
            return number + 1

        def method(self, number: int) -> int:
            return number + 1

    @ironflow.function(id="f")
    async def f(ctx: Context) -> list[int]:
        run = ctx.step.run
        return [
            await run("async", asynchronous, 0),
            await run("plain", plain, 0, by=2),
            await run("lambda", lambda: 3),
            await run("awaitable of a plain body", lambda: asynchronous(3)),
            await run("async partial", functools.partial(asynchronous, 4)),
            await run("plain partial", functools.partial(plain, 5, by=1)),
            await run("callable object", Caller(), 6),
            await run("method", Caller().method, 7),
            await run("builtin", len, [1] * 9),
        ]

    async with running_system(f) as system:
        assert await system.output(f) == list(range(1, 10))


async def test_a_body_that_exits_the_interpreter_fails_its_step_only() -> None:
    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> list[str]:
        async def leave() -> None:
            raise SystemExit(3)

        async def leave_in_a_thread() -> None:
            await asyncio.to_thread(exec, "raise SystemExit(4)")

        def plain() -> None:
            raise SystemExit(5)

        failures: list[str] = []
        for name, body in (("a", leave), ("b", plain), ("c", leave_in_a_thread)):
            try:
                await ctx.step.run(name, body)
            except StepError as error:
                failures.append(f"{error.cause_type} {error.message}")
        return failures

    async with running_system(f) as system:
        assert await system.output(f) == ["SystemExit 3", "SystemExit 5", "SystemExit 4"]


async def test_a_step_inside_of_a_step_is_refused_and_says_what_to_do() -> None:
    @ironflow.function(id="f", retry=THRICE)
    async def f(ctx: Context) -> None:
        async def outer() -> None:
            await ctx.step.sleep("inner", "1h")

        await ctx.step.run("outer", outer)

    async with running_system(f) as system:
        run = await system.run(f)
    assert run.error is not None
    assert run.error.attempts == 1
    assert "'inner'" in run.error.message
    assert "inside the body of step 'outer'" in run.error.message


# Sleeps


async def test_a_sleep_takes_its_time_and_frees_the_slot() -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> str:
        await ctx.step.sleep("nap", "2h30m")
        return "awake"

    async with running_system(f, concurrency=1) as system:
        began = system.now_ms()
        assert await system.output(f) == "awake"
        assert 9_000_000 <= system.now_ms() - began < 9_001_000


async def test_sleep_until_wakes_at_that_time() -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context[str]) -> None:
        await ctx.step.sleep_until("dawn", ctx.event.data)

    async with running_system(f) as system:
        dawn = system.now_ms() + 3_600_000
        run = await system.run(f, to_iso(dawn))
        assert run.status == "completed"
        assert 0 <= system.now_ms() - dawn < 1_000


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        pytest.param("yesterday", "must be an ISO 8601", id="no time"),
        pytest.param("2026-01-01T12:00:00", "has no time zone", id="naive text"),
        pytest.param(datetime(2026, 1, 1), "has no time zone", id="naive datetime"),  # noqa: DTZ001 - what is refused
        pytest.param("2025-12-31T23:59:59Z", "must be in the future", id="past"),
        pytest.param("2027-06-01T00:00:00Z", "at most 366 days ahead", id="too far"),
        pytest.param(5, "must be an ISO 8601 text or a datetime", id="number"),
    ],
)
async def test_sleep_until_refuses(when: Any, expected: str) -> None:
    @ironflow.function(id="f", retry=THRICE)
    async def f(ctx: Context) -> str:
        with pytest.raises(ValueError) as refused:  # noqa: PT011 - the text is compared
            await ctx.step.sleep_until("dawn", when)
        return str(refused.value)

    async with running_system(f) as system:
        assert expected in await system.output(f)
        assert await system.subjects("wait") == []


@pytest.mark.parametrize(
    ("duration", "error"),
    [(0, ValueError), (-1, ValueError), ("soon", ValueError), ("367d", ironflow.LimitError), (True, ValueError)],
)
async def test_sleep_refuses(duration: Any, error: type[Exception]) -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> str:
        with pytest.raises(error):
            await ctx.step.sleep("nap", duration)
        return "refused"

    async with running_system(f) as system:
        assert await system.output(f) == "refused"
        assert await system.subjects("wait") == []


async def test_sleeps_that_are_gathered_overlap() -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        await asyncio.gather(ctx.step.sleep("short", "10m"), ctx.step.sleep("long", "30m"))

    async with running_system(f) as system:
        began = system.now_ms()
        assert (await system.run(f)).status == "completed"
        assert 1_800_000 <= system.now_ms() - began < 1_801_000


async def test_sleeps_in_a_task_group_suspend_the_run() -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> str:
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.step.sleep("short", "10m"))
            group.create_task(ctx.step.sleep("long", "30m"))
            await ctx.step.sleep("in the body", "20m")
        return "done"

    async with running_system(f) as system:
        began = system.now_ms()
        assert await system.output(f) == "done"
        assert 1_800_000 <= system.now_ms() - began < 1_801_000


# Names and limits


async def test_a_name_used_twice_fails_the_run_at_once_and_names_the_step() -> None:
    @ironflow.function(id="f", retry=THRICE)
    async def f(ctx: Context) -> None:
        await ctx.step.run("charge", Attempts())
        await ctx.step.run("charge", Attempts())

    async with running_system(f) as system:
        run = await system.run(f)
    assert run.error is not None
    assert (run.error.type, run.error.attempts) == ("DuplicateStepError", 1)
    assert "'charge'" in run.error.message


@pytest.mark.parametrize("name", ["", 5, None, b"x", "\ud800"], ids=repr)
async def test_a_name_that_is_no_text_is_refused(name: Any) -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> list[str]:
        refusals: list[str] = []
        for call in (
            lambda: ctx.step.run(name, Attempts()),
            lambda: ctx.step.sleep(name, 1),
            lambda: asyncio.sleep(0, ctx.step.idempotency_key(name)),
        ):
            try:
                await call()
            except ironflow.DefinitionError as error:
                refusals.append(str(error))
        return refusals

    async with running_system(f) as system:
        refusals = await system.output(f)
    assert len(refusals) == 3
    assert all("name must be" in refusal for refusal in refusals)


@pytest.mark.parametrize(
    "name", ["a b", "a.b", ">", "*", "名前", "x" * 10_240, "=pass", "a/b", "\n"], ids=lambda n: n[:9]
)
async def test_a_name_may_be_any_text(name: str) -> None:
    body = Attempts()

    @ironflow.function(id="f")
    async def f(ctx: Context) -> int:
        result = await ctx.step.run(name, body)
        await ctx.step.sleep(f"{name[:99]} nap", 1)
        return result

    async with running_system(f) as system:
        run = await system.client.start(f)
        assert await run.result("1h") == 1
        assert [step.name for step in await run.steps()] == [name, f"{name[:99]} nap"]
    assert len(body.times) == 1


async def test_one_step_more_than_a_run_may_have_is_refused() -> None:
    body = Attempts()

    @ironflow.function(id="f")
    async def f(ctx: Context[int]) -> int:
        for number in range(ctx.event.data):
            await ctx.step.run(f"step {number}", body)
        return len(body.times)

    async with running_system(f, limits=Limits(steps_per_run=5)) as system:
        assert await system.output(f, 5) == 5
        run = await system.run(f, 6)
    assert run.error is not None
    assert run.error.type == "LimitError"
    assert len(body.times) == 10


async def test_a_result_may_be_as_large_as_the_limit_and_not_a_byte_larger() -> None:
    body: Counter[int] = Counter()

    @ironflow.function(id="f", retry=THRICE)
    async def f(ctx: Context[int]) -> int:
        def letters() -> str:
            body[ctx.event.data] += 1
            return "x" * (ctx.event.data - 2)  # and two quotes

        return len(await ctx.step.run("letters", letters))

    async with running_system(f, limits=Limits(payload_bytes=1000)) as system:
        assert await system.output(f, 1000) == 998
        run = await system.run(f, 1001)
        assert run.error is not None
        assert run.error.type == "PayloadTooLargeError"
        assert "result of step 'letters' is 1,001 bytes" in run.error.message
        assert "x" * 999 not in str(await system.client.run(run.id).steps())
    assert body == {1000: 1, 1001: 1}


async def test_an_output_may_be_as_large_as_the_limit_and_not_a_byte_larger() -> None:
    @ironflow.function(id="f", retry=THRICE)
    async def f(ctx: Context[int]) -> str:
        return "x" * (ctx.event.data - 2)

    async with running_system(f, limits=Limits(payload_bytes=1000)) as system:
        assert len(await system.output(f, 1000)) == 998
        run = await system.run(f, 1001)
        assert run.error is not None
        assert run.error.type == "PayloadTooLargeError"


# Publishing


async def test_a_published_event_starts_functions_and_is_published_once_although_its_pass_is_repeated() -> None:
    received: list[tuple[str, Any, str]] = []

    @ironflow.function(id="seller", retry=THRICE)
    async def seller(ctx: Context) -> list[str]:
        sent = await ctx.step.publish("order.sold", {"n": 1})
        again = await ctx.step.publish("order.sold", {"n": 2}, id="my-id")
        await ctx.step.run("flaky", flaky)
        return [sent.id, again.id]

    @ironflow.function(id="listener", triggers=["order.*"])
    async def listener(ctx: Context) -> None:
        received.append((ctx.event.name, ctx.event.data, ctx.event.id))

    flaky = Attempts(ValueError())
    async with running_system(seller, listener) as system:
        run = await system.client.start(seller)
        sent, again = await run.result("1h")
        await asyncio.sleep(1)
        assert [event.name async for event in system.client.events(name="order.sold")] == ["order.sold"] * 2
        assert [step.name for step in await run.steps()] == ["publish:order.sold", "publish:order.sold#2", "flaky"]
        assert again == "my-id"
    assert sorted(received, key=lambda each: each[1]["n"]) == [
        ("order.sold", {"n": 1}, sent),
        ("order.sold", {"n": 2}, "my-id"),
    ]


@pytest.mark.parametrize("name", ["", "a..b", "order.*", "ironflow.x", 5, "x" * 257], ids=lambda name: str(name)[:9])
async def test_publish_refuses_an_event_name_before_anything_is_stored(name: Any) -> None:
    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        await ctx.step.publish(name)

    async with running_system(f) as system:
        run = await system.run(f)
        assert run.error is not None
        assert run.error.type in ("DefinitionError", "LimitError")
        assert await system.subjects("step") == []


async def test_the_idempotency_key_is_the_same_in_every_attempt_and_differs_by_run_and_step() -> None:
    keys: dict[str, set[str]] = {}
    bodies: dict[str, Attempts] = {}

    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        keys.setdefault(ctx.run.id, set()).add(ctx.step.idempotency_key("charge"))
        keys.setdefault(f"{ctx.run.id} other", set()).add(ctx.step.idempotency_key("other"))
        await ctx.step.run("charge", bodies.setdefault(ctx.run.id, Attempts(ValueError(), ValueError())))

    async with running_system(f) as system:
        for _ in range(2):
            assert (await system.run(f)).status == "completed"
    assert [len(values) for values in keys.values()] == [1] * 4
    assert len(set.union(*keys.values())) == 4


# Changed code


async def test_a_recorded_step_that_is_asked_for_as_another_kind_parks_the_run_and_overwrites_nothing() -> None:
    passes: list[str] = []

    @ironflow.function(id="f", retry=THRICE)
    async def f(ctx: Context) -> None:
        passes.append("x")
        if len(passes) == 1:
            await ctx.step.run("thing", Attempts())
        else:
            await ctx.step.sleep("thing", 5)
        await ctx.step.sleep("nap", 1)

    async with running_system(f) as system:
        run = await system.client.start(f)
        view = await run.wait("1h")
        assert view.error is not None
        assert (view.error.type, view.error.attempts) == ("NondeterminismError", 1)
        assert "'thing' is recorded as 'run'" in view.error.message
        assert await steps_of(system, run.id) == {"thing": ("completed", 1)}
    assert len(passes) == 2


async def test_steps_are_found_by_their_names_whatever_their_order() -> None:
    bodies = {name: Attempts() for name in "abc"}
    passes: list[str] = []

    @ironflow.function(id="f")
    async def f(ctx: Context) -> None:
        passes.append("x")
        for name in "ab" if len(passes) == 1 else "cba":
            await ctx.step.run(name, bodies[name])
        await ctx.step.sleep("nap", timedelta(minutes=1))

    async with running_system(f) as system:
        assert (await system.run(f)).status == "completed"
    assert [len(body.times) for body in bodies.values()] == [1, 1, 1]
