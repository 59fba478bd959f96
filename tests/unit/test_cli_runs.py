"""``ironflow runs``."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ironflow.clock import now_ms, parse_when
from ironflow.messages import AwaitedView, CancelRun, ErrorView, EventView, ListRuns, RetryRun
from ironflow.records import NULL, RunStatus
from tests.unit.fake_engine import FakeEngine, Shell, raw, run_view, running_view, step_view

RUN_FIELDS = ["id", "function", "queue", "status", "compensation", "event", "attempt", "output", "error"]
RUN_FIELDS += ["started_at", "finished_at"]
STEP_FIELDS = ["name", "scope", "kind", "status", "attempt", "output", "error", "started_at", "finished_at"]
FAILED = ErrorView(type="StepError", message="no money", step="charge", attempts=3, path=None)


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ironflow.cli.follow.CALM_SECONDS", 0.01)
    monkeypatch.setattr("ironflow.cli.follow.LEAST_SECONDS", 0.001)


def test_get_shows_a_run_with_its_steps_in_the_shape_of_the_contract(shell: Shell, engine: FakeEngine) -> None:
    engine.runs["r1"] = [run_view()]
    engine.steps["r1"] = [
        step_view(),
        step_view("pay", scope=("all", 0), status="retrying", output=NULL, error=FAILED, finished_at=None),
    ]
    document = shell.json("runs", "get", "r1")
    assert list(document) == [*RUN_FIELDS, "steps"]
    assert document["event"] == {"id": "o-1", "name": "order.placed", "data": {"orderId": "o-1"}}
    assert document["output"] == {"total": 1.0}
    assert [list(step) for step in document["steps"]] == [STEP_FIELDS, STEP_FIELDS]
    assert [step["scope"] for step in document["steps"]] == [[], ["all", 0]]
    assert document["steps"][1]["error"] == {
        "type": "StepError",
        "message": "no money",
        "step": "charge",
        "attempts": 3,
        "path": None,
    }


def test_parts_that_are_json_already_are_embedded_as_they_are(shell: Shell, engine: FakeEngine) -> None:
    engine.runs["r1"] = [run_view(output=raw('{"exact": 1.00, "big": 123456789012345678901}'))]
    printed = shell("runs", "get", "r1", "--json").stdout
    assert '"exact": 1.00' in printed
    assert '"big": 123456789012345678901' in printed


def test_get_shows_a_run_for_people(shell: Shell, engine: FakeEngine) -> None:
    engine.runs["r1"] = [run_view()]
    engine.steps["r1"] = [step_view()]
    printed = shell("runs", "get", "r1").stdout
    assert "status       completed" in printed
    assert "fetch   run     completed  1          12ms    1" in printed


@pytest.mark.parametrize("words", [("runs", "get"), ("runs", "watch"), ("runs", "cancel")])
@pytest.mark.parametrize("extra", [(), ("--json",)])
def test_an_unknown_run_is_one_line(shell: Shell, words: tuple[str, ...], extra: tuple[str, ...]) -> None:
    result = shell(*words, "ABC", *extra)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "no run ABC\n")


def test_an_unknown_run_is_named_without_what_moves_the_cursor(shell: Shell, engine: FakeEngine) -> None:
    assert shell("runs", "watch", "a\x1b[2J >\n*").stderr == "no run 'a\\x1b[2J >\\n*'\n"
    assert engine.listeners == {}


def test_list_shows_runs_without_steps(shell: Shell, engine: FakeEngine) -> None:
    engine.runs = {"r1": [run_view("r1")], "r2": [running_view("r2")]}
    documents = shell.json("runs", "list")
    assert [document["id"] for document in documents] == ["r2", "r1"]
    assert [list(document) for document in documents] == [RUN_FIELDS, RUN_FIELDS]


def test_list_shows_a_table(shell: Shell, engine: FakeEngine) -> None:
    engine.runs = {"r1": [run_view("r1", event=EventView(id="i" * 200, name="order.placed"))]}
    header, row = shell("runs", "list").stdout.splitlines()
    assert header.split() == ["RUN", "FUNCTION", "STATUS", "AGE", "TOOK", "EVENT"]
    assert row.endswith("1.5s    order.placed " + "i" * 200)


@pytest.mark.parametrize(
    ("compensation", "shown"), [(None, "failed"), ("completed", "failed"), ("failed", "failed (undo failed)")]
)
@pytest.mark.parametrize("words", [("runs", "list"), ("runs", "watch", "r1")])
def test_a_run_whose_undo_failed_is_told_from_other_failed_ones(
    shell: Shell, engine: FakeEngine, words: tuple[str, ...], compensation: str | None, shown: str
) -> None:
    engine.runs = {"r1": [run_view("r1", status="failed", compensation=compensation, output=raw("null"))]}
    line = shell(*words).stdout.splitlines()[-1]
    assert shown in line
    assert ("undo" in line) == (compensation == "failed")


def test_an_empty_list_is_empty_on_stdout(shell: Shell) -> None:
    assert shell.json("runs", "list") == []
    result = shell("runs", "list")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "no runs\n")


def test_list_asks_for_what_it_was_told_to(shell: Shell, engine: FakeEngine) -> None:
    words = ("--status", "failed", "--function", "f", "--since", "2026-11-21T20:00:00Z", "--limit", "7")
    shell("runs", "list", *words)
    since = parse_when("2026-11-21T20:00:00Z")
    assert engine.requests == [ListRuns(status="failed", function="f", since_ms=since, limit=7)]


def test_list_asks_for_the_newest_fifty_by_default(shell: Shell, engine: FakeEngine) -> None:
    shell("runs", "list")
    assert engine.requests == [ListRuns(limit=50)]


def test_since_may_say_how_long_ago(shell: Shell, engine: FakeEngine) -> None:
    shell("runs", "list", "--since", "1h")
    request = engine.requests[0]
    assert isinstance(request, ListRuns)
    assert abs(now_ms() - 3_600_000 - request.since_ms) < 60_000


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["list", "--status", "done"], "'done' is not one of"),
        (["list", "--limit", "0"], "0 is not in the range x>=1"),
        (["list", "--since", "yesterday"], "or say how long ago, like '1h'"),
        (["list", "--since", "2026-11-21T20:00:00"], "has no time zone"),
        (["get"], "Missing argument 'RUN'"),
        (["nope"], "No such command 'nope'"),
    ],
)
def test_bad_input_is_a_usage_error(shell: Shell, words: list[str], complaint: str) -> None:
    result = shell("runs", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert complaint in result.stderr


def test_watch_prints_a_line_at_each_change_until_the_run_ends(shell: Shell, engine: FakeEngine) -> None:
    waiting = running_view(status="waiting")
    engine.runs["r1"] = [running_view(), running_view(), running_view(), waiting, running_view(), run_view()]
    result = shell("runs", "watch", "r1")
    assert result.exit_code == 0, result.stderr
    lines = [line.split("  ")[1:] for line in result.stdout.splitlines()]
    assert lines == [
        ["r1", "process-order", "running"],
        ["r1", "process-order", "waiting"],
        ["r1", "process-order", "running"],
        ["r1", "process-order", "completed after 1.5s", '{"total":1.00}'],
    ]


def test_watch_prints_steps_once_and_before_the_end(shell: Shell, engine: FakeEngine) -> None:
    engine.runs["r1"] = [running_view(), running_view(), run_view()]
    engine.steps["r1"] = [step_view(scope=("all", 1))]
    lines = shell("runs", "watch", "r1").stdout.splitlines()
    assert [line for line in lines if "fetch" in line] == ["2026-11-21T20:03:00Z  r1  all[1] / fetch  completed  1"]
    assert "completed after" in lines[-1]


def test_watch_prints_a_json_document_a_line(shell: Shell, engine: FakeEngine) -> None:
    engine.runs["r1"] = [running_view(), running_view(), running_view(), run_view(output=raw('{"a":\n1}'))]
    engine.steps["r1"] = [step_view()]
    documents = [json.loads(line) for line in shell("runs", "watch", "r1", "--json").stdout.splitlines()]
    assert [document["status"] for document in documents] == ["running", "completed"]
    assert list(documents[-1]) == [*RUN_FIELDS, "steps"]


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_watch_exits_with_1_where_the_run_did_not_complete(shell: Shell, engine: FakeEngine, status: str) -> None:
    engine.runs["r1"] = [run_view(status=status)]
    assert shell("runs", "watch", "r1").exit_code == 1


def test_watch_listens_for_the_end_of_the_run(shell: Shell, engine: FakeEngine) -> None:
    engine.runs["r1"] = [run_view()]
    shell("runs", "watch", "r1")
    assert list(engine.listeners) == ["ironflow.ended.r1"]


def test_watch_without_a_run_follows_the_newest_runs_until_it_is_interrupted(
    shell: Shell, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.runs = {
        "r1": [run_view("r1")],
        "r2": [running_view("r2"), running_view("r2"), run_view("r2")],
    }
    monkeypatch.setattr(engine, "runs", _InterruptedAfter(engine.runs, asks=4))
    result = shell("runs", "watch", "--json")
    assert result.exit_code == 130
    assert [(line["id"], line["status"]) for line in map(json.loads, result.stdout.splitlines())] == [
        ("r1", "completed"),
        ("r2", "running"),
        ("r2", "completed"),
    ]


def test_watch_goes_on_when_the_engine_is_away_for_a_while(
    shell: Shell, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.runs["r1"] = [running_view(), running_view(), run_view()]
    answers, request = iter([True, True, True, False, False]), engine.request

    async def request_or_not(subject: str, payload: bytes, timeout_seconds: float) -> bytes:
        engine.up = next(answers, True)
        return await request(subject, payload, timeout_seconds)

    monkeypatch.setattr(engine, "request", request_or_not)
    result = shell("runs", "watch", "r1")
    assert result.exit_code == 0
    assert result.stderr.count("waiting for an engine") == 1


@pytest.mark.parametrize("words", [("list",), ("get", "r1"), ("watch",), ("watch", "r1")])
def test_a_missing_engine_is_one_line(shell: Shell, engine: FakeEngine, words: tuple[str, ...]) -> None:
    engine.up = False
    result = shell("runs", *words)
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith("no engine answers in namespace 'ironflow'")
    assert len(result.stderr.splitlines()) == 1


class _InterruptedAfter(dict[str, object]):
    """Runs that are asked for a number of times before Ctrl-C is pressed."""

    def __init__(self, runs: object, asks: int) -> None:
        super().__init__(runs)  # type: ignore[call-overload]
        self._left = asks

    def values(self) -> object:  # type: ignore[override]
        if self._left == 0:
            raise KeyboardInterrupt
        self._left -= 1
        return super().values()


def test_cancel_says_that_it_is_recorded(shell: Shell, engine: FakeEngine) -> None:
    engine.runs["r1"] = [running_view()]
    result = shell("runs", "cancel", "r1", "--reason", "ordered twice")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "run r1 is cancelled\n", "")
    assert engine.requests == [CancelRun(id="r1", reason="ordered twice")]


def test_cancel_prints_json(shell: Shell, engine: FakeEngine) -> None:
    engine.runs["r1"] = [running_view()]
    assert shell.json("runs", "cancel", "r1") == {"id": "r1", "recorded": True, "status": "cancelled"}


@pytest.mark.parametrize(
    ("status", "says"), [("completed", "completed"), ("failed", "failed"), ("cancelled", "been cancelled")]
)
def test_a_run_that_has_ended_is_not_cancelled(shell: Shell, engine: FakeEngine, status: RunStatus, says: str) -> None:
    engine.runs["r1"] = [run_view(status=status)]
    result = shell("runs", "cancel", "r1")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"run r1 had already {says}\n")
    result = shell("runs", "cancel", "r1", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"id": "r1", "recorded": False, "status": status}


def test_cancel_asks_for_compensation_and_says_that_it_goes_on(shell: Shell, engine: FakeEngine) -> None:
    engine.runs["r1"] = [running_view()]
    result = shell("runs", "cancel", "r1", "--compensate")
    assert (result.exit_code, result.stdout) == (0, "run r1 is cancelled; what it did is being undone\n")
    assert engine.requests == [CancelRun(id="r1", compensate=True)]


def test_a_run_that_compensates_is_not_cancelled(shell: Shell, engine: FakeEngine) -> None:
    engine.runs["r1"] = [running_view(status="compensating", compensation="running")]
    result = shell("runs", "cancel", "r1", "--compensate")
    assert result.exit_code == 1
    assert result.stderr == "run r1 is compensating: its end is known, and comes once what it did is undone\n"


def test_retry_says_that_it_is_recorded(shell: Shell, engine: FakeEngine) -> None:
    engine.runs["r1"] = [run_view(status="failed")]
    result = shell("runs", "retry", "r1")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "run r1 goes on, in attempt 2\n", "")
    assert engine.requests == [RetryRun(id="r1")]
    assert shell.json("runs", "retry", "r1") == {"id": "r1", "recorded": True, "status": "queued", "attempt": 2}


@pytest.mark.parametrize(
    ("status", "says"),
    [
        ("completed", "has completed, and only a failed run is retried; to do it once more, start another one"),
        ("cancelled", "was cancelled, and only a failed run is retried; to do it after all, start another one"),
        ("queued", "has not failed, it goes on; only a failed run is retried"),
        ("waiting", "has not failed, it goes on; only a failed run is retried"),
        ("compensating", "is undoing what it did; only a failed run is retried"),
    ],
)
def test_a_run_that_has_not_failed_is_not_retried(
    shell: Shell, engine: FakeEngine, status: RunStatus, says: str
) -> None:
    engine.runs["r1"] = [run_view(status=status)]
    result = shell("runs", "retry", "r1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"run r1 {says}")
    assert len(result.stderr.splitlines()) == 1
    result = shell("runs", "retry", "r1", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"id": "r1", "recorded": False, "status": status, "attempt": 1}


def test_several_runs_are_retried_and_one_that_has_not_failed_is_said(shell: Shell, engine: FakeEngine) -> None:
    engine.runs = {
        "r1": [run_view("r1", status="failed")],
        "r2": [run_view("r2")],
        "r3": [run_view("r3", status="failed")],
    }
    result = shell("runs", "retry", "r1", "r2", "r3")
    assert (result.exit_code, result.stdout) == (1, "run r1 goes on, in attempt 2\nrun r3 goes on, in attempt 2\n")
    assert result.stderr.startswith("run r2 has completed")
    result = shell("runs", "retry", "r1", "r3", "--json")
    assert [(each["id"], each["recorded"]) for each in json.loads(result.stdout)] == [("r1", True), ("r3", True)]
    assert result.exit_code == 0


def test_of_several_runs_one_that_there_is_not_keeps_no_other_from_going_on(shell: Shell, engine: FakeEngine) -> None:
    engine.runs = {"r1": [run_view("r1", status="failed")]}
    result = shell("runs", "retry", "r0", "r1")
    assert (result.exit_code, result.stdout) == (1, "run r1 goes on, in attempt 2\n")
    assert result.stderr == "no run r0\n"
    result = shell("runs", "retry", "r0", "r1", "--json")
    assert [(each["id"], each["recorded"]) for each in json.loads(result.stdout)] == [("r0", False), ("r1", True)]


@pytest.mark.parametrize(
    ("option", "asked"),
    [
        (("--function", "pay"), {"function": "pay"}),
        (("--since", "2026-11-21T20:00:00Z"), {"since_ms": parse_when("2026-11-21T20:00:00Z")}),
    ],
)
def test_all_failed_runs_of_a_function_or_since_a_time_are_retried(
    shell: Shell, engine: FakeEngine, option: tuple[str, str], asked: dict[str, Any]
) -> None:
    engine.runs = {"r1": [run_view("r1", status="failed")]}
    result = shell("runs", "retry", *option)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "run r1 goes on, in attempt 2\n", "")
    assert engine.requests == [ListRuns(status="failed", limit=50, **asked), RetryRun(id="r1")]
    assert [each["id"] for each in shell.json("runs", "retry", *option)] == ["r1"]


def test_where_none_has_failed_none_is_retried(shell: Shell, engine: FakeEngine) -> None:
    engine.runs = {}
    result = shell("runs", "retry", "--function", "pay")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "no failed runs\n")
    assert shell.json("runs", "retry", "--function", "pay") == []


@pytest.mark.parametrize("words", [(), ("r1", "--function", "pay"), ("r1", "--since", "1h")])
def test_which_runs_are_retried_has_to_be_said_in_one_way(shell: Shell, engine: FakeEngine, words: tuple[str]) -> None:
    result = shell("runs", "retry", *words)
    assert result.exit_code == 2
    assert "name the runs to retry, or say which failed ones with --function or --since" in result.stderr
    assert engine.requests == []


def test_a_step_that_the_code_did_not_ask_for_is_said_of_that_step_alone(shell: Shell, engine: FakeEngine) -> None:
    engine.runs["r1"] = [run_view()]
    engine.steps["r1"] = [step_view("old", unasked=True), step_view("new")]
    assert [step.get("unasked") for step in shell.json("runs", "get", "r1")["steps"]] == [True, None]
    assert "recorded, but the code did not ask for it any more: old\n" in shell("runs", "get", "r1").stdout


def test_what_a_step_waits_for_is_said_of_open_steps_alone(shell: Shell, engine: FakeEngine) -> None:
    awaited = AwaitedView(event="paid", path="data.id", value=raw('"o-1"'))
    until = "2026-12-01T00:00:00.000Z"
    engine.runs["r1"] = [run_view()]
    engine.steps["r1"] = [
        step_view("done"),
        step_view("open", status="waiting", finished_at=None, until=until, awaits=awaited),
    ]
    done, still_open = shell.json("runs", "get", "r1")["steps"]
    assert not {"until", "awaits"} & done.keys()
    assert still_open["until"] == until
    assert still_open["awaits"] == {"event": "paid", "path": "data.id", "value": "o-1", "function": ""}


def test_a_reason_that_is_too_long_is_refused(shell: Shell, engine: FakeEngine) -> None:
    result = shell("runs", "cancel", "r1", "--reason", "x" * 1001)
    assert (result.exit_code, result.stderr) == (2, "reason may have at most 1,000 bytes, got 1,001\n")
    assert engine.asked == []
