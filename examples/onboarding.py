"""Onboarding, as a chain of functions that call each other across queues, one of which waits for a person.

    ironflow dev examples/onboarding.py
    ironflow publish employee.hired --data '{"employee": "ada", "role": "engineer"}' --wait --timeout 5m
    ironflow publish laptop.approved --data '{"employee": "ada", "by": "grace"}'

Publish the second event while the first command waits. Each call is a run of its own, on a worker of its own
queue, and a parent that waits for its child holds nothing in memory, however long the person takes.
"""

from __future__ import annotations

import msgspec

import ironflow
from ironflow import Context, NonRetryableError

PRICES = {"engineer": 2_400, "writer": 1_100}


class Hired(msgspec.Struct):
    """Somebody starts with us."""

    employee: str
    role: str


class LaptopRequest(msgspec.Struct):
    """A laptop for somebody. The price is in euros."""

    employee: str
    price: int


class Approval(msgspec.Struct):
    """Who has approved a laptop, and for whom."""

    employee: str
    by: str


class Laptop(msgspec.Struct):
    """A laptop that was ordered."""

    serial: str
    approved_by: str


class Account(msgspec.Struct):
    """An account that was opened."""

    address: str


class Welcome(msgspec.Struct):
    """All that somebody gets on the first day."""

    account: Account
    laptop: Laptop


@ironflow.function(id="onboard", queue="people", triggers=["employee.hired"])
async def onboard(ctx: Context[Hired]) -> Welcome:
    """Get somebody an account, then a laptop. What the children return is typed as they say it."""
    hired = ctx.event.data
    price = PRICES.get(hired.role)
    if price is None:
        raise NonRetryableError(f"nobody knows what laptop the role {hired.role!r} needs; known: {', '.join(PRICES)}")
    account = await ctx.step.invoke(open_account, hired)
    laptop = await ctx.step.invoke(get_laptop, LaptopRequest(hired.employee, price), timeout="30d")
    return Welcome(account, laptop)


@ironflow.function(id="open-account", queue="directory")
async def open_account(ctx: Context[Hired]) -> Account:
    """Open an account."""
    address = await ctx.step.run("create-mailbox", create_mailbox, ctx.event.data.employee)
    return Account(address)


@ironflow.function(id="get-laptop", queue="purchasing")
async def get_laptop(ctx: Context[LaptopRequest]) -> Laptop:
    """Have a laptop approved by a person, and order it."""
    request = ctx.event.data
    await ctx.step.run("ask-for-approval", ask_for_approval, request)
    approval = await ctx.step.wait_for_event(
        "approval", event="laptop.approved", match="data.employee", type=Approval, timeout="14d"
    )
    serial = await ctx.step.run("order", order_laptop, request)
    return Laptop(serial, approval.data.by)


def create_mailbox(employee: str) -> str:
    """Create a mailbox, or what stands for one."""
    return f"{employee}@example.org"


def ask_for_approval(request: LaptopRequest) -> None:
    """Ask whoever may decide."""
    print(f"please approve {request.price} EUR for the laptop of {request.employee}")


def order_laptop(request: LaptopRequest) -> str:
    """Order the laptop, and return its serial number."""
    return f"laptop-{request.employee}"
