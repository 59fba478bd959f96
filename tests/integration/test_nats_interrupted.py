"""Whoever is cancelled while it connects, listens or closes leaves nothing behind, on this side or the server's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from ironflow.broker.embedded import EmbeddedServer
from ironflow.broker.nats import ConnectionSettings, connect
from ironflow.broker.protocol import NobodyListens
from tests.support import eventually

TURN_SECONDS = 0.002
"""On a busy machine a turn of the event loop takes so long, and whatever it waits for has come by the next one."""


async def busy_turns(task: asyncio.Task[object], most: int = 1_000) -> int:
    """Let a task go on until it has ended, or for so many turns of the event loop; return how many they were."""
    for turns in range(most):
        if task.done():
            return turns
        time.sleep(TURN_SECONDS)  # noqa: ASYNC251 - others have the machine meanwhile
        await asyncio.sleep(0)
    return most


def nothing_new_goes_on() -> Callable[[], None]:
    before = asyncio.all_tasks()

    def check() -> None:
        assert asyncio.all_tasks() == before

    return check


async def test_a_connection_that_is_given_up_while_it_is_made_does_not_stay(nats_server: EmbeddedServer) -> None:
    settings = ConnectionSettings(urls=(nats_server.url,))
    nothing_is_left = nothing_new_goes_on()
    connecting = asyncio.create_task(connect(settings))
    turns = await busy_turns(connecting)
    await connecting.result().close()
    for moment in range(turns):
        connecting = asyncio.create_task(connect(settings))
        await busy_turns(connecting, moment)
        connecting.cancel()
        await busy_turns(connecting)
        if not connecting.cancelled():
            await connecting.result().close()
        await eventually(nothing_is_left)


async def test_a_connection_is_closed_although_its_closing_is_interrupted(nats_server: EmbeddedServer) -> None:
    nothing_is_left = nothing_new_goes_on()
    for turns in range(1, 6):
        broker = await connect(ConnectionSettings(urls=(nats_server.url,)))
        closing = asyncio.create_task(broker.close())
        # Once while it waits for the server, and once more while it clears up.
        for _ in range(2):
            await busy_turns(closing, turns)
            closing.cancel()
        await asyncio.wait([closing])
        await eventually(nothing_is_left)


async def test_whoever_is_cancelled_while_it_begins_to_listen_listens_no_more(nats_server: EmbeddedServer) -> None:
    broker = await connect(ConnectionSettings(urls=(nats_server.url,)))
    listening = asyncio.create_task(broker.listen("hints.interrupted", lambda request: request.respond(b"heard")))
    await asyncio.sleep(0)  # it waits for the server's word now
    listening.cancel()
    await asyncio.wait([listening])
    with pytest.raises(NobodyListens):
        await broker.request("hints.interrupted", b"", 5.0)
    await broker.close()
