"""Functions that use every hostile name in every place where a name may stand."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from typing import Any, Literal

import ironflow
from ironflow import Context, Step
from tests.support.hostile_names import STEP_NAMES

Kind = Literal["run", "sleep", "wait_for_event", "publish"]
KINDS: tuple[Kind, ...] = ("run", "sleep", "wait_for_event", "publish")
GROUP_KINDS = ("parallel", "map")


def witness(line: str) -> None:
    """Append a line in one write, so that lines of several threads never mix."""
    handle = os.open(os.environ["WITNESS"], os.O_WRONLY | os.O_APPEND)
    try:
        os.write(handle, f"{line}\n".encode())
    finally:
        os.close(handle)


def signal_of(name: str) -> str:
    """Return what an event says that is meant for the wait of that name; waits compare values of up to 8 KiB."""
    return name if len(name) < 1_000 else f"{name[0]}{len(name)}{name[-1]}"


async def use(step: Step, kind: Kind, name: str, run: str) -> str:
    """Use a name for a step, and return what came back of it."""

    async def body() -> str:
        witness(f"{run} {name!r}")
        return name

    match kind:
        case "run":
            return await step.run(name, body)
        case "sleep":
            await step.sleep(name, "100ms")
            return name
        case "wait_for_event":
            event: Any = await step.wait_for_event(name, event="signal", match="of", value=signal_of(name))
            return str(event.data["name"])
        case "publish":
            return str((await step.publish("heard", {"name": name}, name=name)).data["name"])


async def at_once(steps: list[Coroutine[Any, Any, str]]) -> list[str]:
    """Wait for all steps, so that there are two passes and not one for each."""
    return await asyncio.gather(*steps)


@ironflow.function(id="names-at-the-top", queue="names")
async def names_at_the_top(ctx: Context[Kind]) -> list[str]:
    """Use all names for steps of one kind."""
    found = await at_once([use(ctx.step, ctx.event.data, name, ctx.run.id) for name in STEP_NAMES])
    await ctx.step.sleep("so that there is another pass", "100ms")
    return found


@ironflow.function(id="names-in-branches", queue="names")
async def names_in_branches(ctx: Context[str]) -> list[list[str]]:
    """Use all names for all kinds of steps: each kind has a branch of its own."""

    async def item(kind: Kind, step: Step, index: int) -> list[str]:
        return await at_once([use(step, kind, name, f"{ctx.run.id} {index}") for name in STEP_NAMES])

    if ctx.event.data == "map":
        found = await ctx.step.map("group", KINDS, item)
    else:

        def branch(index: int) -> Any:
            return lambda step: item(KINDS[index], step, index)

        found = await ctx.step.parallel("group", [branch(index) for index in range(len(KINDS))])
    await ctx.step.sleep("so that there is another pass", "100ms")
    return found


@ironflow.function(id="names-of-groups", queue="names")
async def names_of_groups(ctx: Context[str]) -> list[Any]:
    """Use all names for groups, and for the groups and steps within them."""

    def one(name: str) -> Coroutine[Any, Any, Any]:
        async def leaf(item: int, step: Step, index: int) -> str:
            return await use(step, "run", name, f"{ctx.run.id} {item} {index}")

        def leaves(step: Step, item: int) -> Coroutine[Any, Any, Any]:
            if ctx.event.data == "map":
                return step.map(name, [item, item], leaf)
            return step.parallel(name, [lambda inner: leaf(item, inner, 0), lambda inner: leaf(item, inner, 1)])

        async def branch(item: int, step: Step, index: int) -> Any:
            return await leaves(step, item)

        if ctx.event.data == "map":
            return ctx.step.map(name, [0, 1], branch)
        return ctx.step.parallel(name, [lambda step: branch(0, step, 0), lambda step: branch(1, step, 1)])

    found = await asyncio.gather(*[one(name) for name in STEP_NAMES])
    await ctx.step.sleep("so that there is another pass", "100ms")
    return [each if isinstance(each, list) else list(each) for each in found]
