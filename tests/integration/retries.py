"""What the tests of retried runs share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import ironflow
from ironflow import Context, Retry
from ironflow.handles import RunHandle

ONCE = Retry(max_attempts=1)
TWICE = Retry(max_attempts=2, initial_delay="10s", jitter=0)


class Bodies:
    """Bodies that count how often they ran, and fail until they are mended.

    Attributes:
        ran: the names of the bodies that ran, in order.
        broken: the names of those that fail.

    """

    def __init__(self, *broken: str) -> None:
        self.ran: list[str] = []
        self.broken = set(broken)

    def __call__(self, name: str) -> Callable[[], str]:
        """Return the body of that name."""

        def body() -> str:
            self.ran.append(name)
            if name in self.broken:
                msg = f"{name} is broken"
                raise ValueError(msg)
            return f"{name} {self.ran.count(name)}"

        return body


async def until_failed(run: RunHandle[Any], message: str | None = None) -> None:
    """Wait until a run has failed."""
    with pytest.raises(ironflow.RunFailedError, match=message):
        await run.result("5h")


async def step_statuses(run: RunHandle[Any]) -> list[tuple[str, str, int]]:
    """Return the name, the status and the attempt of each step that is shown."""
    return [(step.name, step.status, step.attempt) for step in await run.steps()]


async def attempt_is(run: RunHandle[Any], attempt: int) -> None:
    """Assert how often a run was tried."""
    assert (await run.state()).attempt == attempt


def three_steps(bodies: Bodies, **options: Any) -> ironflow.Function[Any, list[str]]:
    """Return a function of three steps."""

    @ironflow.function(id="f", **{"retry": ONCE, **options})
    async def f(ctx: Context) -> list[str]:
        return [await ctx.step.run(name, bodies(name)) for name in "abc"]

    return f


def now() -> float:
    """Return the virtual time in seconds."""
    return asyncio.get_running_loop().time()
