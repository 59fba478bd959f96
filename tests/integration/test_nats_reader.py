"""What reading costs the server."""

from __future__ import annotations

import sys

import pytest

from ironflow.broker.embedded import EmbeddedServer
from ironflow.broker.nats import ConnectionSettings, connect
from ironflow.broker.protocol import Publication, StreamSpec
from tests.bench import machine

BETWEEN = 12_000
READS = 40


@pytest.mark.skipif(sys.platform != "linux", reason="CPU time comes from /proc")
async def test_reading_a_run_costs_what_it_is_and_not_what_others_recorded_since(
    nats_server: EmbeddedServer, namespace: str
) -> None:
    stream, first = f"{namespace}-journal", f"{namespace}.journal.q.r1.input"
    others = [f"{namespace}.journal.q.r{number}.step.s" for number in range(2, BETWEEN)]
    broker = await connect(ConnectionSettings(urls=(nats_server.url,)))
    try:
        spec = StreamSpec(name=stream, subjects=(f"{namespace}.>",), one_per_subject="keep_first", atomic_batches=True)
        await broker.ensure_stream(spec)
        await broker.publish(Publication(subject=first, payload=b"{}"))
        await broker.publish_all([Publication(subject=subject, payload=bytes(100)) for subject in others])

        async def cpu_seconds(*, one_each: bool) -> float:
            before = machine.cpu_seconds(nats_server.pid)
            for _ in range(READS):
                pages = broker.read(stream, f"{namespace}.journal.q.r1.>", one_each=one_each)
                assert [message.subject for page in [each async for each in pages] for message in page] == [first]
            return machine.cpu_seconds(nats_server.pid) - before

        # Not by the time that it takes: that is anybody's, where the machine has other things to do.
        assert await cpu_seconds(one_each=True) < await cpu_seconds(one_each=False) / 2
    finally:
        await broker.close()
