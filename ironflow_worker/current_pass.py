"""One pass while it runs: which steps are at work, which wait, and when nothing is left to do."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, NoReturn, TypeVar

from ironflow.errors import DefinitionError, LimitError
from ironflow.limits import Limits
from ironflow.records import EventRecord, StepRecord, WaitEnd, WaitRecord
from ironflow_worker.calls import Calls
from ironflow_worker.lingering import Lingering
from ironflow_worker.memo import Memo
from ironflow_worker.naps import Naps
from ironflow_worker.signals import PassEnded
from ironflow_worker.step_names import StepNames
from ironflow_worker.strands import FIRST_REFUSAL_SECONDS, Strand, strand_here
from ironflow_worker.undos import Undos

T = TypeVar("T")

_QUIET_ROUNDS = 32
"""How many rounds of the event loop must pass without a step at work or a strand that goes on. Strands are
exact; within one, a gather is not: a step that returns hands over to the code behind it within one round, and a
gather or a task that it starts needs one more for each level. A round with nothing else to do costs a few
microseconds."""
_ROUNDS_OF_A_GATHER = 3
"""In so many rounds of the event loop all have begun that a handler starts together, but for groups within groups."""
_LONGEST_REFUSAL_SECONDS = 1.0


class StepRefused(asyncio.CancelledError):
    """A branch that was cancelled has asked for a step all the same."""


class CurrentPass:
    """Keeps account of the steps of one pass.

    Args:
        memo: what is recorded of the run.
        limits: bounds the number of steps and their names.
        trigger: the event that started the run.
        max_payload: how many bytes the server carries in a message.
        unwinds: whether the pass is there to undo: the handler runs only to say what there is to undo, and
            nothing begins that is not recorded.
        naps: waits for sleeps that end in a moment; without, the pass ends when all that is left of it sleeps.
        lingering: stays for a moment for an event; without, the pass ends when it waits for one.

    Attributes:
        over: set when the pass has ended, for whichever reason.
        ended: whether it has.
        ended_early: whether the pass ended before its handler did.
        waits: what steps have begun to wait for in this pass, by key.
        names: the names of its steps.
        undos: what the handler has registered to undo its steps.
        calls: the steps that it has called.
        unwinds: as above.
        follows: is done once a record is stored that the memo has already; until then no body begins, and nothing is
            recorded. It raises a BrokerError where it cannot be stored.

    """

    def __init__(
        self,
        memo: Memo,
        limits: Limits,
        trigger: EventRecord,
        max_payload: int,
        *,
        unwinds: bool = False,
        naps: Naps | None = None,
        lingering: Lingering | None = None,
    ) -> None:
        self.memo = memo
        self.limits = limits
        self.trigger = trigger
        self.over = asyncio.Event()
        self.ended = False
        self.ended_early = False
        self._failure: Exception | None = None
        self._left_because: Exception | None = None
        self.waits: dict[str, WaitRecord] = {}
        self.names = StepNames(memo, limits)
        self.undos = Undos()
        self.calls = Calls()
        self._thread: int | None = None
        self.unwinds = unwinds
        self._quiet_since = 0
        self._refusal_seconds = FIRST_REFUSAL_SECONDS
        self._at_work = 0
        self._until_idle: asyncio.Event | None = None
        self._strands: set[Strand] = set()
        self._going_on = 0
        self._at_gates: dict[asyncio.Future[None], Strand] = {}
        self._waiting: set[asyncio.Future[Any]] = set()
        self._executed = False
        self._naps = naps
        self._lingering = lingering
        self._next_due_ms: int | None = None
        self._dues: dict[str, int] = {}
        """When the waits are over that this pass has recorded, by key."""
        self._new_sleep_ends_ms = math.inf
        self._backs_off = False
        self._open_waits = memo.open_waits("wait_for_event")
        self._waits = memo.waits("wait_for_event")
        self._max_payload = max_payload
        self.follows: asyncio.Future[None] | None = None

    @property
    def failure(self) -> Exception | None:
        """Why the pass has to be done again, where something keeps it from going on."""
        # What keeps it from recording says more: the task may not even be ours to hand back.
        return self._failure or self._left_because

    @property
    def is_replaying(self) -> bool:
        """Whether the handler has yet to come to something that is not recorded."""
        return self.names.any_unasked and not self._executed

    def begin_here(self) -> None:
        """Note that the handler begins, in the event loop of the thread that this is called in."""
        self._thread = threading.get_ident()

    def check_here(self, step: str) -> None:
        """Refuse a step that is asked for in another event loop than the handler's, and so in another thread.

        Nothing of a pass is made for that: the body would run, and its result never be recorded.

        Raises:
            DefinitionError: it is.

        """
        if self._thread not in (None, threading.get_ident()):  # a thread runs one loop at a time
            msg = (
                f"step {step!r} was asked for outside of the event loop that its handler runs in, as by asyncio.run() "
                "in a thread; ask for steps in the handler itself. What blocks may be a step's body: "
                "step.run(name, fn) calls a plain function in a thread"
            )
            raise DefinitionError(msg)

    def executes(self) -> None:
        """Note that something new is done in this pass."""
        self._executed = True

    def open_wait(self, name: str) -> None:
        """Take a place for one more wait for an event, which is not recorded yet.

        Raises:
            LimitError: the run has too many open, or has made too many.

        """
        if self._open_waits >= self.limits.open_waits_per_run:
            msg = (
                f"a run may wait for at most {self.limits.open_waits_per_run:,} events at a time; {name!r} is one more"
            )
            raise LimitError(msg)
        most = self.limits.most_waits(self._max_payload)
        if self._waits >= most:
            carried = f", and NATS carries {self._max_payload:,} bytes of it"
            msg = (
                f"a run may wait for at most {most:,} events in all its life, since its state keeps how each wait has "
                f"ended{carried if most < self.limits.waits_per_run else ''}; {name!r} is one more. Have child runs "
                "do a part of the waiting each (step.invoke), or go on in another run (step.invoke_async)"
            )
            raise LimitError(msg)
        self._open_waits += 1
        self._waits += 1

    def note_due(self, due_ms: int, *, backs_off: bool = False) -> None:
        """Note when something is over that this pass has recorded to be waited for; 0 where it never will be."""
        self._backs_off = self._backs_off or backs_off
        if not due_ms:
            return
        self._next_due_ms = min(due_ms, self._next_due_ms or due_ms)

    def note_wait(self, key: str, wait: WaitRecord, begun_ms: float) -> None:
        """Note a wait that this pass records. Where it is a sleep, its end is for another pass.

        Args:
            key: of the step that waits.
            wait: what is recorded.
            begun_ms: a time that the server's clock had surely reached before it was recorded.

        """
        self.waits[key] = wait
        delay_ms = wait.delay_ms or 0
        if wait.until_ms or delay_ms:
            self._dues[key] = wait.until_ms or round(begun_ms) + delay_ms
        if wait.kind == "sleep":
            self._new_sleep_ends_ms = min(wait.until_ms or begun_ms + delay_ms, self._new_sleep_ends_ms)

    @property
    def only_sleeps(self) -> bool:
        """Whether nothing is open but sleeps: no event, no child's end and no back-off will wake the run."""
        return (
            not self._backs_off
            and not self.unwinds
            and all(wait.kind == "sleep" for wait in self.waits.values())
            and self.memo.only_sleeps
        )

    @property
    def next_due_ms(self) -> int:
        """About when the first of all that the run waits for is over; 0 where nothing will be."""
        dues = (self._next_due_ms, self.memo.next_due_ms(), *self._dues.values())
        return min((due for due in dues if due), default=0)

    async def check_running(self) -> None:
        """Raise the signal again where the pass has ended: nothing new is started then.

        Raises:
            PassEnded: the pass has ended.
            CancelledError: it has, with its handler; the caller is a task that the handler has left behind.

        """
        if self.ended:
            # A handler that catches the signal in a loop must not keep the worker from everything else.
            pause, self._refusal_seconds = self._refusal_seconds, self._refusal_seconds * 2
            await asyncio.sleep(min(pause, _LONGEST_REFUSAL_SECONDS))
            raise self.signal()

    def at_work(self) -> AbstractContextManager[None]:
        """Keep the pass from ending while the block runs."""
        return _AtWork(self)  # kept, it would keep this pass and its journal until the garbage collector comes

    async def wait(self) -> NoReturn:
        """Block the calling branch until the pass ends; never returns.

        Raises:
            PassEnded: the pass has ended.
            CancelledError: it has, with its handler.

        """
        await self._rest_until(asyncio.get_running_loop().create_future())
        raise self.signal()

    async def sleep_until(self, due_ms: int) -> None:
        """Block the calling branch until a sleep is over, where the pass waits for that, or until the pass ends.

        Args:
            due_ms: when it is over, in server time.

        Raises:
            PassEnded: the pass has ended before.
            CancelledError: it has, with its handler.

        """
        if self._naps is None:
            await self.wait()
        end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._naps.add(end, due_ms)
        try:
            await self._rest_until(end)
        finally:
            self._naps.discard(end)
            del end  # or it would keep the pass, see _rest_until
        # The pass may have ended between the end of the sleep and this.
        if self.ended:
            raise self.signal()

    async def may_linger(self, timeout_ms: int) -> bool:
        """Tell whether the pass may linger for an event: the caller waits for it, and nothing else goes on.

        Args:
            timeout_ms: how long the caller waits for it at the most.

        """
        # In any case, so that waits that begin together are recorded in their order.
        for _ in range(_ROUNDS_OF_A_GATHER):
            await asyncio.sleep(0)
        if self._at_work > 1 or self._going_on > 1 or self._waiting or self._at_gates:
            return False
        return self._lingering is not None and not self.unwinds and self._lingering.is_worthwhile(timeout_ms)

    @contextmanager
    def lingering(self, key: str) -> Generator[Callable[[], Awaitable[StepRecord]]]:
        """Let the pass be told how a wait ends while the block runs; give what waits for that.

        It blocks the calling branch until the pass is told, or until it ends. The hint may come before the server has
        said that the wait is recorded.

        Raises:
            PassEnded: the pass has ended before.
            CancelledError: it has, with its handler.

        """
        if self._lingering is None:
            yield self.wait
            return
        lingering = self._lingering
        lingering.add(key)

        async def until_told() -> StepRecord:
            record = await self._rest_until(lingering.end_of(key))
            await lingering.awake()
            # The pass may have ended meanwhile.
            if self.ended:
                raise self.signal()
            return record

        try:
            yield until_told
        finally:
            lingering.discard(key)

    def linger_no_more(self) -> None:
        """End the pass where it lingers."""
        if self._lingering is not None:
            self._lingering.leave()

    def tell(self, end: WaitEnd) -> bool:
        """Take in the end of a wait, which the journal may not have yet; return whether the pass lingers for it."""
        if self.ended or self._lingering is None or not self._lingering.tell(end):
            return False
        self.memo.wait_ended(end)
        del self.waits[end.step]
        self._dues.pop(end.step, None)
        self._open_waits -= 1
        return True

    async def awake(self) -> None:
        """Wait until the pass may go on behind a sleep."""
        if self._naps is not None:
            await self._naps.awake()

    @property
    def is_asleep(self) -> bool:
        """Whether others may have the slot of the pass: it waits, while code beside that may go on."""
        return self._lingering is not None and self._lingering.slot.lent

    async def awake_for_work(self) -> None:
        """Wait until a body may begin in a pass that sleeps.

        Raises:
            PassEnded: the pass has ended by then.
            CancelledError: it has, with its handler.

        """
        if self._lingering is not None:
            await self._lingering.awake()
        await self.check_running()

    async def _rest_until(self, future: asyncio.Future[T]) -> T:
        """Block the calling branch until a future is done, or until the pass ends; return what the future has.

        No frame above may keep the future, either: see below.
        """
        if self.ended:  # nobody would end the wait
            raise self.signal()
        await self._check_not_cancelled()
        self._waiting.add(future)
        strand = self.strand()
        with self.new_work():
            if strand is not None:
                self.rest(strand)
            self.end_work()
            try:
                return await future
            finally:
                self._waiting.discard(future)
                del future  # it keeps what it raises, and that, by its traceback, all that this frame knows
                self.begin_work()
                if strand is not None:
                    self.wake(strand)

    async def leave(self, reason: Exception) -> NoReturn:
        """Block the calling branch until what others do has ended: the pass ends then, to be done again.

        Raises:
            PassEnded: the pass has ended.
            CancelledError: it has, with its handler.

        """
        self._left_because = reason
        await self.wait()

    async def quiet(self) -> None:
        """Return once nothing has been at work for some rounds of the loop, or the pass has ended."""
        rounds = 0
        while rounds < _QUIET_ROUNDS and not self.ended:
            await self.idle()
            await asyncio.sleep(0)
            rounds = 0 if self._at_work else rounds + 1

    async def idle(self) -> None:
        """Return once no step is at work."""
        while self._at_work:
            # Hardly any pass is waited for like this, and each step would set and clear it.
            if self._until_idle is None:
                self._until_idle = asyncio.Event()
            self._until_idle.clear()
            await self._until_idle.wait()

    # Strands

    def strand(self) -> Strand | None:
        """Return the strand of this pass that the caller belongs to; none for what a strand has left behind."""
        strand = strand_here.get()
        return strand if strand in self._strands else None

    def add(self, strand: Strand) -> None:
        """Keep the pass open for a strand."""
        self._strands.add(strand)
        self._going_on += 1

    def remove(self, strand: Strand) -> None:
        """Note that a strand has ended."""
        self._strands.discard(strand)
        if not strand.resting:
            self._goes_on(-1)

    def rest(self, strand: Strand) -> None:
        """Note that something in a strand waits."""
        if strand.rest() and strand in self._strands:
            if strand.group is not None:
                strand.group.rests(+1)
            self._goes_on(-1)

    def wake(self, strand: Strand) -> None:
        """Note that something in a strand waits no more."""
        if strand.wake() and strand in self._strands:
            self._goes_on(+1)
            if strand.group is not None:
                strand.group.rests(-1)

    def new_work(self) -> AbstractContextManager[None]:
        """Mark what runs within the block as something that is not recorded."""
        branch = self.branch()
        return nullcontext() if branch is None else branch.blocked()

    def branch(self) -> Strand | None:
        """Return the strand of the caller, where it is a branch of a group: only groups ask what strands are about."""
        strand = strand_here.get()
        return strand if strand is not None and strand.group is not None and strand in self._strands else None

    def step_failed(self) -> None:
        """Note that the failure of a step of the caller is recorded."""
        strand = self.strand()
        if strand is not None:
            strand.fails()

    async def may_begin(self) -> None:
        """Wait until the groups around the caller let something begin that is not recorded.

        Raises:
            PassEnded: the pass has ended.
            StepRefused: the caller belongs to a branch that was cancelled because another one had failed.
            CancelledError: it has just been cancelled for that, or was left behind by a group that has failed; or the
                pass has ended, with its handler.

        """
        origin = strand_here.get()
        if origin is None:
            return
        while not origin.lets_new_work_begin():
            if self.ended:  # nobody would open the gate
                raise self.signal()
            await self._check_not_cancelled()
            if any(group.has_failed for group in origin.groups()):
                raise asyncio.CancelledError
            gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._at_gates[gate] = origin
            self.rest(origin)
            try:
                await gate
            finally:
                self._at_gates.pop(gate, None)
                self.wake(origin)
            # The pass may have ended between the opening of the gate and this.
            if self.ended:
                raise self.signal()

    async def _check_not_cancelled(self) -> None:
        """Let nothing begin, and nothing be waited for, in a branch that was cancelled because another one had failed.

        Its group ends with the branch, and so would never open the gate, nor let the run go on.

        Raises:
            StepRefused: the caller belongs to one.
            CancelledError: it was cancelled just now.

        """
        origin = strand_here.get()
        if origin is None or not origin.was_cancelled():
            return
        pause, origin.refusal_seconds = origin.refusal_seconds, origin.refusal_seconds * 2
        # Where the branch was cancelled just now, this is where it comes to know.
        await asyncio.sleep(min(pause, _LONGEST_REFUSAL_SECONDS))
        raise StepRefused

    def open_gates(self) -> None:
        """Have all that wait for a group to let them begin ask again."""
        for gate in self._at_gates:
            if not gate.done():
                gate.set_result(None)

    # The end

    def end(self) -> None:
        """End the pass: the steps that wait, and every step asked for from now on, raise the signal."""
        self.ended = True
        self.over.set()
        for future in (*self._waiting, *self._at_gates):
            if not self.ended_early:
                future.cancel()
            elif not future.done():
                future.set_exception(PassEnded())

    def fail(self, failure: Exception) -> None:
        """End the pass because something cannot be recorded: it is done again, as if it had never begun."""
        self._failure = self._failure or failure
        self._end_early()

    def begin_work(self) -> None:
        """Note that one step more is at work."""
        self._at_work += 1

    def end_work(self) -> None:
        """Note that one step fewer is at work; the pass may end."""
        self._at_work -= 1
        if not self._at_work:
            if self._until_idle is not None:
                self._until_idle.set()
            if not self._going_on:
                self._grow_quiet()

    def _goes_on(self, change: int) -> None:
        self._going_on += change
        if not self._going_on:
            self._grow_quiet()

    def _grow_quiet(self) -> None:
        self._quiet_since += 1
        self._settle(self._quiet_since, _QUIET_ROUNDS)

    def _settle(self, quiet_since: int, rounds: int, *, stays: bool = True) -> None:
        """End the pass where nothing was at work for so many rounds, and something waits that it does not wait for."""
        # What was at work in between begins the count anew.
        if self._at_work or self._going_on or self.ended or not self._waiting or quiet_since != self._quiet_since:
            return
        if rounds:
            asyncio.get_running_loop().call_soon(self._settle, quiet_since, rounds - 1)
        elif not stays or not (self._naps_now() or self._lingers_now()):
            self._end_early()

    def _naps_now(self) -> bool:
        return self._naps is not None and self.only_sleeps and self._naps.begin(self._new_sleep_ends_ms)

    def _lingers_now(self) -> bool:
        leave = partial(self._settle, self._quiet_since, 0, stays=False)
        return self._lingering is not None and self._lingering.begin(len(self._waiting), leave)

    def signal(self) -> BaseException:
        """Return what ends a branch once the pass has ended: the signal, or a quiet cancellation."""
        # Nobody looks at the tasks that a handler leaves behind, and asyncio complains about what they raise.
        return PassEnded() if self.ended_early else asyncio.CancelledError()

    def _end_early(self) -> None:
        self.ended_early = self.ended_early or not self.ended
        self.end()


class _AtWork:
    """Each step goes through it, so it is a class: a generator takes three times as long."""

    __slots__ = ("_current",)

    def __init__(self, current: CurrentPass) -> None:
        self._current = current

    def __enter__(self) -> None:
        self._current.begin_work()

    def __exit__(self, *_: object) -> None:
        self._current.end_work()
