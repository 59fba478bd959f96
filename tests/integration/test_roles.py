"""What each role may do on a server with accounts, and what it may not: both against the real server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tabulate import tabulate

from ironflow.broker.nats import connect
from ironflow.broker.protocol import Denied, Publication
from ironflow.broker.topology import engine_consumers, queue_consumers, streams
from ironflow.errors import RunNotFoundError
from ironflow.handles import RunHandle
from ironflow.names import Names, bucket_stream
from tests.support import eventually, fresh_namespace
from tests.support.attacks import ATTACKS, try_attacks
from tests.support.processes import APPS, functions_are_known, workers_answer
from tests.support.secured import QUEUES, Secured

ATTACKERS = ("engine", "worker-orders", "worker-reports", "publisher", "reader", "operator")
MAY = {
    # It makes streams and consumers, and writes to all of them. It deletes none, and answers nobody in another's place.
    "engine": {attack.name for attack in ATTACKS}
    - {"schedule elsewhere", "roll up", "make consumers", "claim for another queue", "answer for the server"}
    - {"delete streams"},
    # The queue that the others attack is its own.
    "worker-reports": {
        *("settle another queues task", "append to another queue", "claim for another queue"),
        "use wildcards as ids",
    },
    # To start a run is to publish an event of Ironflow's own.
    "publisher": {"publish reserved events"},
    # They look at the settings and states of streams, and at single run states and tasks, as `ironflow doctor` does.
    "operator": {"read tasks"},
}


@pytest.mark.parametrize("shards", [1, 3])
async def test_what_is_allowed_works_and_nothing_that_is_needed_is_refused(
    tmp_path: Path, show: Callable[[str], None], shards: int
) -> None:
    with Secured(Names(fresh_namespace(), shards), tmp_path).running() as secured:
        secured.engine()
        for queue in ("orders", "orders", "reports"):
            secured.worker(queue, f"{'flows' if queue == 'orders' else 'reports'}.py")
        async with secured.client("operator") as operator:
            await functions_are_known(operator, "ten-steps", "report")
            await workers_answer(operator, 3)
        for _, _, works in ALLOWED:
            await works(secured)
        show(tabulate([(role, does, "works") for role, does, _ in ALLOWED], headers=("role", "what it may do", "")))
        assert "ermissions" not in secured.logs()


async def publishes_and_waits(secured: Secured) -> None:
    async with secured.client("publisher") as client:
        first = await client.publish("ten", id="once")
        assert (await client.publish("ten", id="once")).id == first.id
        run = await client.start("ten-steps")
        assert await run.result("20s") == 55
        assert len(await run.steps()) == 10


async def sleeps(secured: Secured) -> None:
    async with secured.client("publisher") as client:
        assert await (await client.start("sleeper", 0.4)).result("20s") == "awake"


async def publishes_in_a_step(secured: Secured) -> None:
    async with secured.client("publisher") as client:
        assert await (await client.start("late-waiter", {"n": 1})).result("20s") is True


async def starts_a_run_and_leaves_it(secured: Secured) -> None:
    async with secured.client("publisher") as client:
        started = await (await client.start("delegates")).result("20s")
        assert await client.run(started).result("20s") == "awake"


async def retries(secured: Secured) -> None:
    async with secured.client("publisher") as client:
        assert await (await client.start("flaky")).result("20s") == 3


async def appends_many_at_once(secured: Secured) -> None:
    async with secured.client("publisher") as client:
        assert await (await client.start("doubles", 200)).result("30s") == [2 * number for number in range(200)]


async def works_on_its_own_queue(secured: Secured) -> None:
    async with secured.client("publisher") as client:
        assert await (await client.start("report")).result("20s") == "reported"


async def is_cancelled(secured: Secured) -> None:
    async with secured.client("operator") as operator, secured.client("publisher") as client:
        run = await client.start("sleeper", 3600.0)
        await eventually(lambda: _is(run, "waiting"), within=10.0)
        assert await operator.run(run.id).cancel("no longer wanted")
        await _is(run, "cancelled")


async def _is(run: RunHandle[Any], status: str) -> None:
    with contextlib.suppress(RunNotFoundError):  # its event is not matched yet
        assert (await run.state()).status == status
        return
    raise AssertionError


async def takes_over(secured: Secured) -> None:
    """Long before the lease of 10 s ends: pings, claims and handing back all cross the accounts."""
    async with secured.client("publisher") as client:
        run = await client.start("gated")
        (busy,) = await eventually(lambda: _executing(secured, run, 1), within=10.0)
        (victim,) = (process for process in secured.processes if process.pid == busy)
        victim.kill()
        await eventually(lambda: _executing(secured, run, 2), within=5.0)
        (secured.folder / "gate").touch()
        assert await run.result("20s") == 55


def _executing(secured: Secured, run: RunHandle[Any], times: int) -> list[int]:
    """Return the processes in which the body behind the gate began; the engine's census may be of the step before."""
    mark = f"{run.id} is in "
    lines = (secured.folder / "witness").read_text().splitlines()
    found = [int(line.removeprefix(mark)) for line in lines if line.startswith(mark)]
    assert len(found) == times
    return found


