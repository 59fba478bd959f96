"""``ironflow publish``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ironflow.broker.protocol import Denied, NoSuchStream, Unavailable
from ironflow.cli.publish import PUBLISH_SECONDS
from ironflow.engine_api import DEFAULT_TIMEOUT_SECONDS
from ironflow.messages import ErrorView, FunctionView
from tests.unit.fake_engine import FakeEngine, Shell, raw, run_view, running_view

STARTING_SECONDS = 0.9
"""What a command takes to start on a slow machine."""
FAILED = ErrorView(type="StepError", message="no money", step="charge", attempts=3, path=None)


def test_prints_the_id_of_the_event(shell: Shell) -> None:
    result = shell("publish", "order.placed", "--id", "o-1")
    assert (result.exit_code, result.stdout) == (0, "o-1\n")


def test_prints_the_event_as_json(shell: Shell) -> None:
    assert shell.json("publish", "order.placed", "--id", "o-1") == {
        "event": {"id": "o-1", "name": "order.placed"},
        "existed": False,
        "runs": [],
    }


def test_publishes_data_source_and_metadata_as_they_were_given(shell: Shell, engine: FakeEngine) -> None:
    words = ("--data", '{"price": 1.50, "big": 123456789012345678901}', "--source", "shop")
    result = shell("publish", "order.placed", *words, "--metadata", "a=b=c", "--metadata", "d=")
    assert result.exit_code == 0, result.stderr
    record = engine.published[0]
    assert bytes(record.data) == b'{"price":1.50,"big":123456789012345678901}'
    assert (record.source, record.metadata) == ("shop", {"a": "b=c", "d": ""})


def test_data_defaults_to_null(shell: Shell, engine: FakeEngine) -> None:
    shell("publish", "order.placed")
    assert bytes(engine.published[0].data) == b"null"


def test_reads_data_from_a_file_and_from_stdin(shell: Shell, engine: FakeEngine, tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    file.write_bytes(b'\xef\xbb\xbf{"from": "a file"}')
    assert shell("publish", "a", "--data", f"@{file}").exit_code == 0
    assert shell("publish", "a", "--data", "-", stdin='["stdin"]').exit_code == 0
    assert [bytes(event.data) for event in engine.published] == [b'{"from":"a file"}', b'["stdin"]']


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["a", "--data", '{"x": 1,\n "y" 2}'], "line 2, column 6: expected ':'"),
        (["a", "--data", "NaN"], "line 1, column 1: invalid character"),
        (["a", "--data", '{"x": '], "line 1, column 6: it ends too early"),
        (["a", "--data", ""], "line 1, column 1: it ends too early"),
        (["a", "--data", "@/nowhere/at/all"], "cannot read '/nowhere/at/all': No such file or directory"),
        (["a", "--metadata", "novalue"], "write KEY=VALUE, got 'novalue'"),
        (["a", "--metadata", "=v"], "write KEY=VALUE, got '=v'"),
        (["a", "--timeout", "soon"], "got 'soon'"),
        (["a", "--timeout", "0"], "must be longer than zero"),
        (["a", "--timeout", "367d"], "at most 366 days"),
        (["a", "--timeout", "5s"], "--timeout says how long --wait waits; add --wait, or leave --timeout out"),
        (["order.*"], "has a wildcard"),
        (["a..b"], "has an empty part"),
        ([""], "must be a non-empty text"),
        (["ironflow.invoked"], "is reserved"),
        (["x" * 300], "at most 256 are allowed"),
        (["a", "--id", ""], "an event id must be a non-empty printable text"),
        (["a", "--id", "x" * 300], "an event id may have at most 256 bytes"),
        (["a", "--data", json.dumps("x" * 600_000)], "at most 524,288 are allowed"),
        ([], "Missing argument"),
    ],
)
def test_bad_input_is_a_usage_error_and_nothing_is_published(
    shell: Shell, engine: FakeEngine, words: list[str], complaint: str
) -> None:
    result = shell("publish", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert complaint in result.stderr
    assert engine.published == []


def test_needs_no_engine_where_it_does_not_wait(shell: Shell, engine: FakeEngine) -> None:
    engine.up = False
    result = shell("publish", "order.placed")
    assert (result.exit_code, result.stderr) == (0, "")


def test_the_variable_of_the_timeout_asks_for_no_waiting(shell: Shell, engine: FakeEngine) -> None:
    assert shell("publish", "order.placed", env={"IRONFLOW_TIMEOUT": "5s"}).exit_code == 0
    assert len(engine.published) == 1


def test_says_that_nothing_is_triggered_where_an_engine_knows(shell: Shell, engine: FakeEngine) -> None:
    engine.functions = [_function("order.*")]
    assert shell("publish", "order.placed").stderr == ""
    assert shell("publish", "mail.sent").stderr.startswith("no run is started by it: ")
    assert max(engine.patience) <= 0.5


def test_does_not_ask_the_engine_where_json_is_printed(shell: Shell, engine: FakeEngine) -> None:
    shell.json("publish", "mail.sent")
    assert engine.asked == []


def test_an_id_that_was_used_before_shows_the_event_that_exists(shell: Shell, engine: FakeEngine) -> None:
    shell("publish", "order.placed", "--id", "o-1")
    document = shell.json("publish", "order.changed", "--id", "o-1")
    assert document == {"event": {"id": "o-1", "name": "order.placed"}, "existed": True, "runs": []}
    assert len(engine.published) == 1


@pytest.mark.parametrize("more", [[], ["--json"], ["--wait", "--timeout", "50ms"]])
def test_an_id_that_was_used_before_is_said_to_have_been(shell: Shell, engine: FakeEngine, more: list[str]) -> None:
    assert shell("publish", "order.placed", "--id", "o-1", "--data", "1").stderr.startswith("no run is started by it")
    result = shell("publish", "order.placed", "--id", "o-1", "--data", "2", *more)
    assert result.stderr.splitlines()[0] == (
        "an event with the id 'o-1' was stored before: it stays as it is, and nothing was published; "
        "give another event another id"
    )
    assert "no run is started" not in result.stderr
    assert [bytes(event.data) for event in engine.published] == [b"1"]


def test_an_event_of_which_only_the_answer_got_lost_is_no_other_one(shell: Shell, engine: FakeEngine) -> None:
    engine.lost_answers = 1
    document = shell.json("publish", "order.placed", "--id", "o-1")
    assert (document["existed"], len(engine.published)) == (False, 1)


def test_waits_for_all_runs_and_prints_their_output(shell: Shell, engine: FakeEngine) -> None:
    engine.started["order.placed"] = ("r1", "r2")
    engine.runs = {"r1": [run_view("r1")], "r2": [run_view("r2", function="mail", output=raw('"sent"'))]}
    document = shell.json("publish", "order.placed", "--id", "o-1", "--wait")
    assert document == {
        "event": {"id": "o-1", "name": "order.placed"},
        "existed": False,
        "runs": [
            _result(id="r1", function="process-order", output={"total": 1.0}),
            _result(id="r2", function="mail", output="sent"),
        ],
    }


def test_shows_runs_as_a_table_behind_the_id(shell: Shell, engine: FakeEngine) -> None:
    engine.started["order.placed"] = ("r1",)
    engine.runs["r1"] = [run_view()]
    result = shell("publish", "order.placed", "--id", "o-1", "--wait")
    assert result.stdout.splitlines() == [
        "o-1",
        "RUN    FUNCTION       STATUS     RESULT",
        'r1     process-order  completed  {"total":1.00}',
    ]


def test_a_run_whose_undo_failed_is_told_from_other_failed_ones(shell: Shell, engine: FakeEngine) -> None:
    engine.started["order.placed"] = ("r1",)
    engine.runs["r1"] = [run_view(status="failed", compensation="failed", output=raw("null"), error=FAILED)]
    result = shell("publish", "order.placed", "--wait")
    assert result.exit_code == 1
    assert "process-order  failed (undo failed)  StepError: no money" in result.stdout
    document = json.loads(shell("publish", "order.placed", "--wait", "--json").stdout)
    assert document["runs"][0]["compensation"] == "failed"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"status": "failed", "error": FAILED}, {"type": "StepError", "message": "no money"}),
        ({"status": "cancelled"}, None),
    ],
)
def test_exits_with_1_where_a_run_failed_or_was_cancelled(
    shell: Shell, engine: FakeEngine, changes: dict[str, object], error: dict[str, str] | None
) -> None:
    engine.started["order.placed"] = ("r1", "r2")
    engine.runs = {"r1": [run_view("r1")], "r2": [run_view("r2", output=raw("null"), **changes)]}
    result = shell("publish", "order.placed", "--wait", "--json")
    assert result.exit_code == 1
    shown = json.loads(result.stdout)["runs"][1]
    assert shown["status"] == changes["status"]
    assert error is None or shown["error"].items() >= error.items()


def test_an_event_that_starts_nothing_is_done_at_once(shell: Shell, engine: FakeEngine) -> None:
    engine.started["order.placed"] = ()
    result = shell("publish", "order.placed", "--id", "o-1", "--wait", "--json")
    assert (result.exit_code, json.loads(result.stdout)["runs"]) == (0, [])
    assert result.stderr.startswith("no run is started by it: ")


def test_a_time_out_shows_the_runs_as_they_are(shell: Shell, engine: FakeEngine) -> None:
    engine.started["order.placed"] = ("r1", "r2")
    engine.runs = {"r1": [run_view("r1")], "r2": [running_view("r2")]}
    result = shell("publish", "order.placed", "--wait", "--timeout", "50ms", "--json")
    assert result.exit_code == 1
    assert [run["status"] for run in json.loads(result.stdout)["runs"]] == ["completed", "running"]
    assert result.stderr == "not everything has ended within 50ms; what runs goes on\n"


def test_an_event_that_the_engine_does_not_get_to_in_time_is_a_time_out(shell: Shell) -> None:
    result = shell("publish", "order.placed", "--id", "o-1", "--wait", "--timeout", "50ms", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"event": {"id": "o-1", "name": "order.placed"}, "existed": False, "runs": []}


def test_json_is_printed_also_where_no_engine_answers(shell: Shell, engine: FakeEngine) -> None:
    engine.up = False
    result = shell("publish", "order.placed", "--id", "o-1", "--wait", "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout) == {"event": {"id": "o-1", "name": "order.placed"}, "existed": False, "runs": []}
    assert result.stderr.startswith("no engine answers")
    assert len(result.stderr.splitlines()) == 1


def test_a_run_that_nobody_knows_any_more_counts_as_not_completed(shell: Shell, engine: FakeEngine) -> None:
    engine.started["order.placed"] = ("gone",)
    result = shell("publish", "order.placed", "--wait", "--json", "--timeout", "5s")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["runs"] == [
        {"id": "gone", "function": None, "status": None, "compensation": None, "output": None, "error": None}
    ]


@pytest.mark.parametrize(
    ("error", "code"), [(Unavailable("no leader"), 3), (NoSuchStream("EVENTS"), 3), (Denied("no"), 1)]
)
def test_a_refused_publish_is_one_line(shell: Shell, engine: FakeEngine, error: Exception, code: int) -> None:
    engine.publish_error = error
    result = shell("publish", "order.placed")
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith(f"event 'order.placed' is not stored: {error}")
    assert result.stderr.count("\n") == 1


def test_a_publish_that_nobody_acknowledges_is_given_up_in_time(
    shell: Shell, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ironflow.cli.publish.PUBLISH_SECONDS", 0.01)
    engine.publish_seconds = 60.0
    result = shell("publish", "order.placed", "--id", "o-1")
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (3, "", 1)
    assert "was not acknowledged within 0.01 s" in result.stderr
    assert "publish it again with --id o-1" in result.stderr


def test_an_event_of_a_namespace_without_streams_is_said_not_to_be_stored(
    shell: Shell, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ironflow.cli.publish.PUBLISH_SECONDS", 0.01)
    engine.publish_seconds, engine.streams = 60.0, False
    result = shell("publish", "order.placed")
    assert result.exit_code == 3
    assert result.stderr.startswith("event 'order.placed' is not stored: namespace 'ironflow' has no streams yet")


def test_a_command_that_can_reach_nobody_ends_within_five_seconds() -> None:
    assert PUBLISH_SECONDS + STARTING_SECONDS < 5
    assert DEFAULT_TIMEOUT_SECONDS + STARTING_SECONDS < 5


def _result(**changes: object) -> dict[str, object]:
    return {"status": "completed", "compensation": None, "error": None, **changes}


def _function(*triggers: str) -> FunctionView:
    return FunctionView(id="f", queue="q", triggers=triggers, max_attempts=3, timeout_ms=None)
