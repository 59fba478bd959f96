"""Keeps the leases of tasks that are being executed.

Renewals are sent from a thread with its own loop and its own connection, so that a body that blocks the
worker's loop does not lose its task to another worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from ironflow.broker.protocol import Broker, Subscription
from ironflow.broker.topology import TASK_LEASE_SECONDS
from ironflow.logs import get_logger
from ironflow_worker.around import Around

_log = get_logger("ironflow.worker")

Connect = Callable[[], Awaitable[Broker]]
BeSeen = Callable[[Broker], Awaitable[Subscription]]


class _Held:
    """A lease, and until when it is ours for sure."""

    __slots__ = ("until",)

    def __init__(self, until: float) -> None:
        self.until = until


class Leases:
    """The leases held now. Threads may read while the worker's loop writes: every change is one dict operation.

    A process that was stopped for longer than a lease lasts has lost it, and finds out by its own clock: what was
    to be renewed by then is not renewed any more, and whoever asks for it learns that it is gone.

    Args:
        seconds: how long a lease lasts without renewal.
        monotonic: returns seconds that never jump, and that go on while the process is stopped.

    Attributes:
        seconds: as above.

    """

    def __init__(self, seconds: float = TASK_LEASE_SECONDS, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._monotonic = monotonic
        self._held: dict[str, _Held] = {}
        self._wake: Callable[[], object] = bool
        self._renewer_rests = False

    def hold(self, lease: str) -> Around[str]:
        """Have a lease renewed while the block runs."""
        return Around(self._begin, self._end, lease)

    def _begin(self, lease: str) -> None:
        self._held[lease] = _Held(self._monotonic() + self.seconds)
        if self._renewer_rests:
            self._renewer_rests = False
            self._wake_renewer()

    def _end(self, lease: str) -> None:
        self._held.pop(lease, None)

    def still_holds(self, *leases: str) -> bool:
        """Tell whether one of several leases cannot have ended by now, as far as this machine's clock says."""
        for lease in leases:
            held = self._held.get(lease)
            if held is not None and self._monotonic() <= held.until:  # as _is_ours, which each record would call
                return True
        return False

    def change(self, seconds: float) -> None:
        """Have leases last for so long from now on; those that are still ours are renewed at once."""
        self.seconds = seconds
        for held in list(self._held.values()):
            # Only a renewal makes one last longer: this one may have ended long ago, and be somebody else's.
            held.until = min(held.until, self._monotonic() + seconds)
        self._wake_renewer()

    async def renew_for_ever(self, broker: Broker) -> None:
        """Renew all held leases every third of their time; rest while none is held."""
        changed = asyncio.Event()
        self._wake = functools.partial(asyncio.get_running_loop().call_soon_threadsafe, changed.set)
        while True:
            # Said before it is looked: a lease that another thread begins to hold meanwhile is seen by one of the two.
            self._renewer_rests = True
            self._renewer_rests = not self._held
            if self._renewer_rests:
                await changed.wait()
                changed.clear()
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.seconds / 3):
                    await changed.wait()
            changed.clear()
            for lease, held in list(self._held.items()):
                # While there is no connection the server counts on, and may have given it to somebody else since.
                if self._is_ours(held) and broker.renew(lease):
                    held.until = self._monotonic() + self.seconds

    def _is_ours(self, held: _Held) -> bool:
        return self._monotonic() <= held.until

    def _wake_renewer(self) -> None:
        with contextlib.suppress(RuntimeError):  # its loop has closed
            self._wake()


class LeaseKeeper(Protocol):
    """Renews leases from :meth:`start` to :meth:`stop`."""

    async def start(self) -> None:
        """Begin."""
        ...

    async def stop(self) -> None:
        """End. Harmless the second time."""
        ...


class InlineLeaseKeeper:
    """Renews leases in the worker's own loop; for in-process use, where time may be virtual.

    Args:
        leases: what to renew.
        broker: the connection to renew on.
        be_seen: has engines see that the connection stands.

    """

    def __init__(self, leases: Leases, broker: Broker, be_seen: BeSeen) -> None:
        self._leases = leases
        self._broker = broker
        self._be_seen = be_seen
        self._task: asyncio.Task[None] | None = None
        self._seen: Subscription | None = None

    async def start(self) -> None:
        """Begin."""
        self._seen = await self._be_seen(self._broker)
        self._task = asyncio.create_task(self._leases.renew_for_ever(self._broker))

    async def stop(self) -> None:
        """End."""
        if self._seen is not None:
            await self._seen.stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


class ThreadLeaseKeeper:
    """Renews leases in a thread of its own.

    Args:
        leases: what to renew.
        connect: opens the thread's connection.
        be_seen: has engines see that the connection stands.

    """

    def __init__(self, leases: Leases, connect: Connect, be_seen: BeSeen) -> None:
        self._leases = leases
        self._connect = connect
        self._be_seen = be_seen
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._stops = False

    async def start(self) -> None:
        """Begin; the connection is there when this returns.

        Raises:
            EngineUnavailableError: NATS cannot be reached.

        """
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._thread = threading.Thread(
            target=self._run, args=(asyncio.get_running_loop(), ready), name="ironflow-leases", daemon=True
        )
        self._thread.start()
        await ready

    async def stop(self) -> None:
        """End, and wait for the thread."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        # Said before it is looked: a thread that has just begun sees it, or is seen.
        self._stops = True
        loop, task = self._loop, self._task
        if loop is not None and task is not None:
            with contextlib.suppress(RuntimeError):  # the thread's loop has closed by itself
                loop.call_soon_threadsafe(task.cancel)
        await asyncio.to_thread(thread.join)

    def _run(self, caller: asyncio.AbstractEventLoop, ready: asyncio.Future[None]) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(self._keep(caller, ready))

    async def _keep(self, caller: asyncio.AbstractEventLoop, ready: asyncio.Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        if self._stops:
            return
        try:
            broker = await self._connect()
        except Exception as error:  # noqa: BLE001 - it is raised again where start() waits
            _tell(caller, ready, error)
            return
        try:
            await self._renew_on(broker, caller, ready)
        finally:
            await broker.close()

    async def _renew_on(self, broker: Broker, caller: asyncio.AbstractEventLoop, ready: asyncio.Future[None]) -> None:
        try:
            await self._be_seen(broker)
        except Exception as error:  # noqa: BLE001 - likewise
            _tell(caller, ready, error)
            return
        _tell(caller, ready, None)
        try:
            await self._leases.renew_for_ever(broker)
        except asyncio.CancelledError:
            raise
        except Exception:
            _log.exception("leases are no longer renewed; other workers will take this worker's tasks over")
            raise


def _tell(caller: asyncio.AbstractEventLoop, ready: asyncio.Future[None], error: Exception | None) -> None:
    with contextlib.suppress(RuntimeError):  # the loop of whoever started us has closed
        caller.call_soon_threadsafe(_settle, ready, error)


def _settle(ready: asyncio.Future[None], error: Exception | None) -> None:
    if ready.done():  # whoever started us was cancelled meanwhile
        return
    if error is None:
        ready.set_result(None)
    else:
        ready.set_exception(error)
