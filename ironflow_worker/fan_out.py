"""Runs the branches of one parallel or map, and decides what comes of them.

If several branches fail, the failure that was recorded first is raised, in this pass and in every other. So a
pass must not raise one failure and leave another, older one unseen. Two rules see to that:

- While a branch is replayed that may fail by what is recorded, no branch begins anything new (the gate is
  closed). If it fails, nothing new has been started; if it does not, the gate opens.
- A branch that fails closes the gate and cancels the others, except those that may yet fail by what is recorded,
  or that are recording something just now. They go on to the next thing that is not recorded, and no further.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast, get_args

import msgspec

from ironflow.errors import DefinitionError, NondeterminismError
from ironflow.names import Scope
from ironflow.step import OnError, Step
from ironflow_worker.current_pass import CurrentPass
from ironflow_worker.failures import recorded_at
from ironflow_worker.signals import exit_text, is_pass_end
from ironflow_worker.strands import Strand, strand_here

_WINDOW = 1_000
"""How many branches go on at a time where no concurrency is given: enough for the journal to be written in the
largest groups, and few enough for a map of 100,000 items to need little memory. Branches that wait do not count."""


class Branches(msgspec.Struct, frozen=True):
    """What is to be run.

    Attributes:
        scope: the scope of the group, and its name.
        count: how many branches there are.
        call: calls the one of that number.
        concurrency: how many may have begun and not ended; none for no bound.
        on_error: what the failure of a branch does to the others.

    """

    scope: Scope
    count: int
    call: Callable[[int], Any]
    concurrency: int | None
    on_error: OnError


class FanOut:
    """One parallel or map of a pass.

    Args:
        current: keeps account of the pass.
        branches: what is to be run.

    """

    def __init__(self, current: CurrentPass, branches: Branches) -> None:
        self._current = current
        self._branches = branches
        self._outer: Strand | None = None
        self._outer_rests = False
        self._next = 0
        self._running: dict[int, tuple[asyncio.Task[Any], Strand]] = {}
        self._resting = 0
        self._cancelled: set[int] = set()
        self._results: list[Any] = [None] * branches.count
        self._failures: list[tuple[float, int, Exception]] = []
        self._signal: BaseException | None = None
        self._broken: BaseException | None = None
        self._is_broken = False
        self._surely_fails = False
        self._closing = False
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._is_over = False
        # Where all branches are awaited whatever happens, there is no failure to choose.
        fail_fast = branches.on_error == "fail_fast"
        may_fail: Iterable[int] = current.memo.failed_branches(branches.scope) if fail_fast else ()
        if current.unwinds and fail_fast:
            # Each branch is replayed as far as it is recorded, also in a group that fails: what it did has undos.
            may_fail = range(branches.count)
        self._suspects = {index for index in may_fail if index < branches.count}
        self._last_suspect = max(self._suspects, default=-1)
        self._is_open = not self._suspects

    async def run(self) -> list[Any]:
        """Run all branches and return what they return, in order.

        Raises:
            Exception: the failure that was recorded first, of a group that fails fast.
            PassEnded: the pass has ended.

        """
        self._outer = outer = self._current.strand()
        if outer is not None:
            outer.inner.add(self)
        try:
            self._begin_more()
            await self._until_over()
        finally:
            self._is_over = True
            self._let_outer_rest(rests=False)
            if outer is not None:
                outer.inner.discard(self)
        return self._conclude()

    @property
    def surely_fails(self) -> bool:
        """Whether a failed step in a branch has made the group fail: it will in every pass."""
        return self._surely_fails

    # What strands ask and tell

    @property
    def lets_new_work_begin(self) -> bool:
        """Whether branches, and what they leave behind, may do what is not recorded yet."""
        return self._is_open or (self._is_over and not self.has_failed)

    @property
    def has_failed(self) -> bool:
        """Whether it is over, and has failed."""
        return self._is_over and (self._closing or self._is_broken)

    @property
    def is_blocked(self) -> bool:
        """Whether it can end neither way by what is recorded alone."""
        strands = [strand for _, strand in self._running.values()]
        if self._branches.on_error == "fail_fast" and (
            self._failures or self._has_queued_suspects() or any(strand.is_suspect for strand in strands)
        ):
            return False
        return any(strand.is_blocked for strand in strands)

    def rests(self, change: int) -> None:
        """Note that one branch more, or one fewer, rests."""
        self._resting += change
        self._begin_more()

    def review(self) -> None:
        """Open the gate, or cancel what has nothing to add any more, where the last suspect is cleared."""
        if self._is_over or self._is_open:
            return
        if self._closing:
            self._clear_suspects()
        elif self._is_cleared():
            self._is_open = True
            self._current.open_gates()
            self._begin_more()

    # How branches begin and end

    def _begin_more(self) -> None:
        while (index := self._may_begin()) is not None:
            self._begin(index)
        self._let_outer_rest(rests=len(self._running) == self._resting and not self._is_over and bool(self._running))

    def _may_begin(self) -> int | None:
        """Return the number of the branch that is to begin now."""
        if self._is_over or self._current.ended or self._is_broken:
            return None
        if self._closing:
            # What may have failed before is replayed; all else that has not begun is skipped.
            self._next = min((index for index in self._suspects if index >= self._next), default=self._branches.count)
        if self._next >= self._branches.count:
            return None
        bound = self._branches.concurrency
        if bound is not None:
            return self._next if len(self._running) < bound else None
        if not self._is_open and self._next > self._last_suspect:
            return None
        return self._next if len(self._running) - self._resting < _WINDOW else None

    def _begin(self, index: int) -> None:
        self._next = index + 1
        strand = Strand(self._outer, self, may_fail=index in self._suspects)
        self._current.add(strand)
        task = asyncio.create_task(self._branch(index, strand))
        self._running[index] = task, strand
        task.add_done_callback(functools.partial(self._ended, index, strand))

    async def _branch(self, index: int, strand: Strand) -> Any:
        strand_here.set(strand)
        try:
            coming = self._branches.call(index)
            if not inspect.isawaitable(coming):
                self._break(_not_async(self._branches.scope, coming))
                return None
            return await coming
        except (SystemExit, KeyboardInterrupt) as error:
            # A task that raises it ends the process.
            msg = f"a branch {exit_text(error)}"
            raise RuntimeError(msg) from error

    def _ended(self, index: int, strand: Strand, task: asyncio.Task[Any]) -> None:
        del self._running[index]
        self._suspects.discard(index)
        self._current.remove(strand)
        if strand.resting:
            self._resting -= 1
        if task.cancelled():
            if index not in self._cancelled:
                self._break(asyncio.CancelledError())
        elif (error := task.exception()) is None:
            self._results[index] = task.result()
        else:
            self._failed(index, error, strand)
        # What may have failed begins before it is asked whether all that may have failed is cleared.
        self._begin_more()
        self.review()
        if not self._running and not self._over.done():
            self._over.set_result(None)
        strand.changed()

    def _failed(self, index: int, error: BaseException, strand: Strand) -> None:
        if is_pass_end(error):
            self._signal = error
        elif not isinstance(error, Exception) or isinstance(error, NondeterminismError):
            # A run whose recorded steps do not fit the code is parked, whatever its branches say.
            self._break(error)
        elif self._branches.on_error == "all_settled":
            self._results[index] = error
        else:
            place = recorded_at(error)
            self._surely_fails = self._surely_fails or (place is not None and strand.may_fail)
            self._failures.append((math.inf if place is None else place, index, error))
            self._close()

    def _close(self) -> None:
        """Cancel the branches that cannot tell of an older failure."""
        if self._closing:
            return
        self._closing, self._is_open = True, False
        self._suspects.update(self._running)
        self._clear_suspects()

    def _clear_suspects(self) -> None:
        """Cancel the branches that have nothing to add any more."""
        cleared = [
            index for index in self._suspects if index in self._running and not self._running[index][1].is_suspect
        ]
        for index in cleared:
            self._suspects.discard(index)
            self._running[index][1].is_cancelled = True
            self._cancel(index)
        if cleared:
            # What such a branch has started, and does not cancel with itself, would wait there for ever.
            self._current.open_gates()

    def _is_cleared(self) -> bool:
        """Tell whether no branch can fail any more by what is recorded."""
        for index in [*self._suspects]:
            running = self._running.get(index)
            if running is None:
                # It will begin when others end, unless all of them have to wait for something new.
                if not all(strand.is_blocked for _, strand in self._running.values()):
                    return False
            elif running[1].is_suspect:
                return False
            else:
                self._suspects.discard(index)
        return True

    def _has_queued_suspects(self) -> bool:
        return any(index >= self._next for index in self._suspects)

    def _break(self, error: BaseException) -> None:
        """End the group by what is no failure of a branch."""
        if not self._is_broken:
            self._broken = error
        self._is_broken, self._is_open = True, False
        self._cancel_all()

    def _cancel(self, index: int) -> None:
        self._cancelled.add(index)
        self._running[index][0].cancel()

    def _cancel_all(self) -> None:
        for index in [*self._running]:
            self._cancel(index)

    # The group as a whole

    async def _until_over(self) -> None:
        if not self._running:
            return
        while not self._over.done():
            try:
                await asyncio.shield(self._over)
            except asyncio.CancelledError as error:
                # Every branch is waited for, so that none records anything behind the back of whoever goes on.
                self._break(error)
                self._broken = error

    def _let_outer_rest(self, *, rests: bool) -> None:
        """Have the strand that waits for this group rest where all branches do."""
        if self._outer is None or rests == self._outer_rests:
            return
        self._outer_rests = rests
        if rests:
            self._current.rest(self._outer)
        else:
            self._current.wake(self._outer)

    def _conclude(self) -> list[Any]:
        """Return what the branches have returned, or raise what they come to; the group keeps neither.

        By its traceback an exception leads to the group, and to all that the pass knows.
        """
        results, self._results = self._results, []
        error = self._error()
        if error is None:
            return results
        self._broken = self._signal = None
        self._failures.clear()
        try:
            raise error
        finally:
            del error

    def _error(self) -> BaseException | None:
        if self._broken is not None or self._signal is not None:
            return self._broken or self._signal
        if self._failures:
            return min(self._failures, key=lambda failure: failure[:2])[2]
        return self._current.signal() if self._next < self._branches.count else None


def check_options(name: str, concurrency: object, on_error: object) -> None:
    """Refuse options that mean nothing.

    Raises:
        DefinitionError: one of them does.

    """
    if concurrency is not None and (
        isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1
    ):
        msg = f"concurrency of {name!r} must be a whole number from 1, or None for no bound; got {concurrency!r}"
        raise DefinitionError(msg)
    if on_error not in get_args(OnError):
        msg = f"on_error of {name!r} must be 'fail_fast' or 'all_settled', got {on_error!r}"
        raise DefinitionError(msg)


def checked_branches(name: str, branches: object) -> Sequence[Callable[[Step], Any]]:
    """Return the branches of a parallel.

    Raises:
        DefinitionError: they are no sequence of functions.

    """
    if not isinstance(branches, (list, tuple)):
        msg = f"parallel {name!r} takes a list or a tuple of async functions, got {branches!r}"
        raise DefinitionError(msg)
    given = cast("Sequence[object]", branches)
    wrong = [(number, branch) for number, branch in enumerate(given) if not callable(branch)]
    if wrong:
        for coroutine in filter(inspect.iscoroutine, given):
            coroutine.close()
        number, branch = wrong[0]
        msg = (
            f"branch {number} of parallel {name!r} must be an async function that takes a step client, got {branch!r}; "
            "pass the function itself, without calling it: 'async def branch(step): …'"
        )
        raise DefinitionError(msg)
    return cast("Sequence[Callable[[Step], Any]]", tuple(given))


def checked_items(name: str, items: object, fn: object) -> Sequence[Any]:
    """Return the items of a map.

    Raises:
        DefinitionError: they are no sequence, or there is no function for them.

    """
    if not isinstance(items, Sequence) or isinstance(items, (str, bytes, bytearray)):
        msg = (
            f"map {name!r} takes a list of items, got {type(items).__name__}; every pass must see the same items "
            "in the same order, so make a list of them first"
        )
        raise DefinitionError(msg)
    if not callable(fn):
        if inspect.iscoroutine(fn):
            fn.close()
        msg = (
            f"map {name!r} takes an async function (item, step, index), got {fn!r}; pass the function itself, without "
            "calling it"
        )
        raise DefinitionError(msg)
    return tuple(cast("Sequence[Any]", items))  # type: ignore[redundant-cast]  # pyright does not know the items


def _not_async(scope: Scope, got: object) -> DefinitionError:
    return DefinitionError(
        f"the branches of {scope[-1]!r} must be async functions, and one returned {got!r}, which cannot be awaited; "
        "write 'async def branch(step): return await step.run(…)'"
    )
