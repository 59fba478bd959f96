"""Runs workflows in one process, without a server: what takes days takes milliseconds."""

from __future__ import annotations

import asyncio
import functools
import inspect
import random
from collections.abc import Callable, Coroutine
from datetime import datetime
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Protocol, Self, TypeVar, overload

from ironflow.broker.local import LocalBroker, LocalServer
from ironflow.broker.local.virtual_time import run_virtual
from ironflow.client import Client
from ironflow.clock import now_ms, parse_when, to_iso
from ironflow.durations import Duration, parse_duration
from ironflow.errors import DefinitionError
from ironflow.function import Function
from ironflow.handles import RunHandle
from ironflow.limits import DEFAULT_LIMITS, Limits
from ironflow.names import Names
from ironflow_engine.engine import Engine, EngineSettings
from ironflow_worker.leases import InlineLeaseKeeper
from ironflow_worker.user_frames import without_our_frames
from ironflow_worker.worker import Worker, WorkerSettings

In = TypeVar("In")
Out = TypeVar("Out")
P = ParamSpec("P")
Tests = TypeVar("Tests")
"""A class of tests."""

_SWEEP_SECONDS = 3_600.0
"""Nothing gets lost in here, and what is done every few seconds makes months long."""
_ASK_AGAIN_SECONDS = 7 * 24 * 3_600.0
_LONGEST_SECONDS = 2 * 366 * 24 * 3_600.0
"""Twice the longest wait."""
_THREADS = 8
_CONCURRENCY = 100
"""As in production; a worker needs a place for each of its queues."""
_ADVICE = "pass it to the environment of the test, as all that are run or invoked: @workflow_test(…) or Environment(…)"


class Environment:
    """An engine, a worker and a client on a broker in memory; a context manager, to be used with ``async with``.

    Runs behave as they do on a server: steps are recorded, retried and replayed, sleeps and time-outs count by the
    broker's clock. That goes by the event loop's: in a loop with virtual time, as :func:`workflow_test` provides one,
    it jumps to the next thing that is due whenever nothing else is to be done.

    Args:
        functions: what the worker can execute: the functions under test, and those that they invoke.
        limits: what is refused; default as in production.
        seed: makes the spread of back-offs the same each time; default 0.
        begins_at: when the broker's clock begins, an aware datetime or ISO 8601; default now, as your own code sees it.

    Attributes:
        client: publishes, starts and reads, as in production.

    Raises:
        DefinitionError: no function is given, something else is, or two have one id.

    """

    client: Client

    def __init__(
        self,
        *functions: Function[Any, Any],
        limits: Limits = DEFAULT_LIMITS,
        seed: int = 0,
        begins_at: str | datetime | None = None,
    ) -> None:
        self._functions = _by_id(functions)
        self._limits = limits
        self._chance = random.Random(seed)  # noqa: S311 - it spreads back-offs
        self._names = Names("test")
        self._begins_ms = now_ms() if begins_at is None else parse_when(begins_at, "begins_at")
        self._worker: tuple[Worker, LocalBroker] | None = None
        self._engine: tuple[Engine, LocalBroker] | None = None

    async def __aenter__(self) -> Self:
        self._server = LocalServer(epoch_ms=self._begins_ms - round(asyncio.get_running_loop().time() * 1_000))
        self.client = Client(self._server.connect(), self._names, self._limits, ask_again_seconds=_ASK_AGAIN_SECONDS)
        try:
            await self._start_engine()
            await self._start_worker()
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._leave()

    async def _leave(self) -> None:
        """Stop whatever was started, however often whoever waits for it is cancelled."""
        stopping = asyncio.create_task(self._stop(), name="environment ends")
        try:
            await asyncio.shield(stopping)
        except asyncio.CancelledError:
            await asyncio.wait([stopping])
            raise

    async def _stop(self) -> None:
        for process in (self._worker, self._engine):
            if process is not None:
                await process[0].stop()
                await process[1].close()
        await self.client.broker.close()
        self._server.stop()

    @property
    def now(self) -> datetime:
        """What the broker's clock says, in UTC."""
        return datetime.fromisoformat(to_iso(self._server.clock.now_ms()))

    @overload
    async def run(self, function: Function[In, Out], data: In) -> Out: ...
    @overload
    async def run(self, function: Function[Any, Out]) -> Out: ...
    async def run(self, function: Function[Any, Any], data: Any = None) -> Any:
        """Run a function to its end, and return its output.

        Raises:
            RunFailedError, RunCancelledError: it ended so.

        """
        return await (await self.client.start(function, data)).result()

    async def publish(self, event: str, data: object = None, *, id: str | None = None) -> list[RunHandle[Any]]:
        """Publish an event, and return the runs that it has started, once the engine has come to it.

        Args:
            event: its name.
            data: its data.
            id: makes publishing it again harmless; default a random one.

        """
        published = await self.client.publish_record(event, data, id=id)
        runs, _ = await self.client.runs_of(published)
        return [self.client.run(run) for run in runs]

    async def sleep(self, duration: Duration) -> None:
        """Let time pass, and with it everything that is due meanwhile.

        Args:
            duration: as steps take it: ``"36h"``, seconds, or a timedelta.

        """
        await asyncio.sleep(parse_duration(duration, "duration") / 1_000)

    async def crash(self) -> None:
        """Have the worker die at once, as by SIGKILL, and another one take its place.

        Bodies that it was in are cut off, and run again; recorded steps do not.
        """
        if self._worker is None:
            msg = "there is no worker to crash: use the environment with `async with`"
            raise DefinitionError(msg)
        worker, broker = self._worker
        broker.drop()
        await worker.stop()
        await self._start_worker()

    async def _start_engine(self) -> None:
        broker = self._server.connect()
        engine = Engine(
            broker,
            self._names,
            EngineSettings(read_model=":memory:", sweep_seconds=_SWEEP_SECONDS, advice=_ADVICE),
            monotonic=asyncio.get_running_loop().time,
        )
        self._engine = engine, broker
        await engine.start()

    async def _start_worker(self) -> None:
        broker = self._server.connect()
        queues = tuple(sorted({function.queue for function in self._functions.values()}))
        worker = Worker(
            broker,
            self._names,
            self._functions,
            # Replayed behind each wait, code that is not the same each time shows itself.
            WorkerSettings(
                queues=queues, concurrency=max(_CONCURRENCY, len(queues)), threads=_THREADS, linger_seconds=0
            ),
            lambda leases, be_seen: InlineLeaseKeeper(leases, broker, be_seen),
            chance=self._chance.random,
            now_ms=self._server.clock.now_ms,
            monotonic=asyncio.get_running_loop().time,
            limits=self._limits,
        )
        self._worker = worker, broker
        await worker.start()
        await worker.registered.wait()


