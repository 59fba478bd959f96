"""Ways to lose what runs need to go on, and how long they take then."""

from __future__ import annotations

import asyncio
from typing import Any

from ironflow.broker.local import Stage
from ironflow.broker.protocol import BrokerError, StorageFull, Unavailable
from ironflow.handles import RunHandle
from tests.support.inprocess import System

WITHIN_SECONDS = 35


async def purge(system: System, *streams: str) -> None:
    """Lose every task, or every timer, fired or not."""
    for stream in streams:
        await system.broker.purge(stream, ">")


def no_room(stage: Stage, verb: str, subject: str) -> BrokerError | None:
    return StorageFull("no room") if stage == "before" and verb == "publish" else None


async def seconds_of(run: RunHandle[Any]) -> float:
    """Return how long a run takes from now on."""
    begun = asyncio.get_running_loop().time()
    await run.wait("3h")
    return asyncio.get_running_loop().time() - begun


def dies_ending_runs(system: System) -> asyncio.Event:
    """Have the engine die before it records how a run has ended, and all timers with it; return what tells of that."""
    dead = asyncio.Event()

    def strike(stage: Stage, verb: str, subject: str) -> BrokerError | None:
        if (stage, verb) != ("before", "publish") or ".outcome." not in subject:
            return None
        system.server.interceptor = None
        (engine,) = system.engines
        system.cut_off(engine)
        system.soon(engine.stop(), purge(system, system.names.all_shards[0].timers))
        dead.set()
        return Unavailable("killed")

    system.server.interceptor = strike
    return dead
