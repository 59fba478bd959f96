"""Waiting for something to become true, instead of sleeping for as long as it may take."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

T = TypeVar("T")

FIRST_PAUSE_SECONDS = 0.002
LONGEST_PAUSE_SECONDS = 0.05


@overload
async def eventually(assertion: Callable[[], Awaitable[T]], within: float = 5.0) -> T: ...
@overload
async def eventually(assertion: Callable[[], T], within: float = 5.0) -> T: ...
async def eventually(assertion: Callable[[], T | Awaitable[T]], within: float = 5.0) -> T:
    """Call *assertion* until it no longer raises AssertionError, and return what it returns.

    Args:
        assertion: a function or coroutine function without arguments that asserts what shall become true.
        within: seconds, by the running loop's clock, until its last failure is raised.

    Raises:
        AssertionError: the last one that *assertion* raised, with the time that it was given.

    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    pause = FIRST_PAUSE_SECONDS
    while True:
        # Taken before the attempt, so that the last attempt never begins before the deadline.
        out_of_time = loop.time() >= deadline
        try:
            return await _call(assertion)
        except AssertionError as failure:
            if out_of_time:
                failure.add_note(f"still so after {within} s")
                raise
        await asyncio.sleep(min(pause, max(0.0, deadline - loop.time())))
        pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)


async def holds_for(assertion: Callable[[], object], seconds: float) -> None:
    """Call *assertion* over and over for that long: it must hold each time.

    For what must not happen: no signal says that it did not, so it gets a stated time in which to go wrong.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        out_of_time = loop.time() >= deadline
        await _call(assertion)
        if out_of_time:
            return
        await asyncio.sleep(min(LONGEST_PAUSE_SECONDS / 5, max(0.0, deadline - loop.time())))


async def _call(assertion: Callable[[], T | Awaitable[T]]) -> T:
    result = assertion()
    if inspect.isawaitable(result):
        return await result
    return result