async def lists(secured: Secured) -> None:
    async with secured.client("reader") as reader:
        assert [run async for run in reader.runs(limit=3)]
        assert [event async for event in reader.events(limit=3)]
        assert (await reader.engine.functions()).functions
        assert (await reader.engine.queues()).queues
        assert (await reader.engine.workers()).workers


async def examines(secured: Secured) -> None:
    ended = await command(secured, "operator", "doctor", "--json")
    findings = msgspec.json.decode(ended.stdout)
    assert [each for each in findings if "could not be checked" in each["text"] or each["level"] == "error"] == []


ALLOWED: tuple[tuple[str, str, Callable[[Secured], Awaitable[None]]], ...] = (
    ("publisher", "publish events, start runs, wait for results, look at their steps", publishes_and_waits),
    ("worker", "run steps, and sleep", sleeps),
    ("worker", "publish events in steps, and wait for events", publishes_in_a_step),
    ("worker", "start runs that nobody waits for", starts_a_run_and_leaves_it),
    ("worker", "fail and retry", retries),
    ("worker", "append many records at once", appends_many_at_once),
    ("worker", "work on its queue beside those of others", works_on_its_own_queue),
    ("operator", "cancel runs", is_cancelled),
    ("engine", "take tasks over from a worker that has died", takes_over),
    ("reader", "list runs, events, functions, queues and workers", lists),
    ("operator", "examine with `ironflow doctor`", examines),
)


