"""Hostile names of steps, events and ids: they work in every place, and are shown as they were given.

Which tokens names become is in tests/unit/test_names.py; what is used twice at the top and in a branch, in
test_workflow_semantics.py and test_workflow_branches.py.
"""

from __future__ import annotations

import asyncio
import json
import unicodedata
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import ironflow
from ironflow import Context, Function, Retry, RunHandle, Step
from ironflow.broker.embedded import EmbeddedServer
from ironflow.client import Client
from tests.support.apps.hostile import (
    GROUP_KINDS,
    KINDS,
    names_at_the_top,
    names_in_branches,
    names_of_groups,
    signal_of,
)
from tests.support.apps.hostile_events import FUNCTIONS, waits_for_all
from tests.support.eventually import eventually
from tests.support.hostile_names import EVENT_NAMES, IDS, REFUSED_STEP_NAMES, STEP_NAMES
from tests.support.inprocess import running_system
from tests.support.processes import cluster, functions_are_known

NAP = ("so that there is another pass", (), "sleep")

Shown = tuple[str, tuple[str | int, ...], str]
"""A step as it is shown: its name, its scope and its kind."""

AT_THE_TOP: dict[str, Counter[Shown]] = {
    kind: Counter([NAP, *((name, (), kind) for name in STEP_NAMES)]) for kind in KINDS
}
IN_BRANCHES: Counter[Shown] = Counter(
    [NAP, *((name, ("group", index), kind) for index, kind in enumerate(KINDS) for name in STEP_NAMES)]
)
OF_GROUPS: Counter[Shown] = Counter(
    [NAP, *((name, (name, outer, name, inner), "run") for outer in (0, 1) for inner in (0, 1) for name in STEP_NAMES)]
)


def test_the_table_is_hostile_enough() -> None:
    assert len(set(STEP_NAMES)) == len(STEP_NAMES) >= 40
    assert len(set(EVENT_NAMES)) == len(EVENT_NAMES)
    assert max(len(name.encode()) for name in STEP_NAMES) == 10_240
    twins = [name for name in STEP_NAMES if unicodedata.normalize("NFD", name) != name]
    assert [name for name in twins if unicodedata.normalize("NFD", name) in STEP_NAMES]


async def start_all(client: Client) -> dict[str, tuple[RunHandle[Any], Any, Counter[Shown]]]:
    """Start a run for each place where names stand; each with its output and its steps."""
    names, four_times = list(STEP_NAMES), [[[name] * 2] * 2 for name in STEP_NAMES]
    runs: dict[str, tuple[RunHandle[Any], Any, Counter[Shown]]] = {
        kind: (await client.start(names_at_the_top, kind), names, AT_THE_TOP[kind]) for kind in KINDS
    }
    for kind in GROUP_KINDS:
        runs[f"within {kind}"] = (await client.start(names_in_branches, kind), [names] * len(KINDS), IN_BRANCHES)
        runs[f"of {kind}"] = (await client.start(names_of_groups, kind), four_times, OF_GROUPS)
    return runs


async def publish_signals(client: Client) -> None:
    for name in STEP_NAMES:
        await client.publish("signal", {"of": signal_of(name), "name": name})


def ran_in(client_runs: dict[str, tuple[RunHandle[Any], Any, Counter[Shown]]]) -> Counter[str]:
    """Return which bodies must have run, once each."""
    ran: list[str] = []
    for place, (run, _, _) in client_runs.items():
        if place == "run":
            ran += [f"{run.id} {name!r}" for name in STEP_NAMES]
        elif place.startswith("within"):
            ran += [f"{run.id} 0 {name!r}" for name in STEP_NAMES]
        elif place.startswith("of"):
            ran += [f"{run.id} {outer} {inner} {name!r}" for outer in (0, 1) for inner in (0, 1) for name in STEP_NAMES]
    return Counter(ran)


async def shown(run: RunHandle[Any]) -> Counter[Shown]:
    steps = await run.steps()
    assert {step.status for step in steps} == {"completed"}
    return Counter((step.name, step.scope, step.kind) for step in steps)


