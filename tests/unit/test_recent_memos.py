"""The journals that a worker remembers."""

from __future__ import annotations

import msgspec
import pytest

from ironflow.broker.protocol import StoredMessage
from ironflow.codec import encode_record
from ironflow.records import ErrorRecord, OutcomeRecord, StepKind, StepRecord, Task, TryRecord, WaitEnd, WaitRecord
from ironflow_worker.memo import Memo
from ironflow_worker.recent_memos import FEWEST_RECORDS, RecentMemos

TASK = Task(run="r1", function="f", number=1, started_at=5)
SERVER = "N1"


def memo(records: int = FEWEST_RECORDS) -> Memo:
    made = Memo()
    payload = encode_record(StepRecord(name="s", kind="run", token="t"))
    made.read(StoredMessage(f"ironflow.journal.q.r1.step.s{number}", payload, number, 0) for number in range(records))
    return made


def of(run: str) -> Task:
    return msgspec.structs.replace(TASK, run=run)


def test_a_long_journal_is_found_again_by_the_next_pass_and_by_no_other_beside_it() -> None:
    recent, long = RecentMemos(), memo()
    recent.keep(TASK, SERVER, long)
    assert recent.take(msgspec.structs.replace(TASK, number=2), SERVER) is long
    assert recent.take(TASK, SERVER).seen == 0


def test_a_short_journal_is_read_anew() -> None:
    recent = RecentMemos()
    recent.keep(TASK, SERVER, memo(FEWEST_RECORDS - 1))
    assert recent.take(TASK, SERVER).records == 0


def a_pass(*kinds: str, kind: StepKind = "wait_for_event") -> list[StoredMessage]:
    """Return what a pass has recorded, by the kinds of that."""
    records = {
        "step": StepRecord(name="s", kind="run", token="t"),
        "wait": WaitRecord(name="w", kind=kind, token="t", event="x"),
        "try": TryRecord(
            name="s", kind="run", token="t", attempt=1, delay_ms=5, error=ErrorRecord(type="E", message="")
        ),
        "outcome": OutcomeRecord(number=1, status="suspended", token="t"),
    }
    rests = {"step": "s", "wait": "w", "try": "s.1", "outcome": "1"}
    return [
        StoredMessage(f"ironflow.journal.q.r1.{each}.{rests[each]}", encode_record(records[each]), number, 0)
        for number, each in enumerate(kinds, 10)
    ]


NEXT = msgspec.structs.replace(TASK, number=2)


def test_all_is_known_of_a_short_run_that_waits_for_one_event() -> None:
    recent = RecentMemos()
    recent.keep(TASK, SERVER, Memo(), a_pass("step", "wait", "outcome"), since_ms=7)
    assert recent.whole_since(NEXT, SERVER) == 7
    known = recent.take_whole(NEXT, SERVER)
    assert known.step("s") is not None
    assert known.wait("w") is not None
    assert known.last_pass == 1
    # What others have recorded in between is not seen.
    assert known.seen == 0
    assert recent.whole_since(NEXT, SERVER) is None


@pytest.mark.parametrize(
    "recorded",
    [a_pass("wait", "try"), a_pass("wait", "wait"), a_pass("step"), a_pass("wait", kind="sleep"), None],
    ids=["something is to be tried again", "it waits twice", "it waits for nothing", "it sleeps", "others had a part"],
)
def test_not_all_is_known_of_other_runs(recorded: list[StoredMessage] | None) -> None:
    recent = RecentMemos()
    recent.keep(TASK, SERVER, Memo(), recorded)
    assert recent.whole_since(NEXT, SERVER) is None


def test_not_all_is_known_of_a_run_in_which_something_was_open_before() -> None:
    recent, earlier = RecentMemos(), Memo()
    earlier.read_own(a_pass("wait", kind="sleep"))
    recent.keep(TASK, SERVER, earlier, a_pass("wait"))
    assert recent.whole_since(NEXT, SERVER) is None


def test_what_one_pass_knew_is_not_all_that_the_next_but_one_must_know() -> None:
    recent = RecentMemos()
    recent.keep(TASK, SERVER, Memo(), a_pass("wait"))
    assert recent.whole_since(msgspec.structs.replace(TASK, number=3), SERVER) is None
    assert recent.whole_since(TASK, SERVER) is None


def test_nothing_is_known_of_a_run_that_began_again_or_was_retried_nor_on_another_server() -> None:
    recent = RecentMemos()
    recent.keep(TASK, SERVER, memo())
    assert recent.take(msgspec.structs.replace(TASK, started_at=6), SERVER).records == 0
    retried = recent.take(msgspec.structs.replace(TASK, attempt=2), SERVER)
    assert (retried.records, retried.epoch) == (0, 1)
    assert recent.take(TASK, "N2").records == 0


def test_those_that_were_used_last_stay_within_the_room_that_there_is() -> None:
    size = memo().size_bytes
    recent = RecentMemos(most_bytes=2 * size)
    for run in ("a", "b"):
        recent.keep(of(run), SERVER, memo())
    recent.keep(of("a"), SERVER, recent.take(of("a"), SERVER))
    recent.keep(of("c"), SERVER, memo())
    assert [bool(recent.take(of(run), SERVER).records) for run in ("a", "b", "c")] == [True, False, True]


def test_what_a_pass_was_told_takes_room_too_and_no_more_once_it_is_read() -> None:
    record = StepRecord(name="w", kind="wait_for_event", token="t", output=msgspec.Raw(b'"%s"' % (b"x" * 100_000)))
    told, read = memo(), memo()
    told.wait_ended(WaitEnd(step="w", record=record))
    recent = RecentMemos(most_bytes=read.size_bytes + 50_000)
    recent.keep(TASK, SERVER, told)
    assert recent.take(TASK, SERVER).records == 0
    for each in (told, read):
        each.read([StoredMessage("ironflow.journal.q.r1.step.w", encode_record(record), FEWEST_RECORDS, 0)])
    assert told.size_bytes == read.size_bytes


def test_one_that_is_too_large_for_the_room_drives_out_no_others() -> None:
    recent = RecentMemos(most_bytes=memo().size_bytes)
    recent.keep(of("a"), SERVER, memo())
    recent.keep(of("b"), SERVER, memo(2 * FEWEST_RECORDS))
    assert recent.take(of("a"), SERVER).records == FEWEST_RECORDS
