"""Order fulfilment: check an order, charge its card, wait for the parcel, and have a receipt sent.

    ironflow dev examples/orders.py
    head -n 1 examples/orders.jsonl | ironflow publish order.placed --data - --wait

Kill and restart what you like while it runs: what is recorded is not done again, and the sleep goes on.
Some of the orders cannot be fulfilled, and some cards (tok_busy_twice) can only be charged the third time.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from pathlib import Path

import msgspec

import ironflow
from ironflow import Context, NonRetryableError, Retry

SHIPS_TO = {"AT", "CH", "DE", "DK", "ES", "FR", "GB", "IT", "NL", "SE"}
CHARGE_RETRY = Retry(max_attempts=5, initial_delay="200ms", backoff=1.5)


class Line(msgspec.Struct, frozen=True, rename="camel"):
    """So many of one article. Prices are in cents."""

    sku: str
    quantity: int
    unit_price: int


class Card(msgspec.Struct, frozen=True, rename="camel"):
    """A card as the payment provider knows it."""

    token: str
    expires: str


class Order(msgspec.Struct, frozen=True, rename="camel"):
    """The data of an ``order.placed`` event."""

    order_id: str
    placed_at: str
    customer: str
    email: str
    country: str
    currency: str
    lines: list[Line]
    total: int
    card: Card


class Receipt(msgspec.Struct, frozen=True, rename="camel"):
    """The data of an ``order.fulfilled`` event, and what comes out of fulfilling an order."""

    order_id: str
    email: str
    total: int
    currency: str
    charge_id: str


@ironflow.function(id="fulfil-order", queue="orders", triggers=["order.placed"])
async def fulfil_order(ctx: Context[Order]) -> Receipt:
    """Turn a placed order into a fulfilled one."""
    order = ctx.event.data
    await ctx.step.run("validate", validate, order)
    key = ctx.step.idempotency_key("charge")
    charge_id = await ctx.step.run("charge", charge, order, key, retry=CHARGE_RETRY)
    await ctx.step.sleep("wait-for-parcel", "1s")
    receipt = Receipt(order.order_id, order.email, order.total, order.currency, charge_id)
    await ctx.step.publish("order.fulfilled", receipt)
    return receipt


@ironflow.function(id="send-receipt", queue="orders", triggers=["order.fulfilled"])
async def send_receipt(ctx: Context[Receipt]) -> str:
    """Tell the customer."""
    return await ctx.step.run("send-email", send_email, ctx.event.data)


def validate(order: Order) -> None:
    """Refuse an order that can never be fulfilled; trying again would not help."""
    note_start(order.order_id, "validate")
    due = sum(line.quantity * line.unit_price for line in order.lines)
    if not order.lines:
        raise NonRetryableError("the order has no lines")
    if any(line.quantity < 1 for line in order.lines):
        raise NonRetryableError("every line needs a quantity of at least 1")
    if order.total != due:
        raise NonRetryableError(f"the total is {order.total}, but the lines come to {due}")
    if order.country not in SHIPS_TO:
        raise NonRetryableError(f"we do not ship to {order.country}")
    if "@" not in order.email:
        raise NonRetryableError(f"{order.email!r} is not an e-mail address")
    if order.card.expires < order.placed_at[:7]:
        raise NonRetryableError(f"the card expired in {order.card.expires}")


async def charge(order: Order, key: str) -> str:
    """Charge the card. A real provider takes *key* and charges once, however often it is asked."""
    times = note_start(order.order_id, "charge")
    await asyncio.sleep(0.15)
    if order.card.token == "tok_busy_twice" and times <= 2:  # noqa: S105, PLR2004 - as its name says
        raise ConnectionError("the payment provider is busy")
    return f"charge-{key}"


async def send_email(receipt: Receipt) -> str:
    """Send the receipt, or rather say that it was sent."""
    note_start(receipt.order_id, "send-email")
    await asyncio.sleep(0.1)
    return f"{receipt.total / 100:.2f} {receipt.currency}: receipt sent to {receipt.email}"


_starts: Counter[str] = Counter()


def note_start(order_id: str, step: str) -> int:
    """Count the starts of a step's body, over all workers if IRONFLOW_DEMO_WITNESS names a file they share."""
    start, witness = f"{order_id} {step} ", os.environ.get("IRONFLOW_DEMO_WITNESS")
    if witness is None:
        _starts[start] += 1
        return _starts[start]
    with Path(witness).open("ab", buffering=0) as file:  # unbuffered, so that a line is one write
        file.write(f"{start}{os.getpid()}\n".encode())
    return sum(line.startswith(start) for line in Path(witness).read_text(encoding="utf-8").splitlines())
