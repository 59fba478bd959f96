"""The journals of long runs that this worker has read lately, so that a wake-up reads only what came after.

Reading a journal costs what stands in it, and a run that waits often would pay that for each wait. A short journal
is one answer of the server, with or without what is remembered, so only long ones are kept.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeAlias

from ironflow.records import Task
from ironflow_worker.memo import Memo

FEWEST_RECORDS = 100
MOST_BYTES = 32 * 1024 * 1024
"""About what all of them together may take; the ones that were used last stay."""

_Which: TypeAlias = tuple[str, int, int, str]


class RecentMemos:
    """What is recorded of some runs, up to a place each.

    Args:
        most_bytes: about how much memory they may take.

    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._memos: OrderedDict[_Which, Memo] = OrderedDict()
        self._bytes = 0

    def take(self, task: Task, server: str) -> Memo:
        """Return what is known of a task's run, for one pass alone; an empty memo where that is nothing.

        What was read may not be what stands there, once the run was deleted and begun again, was retried, or its
        server was started anew and has lost what it had not synced. Then it counts for nothing.

        Args:
            task: the task.
            server: the id of the server that the journal is read from.

        """
        memo = self._memos.pop(_which(task, server), None)
        if memo is None:
            return Memo(task.attempt - 1)
        self._bytes -= memo.size_bytes
        return memo

    def keep(self, task: Task, server: str, memo: Memo) -> None:
        """Keep what a pass has read, after the pass has ended and its run rests.

        Args:
            task: the task.
            server: the id of the server that all of it was read from.
            memo: what was read.

        """
        if memo.records < FEWEST_RECORDS or memo.size_bytes > self._most_bytes:
            return
        self._memos[_which(task, server)] = memo
        self._bytes += memo.size_bytes
        while self._bytes > self._most_bytes:
            self._bytes -= self._memos.popitem(last=False)[1].size_bytes


def _which(task: Task, server: str) -> _Which:
    return task.run, task.started_at, task.attempt, server
