"""Probes and scrapes of engines and workers, as processes."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import signal
from itertools import pairwise
from pathlib import Path

import pytest

from ironflow.broker.embedded import EmbeddedServer
from ironflow.broker.nats import ConnectionSettings, connect
from ironflow.broker.protocol import Publication, StorageFull
from ironflow.broker.topology import streams
from ironflow.names import Names, bucket_stream
from ironflow.telemetry.canary import Canary
from tests.bench.series import measure
from tests.support import eventually
from tests.support.apps.many import COUNT
from tests.support.processes import Cluster, cluster, functions_are_known
from tests.support.scrapes import SERVED, get, health_port, ready, scrape, value


async def test_processes_are_live_and_ready_and_count_what_runs_do(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    with cluster(nats_server.url, namespace, tmp_path) as processes:
        engine, worker = processes.engine(*SERVED), processes.worker("flows.py", *SERVED)
        engine_port, worker_port = await health_port(engine), await health_port(worker)
        for port in (engine_port, worker_port):
            await ready(port)
            assert await get(port, "/livez") == (200, "ok\n")
            assert (await get(port, "/"))[0] == 404
        async with processes.client() as client:
            await functions_are_known(client, "ten-steps", "sleeper")
            runs = [await client.start("ten-steps") for _ in range(5)] + [await client.start("sleeper", 0.2)]
            for run in runs:
                await run.result(timeout=30)
            await client.start("nobody-has-it")
            resting = await client.start("sleeper", 3600)

            async def counted() -> None:
                engines = await scrape(engine_port)
                assert value(engines, "ironflow_engine_runs_started_total", function="ten-steps", queue="orders") == 5
                assert value(engines, "ironflow_engine_runs_ended_total", function="ten-steps", status="completed") == 5
                assert value(engines, "ironflow_engine_runs_ended_total", function="(unknown)", status="failed") == 1
                assert value(engines, "ironflow_engine_timer_lateness_seconds_count") == 1
                assert value(engines, "ironflow_engine_timers") == 1
                assert value(engines, "ironflow_engine_queue_waiting", queue="orders") == 0
                workers = await scrape(worker_port)
                assert value(workers, "ironflow_worker_steps_total", function="ten-steps", outcome="completed") == 50
                assert value(workers, "ironflow_worker_step_duration_seconds_count", function="ten-steps") == 50
                assert value(workers, "ironflow_worker_slots") == 100
                for metrics in (engines, workers):
                    assert value(metrics, "ironflow_event_loop_lag_seconds_count") > 0
                    assert not [name for name in metrics if name.endswith("_created")]

            await eventually(counted, within=20.0)
            await resting.cancel()


async def test_a_process_that_drains_is_unready_at_once(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    with cluster(nats_server.url, namespace, tmp_path) as processes:
        processes.engine()
        worker = processes.worker("flows.py", *SERVED)
        port = await health_port(worker)
        await ready(port)
        async with processes.client() as client:
            await functions_are_known(client, "gated")
            run = await client.start("gated")
            await eventually(lambda: _assert_witnessed(processes, f"{run.id} 7"), within=20.0)
            os.kill(worker.pid, signal.SIGTERM)

            async def unready() -> None:
                assert await get(port, "/readyz") == (503, "the worker drains\n")

            await eventually(unready, within=1.0)
            assert (await get(port, "/livez"))[0] == 200
            (tmp_path / "gate").touch()
            await run.result(timeout=30)
        assert await asyncio.to_thread(worker.terminate) == 0


async def test_an_engine_that_stops_is_never_ready_again(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    with cluster(nats_server.url, namespace, tmp_path) as processes:
        engine = processes.engine(*SERVED)
        port = await health_port(engine)
        await ready(port)
        os.kill(engine.pid, signal.SIGTERM)
        # What it says before it has come to the signal does not count; then it says no, or nothing at all.
        told = [503]
        while not engine.is_dead:
            with contextlib.suppress(OSError, http.client.HTTPException):
                told.append((await get(port, "/readyz", seconds=1.0))[0])
        changes = [now for before, now in pairwise(told) if now != before]
        assert changes in ([], [200], [200, 503])
        assert engine.terminate() == 0


async def test_a_process_without_a_server_is_live_but_not_ready(namespace: str, tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "nats") as server, cluster(server.url, namespace, tmp_path) as processes:
        ports = [await health_port(each) for each in (processes.engine(*SERVED), processes.worker("flows.py", *SERVED))]
        for port in ports:
            await ready(port)
        server.stop()
        for port in ports:

            async def unready(port: int = port) -> None:
                status, text = await get(port, "/readyz")
                assert (status, "pulled from" in text, "a write to" in text) == (503, True, True)

            await eventually(unready, within=10.0)
            assert (await get(port, "/livez"))[0] == 200
            assert (await get(port, "/metrics"))[0] == 200
        server.start()
        for port in ports:
            await ready(port)


async def test_readiness_leaves_one_message_for_each_queue_and_one_for_the_engines(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    names = Names(namespace)
    with cluster(nats_server.url, namespace, tmp_path) as processes:
        engine, worker = processes.engine(*SERVED), processes.worker("flows.py", *SERVED)
        ports = [await health_port(process) for process in (engine, worker)]
        broker = await connect(ConnectionSettings(urls=(nats_server.url,)))
        written: set[int] = set()

        async def each_has_written_again() -> None:
            for port in ports:
                await ready(port)
            message = await broker.last(bucket_stream(names.engines_bucket), names.engine_canary)
            assert message is not None
            written.add(message.sequence)
            # What the engine writes for the third time, the worker has surely written twice, which its stream refuses.
            assert len(written) > 2

        try:
            await eventually(each_has_written_again, within=10.0)
            assert (await broker.stream_state(names.all_shards[0].journal)).messages == 1
            assert (
                await broker.last(names.all_shards[0].journal, names.all_shards[0].journal_canary("orders")) is not None
            )
            assert await broker.last(bucket_stream(names.engines_bucket), names.engine_canary) is not None
        finally:
            await broker.close()


async def test_a_worker_finds_out_that_the_server_is_full_although_its_canary_is_refused_as_ever(
    namespace: str, tmp_path: Path
) -> None:
    names = Names(namespace)
    with EmbeddedServer(tmp_path / "nats", max_file_store_bytes=1_000_000) as server:
        broker = await connect(ConnectionSettings(urls=(server.url,)))
        try:
            for stream in streams(names):
                await broker.ensure_stream(stream)

            async def problem() -> str | None:
                return await Canary(broker, names.all_shards[0].journal_canary("orders"), "token").problem()

            assert await problem() is None
            assert await problem() is None

            async def fill() -> None:
                for number in range(100):
                    await broker.publish(Publication(subject=names.event(f"e{number}"), payload=b" " * 100_000))

            with pytest.raises(StorageFull):
                await fill()
            assert "StorageFull" in (await problem() or "")
        finally:
            await broker.close()


async def test_runs_leave_no_series_behind_and_all_that_is_asked_for_is_there_under_load() -> None:
    figures = await measure(550, 1_100)
    few, many = figures.rows
    assert few[1:3] == many[1:3]
    assert sum(many[1:3]) < 50 * COUNT
    assert figures.scrapes
    assert figures.unknown == set()


def _assert_witnessed(processes: Cluster, line: str) -> None:
    assert processes.witnessed()[line]
