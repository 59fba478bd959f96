"""Exceptions that are awkward to record: what a pass sees of them, and that a replay sees the very same."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import pytest
import structlog

import ironflow
from ironflow import Context, Retry
from ironflow.cli.logs import configure_logging
from tests.integration.two_passes import ONCE, raising, two_passes
from tests.support.inprocess import running_system

pytestmark = pytest.mark.virtual_time


class Unprintable(Exception):  # noqa: N818 - it is what it says
    def __str__(self) -> str:
        raise RuntimeError

    __repr__ = __str__


class Wordless(Exception):  # noqa: N818 - likewise
    def __str__(self) -> Any:
        return None  # noqa: PLE0307 - that is the point


class Demanding(Exception):  # noqa: N818 - likewise
    def __init__(self, *, code: int, reason: Callable[[], str]) -> None:
        super().__init__(reason())
        self.code = code

    def __reduce__(self) -> Any:
        raise RuntimeError


class Fatal(BaseException):
    pass


class OwnSerializationError(ironflow.SerializationError):
    def __init__(self) -> None:  # it leaves out what the base class keeps
        Exception.__init__(self, "own")


class OwnStepError(ironflow.StepError):
    def __init__(self) -> None:  # likewise
        Exception.__init__(self, "own")


FOREIGN = type("SerializationError", (Exception,), {"__module__": "search"})


def linked(error: Exception, cause: Exception) -> Exception:
    error.__cause__, cause.__cause__ = cause, error
    return error


def grouped(levels: int) -> Exception:
    error: Exception = ValueError("innermost")
    for _ in range(levels):
        error = ExceptionGroup[Exception]("group", [error])
    return error


def raised_from_its_own_group() -> None:
    try:
        raise ExceptionGroup("group", [ValueError("part")])  # noqa: TRY301 - that is the point
    except ExceptionGroup as group:
        raise group.exceptions[0]  # noqa: B904 - its context is the group that it is a part of


def endlessly() -> None:
    endlessly()


RAISED: dict[str, tuple[Callable[[], Any], str, str]] = {
    "no arguments": (raising(ValueError()), "ValueError", ""),
    "odd arguments": (
        raising(ValueError(object, {1: {2}}, math.nan)),
        "ValueError",
        "(<class 'object'>, {1: {2}}, nan)",
    ),
    "a KeyError": (raising(KeyError("a")), "KeyError", "'a'"),
    "an errno": (raising(FileNotFoundError(2, "gone", "x")), "FileNotFoundError", "[Errno 2] gone: 'x'"),
    "half a character": (raising(ValueError("\ud800")), "ValueError", "\\ud800"),
    "NUL and line ends": (raising(ValueError("\0\r\n")), "ValueError", "\0\r\n"),
    "a text that cannot be made": (raising(Unprintable()), "Unprintable", "(its text cannot be shown: RuntimeError)"),
    "a text that is none": (raising(Wordless()), "Wordless", "(its text cannot be shown: TypeError)"),
    "a megabyte": (raising(ValueError("x" * 1_000_000)), "ValueError", "x" * 8_192 + "…"),
    "arguments that are required": (raising(Demanding(code=1, reason=lambda: "no")), "Demanding", "no"),
    "a name of a megabyte": (raising(type("E" * 1_000_000, (Exception,), {})("no")), "E" * 256 + "…", "no"),
    "a cause that is its own cause": (raising(linked(ValueError("a"), KeyError("b"))), "ValueError", "a"),
    "a part raised from its own group": (raised_from_its_own_group, "ValueError", "part"),
    "a group": (
        raising(ExceptionGroup("two", [ValueError("a"), Unprintable()])),
        "ExceptionGroup",
        "two (2 sub-exceptions): ValueError: a; Unprintable: (its text cannot be shown: RuntimeError)",
    ),
    "a group with an exit in it": (
        raising(BaseExceptionGroup("two", [ValueError("a"), KeyboardInterrupt()])),
        "BaseExceptionGroup",
        "two (2 sub-exceptions): ValueError: a; KeyboardInterrupt: ",
    ),
    "5,000 groups in each other": (
        raising(grouped(5_000)),
        "ExceptionGroup",
        "group (1 sub-exception): ExceptionGroup: " * 20 + "group (1 sub-exception): …",
    ),
    "a base exception": (raising(Fatal("out")), "Fatal", "out"),
    "KeyboardInterrupt": (raising(KeyboardInterrupt()), "KeyboardInterrupt", ""),
    "SystemExit": (raising(SystemExit(3)), "SystemExit", "3"),
    "GeneratorExit": (raising(GeneratorExit()), "GeneratorExit", ""),
    "StopIteration": (raising(StopIteration(1)), "StopIteration", "1"),
    "StopAsyncIteration": (raising(StopAsyncIteration()), "StopAsyncIteration", ""),
    "a cancellation of its own": (raising(asyncio.CancelledError("mine")), "CancelledError", "mine"),
    "an assertion": (raising(AssertionError({"a": 1})), "AssertionError", "{'a': 1}"),
    "another library's SerializationError": (raising(FOREIGN("theirs")), "search.SerializationError", "theirs"),
    "our StepError with odd arguments": (
        raising(ironflow.StepError(Fatal, "many", object(), b"no")),  # type: ignore[arg-type]
        "StepError",
        "no'",
    ),
    "a StepError that is not made in full": (raising(OwnStepError()), "StepError", "own"),
    "a SerializationError that is not made in full": (raising(OwnSerializationError()), "OwnSerializationError", "own"),
    "our RetryAfter with odd arguments": (raising(ironflow.RetryAfter("soon")), "RetryAfter", "retry after soon"),
    "a recursion without end": (endlessly, "RecursionError", ""),
}


def in_a_coroutine(body: Callable[[], Any]) -> Callable[[], Awaitable[Any]]:
    async def async_body() -> Any:
        return body()

    return async_body


@pytest.mark.parametrize("kind", ["plain", "async"])
@pytest.mark.parametrize(("body", "cause", "message"), RAISED.values(), ids=RAISED)
async def test_whatever_a_body_raises_is_the_same_step_error_in_every_pass(
    body: Callable[[], Any], cause: str, message: str, kind: str
) -> None:
    if kind == "async" and cause == "StopIteration":
        cause, message = "RuntimeError", "coroutine raised StopIteration"  # Python makes that of it
    with logging_as_workers_do():
        both = await two_passes(body if kind == "plain" else in_a_coroutine(body))
    for seen in both:
        assert type(seen) is ironflow.StepError
        assert (seen.step, seen.attempts, seen.cause_type) == ("work", 1, cause)
        assert seen.message.endswith(message)


@pytest.mark.parametrize(
    ("error", "path"),
    [
        (ironflow.SerializationError("no", "data.x"), "data.x"),
        (ironflow.SerializationError("no", 7), None),  # type: ignore[arg-type]
        (ironflow.SerializationError("no", "\ud800"), "\\ud800"),
    ],
    ids=["as it is meant", "with an odd path", "with half a character"],
)
async def test_our_serialization_error_raised_by_a_body_comes_back_as_itself(error: Exception, path: str) -> None:
    for seen in await two_passes(raising(error)):
        assert type(seen) is ironflow.SerializationError
        assert str(seen) == str(error)
        assert seen.path == path


ESCAPING = [
    "a text that cannot be made",
    "a cause that is its own cause",
    "a group with an exit in it",
    "5,000 groups in each other",
    "a base exception",
    "KeyboardInterrupt",
    "SystemExit",
    "GeneratorExit",
]


@contextlib.contextmanager
def logging_as_workers_do() -> Generator[None]:
    """Log as workers do, and nothing else: pytest's own handlers let escape what a message raises."""
    before, handlers, level = structlog.get_config(), logging.root.handlers[:], logging.root.level
    configure_logging()
    try:
        yield
    finally:
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
        structlog.configure(**before)


@pytest.mark.parametrize("name", ESCAPING)
async def test_whatever_a_handler_raises_is_tried_again_and_then_fails_its_run(name: str) -> None:
    body, cause, message = RAISED[name]
    passes = 0

    @ironflow.function(id="f", retry=Retry(max_attempts=2, initial_delay="1s"))
    async def f(ctx: Context) -> None:
        nonlocal passes
        passes += 1
        body()

    with logging_as_workers_do():
        async with running_system(f) as system:
            run = await system.run(f)
    assert passes == 2
    assert run.status == "failed"
    assert run.error is not None
    if cause in ("KeyboardInterrupt", "SystemExit"):
        cause, message = "RuntimeError", "the handler "
    assert run.error.type == cause
    assert message in run.error.message


async def test_a_part_that_is_raised_from_its_own_group_fails_a_parallel_with_itself() -> None:
    async def branch(step: ironflow.Step) -> None:
        raised_from_its_own_group()

    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> str:
        with pytest.raises(ValueError, match="part"):
            await ctx.step.parallel("all", [branch])
        return "caught"

    async with running_system(f) as system:
        assert await system.output(f) == "caught"
