"""Runs every test of this folder against both brokers.

The in-process broker runs on a virtual-time loop, so its half takes no time and proves that loop as well;
the real server runs on asyncio's own loop. ``-k local`` or ``-k nats`` picks a half.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path

import pytest

from ironflow.broker.embedded import EmbeddedServer
from ironflow.broker.local import LocalServer
from ironflow.broker.local.virtual_time import VirtualTimeLoop
from tests.conformance.bench import Arena, LocalBench, NatsBench, Server
from tests.support.containers import nats_container, wanted


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run each test once for each broker; the loop says which."""
    return {"local": VirtualTimeLoop, "nats": asyncio.new_event_loop}


@pytest.fixture
async def server(request: pytest.FixtureRequest) -> AsyncGenerator[Server]:
    """The server of the broker that this test runs against."""
    bench: Server
    if isinstance(asyncio.get_running_loop(), VirtualTimeLoop):
        bench = LocalBench(LocalServer())
    else:
        bench = NatsBench(request.getfixturevalue("nats_server"))
    yield bench
    await bench.close()


@pytest.fixture
async def small_arena(tmp_path: Path, namespace: str) -> AsyncGenerator[Arena]:
    """An arena on a server of its own, which has room for about a million bytes."""
    room = 1_000_000
    if isinstance(asyncio.get_running_loop(), VirtualTimeLoop):
        bench: Server = LocalBench(LocalServer(max_stored_bytes=room))
        yield Arena(bench, await bench.connect(), namespace)
        await bench.close()
    else:
        with (
            nats_container(tmp_path, room)
            if wanted()
            else EmbeddedServer(tmp_path, max_file_store_bytes=room) as server
        ):
            bench = NatsBench(server)
            yield Arena(bench, await bench.connect(), namespace)
            await bench.close()


@pytest.fixture
async def arena(server: Server, namespace: str) -> Arena:
    """A connected broker and names of its own."""
    return Arena(server, await server.connect(), namespace)