@pytest.mark.virtual_time
async def test_every_name_works_and_is_shown_as_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    witness = tmp_path / "witness"
    witness.touch()
    monkeypatch.setenv("WITNESS", str(witness))
    async with running_system(names_at_the_top, names_in_branches, names_of_groups) as system:
        runs = await start_all(system.client)
        await publish_signals(system.client)
        for run, output, steps in runs.values():
            assert await run.result("1h") == output
            assert await shown(run) == steps
    assert Counter(witness.read_text().splitlines()) == ran_in(runs)


async def test_every_name_works_on_a_real_server_whose_worker_is_replaced_and_commands_show_it_as_given(
    nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    with cluster(nats_server.url, namespace, tmp_path) as processes:
        processes.engine()
        worker = processes.worker("hostile.py", queue="names")
        async with processes.client() as client:
            await functions_are_known(client, "names-at-the-top", "names-in-branches", "names-of-groups")
            runs = await start_all(client)
            # Nothing is left to do in any of them but to wait for the signals; the next worker replays the rest.
            for place in ("wait_for_event", *(f"within {kind}" for kind in GROUP_KINDS)):
                await until_all_waits_are_open(runs[place][0])
            worker.terminate()
            processes.worker("hostile.py", queue="names")
            await publish_signals(client)
            for run, output, steps in runs.values():
                assert await run.result("60s") == output
                assert await shown(run) == steps
            for run, _, steps in runs.values():
                document = json.loads(await said(processes.command("runs", "get", run.id, "--json")))
                found = [(each["name"], tuple(each["scope"]), each["kind"]) for each in document["steps"]]
                assert Counter(found) == steps
            table = await said(processes.command("runs", "get", runs["run"][0].id))
            assert "\x1b" not in table  # for people, what would move their cursor is spelled out
            assert "\0" not in table
        assert processes.witnessed() == ran_in(runs)


async def until_all_waits_are_open(run: RunHandle[Any]) -> None:
    async def open_() -> None:
        assert sum(step.kind == "wait_for_event" for step in await run.steps()) == len(STEP_NAMES)

    await eventually(open_, within=30.0)


async def said(command: Awaitable[Any]) -> str:
    done = await command
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


# What is refused

ONCE = Retry(max_attempts=1)


async def one_item(item: int, step: Step, index: int) -> None:
    return None


async def branch(step: Step) -> None:
    return None


USES: dict[str, Callable[[Step, Any], Awaitable[Any]]] = {
    "run": lambda step, name: step.run(name, lambda: None),
    "sleep": lambda step, name: step.sleep(name, 1),
    "sleep_until": lambda step, name: step.sleep_until(name, "2026-01-01T01:00:00Z"),
    "wait_for_event": lambda step, name: step.wait_for_event(name, event="x", timeout=1, on_timeout="none"),
    "publish": lambda step, name: step.publish("heard", name=name),
    "parallel": lambda step, name: step.parallel(name, [branch]),
    "map": lambda step, name: step.map(name, [1], one_item),
}


def ends_with(use: Callable[[Step], Awaitable[Any]], *, in_a_branch: bool) -> Function[Any, Any]:
    """Return a function that uses steps at the top or in a branch, and returns the error that this ends in."""

    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> Any:
        async def one(step: Step) -> list[str]:
            try:
                await use(step)
            except ironflow.IronflowError as error:
                return [type(error).__name__, str(error)]
            return []

        return (await ctx.step.parallel("all", [one]))[0] if in_a_branch else await one(ctx.step)

    return f


@pytest.mark.virtual_time
@pytest.mark.parametrize("in_a_branch", [False, True], ids=["top", "branch"])
@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize(("name", "error"), REFUSED_STEP_NAMES.values(), ids=REFUSED_STEP_NAMES)
async def test_what_is_no_name_is_refused_in_every_place(
    name: Any, error: str, use: Callable[[Step, Any], Awaitable[Any]], *, in_a_branch: bool
) -> None:
    if name is None and use is USES["publish"]:
        pytest.skip("without a name of its own it has one by its event")
    f = ends_with(lambda step: use(step, name), in_a_branch=in_a_branch)
    async with running_system(f) as system:
        run = await system.client.start(f)
        kind, message = await run.result("1h")
        assert await run.steps() == []
    assert kind == error
    assert message.startswith("a step's name m")


@pytest.mark.virtual_time
@pytest.mark.parametrize("in_a_branch", [False, True], ids=["top", "branch"])
@pytest.mark.parametrize("second", USES)
@pytest.mark.parametrize("first", USES)
async def test_a_name_that_is_used_twice_is_refused_by_name_whatever_it_is_used_for(
    first: str, second: str, *, in_a_branch: bool
) -> None:
    name = "a.>\n😀"

    async def twice(step: Step) -> None:
        await USES[first](step, name)
        await USES[second](step, name)

    f = ends_with(twice, in_a_branch=in_a_branch)
    async with running_system(f) as system:
        assert await system.output(f) == [
            "DuplicateStepError",
            (
                f"step {name!r} was used twice in one pass; names must be unique within their scope "
                "(in a loop, add the index: f'{name}-{index}')"
            ),
        ]


@pytest.mark.virtual_time
@pytest.mark.parametrize("use", USES.values(), ids=USES)
async def test_two_branches_may_use_the_same_name(use: Callable[[Step, Any], Awaitable[Any]]) -> None:
    @ironflow.function(id="f", retry=ONCE)
    async def f(ctx: Context) -> str:
        async def one(step: Step) -> None:
            await use(step, "same")

        await asyncio.gather(ctx.step.parallel("all", [one, one]), ctx.step.parallel("same", [one, one]))
        return "done"

    async with running_system(f) as system:
        assert await system.output(f) == "done"


# Events and ids


async def check_event_names(client: Client) -> None:
    """Publish an event of every name: it starts the one function that triggers on it, and ends the wait for it."""
    waiting = await client.start(waits_for_all)
    for index, name in enumerate(EVENT_NAMES):
        event = await client.publish_record(name, {"n": index})
        runs, matched = await client.runs_of(event)
        assert matched
        assert [await client.run(run).result("30s") for run in runs] == [[name, event.record.id]]
    assert await waiting.result("30s") == list(EVENT_NAMES)
    stored = [event.name async for event in client.events()]
    assert stored[::-1][1:] == list(EVENT_NAMES)


async def check_ids(client: Client) -> None:
    """Publish and start with every id twice: each takes effect once, and is shown as it was given."""
    published, started = [], []
    for wanted in IDS:
        runs: list[str] = []
        for _ in range(2):
            event = await client.publish_record("numbered", id=wanted)
            assert event.record.id == wanted
            runs += (await client.runs_of(event))[0]
            started.append((await client.start("by-id", id=wanted)).id)
        assert len(runs) == 2
        assert len(set(runs)) == 1
        published.append(runs[0])
        assert await client.run(runs[0]).result("30s") == ["numbered", wanted]
        assert (await client.run(runs[0]).state()).event.id == wanted
    assert len({*published, *started}) == 2 * len(IDS)


@pytest.mark.virtual_time
@pytest.mark.parametrize("check", [check_event_names, check_ids])
async def test_every_event_name_and_id_works(check: Callable[[Client], Awaitable[None]]) -> None:
    async with running_system(*FUNCTIONS) as system:
        await check(system.client)


@pytest.mark.parametrize("check", [check_event_names, check_ids])
async def test_every_event_name_and_id_works_on_a_real_server(
    check: Callable[[Client], Awaitable[None]], nats_server: EmbeddedServer, namespace: str, tmp_path: Path
) -> None:
    with cluster(nats_server.url, namespace, tmp_path) as processes:
        processes.engine()
        processes.worker("hostile_events.py", queue="names")
        async with processes.client() as client:
            await functions_are_known(client, "waits", "by-id")
            await check(client)
