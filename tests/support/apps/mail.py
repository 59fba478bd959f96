"""A function of the queue "mail", beside those of the queue "orders"."""

from __future__ import annotations

import ironflow
from ironflow import Context


async def send() -> str:
    """Do as little as a body can."""
    return "sent"


@ironflow.function(id="letter", queue="mail")
async def letter(ctx: Context) -> str:
    """Send a letter."""
    return await ctx.step.run("send", send)
