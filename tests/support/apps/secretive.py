"""Functions that are careless with what their event holds, in the texts of the errors that they raise."""

from __future__ import annotations

import asyncio
import logging

import ironflow
from ironflow import Context, Retry

ONCE = Retry(max_attempts=1)


async def charge(card: str) -> None:
    """Be refused."""
    raise ValueError(f"no such card: {card}")


async def fail_unseen(card: str) -> None:
    """Have a task fail that nobody waits for."""
    failing = asyncio.create_task(charge(card))
    await asyncio.wait([failing])


@ironflow.function(id="careless", queue="orders", triggers=["careless"], retry=ONCE)
async def careless(ctx: Context[str]) -> str:
    """Fail in a step, in a step that is tried again, and unseen; log what is harmless."""
    await ctx.step.run("unseen", fail_unseen, ctx.event.data)
    try:
        await ctx.step.run("charge", charge, ctx.event.data, retry=Retry(max_attempts=2, initial_delay="50ms"))
    except ironflow.StepError:
        ctx.log.info("charged in vain")
    await ctx.step.run("log", log_harmlessly)
    return ctx.event.data


async def log_harmlessly() -> None:
    """Log as a library would."""
    logging.getLogger("library").info("harmless")


@ironflow.function(id="handler-fails", queue="orders", retry=Retry(max_attempts=2, initial_delay="50ms"))
async def handler_fails(ctx: Context[str]) -> None:
    """Fail outside of all steps."""
    try:
        await charge(ctx.event.data)
    except ValueError as error:
        raise ExceptionGroup(ctx.event.data, [error]) from error


@ironflow.function(id="typed", queue="orders", retry=ONCE)
async def typed(ctx: Context[int]) -> None:
    """Get something else than what is declared."""
