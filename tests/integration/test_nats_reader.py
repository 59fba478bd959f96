"""What reading costs the server."""

from __future__ import annotations

import statistics
import time

from ironflow.broker.embedded import EmbeddedServer
from ironflow.broker.nats import ConnectionSettings, connect
from ironflow.broker.protocol import Publication, StreamSpec

BETWEEN = 6_000
READS = 15


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

        async def read_ms(*, one_each: bool) -> float:
            began = time.perf_counter()
            pages = broker.read(stream, f"{namespace}.journal.q.r1.>", one_each=one_each)
            assert [message.subject for page in [each async for each in pages] for message in page] == [first]
            return (time.perf_counter() - began) * 1000

        took = [(await read_ms(one_each=True), await read_ms(one_each=False)) for _ in range(READS)]
        alone, scanned = (statistics.median(times) for times in zip(*took, strict=True))
        assert alone < scanned / 2
    finally:
        await broker.close()