async def command(
    secured: Secured, role: str, *words: str, module: str = "ironflow.cli.main", **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a command with the rights of a role, to its end."""
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", module, *words],
        env={**os.environ, **secured.environment(role), **more},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


async def test_an_engine_may_delete_the_events_that_its_archive_has(tmp_path: Path) -> None:
    with Secured(Names(fresh_namespace()), tmp_path).running() as secured:
        await provision(secured)
        engine = await connect(secured.settings("engine"))
        stored = await engine.publish(Publication(subject=secured.names.event("x"), payload=b"{}"))
        assert await engine.purge(secured.names.events, ">", stored.sequence) == 1
        await engine.close()


# What must not work


async def provision(secured: Secured) -> None:
    """Make what an engine makes, with its rights."""
    broker = await connect(secured.settings("engine"))
    for stream in streams(secured.names):
        await broker.ensure_stream(stream)
    for consumer in (*engine_consumers(secured.names), *(queue_consumers(secured.names, queue)[0] for queue in QUEUES)):
        await broker.ensure_consumer(consumer)
    await broker.close()


async def outcomes(secured: Secured, role: str, may: Collection[str]) -> dict[str, str]:
    await provision(secured)
    return await try_attacks(secured.url, secured.settings("admin"), secured.settings(role), secured.names, may)


async def test_no_attack_of_the_table_works(tmp_path: Path, show: Callable[[str], None]) -> None:
    async def attacked(role: str) -> dict[str, str]:
        with Secured(Names(fresh_namespace()), tmp_path / role).running() as secured:
            return await outcomes(secured, role, MAY.get(role, ()))

    found = dict(zip(ATTACKERS, await asyncio.gather(*map(attacked, ATTACKERS)), strict=True))
    table = [
        (attack.name, *("may" if achieved[attack.name] else "refused" for achieved in found.values()))
        for attack in ATTACKS
    ]
    show(tabulate(table, headers=("attack", *ATTACKERS)))
    done = {role: {attack for attack, what in achieved.items() if what} for role, achieved in found.items()}
    assert done == {role: MAY.get(role, set()) for role in ATTACKERS}


async def test_the_table_shows_rights_that_are_too_wide(tmp_path: Path) -> None:
    names = Names(fresh_namespace())
    plain = Secured(names, tmp_path)
    worker = plain.roles["worker-orders"]
    wide = (
        *(f"$KV.{names.runs_bucket}.>", f"{names.namespace}.timers.>", f"{names.namespace}.journal.>"),
        *(
            f"$JS.ACK.{names.all_shards[0].tasks}.>",
            f"$JS.API.STREAM.PURGE.{names.events}",
            names.every_cancel,
            names.every_claim,
        ),
        *(
            f"$JS.API.DIRECT.GET.{names.all_shards[0].tasks}",
            f"{names.namespace}.tasks.>",
            f"$JS.API.STREAM.DELETE.{names.events}",
        ),
        f"$JS.API.STREAM.UPDATE.{names.events}",
        f"$JS.API.CONSUMER.CREATE.{bucket_stream(names.runs_bucket)}",
        f"$JS.API.CONSUMER.CREATE.{bucket_stream(names.runs_bucket)}.>",
    )
    careless = msgspec.structs.replace(worker, asks=(*worker.asks, *wide), never=())
    may = {attack.name for attack in ATTACKS} - {
        # These the streams refuse, or no right to publish brings; and what is imported takes no answers.
        *("schedule elsewhere", "roll up", "answer for the server", "overhear", "pull from another queue"),
        "inject replies",
    }
    with Secured(names, tmp_path, changed=[careless]).running() as secured:
        found = await outcomes(secured, "worker-orders", may)
    assert {attack for attack, achieved in found.items() if achieved} == may


async def test_permissions_alone_are_no_wall_against_injected_replies(tmp_path: Path) -> None:
    names = Names(fresh_namespace())
    with Secured(names, tmp_path, together=["worker-orders"]).running() as secured:
        found = await outcomes(secured, "worker-orders", {"inject replies"})
    assert {attack for attack, achieved in found.items() if achieved} == {"inject replies"}


async def test_a_namespace_is_out_of_reach_for_the_engine_of_another(tmp_path: Path) -> None:
    theirs = Names(fresh_namespace())
    with Secured(Names(fresh_namespace()), tmp_path, beside=theirs).running() as secured:
        await provision(secured)
        ours = await connect(secured.settings("engine"))
        stranger = await connect(secured.stranger())
        for attempt in (
            stranger.stream_state(secured.names.events),
            stranger.publish(Publication(subject=secured.names.event("x"), payload=b"{}")),
            stranger.purge(secured.names.all_shards[0].tasks, ">"),
        ):
            with pytest.raises(Denied):
                await attempt
        for stream in streams(theirs):
            await stranger.ensure_stream(stream)
        await stranger.publish(Publication(subject=theirs.event("x"), payload=b"{}"))
        assert (await ours.stream_state(secured.names.events)).messages == 0
        await ours.close()
        await stranger.close()


# What a refusal looks like


@pytest.mark.parametrize(
    ("role", "module", "words", "variables", "code", "says"),
    [
        ("reader", "ironflow_engine", (), {}, 1, "STREAM.CREATE"),
        ("worker-orders", "ironflow_worker", ("--queue", "reports", str(APPS / "reports.py")), {}, 1, "MSG.NEXT"),
        (
            *("worker-orders", "ironflow_worker", ("--queue", "orders", str(APPS / "flows.py"))),
            *({"NATS_JS_API_PREFIX": ""}, 1, "$JS.API.CONSUMER.MSG.NEXT"),
        ),
        ("reader", "ironflow.cli.main", ("publish", "ten"), {}, 1, "is not stored: the account's permissions"),
        ("publisher", "ironflow.cli.main", ("runs", "cancel", "x"), {}, 3, "api.runs.cancel"),
        ("reader", "ironflow.cli.main", ("runs", "list"), {"NATS_INBOX_PREFIX": ""}, 3, "NATS_INBOX_PREFIX"),
        ("reader", "ironflow.cli.main", ("runs", "list"), {"NATS_PASSWORD": "guess"}, 3, "refused to sign in"),
    ],
)
async def test_who_may_not_is_told_so_and_does_not_hang(
    role: str, module: str, words: tuple[str, ...], variables: dict[str, str], code: int, says: str, tmp_path: Path
) -> None:
    with Secured(Names(fresh_namespace()), tmp_path).running() as secured:
        ended = await command(secured, role, *words, module=module, **variables)
    assert ended.returncode == code, ended.stderr
    assert "Traceback" not in ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert says in last or "permissions do not allow" in last
    if module == "ironflow.cli.main":
        assert says in last
        assert ended.stderr.count("\n") == 1
        assert "sign in" in last or "NATS_" in last  # what to look at
