"""Engines and workers as separate processes, killed and restarted, against the real server."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from ironflow.broker.embedded import EmbeddedServer
from ironflow.client import Client
from ironflow.clock import to_ms
from ironflow.codec import decode_record
from ironflow.errors import RunCancelledError, RunFailedError
from ironflow.handles import RunHandle
from ironflow.names import bucket_stream
from ironflow.records import RunState
from tests.support import eventually
from tests.support.processes import Cluster, cluster, functions_are_known, workers_answer


@pytest.fixture
def processes(nats_server: EmbeddedServer, namespace: str, tmp_path: Path) -> Iterator[Cluster]:
    with cluster(nats_server.url, namespace, tmp_path) as made:
        yield made


async def publish_and_find(
    client: Client, event: str, data: object = None, *, id: str | None = None
) -> RunHandle[object]:
    """Publish an event that starts one run, and return the run."""
    runs, matched = await client.runs_of(await client.publish_record(event, data, id=id), wait_seconds=20.0)
    assert matched
    assert len(runs) == 1
    return client.run(runs[0])


async def test_two_workers_share_the_load_of_a_queue(processes: Cluster) -> None:
    processes.engine()
    workers = [processes.worker("flows.py", "--concurrency", "8") for _ in range(2)]
    async with processes.client() as client:
        await functions_are_known(client, "shared")
        await workers_answer(client, 2)
        runs = [await client.start("shared", id=f"run-{number}") for number in range(400)]
        pids = Counter([await run.result("60s") for run in runs])
    assert set(pids) == {worker.pid for worker in workers}
    assert min(pids.values()) >= 400 / 3


async def test_recorded_steps_do_not_run_again_when_their_worker_is_killed(processes: Cluster) -> None:
    processes.engine("--lease", "1s")
    first = processes.worker("flows.py")
    async with processes.client() as client:
        await functions_are_known(client, "gated")
        run = await publish_and_find(client, "gated")

        def seventh_began() -> None:
            assert processes.witnessed()[f"{run.id} 7"] == 1

        await eventually(seventh_began, within=20.0)
        assert [step.name for step in await run.steps()] == [f"step-{number}" for number in range(1, 7)]
        first.kill()
        processes.worker("flows.py")
        (processes.folder / "gate").touch()
        assert await run.result("30s") == 55
    seen = processes.witnessed()
    assert {number: seen[f"{run.id} {number}"] for number in range(1, 11)} == {
        **dict.fromkeys(range(1, 11), 1),
        7: 2,  # it was running when the worker was killed, and so was not recorded
    }


async def test_a_failing_step_is_tried_again_without_holding_its_slot(processes: Cluster) -> None:
    processes.engine()
    processes.worker("flows.py", "--concurrency", "1")
    async with processes.client() as client:
        await functions_are_known(client, "flaky")
        failing = await publish_and_find(client, "flaky")
        meanwhile = await publish_and_find(client, "ten")
        assert await meanwhile.result("20s") == 55
        assert await failing.result("20s") == 3
        assert [(step.status, step.attempt) for step in await failing.steps()] == [("completed", 3)]


async def test_a_ten_step_run_costs_one_message_a_step(processes: Cluster) -> None:
    processes.engine()
    processes.worker("flows.py")
    names = processes.names
    async with processes.client() as client:
        await functions_are_known(client, "ten-steps")
        runs_before = (await client.broker.stream_state(bucket_stream(names.runs_bucket))).last_sequence
        run = await publish_and_find(client, "ten")
        assert await run.result("20s") == 55
        last = {
            stream: (await client.broker.stream_state(stream)).last_sequence
            for stream in (
                names.events,
                names.all_shards[0].tasks,
                names.all_shards[0].journal,
                names.all_shards[0].timers,
            )
        }

        async def last_state_is_stored() -> int:
            state = await client.broker.last(bucket_stream(names.runs_bucket), names.run_key(run.id))
            assert state is not None
            assert decode_record(RunState, state.payload).status == "completed"
            return state.sequence - runs_before

        # How a run has completed is told as soon as its outcome is recorded, before its state says so.
        states = await eventually(last_state_is_stored)
    print(f"messages of a ten-step run: {last}, run states: {states}")  # noqa: T201 - the figure is the point
    assert last == {
        names.events: 1,
        names.all_shards[0].tasks: 1,
        names.all_shards[0].journal: 11,
        names.all_shards[0].timers: 0,
    }
    assert states == 2


async def test_a_worker_that_is_told_to_stop_finishes_its_pass_and_leaves_in_good_order(processes: Cluster) -> None:
    processes.engine()
    worker = processes.worker("flows.py")
    async with processes.client() as client:
        await functions_are_known(client, "gated")
        run = await publish_and_find(client, "gated")

        def seventh_began() -> None:
            assert processes.witnessed()[f"{run.id} 7"] == 1

        await eventually(seventh_began, within=20.0)
        stopping = asyncio.create_task(asyncio.to_thread(worker.terminate))

        async def draining() -> None:
            workers = (await client.engine.workers()).workers
            assert [answer.draining for answer in workers] == [True]

        await eventually(draining)
        (processes.folder / "gate").touch()
        assert await stopping == 0
        assert await run.result("20s") == 55
    assert processes.witnessed()[f"{run.id} 7"] == 1


async def test_a_failed_run_is_retried_by_the_command(processes: Cluster) -> None:
    engine = processes.engine()
    processes.worker("flows.py")
    async with processes.client() as client:
        await functions_are_known(client, "needs-gate")
        run = await publish_and_find(client, "needs-gate")
        with pytest.raises(RunFailedError, match="the gate is closed"):
            await run.result("20s")
        (processes.folder / "gate").touch()
        # What has failed is in the journal, and needs no memory of whoever saw it.
        engine.restart()
        await functions_are_known(client, "needs-gate")
        retried = await processes.command("runs", "retry", run.id)
        assert (retried.stderr, retried.stdout.strip()) == ("", f"run {run.id} goes on, in attempt 2")
        assert await run.result("20s") == "through"
        again = await processes.command("runs", "retry", run.id)
        assert again.returncode == 1
        assert again.stderr.startswith(f"run {run.id} has completed, and only a failed run is retried")
        unknown = await processes.command("runs", "retry", "nobody")
        assert (unknown.returncode, unknown.stderr.strip()) == (1, "no run nobody")
    seen = processes.witnessed()
    assert (seen[f"{run.id} 1"], seen[f"{run.id} gate"]) == (1, 2)


async def test_a_running_run_is_cancelled_by_the_command(processes: Cluster) -> None:
    processes.engine()
    processes.worker("flows.py")
    async with processes.client() as client:
        await functions_are_known(client, "gated")
        run = await publish_and_find(client, "gated")

        def seventh_began() -> None:
            assert processes.witnessed()[f"{run.id} 7"] == 1

        await eventually(seventh_began, within=20.0)
        cancelled = await processes.command("runs", "cancel", run.id, "--reason", "enough")
        assert cancelled.returncode == 0, cancelled.stderr
        with pytest.raises(RunCancelledError, match="enough"):
            await run.result("5s")

        async def worker_is_free() -> None:
            assert [worker.running for worker in (await client.engine.workers()).workers] == [0]

        await eventually(worker_is_free)
        (processes.folder / "gate").touch()
        after = await publish_and_find(client, "ten")
        assert await after.result("20s") == 55
        again = await processes.command("runs", "cancel", run.id)
        assert (again.returncode, again.stderr.strip()) == (1, f"run {run.id} had already been cancelled")
        for stream, left in (
            (processes.names.all_shards[0].tasks, processes.names.tasks_of_run("*", run.id)),
            (processes.names.all_shards[0].timers, processes.names.timers_of_run(run.id)),
        ):
            assert [page async for page in client.broker.read(stream, left)] == []
    seen = processes.witnessed()
    assert {number: seen[f"{run.id} {number}"] for number in range(7, 11)} == {7: 1, 8: 0, 9: 0, 10: 0}


async def test_a_sleeping_run_ends_when_its_time_is_over_and_its_timers_are_gone(processes: Cluster) -> None:
    processes.engine()
    processes.worker("flows.py")
    async with processes.client() as client:
        await functions_are_known(client, "hurried")
        run = await client.start("hurried")
        with pytest.raises(RunFailedError, match="took longer than its timeout of 2 s"):
            await run.result("20s")
        timers = processes.names.timers_of_run(run.id)

        async def are_gone() -> None:
            assert [page async for page in client.broker.read(processes.names.all_shards[0].timers, timers)] == []

        # The end is told as soon as it is stored, and what is left is taken back then.
        await eventually(are_gone)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path / "nats") as server:
        yield server


async def test_everything_may_be_restarted_while_runs_sleep(
    own_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    with cluster(own_server.url, namespace, tmp_path) as processes:
        engine = processes.engine("--lease", "1")
        worker = processes.worker("flows.py")
        async with processes.client() as client:
            await functions_are_known(client, "sleeper")
            runs = [await publish_and_find(client, "sleep", 5, id=f"sleep-{number}") for number in range(50)]

            async def all_sleep() -> None:
                for run in runs:
                    assert (await run.state()).status == "waiting"

            await eventually(all_sleep, within=20.0)
            own_server.kill()
            await asyncio.to_thread(own_server.restart)
            engine.restart()
            worker.restart()
            assert [await run.result("60s") for run in runs] == ["awake"] * 50
            for run in runs:
                await assert_not_early(run, 5_000)
        seen = processes.witnessed()
    assert seen == {f"{run.id} {number}": 1 for run in runs for number in (1, 2)}


async def assert_not_early(run: RunHandle[object], slept_ms: int) -> None:
    """Compare times of the server's clock only: when the wait was stored, and when its end was."""

    steps = {step.name: step for step in await run.steps()}
    began, ended = (datetime.fromisoformat(at) for at in (steps["before"].finished_at, steps["nap"].finished_at) if at)
    assert to_ms(ended) - to_ms(began) >= slept_ms


async def test_the_same_event_id_makes_one_run_across_restarts(
    own_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    with cluster(own_server.url, namespace, tmp_path) as processes:
        engine = processes.engine()
        processes.worker("flows.py")
        async with processes.client() as client:
            await functions_are_known(client, "ten-steps")
            first = await publish_and_find(client, "ten", id="order-1")
            assert await first.result("20s") == 55
            engine.restart()
            await functions_are_known(client, "ten-steps")
            second = await publish_and_find(client, "ten", id="order-1")
            own_server.kill()
            await asyncio.to_thread(own_server.restart)
            await functions_are_known(client, "ten-steps")
            third = await publish_and_find(client, "ten", id="order-1")
            assert {first.id, second.id, third.id} == {first.id}
            assert [view.id async for view in client.runs()] == [first.id]
        assert processes.witnessed() == {f"{first.id} {number}": 1 for number in range(1, 11)}
