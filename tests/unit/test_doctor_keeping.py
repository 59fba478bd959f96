"""What the doctor makes of an engine's own account of itself, and of what it was not allowed to see."""

from __future__ import annotations

import msgspec
import pytest

from ironflow.doctor.access import check_access
from ironflow.doctor.keeping import check_events, check_keeping, check_writes
from ironflow.messages import ArchiveView, EngineView


def levels(**more: object) -> dict[str, str]:
    view = EngineView(id="e", host="h", pid=1, version="1", namespace="n", started_at="", **more)  # type: ignore[arg-type]
    return {finding.check: finding.level for finding in check_keeping(view)}


def test_an_engine_without_archive_and_retention_is_in_order() -> None:
    assert levels() == {"health": "ok", "archive": "ok", "retention": "ok"}


def test_an_engine_that_is_not_ready_is_an_error_that_says_why() -> None:
    view = EngineView(id="e", host="h", pid=1, version="1", namespace="n", started_at="", problems=("no room",))
    health, _, _ = check_keeping(view)
    assert (health.level, health.text) == ("error", "engine e is not ready: no room")
    assert health.advice


@pytest.mark.parametrize(
    ("archive", "level"),
    [
        (ArchiveView(), "ok"),
        (ArchiveView(behind=10_000), "ok"),
        (ArchiveView(behind=10_001), "warning"),
        (ArchiveView(problem="it does not answer"), "error"),
    ],
)
def test_an_archive_must_answer_and_keep_up(archive: ArchiveView, level: str) -> None:
    assert levels(archive=archive)["archive"] == level


@pytest.mark.parametrize(("milliseconds", "told"), [(30 * 86_400_000, "30d"), (129_600_000, "1d12h"), (10_000, "10s")])
def test_the_retention_is_told_as_a_duration(milliseconds: int, told: str) -> None:
    view = EngineView(id="e", host="h", pid=1, version="1", namespace="n", started_at="", retention_ms=milliseconds)
    assert check_keeping(view)[-1].text == f"NATS keeps runs for {told} after their end"


@pytest.mark.parametrize(
    ("archive", "found"), [(None, ["events"]), (ArchiveView(), []), (ArchiveView(problem="it does not answer"), [])]
)
def test_events_that_nobody_deletes_are_warned_of(archive: ArchiveView | None, found: list[str]) -> None:
    view = EngineView(id="e", host="h", pid=1, version="1", namespace="n", started_at="", archive=archive)
    assert [finding.check for finding in check_events(view, for_ever=True)] == found
    assert check_events(view, for_ever=False) == check_events(None, for_ever=True) == []


def test_a_stream_that_takes_nothing_more_is_an_error_that_says_to_restart_the_server() -> None:
    stuck = {"N_EVENTS": "no space left on device"}
    view = EngineView(id="e", host="h", pid=1, version="1", namespace="n", started_at="", stuck_streams=stuck)
    (found,) = check_writes(view)
    assert (found.check, found.level) == ("writes", "error")
    assert "N_EVENTS" in found.text
    assert "no space left on device" in found.text
    assert "restart nats-server" in found.advice
    assert check_writes(msgspec.structs.replace(view, stuck_streams={})) == []


def test_what_was_refused_is_named_with_what_to_do() -> None:
    assert check_access({}).level == "ok"
    found = check_access({"streams": "no", "timers": "not you"})
    assert found.level == "warning"
    assert found.text == "this identity may not look at streams, timers (no; not you)"
    assert "operator" in found.advice


def test_what_is_refused_often_is_told_on_one_line() -> None:
    refused = {f"check {number}": f"the account's permissions do not allow it (x.{number})" for number in range(100)}
    assert len(check_access(dict.fromkeys(refused, "no")).text) < 1_200
    assert check_access(refused).text.count("permissions") < 7
