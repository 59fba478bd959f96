"""What api.md says of retries and time-outs of steps, on a virtual clock."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import traceback
from collections.abc import Callable
from email.utils import formatdate

import pytest
from structlog.testing import capture_logs

import ironflow
from ironflow import Context, Retry, StepError
from tests.support.inprocess import running_system

pytestmark = pytest.mark.virtual_time

ONCE = Retry(max_attempts=1)
THRICE = Retry(max_attempts=3, initial_delay="10s", backoff=2.0, jitter=0)


class Attempts:
    """A body that fails as often as it is told to, and knows when it was called.

    Args:
        *errors: raised one after the other; then it returns how often it was called.

    """

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.times: list[float] = []

    async def __call__(self) -> int:
        self.times.append(asyncio.get_running_loop().time())
        if self.errors:
            raise self.errors.pop(0)
        return len(self.times)

    @property
    def pauses(self) -> list[int]:
        """The whole seconds between two calls."""
        return [round(later - earlier) for earlier, later in itertools.pairwise(self.times)]


# Retries of a step


async def test_a_failing_step_is_tried_again_after_the_functions_backoff() -> None:
    body = Attempts(ValueError("one"), ValueError("two"))

    @ironflow.function(id="f", retry=THRICE)
    async def f(ctx: Context) -> int:
        return await ctx.step.run("work", body)

    async with running_system(f) as system:
        assert await system.output(f) == 3
    assert body.pauses == [10, 20]


async def in_a_coroutine() -> int:
    return reads_a_number()


def reads_a_number() -> int:
    return int("no number")


@pytest.mark.parametrize("body", [reads_a_number, in_a_coroutine])
async def test_each_failed_attempt_is_logged_with_the_lines_of_its_body_also_where_the_handler_catches_it(
    body: Callable[[], int],
) -> None:
    @ironflow.function(id="f", retry=Retry(max_attempts=2, initial_delay="1s"))
    async def f(ctx: Context) -> None:
        with contextlib.suppress(StepError):
            await ctx.step.run("work", body)

    with capture_logs() as logs:
        async with running_system(f) as system:
            await system.run(f)
    failed = [each for each in logs if each["event"].startswith("step failed")]
    assert [each["event"] for each in failed] == ["step failed, will be tried again", "step failed"]
    for each in failed:
        lines = traceback.extract_tb(each["exc_info"].__traceback__)
        assert [line.name for line in lines] == list(dict.fromkeys([body.__name__, "reads_a_number"]))


async def test_a_steps_own_policy_takes_the_place_of_the_functions() -> None:
    body = Attempts(ValueError("one"), ValueError("two"))

    @ironflow.function(id="f", retry=THRICE)
    async def f(ctx: Context) -> int:
        return await ctx.step.run("work", body, retry=Retry(max_attempts=2, initial_delay="1m", jitter=0))

    async with running_system(f) as system:
        run = await system.run(f)
        assert run.error is not None
        assert (run.error.type, run.error.step, run.error.attempts) == ("StepError", "work", 2)
    assert body.pauses == [60]


async def test_jitter_spreads_a_delay_by_its_share_and_no_further() -> None:
    bodies: dict[str, Attempts] = {}

    @ironflow.function(id="f", retry=Retry(max_attempts=2, initial_delay="1000s", max_delay="2000s", jitter=0.5))
    async def f(ctx: Context) -> int:
        return await ctx.step.run("work", bodies.setdefault(ctx.run.id, Attempts(ValueError())))

    async with running_system(f) as system:
        runs = [await system.client.start(f) for _ in range(30)]
        for run in runs:
            await run.result("3h")
    pauses = [body.pauses[0] for body in bodies.values()]
    assert 500 <= min(pauses) < 650
    assert 1350 < max(pauses) <= 1501


async def test_retry_after_says_when_the_next_attempt_is_and_counts_as_one() -> None:
    body = Attempts(ironflow.RetryAfter("7m"), ironflow.RetryAfter(90), ValueError("three"))

    @ironflow.function(id="f", retry=THRICE)
    async def f(ctx: Context) -> int:
        return await ctx.step.run("work", body)

    async with running_system(f) as system:
        run = await system.run(f)
        assert run.error is not None
        assert run.error.attempts == 3
    assert body.pauses == [420, 90]


async def test_retry_after_takes_what_a_header_of_that_name_may_say() -> None:
    body = Attempts(ironflow.RetryAfter("120"))

    @ironflow.function(id="f", retry=THRICE)
    async def f(ctx: Context) -> int:
        return await ctx.step.run("work", body)

    async with running_system(f) as system:
        # A date has whole seconds, and the first attempt is made within the second that has begun.
        in_five_minutes = formatdate(system.now_ms() // 1000 + 120 + 300, usegmt=True)
        body.errors.append(ironflow.RetryAfter(in_five_minutes))
        await system.run(f)
    assert body.pauses[0] == 120
    assert 298 <= body.pauses[1] <= 300


@pytest.mark.parametrize("where", ["body", "handler"])
async def test_a_delay_of_retry_after_that_is_not_usable_is_logged_and_the_policys_holds(where: str) -> None:
    body = Attempts(ironflow.RetryAfter("5 minutes", "too many requests"))

    @ironflow.function(id="f", retry=THRICE)
    async def f(ctx: Context) -> int:
        return await (ctx.step.run("work", body) if where == "body" else body())

    async with running_system(f) as system:
        with capture_logs() as logs:
            await system.run(f)
    assert body.pauses == [10]
    told = [log for log in logs if log["event"] == "RetryAfter is not heeded, the policy's delay is"]
    assert [(log["log_level"], log["delay_ms"]) for log in told] == [("warning", 10_000)]
    assert told[0]["reason"].startswith("RetryAfter's delay must be a text like")
    assert told[0]["reason"].endswith("got '5 minutes'")


@pytest.mark.parametrize(
    "error",
    [ironflow.NonRetryableError("no"), ironflow.SerializationError("no"), ironflow.DefinitionError("no")],
    ids=lambda error: type(error).__name__,
)
async def test_an_error_that_is_final_ends_the_step_at_the_first_attempt(error: Exception) -> None:
    body = Attempts(error)

    @ironflow.function(id="f", retry=THRICE)
    async def f(ctx: Context) -> None:
        await ctx.step.run("work", body)

    async with running_system(f) as system:
        run = await system.run(f)
        assert run.status == "failed"
        assert run.error is not None
        assert run.error.attempts == 1
    assert len(body.times) == 1


async def test_a_step_error_says_what_failed_and_replays_raise_the_same() -> None:
    caught: list[tuple[str, int, str, str]] = []
    body = Attempts(KeyError("a"), ValueError("b"))

    @ironflow.function(id="f", retry=Retry(max_attempts=2))
    async def f(ctx: Context) -> str:
        try:
            await ctx.step.run("charge", body)
        except StepError as error:
            caught.append((error.step, error.attempts, error.cause_type, error.message))
        await ctx.step.sleep("nap", "1h")
        return "went on"

    async with running_system(f) as system:
        assert await system.output(f) == "went on"
    assert caught == [("charge", 2, "ValueError", "b")] * 2
    assert len(body.times) == 2


async def test_a_slot_is_free_while_a_step_waits_for_its_next_attempt() -> None:
    @ironflow.function(id="failing", retry=Retry(max_attempts=2, initial_delay="1h", max_delay="1h", jitter=0))
    async def failing(ctx: Context) -> None:
        await ctx.step.run("work", Attempts(ValueError(), ValueError()))

    @ironflow.function(id="quick")
    async def quick(ctx: Context) -> str:
        return "done"

    async with running_system(failing, quick, concurrency=1) as system:
        slow = await system.client.start(failing)
        await asyncio.sleep(60)
        assert await (await system.client.start(quick)).result("10s") == "done"
        assert (await slow.state()).status == "waiting"


# Time-outs of a step


async def test_an_async_body_is_stopped_at_its_timeout_and_tried_again() -> None:
    begun: list[str] = []
    stopped: list[str] = []

    async def hang() -> None:
        begun.append("x")
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append("x")

    @ironflow.function(id="f", retry=Retry(max_attempts=2))
    async def f(ctx: Context) -> str:
        try:
            await ctx.step.run("work", hang, timeout="90s")
        except StepError as error:
            return f"{error.cause_type} after {error.attempts}: {error.message}"
        return ""

    async with running_system(f) as system:
        answer = await system.output(f)
    assert answer == "StepTimeoutError after 2: step 'work' took longer than its timeout of 90 s"
    assert len(begun) == len(stopped) == 2


async def test_a_plain_body_times_out_although_its_thread_goes_on() -> None:
    go_on = threading.Event()

    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> str:
        try:
            await ctx.step.run("work", go_on.wait, timeout="20ms")
        except StepError as error:
            return error.cause_type
        return ""

    async with running_system(f) as system:
        try:
            assert await system.output(f) == "StepTimeoutError"
        finally:
            go_on.set()


async def test_a_timeout_error_of_the_bodys_own_is_not_taken_for_the_steps() -> None:
    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> str:
        try:
            await ctx.step.run("work", Attempts(TimeoutError("the bank's")), timeout="1h")
        except StepError as error:
            return f"{error.cause_type}: {error.message}"
        return ""

    async with running_system(f) as system:
        assert await system.output(f) == "TimeoutError: the bank's"
