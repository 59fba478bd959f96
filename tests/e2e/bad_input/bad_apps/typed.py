"""A function that takes data of one shape only."""

from __future__ import annotations

import msgspec

import ironflow
from ironflow import Context


class Placed(msgspec.Struct):
    price: float


@ironflow.function(id="typed", queue="orders", triggers=["order.placed"])
async def typed(ctx: Context[Placed]) -> float:
    return ctx.event.data.price
