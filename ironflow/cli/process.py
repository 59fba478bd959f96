"""What the long-running processes share: their connection, and being told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

from ironflow.broker.protocol import Broker
from ironflow.cli.common import ConnectionOptions, complain
from ironflow.names import DEFAULT_NAMESPACE, Names
from ironflow.settings import connection_settings, environment_namespace

T = TypeVar("T")


def names_of(options: ConnectionOptions) -> Names:
    """Return the namespace that the options, the environment or pyproject.toml say.

    Raises:
        DefinitionError: it is not allowed.

    """
    return Names(options.namespace or environment_namespace() or DEFAULT_NAMESPACE, options.shards)


def connector(options: ConnectionOptions) -> Callable[[], Awaitable[Broker]]:
    """Return what opens a connection as the options, the environment and pyproject.toml say.

    Raises:
        DefinitionError: a setting is not allowed.

    """
    from ironflow.broker.nats import connect  # noqa: PLC0415 - brings in NATS, which --help does without

    settings = connection_settings(options.nats_url, options.creds, options.context)

    async def open_connection() -> Broker:
        return await connect(settings)

    return open_connection


@contextlib.asynccontextmanager
async def opened(connect: Callable[[], Awaitable[Broker]]) -> AsyncGenerator[Broker]:
    """Open a connection and close it in the end."""
    broker = await connect()
    try:
        yield broker
    finally:
        await broker.close()


class StopSignals:
    """SIGTERM and SIGINT, as events of the running loop.

    Attributes:
        first: set by the first signal: stop in good order.
        second: set by the second: stop at once.

    """

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError):  # Windows knows no such handlers
                asyncio.get_running_loop().add_signal_handler(number, self._received)

    def _received(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


class Interrupted(Exception):  # noqa: N818 - it is no error
    """A signal came before what was waited for."""


async def unless_stopped(signals: StopSignals, wait: Awaitable[T]) -> T:
    """Return what is waited for; cancelled, should a signal come first.

    Raises:
        Interrupted: a signal came first.

    """
    task = asyncio.ensure_future(wait)
    await first_of(signals.first.wait(), task)
    if task.cancelled():
        raise Interrupted
    return task.result()


async def has_started(signals: StopSignals, start: Awaitable[None]) -> bool:
    """Start a process; return whether it has, and say where a signal came first."""
    try:
        await unless_stopped(signals, start)
    except Interrupted:
        complain("interrupted")
        return False
    return True


async def first_of(*waits: Awaitable[object]) -> None:
    """Return when the first of several waits is over, and cancel the others; raise what it raises."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def collect_rarely(after_objects: int) -> None:
    """Have the garbage collector leave alone what is there by now, and look at the rest less often.

    For processes that hold the objects of thousands of runs at a time. Hardly any of those are in cycles, and
    looking at them again and again took a quarter of a worker's time.

    Args:
        after_objects: more than the runs of a moment bring with them, so that most of them have ended by the time they
            are looked at; what is in cycles stays until so many are there.

    """
    gc.freeze()
    gc.set_threshold(after_objects, 10, 10)
