"""The strands of user code in a pass: the handler, and each branch of a parallel or a map.

A strand keeps its pass open while it runs: whatever it awaits between two steps, an HTTP call say, will come to
another step. It rests while a step of it waits for something that only a later pass can see.
"""

from __future__ import annotations

import contextvars
from collections.abc import Generator
from contextlib import AbstractContextManager
from typing import Protocol

FIRST_REFUSAL_SECONDS = 0.001
"""For how long code is held up that asks for a step where none may begin; each time twice as long. What catches the
refusal in a loop must not keep the worker from everything else."""


class Group(Protocol):
    """The parallel or map that a strand is a branch of."""

    @property
    def lets_new_work_begin(self) -> bool:
        """Whether its branches may do what is not recorded yet."""
        ...

    @property
    def has_failed(self) -> bool:
        """Whether it is over, and failed."""
        ...

    @property
    def is_blocked(self) -> bool:
        """Whether it can end neither way by what is recorded alone."""
        ...

    def rests(self, change: int) -> None:
        """Note that one branch more, or one fewer, rests."""
        ...

    def review(self) -> None:
        """Look at the branches again: the state of one of them has changed."""
        ...


class Strand:
    """One strand of user code.

    Args:
        outer: the strand that started the group.
        group: what it is a branch of; none for a handler.
        may_fail: whether a failure of a step in it is recorded, so that replaying it may make it fail.

    Attributes:
        inner: the groups that it has started and that are not over.
        may_fail: as above.
        appends: how many records of it, or of a branch in it, are on their way to the journal.
        is_cancelled: whether its group has cancelled it because another branch has failed.
        refusal_seconds: for how long it is held up when it asks for a step all the same.

    """

    def __init__(self, outer: Strand | None = None, group: Group | None = None, *, may_fail: bool = False) -> None:
        self.outer = outer
        self.group = group
        self.inner: set[Group] = set()
        self.may_fail = may_fail
        self._resting = 0
        self._blocked = 0
        self.appends = 0
        self.is_cancelled = False
        self.refusal_seconds = FIRST_REFUSAL_SECONDS

    @property
    def resting(self) -> bool:
        """Whether a step of it waits."""
        return self._resting > 0

    @property
    def is_blocked(self) -> bool:
        """Whether it cannot go on by what is recorded alone."""
        return self._blocked > 0 or any(group.is_blocked for group in self.inner)

    @property
    def is_suspect(self) -> bool:
        """Whether it may yet fail by what is recorded, or by what is just being recorded."""
        return self.appends > 0 or (self.may_fail and not self.is_blocked)

    def groups(self) -> Generator[Group]:
        """Return the groups around it, innermost first."""
        for strand in self._with_outer():
            if strand.group is not None:
                yield strand.group

    def lets_new_work_begin(self) -> bool:
        """Tell whether all groups around it let something begin that is not recorded."""
        strand: Strand | None = self
        while strand is not None:
            if strand.group is not None and not strand.group.lets_new_work_begin:
                return False
            strand = strand.outer
        return True

    def was_cancelled(self) -> bool:
        """Tell whether it, or a strand around it, was cancelled because another branch had failed."""
        return any(strand.is_cancelled for strand in self._with_outer())

    def rest(self) -> bool:
        """Note that one thing more waits; return whether it is the first."""
        self._resting += 1
        return self._resting == 1

    def wake(self) -> bool:
        """Note that one thing fewer waits; return whether it was the last."""
        self._resting -= 1
        return self._resting == 0

    def changed(self) -> None:
        """Have the groups around it look again."""
        strand: Strand | None = self
        while strand is not None:
            if strand.group is not None:
                strand.group.review()
            strand = strand.outer

    def fails(self) -> None:
        """Note that a failure of one of its steps is recorded."""
        for strand in self._with_outer():
            strand.may_fail = True

    def blocked(self) -> AbstractContextManager[None]:
        """Do something that is not recorded, or wait for it, within the block."""
        return _Blocked(self)

    def block(self, change: int) -> None:
        """Note that one thing more, or one fewer, is done or awaited that is not recorded."""
        self._blocked += change
        self.changed()

    def record(self, change: int) -> None:
        """Note that one record more, or one fewer, is on its way to the journal."""
        strand: Strand | None = self
        while strand is not None:
            strand.appends += change
            strand = strand.outer

    def _with_outer(self) -> Generator[Strand]:
        strand: Strand | None = self
        while strand is not None:
            yield strand
            strand = strand.outer


class _Blocked:
    """Each step of a branch goes through it, so it is a class: a generator takes three times as long."""

    __slots__ = ("_strand",)

    def __init__(self, strand: Strand) -> None:
        self._strand = strand

    def __enter__(self) -> None:
        self._strand.block(+1)

    def __exit__(self, *_: object) -> None:
        self._strand.block(-1)


strand_here: contextvars.ContextVar[Strand | None] = contextvars.ContextVar("strand_here", default=None)
"""The strand that this code belongs to; tasks that it starts belong to it as well."""


def is_in_group() -> bool:
    """Tell whether the caller belongs to a branch of a parallel or a map, be it one that was left behind."""
    strand = strand_here.get()
    return strand is not None and strand.group is not None
