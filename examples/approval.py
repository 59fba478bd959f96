"""An order that somebody must approve: a reminder after a day, and no order after three.

Try it:

    ironflow dev examples/approval.py
    ironflow publish order.placed --data '{"orderId": "o-1", "total": 120000, "buyer": "ada@example.org"}'
    ironflow publish order.decided --data '{"orderId": "o-1", "approved": true, "by": "grace"}'

What is decided may come at any time: before the first step has run, between two waits, or never.
"""

from __future__ import annotations

import msgspec

import ironflow
from ironflow import Context, Event

NEEDS_APPROVAL_FROM = 100_000
REMIND_AFTER = "1d"
GIVE_UP_AFTER = "2d"


class OrderPlaced(msgspec.Struct, rename="camel"):
    """An order, with its total in cents."""

    order_id: str
    total: int
    buyer: str


class Decision(msgspec.Struct, rename="camel"):
    """What somebody has decided about an order."""

    order_id: str
    approved: bool
    by: str


@ironflow.function(id="approve-order", queue="approvals", triggers=["order.placed"])
async def approve_order(ctx: Context[OrderPlaced]) -> str:
    """Have an order approved, and tell the buyer."""
    order = ctx.event.data
    if order.total < NEEDS_APPROVAL_FROM:
        return await ctx.step.run("tell", tell, order.buyer, "accepted")
    await ctx.step.run("ask", tell, "approvers@example.org", f"please decide about {order.order_id}")
    decided = await decision(ctx, "decision", REMIND_AFTER)
    if decided is None:
        await ctx.step.run("remind", tell, "approvers@example.org", f"{order.order_id} still waits for you")
        decided = await decision(ctx, "decision-after-reminder", GIVE_UP_AFTER)
    if decided is None:
        return await ctx.step.run("tell", tell, order.buyer, "refused, since nobody has decided")
    word = "accepted" if decided.data.approved else "refused"
    return await ctx.step.run("tell", tell, order.buyer, f"{word} by {decided.data.by}")


async def decision(ctx: Context[OrderPlaced], name: str, timeout: str) -> Event[Decision] | None:
    """Wait for the decision about this order; return None where none comes in time."""
    return await ctx.step.wait_for_event(
        name, event="order.decided", match="data.orderId", type=Decision, timeout=timeout, on_timeout="none"
    )


def tell(whom: str, what: str) -> str:
    """Send a mail, or what stands for one."""
    print(f"to {whom}: {what}")
    return f"{whom}: {what}"
