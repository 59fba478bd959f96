"""A function of three steps, of which one in fifty runs fails at the end."""

from __future__ import annotations

from typing import Any

import ironflow
from ironflow import Context


async def count(number: int) -> int:
    """Return the number."""
    return number


@ironflow.function(id="three-steps", queue="orders", triggers=["archived"])
async def three_steps(ctx: Context[dict[str, Any]]) -> int:
    """Run three steps, and fail where the event says so."""
    total = 0
    for number in range(1, 4):
        total += await ctx.step.run(f"step-{number}", count, number)
    if ctx.event.data["fails"]:
        msg = f"number {ctx.event.data['number']} fails"
        raise ironflow.NonRetryableError(msg)
    return total
