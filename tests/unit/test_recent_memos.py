"""The journals that a worker remembers."""

from __future__ import annotations

import msgspec

from ironflow.broker.protocol import StoredMessage
from ironflow.codec import encode_record
from ironflow.records import StepRecord, Task
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


def test_one_that_is_too_large_for_the_room_drives_out_no_others() -> None:
    recent = RecentMemos(most_bytes=memo().size_bytes)
    recent.keep(of("a"), SERVER, memo())
    recent.keep(of("b"), SERVER, memo(2 * FEWEST_RECORDS))
    assert recent.take(of("a"), SERVER).records == FEWEST_RECORDS
