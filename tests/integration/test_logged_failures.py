"""What a worker logs of runs that fail: each one, with the lines of the user's code that lead to it."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

import ironflow
from ironflow import Context, NonRetryableError, Retry, Step, StepError
from tests.support.inprocess import running_system

pytestmark = pytest.mark.virtual_time

Handler = Callable[[Context[Any]], Awaitable[Any]]


def function_of(handler: Handler) -> ironflow.Function[Any, int]:
    @ironflow.function(id="f", retry=Retry(max_attempts=2, initial_delay="1s"))
    async def f(ctx: Context) -> int:
        result: int = await handler(ctx)
        return result

    return f


async def returns_what_json_has_not(_: Context[Any]) -> Any:
    return object()


async def returns_another_type(_: Context[Any]) -> Any:
    return "seven"


async def returns_much(_: Context[Any]) -> Any:
    return "x" * 600_000


async def swallows_the_end_of_its_pass(ctx: Context[Any]) -> Any:
    await asyncio.gather(ctx.step.sleep("night", "8h"), return_exceptions=True)


async def raises(_: Context[Any]) -> Any:
    return dict[str, int]()["missing"]


@pytest.mark.parametrize(
    ("handler", "error"),
    [
        (returns_what_json_has_not, "SerializationError"),
        (returns_another_type, "SerializationError"),
        (returns_much, "PayloadTooLargeError"),
        (swallows_the_end_of_its_pass, "PassEndSwallowed"),
        (raises, "KeyError"),
    ],
)
async def test_a_run_that_fails_is_logged_with_its_error(handler: Handler, error: str) -> None:
    with capture_logs() as logs:
        async with running_system(function := function_of(handler)) as system:
            run = await system.run(function)
    assert run.error is not None
    (failed,) = [each for each in logs if each["event"] == "run failed"]
    assert (failed["run"], failed["function"], failed["log_level"]) == (run.id, "f", "warning")
    assert (failed["error"], failed["error_text"]) == (error, run.error.message)


async def test_a_handler_that_is_to_be_run_again_is_logged_with_its_error() -> None:
    with capture_logs() as logs:
        async with running_system(function := function_of(raises)) as system:
            await system.run(function)
    (again,) = [each for each in logs if each["event"] == "handler failed outside its steps, will be run again"]
    assert (again["error"], again["error_text"]) == ("KeyError", "'missing'")


# The lines


def refuse() -> int:
    reason = "no"
    raise NonRetryableError(reason)


async def has_a_step_that_fails(ctx: Context[Any]) -> int:
    return await ctx.step.run("work", refuse)


async def has_a_branch_that_fails(ctx: Context[Any]) -> list[int]:
    async def branch(_: int, step: Step, __: int) -> int:
        return await step.run("work", refuse)

    return await ctx.step.map("all", [1], branch)


async def uses_a_name_twice(ctx: Context[Any]) -> int:
    await ctx.step.run("work", int)
    return await ctx.step.run("work", int)


async def raises_because_of_a_step(ctx: Context[Any]) -> int:
    try:
        return await has_a_step_that_fails(ctx)
    except StepError as error:
        raise NonRetryableError(str(error)) from error


async def has_a_branch_that_takes_no_step(ctx: Context[Any]) -> Any:
    branch: Any = lambda: None  # noqa: E731
    return await ctx.step.parallel("both", [branch])


async def has_a_task_that_fails(ctx: Context[Any]) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(has_a_step_that_fails(ctx))


def of(error: BaseException | None) -> list[str]:
    """Return the functions that the traceback of an exception leads through, but for Python's own."""
    assert error is not None
    lines = traceback.extract_tb(error.__traceback__)
    return [line.name for line in lines if not line.filename.startswith(str(Path(asyncio.__file__).parent))]


@pytest.mark.parametrize(
    ("handler", "lines"),
    [
        (raises, ["f", "raises"]),
        (has_a_step_that_fails, ["f", "has_a_step_that_fails"]),
        (has_a_branch_that_fails, ["f", "has_a_branch_that_fails", "branch"]),
        (uses_a_name_twice, ["f", "uses_a_name_twice"]),
    ],
)
async def test_the_traceback_of_a_failed_run_has_the_users_lines_alone(handler: Handler, lines: list[str]) -> None:
    assert of(await logged_error(handler)) == lines


async def test_what_has_led_to_an_error_is_shown_likewise() -> None:
    error = await logged_error(raises_because_of_a_step)
    assert of(error) == ["f", "raises_because_of_a_step"]
    assert isinstance(error.__cause__, StepError)
    assert of(error.__cause__) == ["raises_because_of_a_step", "has_a_step_that_fails"]


async def test_what_is_in_a_group_is_shown_likewise() -> None:
    error = await logged_error(has_a_task_that_fails)
    assert of(error) == ["f", "has_a_task_that_fails"]
    assert isinstance(error, ExceptionGroup)
    assert of(error.exceptions[0]) == ["has_a_step_that_fails"]


async def test_where_another_error_was_raised_in_ironflow_is_shown() -> None:
    error = await logged_error(has_a_branch_that_takes_no_step)
    assert isinstance(error, TypeError)
    users, ours = of(error)[:2], of(error)[2:]
    assert users == ["f", "has_a_branch_that_takes_no_step"]
    assert (ours[0], ours[-1]) == ("parallel", "<lambda>")  # from the call to where the branch is called


async def logged_error(handler: Handler) -> BaseException:
    """Have a run fail, and return the exception that was logged with that."""
    with capture_logs() as logs:
        async with running_system(function := function_of(handler)) as system:
            await system.run(function)
    (failed,) = [each for each in logs if each["event"] == "run failed"]
    error = failed["exc_info"]
    assert isinstance(error, BaseException)
    return error
