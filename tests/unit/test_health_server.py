"""What a process answers to probes and scrapes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest

from ironflow.telemetry import server
from ironflow.telemetry.heartbeat import Heartbeat
from ironflow.telemetry.metrics import ProcessMetrics
from ironflow.telemetry.server import HealthServer
from tests.support.scrapes import get, scrape, value


class Process:
    """A process whose probes find what a test says."""

    def __init__(self) -> None:
        self.metrics = ProcessMetrics()
        self.found: list[str] = []
        self.samples = 0

    async def problems(self) -> Sequence[str]:
        return self.found

    async def sample(self) -> None:
        self.samples += 1


async def test_readiness_tells_all_that_is_wrong() -> None:
    process = Process()
    async with HealthServer(0, process) as served:
        assert await get(served.port, "/readyz") == (200, "ok\n")
        process.found = ["no tasks", "no writes"]
        assert await get(served.port, "/readyz?verbose") == (503, "no tasks\nno writes\n")


async def test_a_scrape_has_measured_what_is_not_counted() -> None:
    process = Process()
    async with HealthServer(0, process) as served:
        assert value(await scrape(served.port), "ironflow_build_info") == 1
        assert process.samples == 1


async def test_a_blocked_loop_is_unready_and_in_the_end_dead_while_its_metrics_can_still_be_scraped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "LIVE_SECONDS", 0.6)
    monkeypatch.setattr(server, "_LOOP_SECONDS", 0.1)
    async with HealthServer(0, Process()) as served:
        paths = ("/livez", "/readyz", "/metrics")

        async def ask_all() -> list[tuple[int, str]]:
            return [await get(served.port, path) for path in paths]

        def ask_later() -> list[tuple[int, str]]:
            time.sleep(1.0)
            return asyncio.run(ask_all())

        answers = asyncio.ensure_future(asyncio.to_thread(ask_later))
        await asyncio.sleep(0)
        time.sleep(3.0)  # noqa: ASYNC251 - it blocks the loop, which is what is asked about
        (live, why_dead), (ready, why_unready), (metrics, _) = await answers
    assert (live, ready, metrics) == (503, 503, 200)
    assert why_dead.startswith("the event loop has not turned for ")
    assert why_unready == "the event loop did not answer within 0.1 s\n"


async def test_no_answer_is_owed_to_a_client_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server._Handler, "timeout", 0.2)  # noqa: SLF001 - it is five seconds otherwise
    async with HealthServer(0, Process()) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        assert await asyncio.wait_for(reader.read(), 5.0) == b""
        writer.close()


@pytest.mark.virtual_time
async def test_a_heartbeat_tells_how_late_the_loop_was() -> None:
    now, lags = 0.0, list[float]()
    heartbeat = Heartbeat(lags.append, lambda: now)
    beating = asyncio.create_task(heartbeat.run())
    await asyncio.sleep(0)
    now = 0.75
    await asyncio.sleep(0.6)
    now = 5.75
    assert lags == [0.25]
    assert heartbeat.stopped_for() == 5.0
    beating.cancel()
