"""Workflows of every shape, which tell what they saw.

No body returns the same value twice. So a value that two passes see, or that a pass and the output agree on,
can only have come from the journal.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any

import ironflow
from ironflow import Context, Function, NonRetryableError, Retry, Step, StepError
from ironflow.names import COMPENSATE_PREFIX, Scope, step_token

RETRY = Retry(max_attempts=4, initial_delay="5s", jitter=0)

Handler = Callable[["Probe", Context[Any]], Awaitable[Any]]


class Probe:
    """Watches the handlers and the bodies of one workflow.

    Args:
        body_seconds: how long each body takes.
        first_value: what the first body returns; each one after it returns one more.

    Attributes:
        runs: how often each body was begun, by its step's token.
        recorded: the steps whose result is recorded; their bodies must not begin.
        seen: what the handler saw.
        returned: what it returned, each time it did.
        passes: counts on behalf of a handler that fails at first.
        violations: what must not have happened.

    """

    def __init__(self, *, body_seconds: float = 0.0, first_value: int = 1) -> None:
        self.runs: Counter[str] = Counter()
        self.recorded: set[str] = set()
        self.seen: dict[str, Any] = {}
        self.returned: list[Any] = []
        self.violations: list[str] = []
        self.passes = 0
        self._body_seconds = body_seconds
        self._values = itertools.count(first_value)

    async def step(self, ctx: Context[Any], name: str, *, failures: int = 0, final: bool = False) -> int:
        """Run a step whose body fails so often before it succeeds, and see its result."""
        return await self.in_branch(ctx.step, (), name, failures=failures, final=final)

    async def in_branch(self, step: Step, scope: Scope, name: str, *, failures: int = 0, final: bool = False) -> int:
        """Run such a step in a branch; it is known by its token."""
        token = step_token(scope, name)
        value = await step.run(name, self._body, token, failures, final)
        self.saw(token, value)
        return value

    async def undoable(self, step: Step, scope: Scope, name: str, *, failures: int = 0) -> int:
        """Run a step in a branch, and give it an undo that fails so often before it succeeds."""
        value = await self.in_branch(step, scope, name)
        step.compensate(name, self._undo, step_token(scope, f"{COMPENSATE_PREFIX}{name}"), value, failures)
        return value

    def saw(self, label: str, value: Any) -> Any:
        """Note that a handler got a value: every pass must get the same."""
        known = self.seen.setdefault(label, value)
        if known != value:
            self.violations.append(f"{label}: {known!r} in one pass, {value!r} in another")
        return value

    def forgive(self, tokens: Iterable[str]) -> None:
        """Note that steps have failed in a run that is retried now: their bodies begin once more."""
        self.recorded.difference_update(tokens)

    async def _undo(self, token: str, value: int, failures: int) -> int:
        self.saw(f"what {token} undoes", value)
        return await self._body(token, failures, False)  # noqa: FBT003 - like a step

    async def _body(self, token: str, failures: int, final: bool) -> int:  # noqa: FBT001 - called by position
        if token in self.recorded:
            self.violations.append(f"the body of {token} began after its result was recorded")
        self.runs[token] += 1
        if self._body_seconds:
            await asyncio.sleep(self._body_seconds)
        if self.runs[token] <= failures:
            msg = f"failure {self.runs[token]}"
            raise NonRetryableError(msg) if final else ValueError(msg)
        return next(self._values)


async def sequential(probe: Probe, ctx: Context[Any]) -> list[int]:
    return [await probe.step(ctx, name) for name in "abc"]


async def empty(probe: Probe, ctx: Context[Any]) -> str:
    return "nothing to do"


async def loop_with_sleeps(probe: Probe, ctx: Context[Any]) -> list[int]:
    values: list[int] = []
    for number in range(3):
        values.append(await probe.step(ctx, f"work-{number}"))
        await ctx.step.sleep(f"nap-{number}", 15)
    return values


async def retries(probe: Probe, ctx: Context[Any]) -> list[int]:
    return [await probe.step(ctx, "steady"), await probe.step(ctx, "flaky", failures=2), await probe.step(ctx, "after")]


async def caught_failure(probe: Probe, ctx: Context[Any]) -> list[Any]:
    try:
        # It always fails, so a second run of the body would not succeed either.
        await probe.step(ctx, "doomed", failures=1_000_000, final=True)
        outcome = "succeeded"
    except StepError as error:
        outcome = probe.saw("failure", f"{error.cause_type} after {error.attempts}")
    await ctx.step.sleep("nap", "1m")
    return [outcome, await probe.step(ctx, "after")]


async def publishing(probe: Probe, ctx: Context[Any]) -> list[Any]:
    first = await probe.step(ctx, "first")
    event = await ctx.step.publish("order.sold", {"n": first})
    await ctx.step.sleep("nap", "1m")
    return [first, probe.saw("event", [event.id, event.data["n"]])]


async def gathered(probe: Probe, ctx: Context[Any]) -> list[Any]:
    async def branch(name: str, seconds: int) -> int:
        await probe.step(ctx, f"{name} before")
        await ctx.step.sleep(f"{name} nap", seconds)
        return await probe.step(ctx, f"{name} after", failures=1)

    return list(await asyncio.gather(branch("x", 20), branch("y", 20), branch("z", 3)))


async def task_group(probe: Probe, ctx: Context[Any]) -> list[Any]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(probe.step(ctx, name, failures=1)) for name in "ab"]
        await ctx.step.sleep("nap", 7)
    return [task.result() for task in tasks]


async def failing_outside(probe: Probe, ctx: Context[Any]) -> list[int]:
    first = await probe.step(ctx, "first")
    probe.passes += 1
    if probe.passes <= 2:
        msg = "outside of steps"
        raise ConnectionError(msg)
    return [first, await probe.step(ctx, "second")]


async def parallel(probe: Probe, ctx: Context[Any]) -> list[Any]:
    async def naps(step: Step) -> int:
        await step.sleep("nap", 40)
        return await probe.in_branch(step, ("all", 0), "after nap", failures=1)

    async def works(step: Step) -> int:
        return await probe.in_branch(step, ("all", 1), "work", failures=2)

    async def nests(step: Step) -> list[int]:
        async def each(item: int, own: Step, index: int) -> int:
            await own.sleep("nap", 3 + item)
            return await probe.in_branch(own, ("all", 2, "inner", index), "work")

        return await step.map("inner", [1, 2, 3], each, concurrency=2)

    return [*await ctx.step.parallel("all", (naps, works, nests)), await probe.step(ctx, "after")]


async def parallel_failure(probe: Probe, ctx: Context[Any]) -> list[Any]:
    async def fails(index: int, step: Step) -> None:
        # They fail at about the same time, so that which one is recorded first is a matter of chance.
        if index == 1:
            await step.sleep("nap", 2)
        await probe.in_branch(step, ("all", index), "before", failures=index % 2)
        try:
            await probe.in_branch(step, ("all", index), "doomed", failures=1_000_000, final=True)
        except StepError as error:
            msg = f"branch {index}"
            raise LookupError(msg) from error

    async def goes_on(step: Step) -> None:
        for number in range(5):
            await probe.in_branch(step, ("all", 3), f"work {number}")
            await step.sleep(f"nap {number}", 3)

    branches: list[Callable[[Step], Awaitable[None]]] = [*(partial(fails, index) for index in range(3)), goes_on]
    try:
        await ctx.step.parallel("all", branches)
        outcome = "succeeded"
    except LookupError as error:
        outcome = str(error)
    await ctx.step.sleep("nap", "1m")
    # What follows from the failure is recorded, so a pass that saw another failure would show.
    return [probe.saw("outcome", outcome), await probe.step(ctx, f"after {outcome}")]


async def settled(probe: Probe, ctx: Context[Any]) -> list[Any]:
    async def each(item: int, step: Step, index: int) -> int:
        await step.sleep("nap", 1 + item)
        doomed = index == 1
        return await probe.in_branch(step, ("all", index), "work", failures=1_000_000 * doomed, final=doomed)

    results = await ctx.step.map("all", [3, 2, 1], each, on_error="all_settled")
    return [str(result) for result in results]


async def retried(probe: Probe, ctx: Context[Any]) -> list[Any]:
    first = await probe.step(ctx, "first")
    await ctx.step.sleep("nap", 15)

    async def fails(step: Step) -> int:
        return await probe.in_branch(step, ("all", 0), "doomed at first", failures=1, final=True)

    async def naps(step: Step) -> int:
        await step.sleep("nap", 40)
        return await probe.in_branch(step, ("all", 1), "after nap", failures=1)

    return [first, *await ctx.step.parallel("all", (fails, naps)), await probe.step(ctx, "after")]


async def invoking(probe: Probe, ctx: Context[Any]) -> list[Any]:
    if ctx.event.data is not None:
        # It invokes itself, so that the laws need one function only.
        await ctx.step.sleep("nap", 5 if ctx.event.data < 3 else "1h")
        return [ctx.event.data]

    async def child(item: int, step: Step, index: int) -> Any:
        return probe.saw(f"child {index}", await step.invoke("invoking", item))

    async def fails(step: Step) -> None:
        await step.sleep("nap", 1)
        await probe.in_branch(step, ("closed", 1), "doomed", failures=1_000_000, final=True)

    both = await ctx.step.map("all", [1, 2], child)
    try:
        await ctx.step.parallel("closed", [lambda step: step.invoke("invoking", 3), fails])
    except StepError:
        await ctx.step.sleep("afterwards", "1m")
    return both


async def saga(probe: Probe, ctx: Context[Any]) -> None:
    await probe.undoable(ctx.step, (), "first")
    await ctx.step.sleep("nap", 15)
    await probe.undoable(ctx.step, (), "second", failures=2)
    await probe.step(ctx, "doomed", failures=1_000_000, final=True)


async def parallel_saga(probe: Probe, ctx: Context[Any]) -> None:
    async def works(index: int, step: Step) -> None:
        for number in range(2):
            await probe.undoable(step, ("all", index), f"work {number}", failures=index)
            await step.sleep(f"nap {number}", 3 + index)

    async def fails(step: Step) -> None:
        await step.sleep("nap", 5)
        await probe.in_branch(step, ("all", 2), "doomed", failures=1_000_000, final=True)

    await probe.undoable(ctx.step, (), "first")
    branches: list[Callable[[Step], Awaitable[None]]] = [partial(works, 0), partial(works, 1), fails]
    await ctx.step.parallel("all", branches)


SHAPES: dict[str, Handler] = {
    handler.__name__: handler
    for handler in (
        empty,
        sequential,
        loop_with_sleeps,
        retries,
        caught_failure,
        publishing,
        gathered,
        task_group,
        failing_outside,
        parallel,
        parallel_failure,
        settled,
        retried,
        invoking,
        saga,
        parallel_saga,
    )
}


def function_of(shape: str, probe: Probe) -> Function[Any, Any]:
    """Return the durable function of a shape, watched."""

    async def handler(ctx: Context[Any]) -> Any:
        output = await SHAPES[shape](probe, ctx)
        if ctx.event.data is None:
            probe.returned.append(output)
        return output

    return ironflow.function(id=shape, retry=RETRY)(handler)
