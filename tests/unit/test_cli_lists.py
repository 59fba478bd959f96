"""``ironflow functions``, ``workers``, ``queues`` and ``events``."""

from __future__ import annotations

import json

import msgspec
import pytest

from ironflow.messages import FunctionView, ListEvents, QueueView, StoredEvent, WorkerView
from tests.unit.fake_engine import FakeEngine, Shell, raw

FUNCTION = FunctionView(id="f", queue="orders", triggers=("a.*", "b"), max_attempts=3, timeout_ms=3_600_000)
WORKER = WorkerView(
    id="w1",
    host="box",
    pid=7,
    queues=("orders", "mail"),
    functions=("f",),
    concurrency=100,
    running=3,
    draining=True,
    started_at="2026-11-21T20:03:00.000Z",
    version="0.1.0",
)
QUEUE = QueueView(name="orders", waiting=4, running=3, redelivered=1, functions=("f", "g"))
EVENT = StoredEvent(
    id="o-1",
    name="order.placed",
    time="2026-11-21T20:03:00.000Z",
    source="shop",
    sequence=12,
    data=raw('{"a": 1.00}'),
    metadata={"k": "v"},
)


def test_functions_are_listed(shell: Shell, engine: FakeEngine) -> None:
    engine.functions = [FUNCTION]
    assert shell.json("functions", "list") == [
        {"id": "f", "queue": "orders", "triggers": ["a.*", "b"], "max_attempts": 3, "timeout_ms": 3_600_000}
    ]
    assert _cells(shell, "functions") == ["f", "orders", "3", "1h", "a.*, b"]


def test_workers_are_listed(shell: Shell, engine: FakeEngine) -> None:
    engine.workers = [WORKER]
    assert shell.json("workers", "list") == [
        {
            "id": "w1",
            "host": "box",
            "pid": 7,
            "queues": ["orders", "mail"],
            "functions": ["f"],
            "concurrency": 100,
            "running": 3,
            "draining": True,
            "started_at": "2026-11-21T20:03:00.000Z",
            "version": "0.1.0",
        }
    ]
    assert _cells(shell, "workers")[:5] == ["w1", "box", "7", "3/100", "draining"]


def test_queues_are_listed(shell: Shell, engine: FakeEngine) -> None:
    engine.queues = [QUEUE]
    assert shell.json("queues", "list") == [
        {"name": "orders", "waiting": 4, "running": 3, "redelivered": 1, "functions": ["f", "g"]}
    ]
    assert _cells(shell, "queues") == ["orders", "4", "3", "1", "f, g"]


def test_events_are_listed(shell: Shell, engine: FakeEngine) -> None:
    engine.stored = [EVENT]
    assert shell.json("events", "list") == [
        {
            "id": "o-1",
            "name": "order.placed",
            "time": "2026-11-21T20:03:00.000Z",
            "source": "shop",
            "sequence": 12,
            "data": {"a": 1.0},
            "metadata": {"k": "v"},
        }
    ]
    assert _cells(shell, "events")[-2:] == ["shop", '{"a": 1.00}']


def test_events_are_asked_for_by_name_and_number(shell: Shell, engine: FakeEngine) -> None:
    shell("events", "list", "--name", "order.>", "--limit", "3")
    assert engine.requests == [ListEvents(name="order.>", limit=3)]


@pytest.mark.parametrize("pattern", ["", "a..b", "a.>.b"])
def test_a_name_that_no_event_can_have_is_a_usage_error(shell: Shell, pattern: str) -> None:
    assert shell("events", "list", "--name", pattern).exit_code == 2


@pytest.mark.parametrize("command", ["functions", "workers", "queues", "events"])
def test_an_empty_list_is_empty_on_stdout_and_says_so_on_stderr(shell: Shell, command: str) -> None:
    assert shell.json(command, "list") == []
    result = shell(command, "list")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith("no ")


@pytest.mark.parametrize("command", ["functions", "workers", "queues", "events"])
def test_a_missing_engine_is_one_line(shell: Shell, engine: FakeEngine, command: str) -> None:
    engine.up = False
    result = shell(command, "list")
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (3, "", 1)


def test_a_function_is_deleted_once(shell: Shell, engine: FakeEngine) -> None:
    engine.functions = [FUNCTION]
    first, second = shell("functions", "delete", "f"), shell("functions", "delete", "f")
    assert (first.exit_code, first.stdout) == (0, "deleted f\n")
    assert (second.exit_code, second.stdout, second.stderr) == (1, "", "no function f\n")


def test_that_a_deleted_function_comes_back_with_its_workers_is_said_so_of(shell: Shell, engine: FakeEngine) -> None:
    have = [msgspec.structs.replace(WORKER, id=each, functions=("f", "g")) for each in ("w1", "w2")]
    engine.functions, engine.workers = [FUNCTION], [have[0], msgspec.structs.replace(WORKER, functions=("g",))]
    one = shell("functions", "delete", "f", "--json")
    assert one.stderr == "1 worker still has its code, and registers it again when it starts\n"
    assert json.loads(one.stdout) == {"id": "f", "deleted": True}
    engine.functions, engine.workers = [FUNCTION], have
    two = shell("functions", "delete", "f")
    assert two.stdout == "deleted f\n"
    assert two.stderr == "2 workers still have its code, and register it again when they start\n"


def test_deleting_prints_json_in_both_cases(shell: Shell, engine: FakeEngine) -> None:
    engine.functions = [FUNCTION]
    assert shell.json("functions", "delete", "f") == {"id": "f", "deleted": True}
    assert '"deleted": false' in shell("functions", "delete", "f", "--json").stdout


def _cells(shell: Shell, command: str) -> list[str]:
    """Return the one row of a table, cell by cell."""
    lines = shell(command, "list").stdout.splitlines()
    assert len(lines) == 2
    return [cell.strip() for cell in lines[1].split("  ") if cell.strip()]
