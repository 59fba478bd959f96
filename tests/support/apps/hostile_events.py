"""Functions that trigger on every hostile event name, and wait for them."""

from __future__ import annotations

from typing import Any

import ironflow
from ironflow import Context, Function, Step
from tests.support.hostile_names import EVENT_NAMES


@ironflow.function(id="waits", queue="names")
async def waits_for_all(ctx: Context) -> list[str]:
    """Wait for an event of every name."""

    async def one(name: str, step: Step, index: int) -> str:
        return (await step.wait_for_event("wait", event=name, match="n", value=index)).name

    return await ctx.step.map("all", EVENT_NAMES, one)


async def name_of_event(ctx: Context) -> list[str]:
    """Say which event it was."""
    return [ctx.event.name, ctx.event.id]


for number, event_name in enumerate(EVENT_NAMES):
    globals()[f"by_name_{number}"] = ironflow.function(id=f"by-name-{number}", queue="names", triggers=[event_name])(
        name_of_event
    )

by_id = ironflow.function(id="by-id", queue="names", triggers=["numbered"])(name_of_event)

FUNCTIONS: list[Function[Any, Any]] = [value for value in globals().values() if isinstance(value, Function)]
