"""An event loop whose clock jumps to the next timer when there is nothing to do, so that no sleep takes long.

    run_virtual(main())                          # like asyncio.run(main())

With pytest-asyncio, in the ``conftest.py`` of the folder whose tests shall run so::

    def pytest_asyncio_loop_factories(config, item):
        return {"virtual time": VirtualTimeLoop}

Code in executor threads (``asyncio.to_thread``, ``run_in_executor``) takes real time, so while any runs the
clock does not jump but goes at its real speed. Anything else that takes real time and that the loop cannot see
(a thread of one's own, ``asyncio.wrap_future``, a network) needs :meth:`VirtualTimeLoop.hold` around it.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine, Generator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from selectors import SelectorKey
from types import CoroutineType, FrameType
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

LONGEST_SECONDS = 2 * 366 * 24 * 60 * 60.0
"""Twice the longest wait that a workflow may ask for."""
RESOLUTION_SECONDS = 1e-8
_ASYNCIO = Path(asyncio.__file__).parent
"""Where in there something waits tells nobody anything."""
TASKS_SHOWN = 10


class StuckError(RuntimeError):
    """Nothing can happen any more, or nothing has happened for longer than the clock may run."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop with a clock of its own, which starts at zero.

    Args:
        longest_seconds: how far the clock may go, in seconds; default two years. Periodic tasks would
            otherwise keep a program going for ever that waits for what never comes.

    Raises:
        StuckError: while it runs: no task is ready, no timer is set and no thread is at work, or the clock
            went past *longest_seconds*. The message says where each task waits.

    """

    def __init__(self, longest_seconds: float = LONGEST_SECONDS) -> None:
        self._virtual_now = 0.0
        self._longest_seconds = longest_seconds
        self._end = longest_seconds
        self._holds = 0
        super().__init__(_Selector(self))
        # What the loop adds to the time before it compares it to a timer's. Its own is the system clock's, which
        # is less than the distance between two floats after some months: a timer that is due would never be.
        self._clock_resolution = RESOLUTION_SECONDS

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._virtual_now

    @contextmanager
    def hold(self) -> Generator[None]:
        """Let the clock go at its real speed for as long as the context lasts: something real is awaited."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Run a function in a thread or process; the clock does not jump until it is done or given up."""
        future = super().run_in_executor(executor, func, *args)
        self._holds += 1
        future.add_done_callback(self._release)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ARG002 - not ours
        """Wait for the threads of the default executor, in real time and for as long as they take."""
        # What the loop itself would wait for at most would be over in no time.
        with self.hold():
            await super().shutdown_default_executor()

    def await_something(self, timeout: float | None, select: Callable[[float | None], T], nothing: T) -> T:
        """Let time pass until a file is ready or *timeout* seconds are over; called when no task is ready.

        Args:
            timeout: seconds until the next timer; None where no timer is set.
            select: waits that long in real time for files.
            nothing: what *select* returns where no file is ready.

        """
        if self._holds:
            started = time.monotonic()
            ready = select(timeout)
            self._virtual_now += time.monotonic() - started
            return ready
        ready = select(0)
        if ready != nothing:
            return ready
        if timeout is None:
            raise StuckError(f"nothing is left that could wake any of these:{self._where_tasks_wait()}")
        self._virtual_now += timeout
        if self._virtual_now > self._end:
            # Whoever handles this may clean up, in as much time again.
            self._end += self._longest_seconds
            raise StuckError(f"after {self._longest_seconds} s these still wait:{self._where_tasks_wait()}")
        return nothing

    def _release(self, _: object) -> None:
        self._holds -= 1

    def _where_tasks_wait(self) -> str:
        tasks = sorted(asyncio.all_tasks(self), key=lambda task: task.get_name())
        lines = [f"\n  {task.get_name()}: {_where(task)}" for task in tasks[:TASKS_SHOWN]]
        if len(tasks) > TASKS_SHOWN:
            lines.append(f"\n  … and {len(tasks) - TASKS_SHOWN} more")
        return "".join(lines) or " (there is no task)"


def run_virtual(main: Coroutine[Any, Any, T], *, longest_seconds: float = LONGEST_SECONDS) -> T:
    """Run a coroutine to its end in virtual time, and return what it returns.

    Args:
        main: what to run.
        longest_seconds: how far the clock may go, in seconds; default two years.

    Raises:
        StuckError: it can go no further.

    """
    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(longest_seconds)) as runner:
        return runner.run(main)


class _Selector(selectors.BaseSelector):
    """Asks the loop what to do where another selector would wait."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        self._loop = loop
        self._files = selectors.DefaultSelector()

    def register(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> SelectorKey:
        return self._files.register(fileobj, events, data)

    def unregister(self, fileobj: FileDescriptorLike) -> SelectorKey:
        return self._files.unregister(fileobj)

    def modify(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> SelectorKey:
        return self._files.modify(fileobj, events, data)

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            return self._files.select(0)
        return self._loop.await_something(timeout, self._files.select, [])

    def get_map(self) -> Mapping[FileDescriptorLike, SelectorKey]:
        return self._files.get_map()

    def close(self) -> None:
        self._files.close()


def _where(task: asyncio.Task[Any]) -> str:
    frames = [frame for frame in _frames_of(task.get_coro()) if Path(frame.f_code.co_filename).parent != _ASYNCIO]
    if not frames:
        return "ended"
    frame = frames[-1]
    return f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})"


def _frames_of(coroutine: object) -> Generator[FrameType]:
    """Yield where a coroutine waits, and where what it waits for does, down to what is no coroutine."""
    while isinstance(coroutine, CoroutineType):
        if coroutine.cr_frame is not None:
            yield coroutine.cr_frame
        coroutine = coroutine.cr_await
