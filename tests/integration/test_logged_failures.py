"""What a worker logs of runs that fail: each one, with the lines of the user's code that lead to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

import ironflow
from ironflow import Context, Retry
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
