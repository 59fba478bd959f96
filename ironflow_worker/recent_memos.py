"""The journals of runs that this worker has read and written lately, so that a wake-up reads only what came after.

Reading a journal costs what stands in it, and a run that waits often would pay that for each wait. A short journal
is one answer of the server, with or without what is remembered; it is kept only where even that one can be spared:
where the run waits for one event and for nothing else, and the next task may say how that wait has ended.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from ironflow.broker.protocol import StoredMessage
from ironflow.codec import decode_record
from ironflow.names import parse_journal
from ironflow.records import Task, WaitRecord
from ironflow_worker.memo import Memo

FEWEST_RECORDS = 100
MOST_BYTES = 32 * 1024 * 1024
"""About what all of them together may take; the ones that were used last stay."""
_MEMO_BYTES = 4 * 1024

_Which: TypeAlias = tuple[str, int, int, str]


class _Kept(msgspec.Struct):
    """What is known of a run that rests.

    Attributes:
        memo: what its last pass had read.
        number: that pass.
        recorded: what it has recorded, where it knows with that all that is recorded of the run; else None.
        since_ms: when its task was stored, in server time.
        size_bytes: about how much memory all of it takes.

    """

    memo: Memo
    number: int
    recorded: Sequence[StoredMessage] | None
    since_ms: int
    size_bytes: int


class RecentMemos:
    """What is recorded of some runs, up to a place each.

    Args:
        most_bytes: about how much memory they may take.

    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._memos: OrderedDict[_Which, _Kept] = OrderedDict()
        self._bytes = 0

    def take(self, task: Task, server: str) -> Memo:
        """Return what is known of a task's run, for one pass alone; an empty memo where that is nothing.

        What was read may not be what stands there, once the run was deleted and begun again, was retried, or its
        server was started anew and has lost what it had not synced. Then it counts for nothing.

        Args:
            task: the task.
            server: the id of the server that the journal is read from.

        """
        kept = self._pop(task, server)
        return Memo(task.attempt - 1) if kept is None else kept.memo

    def whole_since(self, task: Task, server: str) -> int | None:
        """Return since when this worker knows all of a task's run but what others record, in server time, or None."""
        kept = self._memos.get(_which(task, server))
        if kept is None or kept.recorded is None or kept.number != task.number - 1:
            return None
        return kept.since_ms

    def take_whole(self, task: Task, server: str) -> Memo:
        """Return all that this worker knows of a task's run, also what it has recorded itself; for one pass alone."""
        kept = self._pop(task, server)
        if kept is None:
            return Memo(task.attempt - 1)
        kept.memo.read_own(kept.recorded or ())
        return kept.memo

    def keep(
        self, task: Task, server: str, memo: Memo, recorded: Sequence[StoredMessage] | None = None, since_ms: int = 0
    ) -> None:
        """Keep what a pass knows, after the pass has ended and its run rests.

        Args:
            task: the task.
            server: the id of the server that all of it was read from.
            memo: what was read.
            recorded: what the pass has recorded, where nobody else had a part in it.
            since_ms: when its task was stored, in server time.

        """
        whole = recorded if recorded is not None and _waits_for_one_event(memo, recorded) else None
        size = memo.size_bytes + (_MEMO_BYTES + sum(len(each.payload) for each in whole) if whole is not None else 0)
        if (memo.records < FEWEST_RECORDS and whole is None) or size > self._most_bytes:
            return
        self._memos[_which(task, server)] = _Kept(memo, task.number, whole, since_ms, size)
        self._bytes += size
        while self._bytes > self._most_bytes:
            self._bytes -= self._memos.popitem(last=False)[1].size_bytes

    def _pop(self, task: Task, server: str) -> _Kept | None:
        kept = self._memos.pop(_which(task, server), None)
        if kept is not None:
            self._bytes -= kept.size_bytes
        return kept


def _waits_for_one_event(memo: Memo, recorded: Sequence[StoredMessage]) -> bool:
    """Tell whether a run waits for one event that the pass has begun to wait for, and for nothing else.

    So it does not matter that nobody knows when a record of the pass was stored: nothing is due by it.
    """
    kinds = [parse_journal(each.subject).kind for each in recorded]
    if kinds.count("wait") != 1 or "try" in kinds or not memo.is_quiet:
        return False
    return decode_record(WaitRecord, recorded[kinds.index("wait")].payload).kind == "wait_for_event"


def _which(task: Task, server: str) -> _Which:
    return task.run, task.started_at, task.attempt, server
