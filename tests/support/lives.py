"""A function with some of everything in its life, for tests that end runs at any moment of it."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Literal, Protocol

import ironflow
from ironflow import Context, Retry, Step, StepError

TWICE = Retry(max_attempts=2, initial_delay="250ms", jitter=0)


class Witness(Protocol):
    """Is told when a body begins and when it ends, as it happens."""

    def __call__(self, run: str, body: str, what: Literal["begin", "end"]) -> None: ...


class Bodies:
    """The step bodies of one life.

    Args:
        witness: is told of each.
        run: the run's id.
        plain_seconds: how long a plain body takes; it is real time, also where the clock is virtual.

    """

    def __init__(self, witness: Witness, run: str, plain_seconds: float) -> None:
        self._witness = witness
        self._run = run
        self._plain_seconds = plain_seconds

    async def work(self, body: str = "async") -> str:
        """Take 200 ms of the loop's time."""
        self._witness(self._run, body, "begin")
        try:
            await asyncio.sleep(0.2)
        finally:
            self._witness(self._run, body, "end")
        return body

    def toil(self) -> str:
        """Take a thread for a while."""
        self._witness(self._run, "plain", "begin")
        time.sleep(self._plain_seconds)
        self._witness(self._run, "plain", "end")
        return "plain"

    async def fail(self) -> None:
        """Fail after 200 ms."""
        await self.work("failing")
        msg = "as always"
        raise RuntimeError(msg)


def life_of(witness: Witness, plain_seconds: float = 0.2) -> ironflow.Function[Any, str]:
    """Return the function; undisturbed, a run of it takes about four seconds."""

    @ironflow.function(id="life", queue="orders")
    async def life(ctx: Context) -> str:
        """Do one thing after another, and then several at once."""
        step, bodies = ctx.step, Bodies(witness, ctx.run.id, plain_seconds)
        await step.run("work", bodies.work)
        await step.run("toil", bodies.toil)
        await step.sleep("nap", "300ms")
        try:
            await step.run("fail", bodies.fail, retry=TWICE)
        except StepError:
            await step.wait_for_event("silence", event="never", timeout="300ms", on_timeout="none")
        await step.parallel("beside", _branches(bodies, ctx.run.id))

        async def item(_: int, step: Step, index: int) -> str:
            return await step.run("item", bodies.work) if index % 3 else await step.run("item", bodies.toil)

        # For more than a second one body follows the other, without a wait between them.
        await step.map("each", range(16), item, concurrency=2)
        return "lived"

    return life


def _branches(bodies: Bodies, run: str) -> Any:
    async def works(step: Step) -> None:
        await step.run("work", bodies.work)
        await step.publish("news", {"of": run})

    async def toils(step: Step) -> None:
        await step.run("toil", bodies.toil)

    async def sleeps(step: Step) -> None:
        await step.sleep("nap", "200ms")
        await step.run("work", bodies.work)

    async def waits(step: Step) -> None:
        await step.wait_for_event("news", event="news", match="of", value=run, timeout="20s")

    return works, toils, sleeps, waits
