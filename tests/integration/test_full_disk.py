"""What is said of a server whose disk ran full."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ironflow.broker.embedded import EmbeddedServer
from ironflow.broker.nats import ConnectionSettings, NatsBroker, connect
from ironflow.broker.protocol import BrokerError, Publication
from ironflow.doctor import Examination
from ironflow.names import Names
from ironflow_engine.engine import Engine
from tests.support import eventually
from tests.support.disks import fill_disk, small_disk

NAMES = Names("test")
DISK_BYTES = 64 * 1024 * 1024
EVENT_BYTES = 256 * 1024


async def test_a_stream_that_is_stuck_after_a_full_disk_is_named_until_the_server_is_restarted(tmp_path: Path) -> None:
    folder = tmp_path / "nats"
    with small_disk(folder, DISK_BYTES), EmbeddedServer(folder, max_file_store_bytes=16 * DISK_BYTES) as server:
        broker = await connect(ConnectionSettings(urls=(server.url,)))
        engine = Engine(broker, NAMES)
        await engine.start()
        try:
            assert await stuck(broker) == []
            fill_disk(folder / "filler")
            await publish_in_vain(broker)
            (folder / "filler").unlink()  # there is room again, and that does not help
            (found,) = [text for text in await stuck(broker) if NAMES.events in text]
            assert "no space left on device" in found
            await asyncio.to_thread(server.restart)
            await eventually(lambda: nothing_is_stuck(broker), within=20.0)
        finally:
            await engine.stop()
            await broker.close()


async def publish_in_vain(broker: NatsBroker) -> None:
    try:
        async with asyncio.timeout(1.0):
            await broker.publish(Publication(subject=NAMES.event("large"), payload=bytes(EVENT_BYTES)))
    except (BrokerError, TimeoutError):
        return
    raise AssertionError("the disk is not full")


async def stuck(broker: NatsBroker) -> list[str]:
    """Return what the doctor says of streams that take nothing more; an engine answers all the same."""
    found = await Examination(broker, NAMES, monitor_url="http://127.0.0.1:1").findings()
    assert [each.level for each in found if each.check == "engine"] == ["ok"]
    return [each.text for each in found if each.check == "writes"]


async def nothing_is_stuck(broker: NatsBroker) -> None:
    assert await stuck(broker) == []
