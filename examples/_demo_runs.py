"""Reads through the public client how far the runs of the demo are, how they ended, and what they did."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Literal, TypeVar

import ironflow
from examples._demo_expected import Ended

AT_A_TIME = 25
LOOK_SECONDS = 0.05

T = TypeVar("T")
R = TypeVar("R")


async def until_ready(client: ironflow.Client, functions: int, workers: int) -> None:
    """Return once so many functions are registered and workers answer: an event that comes earlier starts nothing."""
    while True:
        with contextlib.suppress(ironflow.EngineUnavailableError):
            registered = (await client.engine.functions()).functions
            answering = (await client.engine.workers()).workers
            if len(registered) == functions and len(answering) == workers:
                return
        await asyncio.sleep(LOOK_SECONDS)


async def count(client: ironflow.Client, function: str, status: Literal["completed", "failed"]) -> int:
    """Return how many runs of a function have a status."""
    return sum([1 async for _ in client.runs(function=function, status=status)])


async def ended_runs(client: ironflow.Client, function: str) -> list[Ended]:
    """Return how all runs of a function stand."""
    return await _some_at_a_time(_ended, [handle async for handle in client.runs(function=function)])


async def recorded_steps(client: ironflow.Client, runs: Iterable[Ended]) -> tuple[int, Counter[tuple[str, str]]]:
    """Return how many steps are recorded, and how many attempts of each that has a body, by order and name."""

    async def steps(run: Ended) -> list[tuple[str, str, int]]:
        views = await client.run(run.run).steps()
        return [(run.order, view.name, view.attempt if view.kind == "run" else 0) for view in views]

    found = [step for steps_of_run in await _some_at_a_time(steps, list(runs)) for step in steps_of_run]
    return len(found), Counter({(order, name): attempts for order, name, attempts in found if attempts})


async def _ended(handle: ironflow.RunHandle[Any]) -> Ended:
    run = await handle.state()
    return Ended(
        run=run.id,
        order=json.loads(bytes(run.event.data))["orderId"],
        status=run.status,
        output=json.loads(bytes(run.output)),
        error=run.error.message if run.error else "",
    )


async def _some_at_a_time(do: Callable[[T], Awaitable[R]], items: Sequence[T]) -> list[R]:
    slots = asyncio.Semaphore(AT_A_TIME)

    async def one(item: T) -> R:
        async with slots:
            return await do(item)

    return await asyncio.gather(*map(one, items))