def workflow_test(
    *functions: Function[Any, Any],
    limits: Limits = DEFAULT_LIMITS,
    seed: int = 0,
    begins_at: str | datetime | None = None,
    patience: Duration | None = None,
) -> _Decorator:
    """Make a test of an ``async`` function that is given an :class:`Environment`, and run it in virtual time.

    What it returns is a plain function, for pytest or any other runner, or a method of a class of tests. Further
    parameters stay, so pytest gives fixtures for them::

        @workflow_test(approve_order)
        async def test_nobody_decides(env: Environment) -> None:
            (run,) = await env.publish("order.placed", {"orderId": "o-1"})
            await env.sleep("3d")
            assert (await run.state()).status == "completed"

    Args:
        functions: as for :class:`Environment`.
        limits: likewise.
        seed: likewise.
        begins_at: likewise.
        patience: how far the clock may go before the test counts as stuck; default two years.

    Raises:
        DefinitionError: as for :class:`Environment`; or the test is not async, or takes no environment.
        StuckError: when it runs: it waits for what never comes. The message says where.

    """
    _by_id(functions)
    longest_seconds = _LONGEST_SECONDS if patience is None else parse_duration(patience, "patience") / 1_000

    def decorate(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
        parameters = [*inspect.signature(test).parameters.values()]
        place = 1 if parameters and parameters[0].name == "self" else 0
        _check_test(test, len(parameters) > place)

        async def main(*args: Any, **kwargs: Any) -> None:
            async with Environment(*functions, limits=limits, seed=seed, begins_at=begins_at) as environment:
                await test(*args[:place], environment, *args[place:], **kwargs)

        @functools.wraps(test)
        def run(*args: Any, **kwargs: Any) -> None:
            try:
                run_virtual(main(*args, **kwargs), longest_seconds=longest_seconds)
            except Exception as error:
                _begin_at(test, error)
                raise

        # What is shown of it has one parameter less than what it wraps. That stays known: pytest says where it stands,
        # and takes out the parameters that a mock.patch on it fills.
        shown = [*parameters[:place], *parameters[place + 1 :]]
        run.__signature__ = inspect.Signature(shown, return_annotation=None)  # type: ignore[attr-defined]
        return run

    return decorate


class _Decorator(Protocol):
    """Makes a plain function of an ``async`` one, or a plain method of an ``async`` one."""

    @overload
    def __call__(
        self, test: Callable[Concatenate[Environment, P], Coroutine[Any, Any, None]], /
    ) -> Callable[P, None]: ...
    @overload
    def __call__(
        self, test: Callable[Concatenate[Tests, Environment, P], Coroutine[Any, Any, None]], /
    ) -> Callable[Concatenate[Tests, P], None]: ...


def _begin_at(test: Callable[..., object], error: Exception) -> None:
    """Have the traceback of what was raised in a test begin with the test, and show no frames of ours behind it."""
    line = error.__traceback__
    while line is not None and line.tb_frame.f_code is not getattr(test, "__code__", None):
        line = line.tb_next
    if line is not None:
        without_our_frames(error.with_traceback(line))


def _check_test(test: Callable[..., object], takes_environment: bool) -> None:  # noqa: FBT001
    name = getattr(test, "__name__", repr(test))
    if not inspect.iscoroutinefunction(test):
        msg = f"a workflow test must be an async function; {name!r} is not one"
        raise DefinitionError(msg)
    if not takes_environment:
        msg = f"a workflow test is given an environment; {name!r} has no parameter for its environment"
        raise DefinitionError(msg)


def _by_id(functions: tuple[Function[Any, Any], ...]) -> dict[str, Function[Any, Any]]:
    strangers = [each for each in functions if not _is_function(each)]
    if strangers or not functions:
        got = repr(strangers[0]) if strangers else "none"
        msg = f"an environment needs the functions that it shall execute, made by @ironflow.function; got {got}"
        raise DefinitionError(msg)
    by_id = {function.id: function for function in functions}
    for function in functions:
        if by_id[function.id] is not function:
            msg = f"two functions have the id {function.id!r}; the environment needs one of each"
            raise DefinitionError(msg)
    return by_id


def _is_function(given: object) -> bool:
    return isinstance(given, Function)
