"""A handle on one run: its state and its result."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeAlias, TypeVar, cast

from ironflow.broker.protocol import Broker, BrokerError
from ironflow.codec import decode_value
from ironflow.durations import Duration, format_milliseconds, parse_duration
from ironflow.end_hint import EndHint, Start
from ironflow.engine_api import EngineApi
from ironflow.errors import (
    EngineUnavailableError,
    RunCancelledError,
    RunFailedError,
    RunNotFoundError,
)
from ironflow.messages import RunView, StepView
from ironflow.names import Names
from ironflow.records import TERMINAL

Out = TypeVar("Out")
_Answer = TypeVar("_Answer")

_Fill: TypeAlias = Callable[[RunView], Awaitable[RunView]]

_FIRST_ASK_AGAIN_SECONDS = 1.0
ASK_AGAIN_SECONDS = 60.0
"""The engine's hint that a run has ended can be lost, in a reconnect for example; then the answer is this late."""

_FIRST_ASK_AFRESH_SECONDS = 0.05
_LAST_ASK_AFRESH_SECONDS = 2.0
_LAST_ASK_UNKNOWN_SECONDS = 0.4


class RunHandle(Generic[Out]):
    """One run.

    Attributes:
        id: the run's id.

    """

    def __init__(
        self,
        id: str,
        *,
        broker: Broker,
        names: Names,
        engine: EngineApi,
        output_type: Any,
        start: Start | None,
        ask_again_seconds: float = ASK_AGAIN_SECONDS,
    ) -> None:
        self.id = id
        self._broker = broker
        self._names = names
        self._engine = engine
        self._output_type = output_type
        self._start = start
        self._ask_again_seconds = ask_again_seconds
        self._just_started = start is not None
        self._attempt = 1

    def __repr__(self) -> str:
        return f"RunHandle({self.id!r})"

    async def state(self) -> RunView:
        """Return where the run stands, without its steps.

        Raises:
            RunNotFoundError: there is no run with this id.
            EngineUnavailableError: no engine answers.

        """
        return await self._once_known(lambda: self._engine.run(self.id))

    async def steps(self) -> list[StepView]:
        """Return the run's steps in the order in which they were recorded, open ones last.

        Raises:
            RunNotFoundError: there is no run with this id.
            EngineUnavailableError: no engine answers.

        """
        return await self._once_known(lambda: self._engine.steps(self.id))

    async def result(self, timeout: Duration | None = None) -> Out:
        """Wait until the run ends and return its output, decoded into the function's return annotation.

        An engine that is away for a while is waited for.

        Args:
            timeout: how long to wait at the most. Default for ever.

        Raises:
            RunFailedError: the run failed.
            RunCancelledError: the run was cancelled.
            RunNotFoundError: there is no run with this id, for most of a second.
            EngineUnavailableError: NATS cannot be reached.
            TimeoutError: it has not ended in time; it goes on.

        """
        view = await self._end(timeout, self._engine.with_output)
        if view.status == "completed":
            return cast("Out", decode_value(view.output, self._output_type, "output"))
        if view.status == "cancelled":
            msg = f"run {self.id} was cancelled" + (f": {view.error.message}" if view.error else "")
            raise RunCancelledError(msg)
        error = view.error
        raise RunFailedError(
            self.id, error.type if error else "Unknown", error.message if error else "no reason recorded"
        )

    async def cancel(self, reason: str | None = None, *, compensate: bool = False) -> bool:
        """Cancel the run. Its handler and the async bodies that run are cancelled, and no other step begins.

        Args:
            reason: shown with the run.
            compensate: have the undos run that the run has registered with ``step.compensate``. The run is
                compensating until the last one has ended, and cancelled then.

        Returns:
            Whether the run ended by this call, or will once what it did is undone; False where it had ended
            before, cancelled or otherwise, or was compensating already.

        Raises:
            RunNotFoundError: there is no run with this id.
            EngineUnavailableError: no engine answers.
            LimitError: the reason is too long.

        """
        return (await self._once_known(lambda: self._engine.cancel(self.id, reason, compensate=compensate))).recorded

    async def retry(self) -> bool:
        """Have the run go on, where it has failed.

        What has succeeded stays, and is not done again. What had failed or was open is done anew, with all its
        attempts, and the timeout of the run counts anew. Idempotency keys and the ids of published events stay the
        same, but for those of steps that were undone: these are done anew as well, with new ones.

        Returns:
            Whether the run goes on by this call; False where it was not failed, or somebody else was quicker.

        Raises:
            RunNotFoundError: there is no run with this id.
            EngineUnavailableError: no engine answers.
            IronflowError: the run cannot be retried: it never had a function, or its event is gone.

        """
        retried = await self._once_known(lambda: self._engine.retry(self.id))
        self._attempt = retried.attempt
        return retried.recorded

    async def _once_known(self, ask: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """Ask the engine for something, again where it does not know the run yet."""
        patience = _FIRST_ASK_AFRESH_SECONDS
        while True:
            try:
                return await ask()
            except RunNotFoundError:
                # Its event is stored, and an engine has yet to get to it.
                if not self._just_started or patience > _LAST_ASK_AFRESH_SECONDS:
                    raise
            await asyncio.sleep(patience)
            patience *= 2

    async def wait(self, timeout: Duration | None = None) -> RunView:
        """Wait until the run ends, however it does, and return its state.

        Args:
            timeout: how long to wait at the most. Default for ever.

        Raises:
            RunNotFoundError: there is no run with this id, for most of a second.
            EngineUnavailableError: NATS cannot be reached.
            TimeoutError: it has not ended in time; it goes on.

        """
        return await self._end(timeout, self._engine.complete)

    async def _end(self, timeout: Duration | None, fill: _Fill) -> RunView:
        """Wait until the run ends and return its state, with what *fill* adds that was left out."""
        most_ms = None if timeout is None else parse_duration(timeout, "timeout")
        quiet = self._start.quiet_seconds(asyncio.get_running_loop().time()) if self._start is not None else 0.0
        try:
            async with asyncio.timeout(None if most_ms is None else most_ms / 1000):
                return await self._hear_or_ask(quiet, fill)
        except TimeoutError:
            msg = f"run {self.id} has not ended within {format_milliseconds(most_ms or 0)}; it goes on"
            raise TimeoutError(msg) from None

    async def _hear_or_ask(self, quiet: float, fill: _Fill) -> RunView:
        hint = EndHint(self.id, self._attempt)
        # Listen first, then ask: a run that ends in between is seen by one of the two. What is not asked at once comes
        # to the server behind the wish to listen anyway.
        try:
            subscription = await self._broker.listen(self._names.ended(self.id), hint.take, confirm=not quiet)
        except BrokerError as error:
            msg = f"cannot wait for run {self.id}: {error}"
            raise EngineUnavailableError(msg) from error
        try:
            return await self._filled(await self._ask_until_ended(hint, quiet), fill)
        finally:
            await subscription.stop()

    async def _ask_until_ended(self, hint: EndHint, quiet: float) -> RunView:
        pause = _FIRST_ASK_AGAIN_SECONDS
        unknown = _FIRST_ASK_AFRESH_SECONDS
        if quiet:
            await hint.rest(quiet)
        while True:
            try:
                view = await hint.unless_told(self._look)
            except RunNotFoundError:
                # A step or another process may just have started it, and an engine has yet to get to its event.
                if unknown > _LAST_ASK_UNKNOWN_SECONDS:
                    raise
                await hint.rest(unknown)
                unknown *= 2
                continue
            if view is not None and view.status in TERMINAL:
                return view
            await hint.rest(pause)
            pause = min(pause * 2, self._ask_again_seconds)

    async def _filled(self, view: RunView, fill: _Fill) -> RunView:
        while True:
            try:
                return await fill(view)
            except EngineUnavailableError as error:
                _log_warning("waiting for an engine", run=self.id, reason=str(error))
            await asyncio.sleep(_FIRST_ASK_AGAIN_SECONDS)

    async def _look(self) -> RunView | None:
        try:
            view = await self._engine.brief_run(self.id)
        except RunNotFoundError:
            if self._just_started:
                return None
            raise
        except EngineUnavailableError as error:
            _log_warning("waiting for an engine", run=self.id, reason=str(error))
            return None
        self._just_started = False
        return view


def _log_warning(message: str, **facts: str) -> None:
    from ironflow.logs import get_logger  # noqa: PLC0415 - takes longer to import than all the rest of what clients need

    get_logger("ironflow.client").warning(message, **facts)
