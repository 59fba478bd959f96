"""A function of another queue than the others."""

from __future__ import annotations

import ironflow
from ironflow import Context


async def write() -> str:
    """Do as little as a body can."""
    return "reported"


@ironflow.function(id="report", queue="reports")
async def report(ctx: Context) -> str:
    """Write a report."""
    return await ctx.step.run("write", write)
