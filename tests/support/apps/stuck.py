"""A function whose plain body never returns."""

from __future__ import annotations

import os
import time
from pathlib import Path

import ironflow
from ironflow import Context


def hang() -> None:
    """Be seen, then never return."""
    Path(os.environ["GATE"]).touch()
    while True:
        time.sleep(1)


@ironflow.function(id="stuck", queue="orders")
async def stuck(ctx: Context) -> None:
    """Hang."""
    await ctx.step.run("hang", hang)
