"""What goes into the columns of the archive."""

from __future__ import annotations

import pytest

from ironflow.broker.protocol import StoredMessage
from ironflow.codec import encode_record
from ironflow.errors import DefinitionError
from ironflow.names import Names
from ironflow.records import ErrorRecord, EventRecord, RunState, StepRecord
from ironflow_engine.archive.archive import PostgresArchive
from ironflow_engine.archive.database import migrations, schema_of
from ironflow_engine.archive.rows import event_row, milliseconds, moment, plain, run_row, step_row

NAMES = Names("test")


def test_a_text_loses_only_what_postgres_cannot_store() -> None:
    assert plain("a\0b ü 🙂") == "a\N{REPLACEMENT CHARACTER}b ü 🙂"
    assert plain("\ud800") == "?"


@pytest.mark.parametrize("at", [0, 1, 1_782_000_000_123])
def test_a_time_comes_back_to_the_millisecond(at: int) -> None:
    assert milliseconds(moment(at)) == at


def test_a_run_that_goes_on_has_no_end() -> None:
    state = RunState(
        id="r", function="f", queue="q", status="waiting", started_at=5, event_id="e", event_name="n", event_sequence=1
    )
    row = run_row(StoredMessage("s", encode_record(state), 9, 7))
    assert row[:9] == ("r", "f", "q", "waiting", 1, "e", "n", moment(5), None)
    assert row[-1] == encode_record(state)


def test_a_long_error_is_searched_by_its_beginning() -> None:
    error = ErrorRecord(type="E", message="x" * 100_000)
    record = StepRecord(name="s", kind="run", token="t", status="failed", error=error)
    row = step_row(StoredMessage(NAMES.journal_step("q", "r", "a/b"), encode_record(record), 9, 7))
    assert row[:2] == ("r", "a/b")
    assert len(str(row[7])) == 8_000


def test_an_event_is_told_apart_by_its_place_and_time() -> None:
    row = event_row(StoredMessage("s", encode_record(EventRecord(id="e", name="n", time="t")), 9, 7))
    assert row[:5] == (9, "e", "n", "", moment(7))


def test_each_namespace_has_a_schema_of_its_own() -> None:
    assert [schema_of(Names(name)) for name in ("ironflow", "prod", "public")] == [
        "ironflow",
        "ironflow_prod",
        "ironflow_public",
    ]


def test_migrations_are_numbered_without_gaps() -> None:
    assert [migration.number for migration in migrations()] == list(range(1, len(migrations()) + 1))


@pytest.mark.parametrize(
    "url", ["", "canary-secret", "mysql://u:canary-secret@h/d", "postgresql://u:canary-secret@h:x/d"]
)
def test_a_url_that_is_none_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(DefinitionError, match=r"write postgresql://") as caught:
        PostgresArchive(url, NAMES)
    assert "canary-secret" not in str(caught.value)
