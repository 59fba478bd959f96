"""Makes one attempt of a step, or of an undo, and records what came of it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec
from msgspec.structs import replace

from ironflow.broker.protocol import MessageTooLarge
from ironflow.codec import decode_record, decode_value, encode_value
from ironflow.errors import NondeterminismError, PayloadTooLargeError, SerializationError
from ironflow.journal import Appended
from ironflow.limits import Limits, check_payload
from ironflow.names import Scope
from ironflow.records import ErrorRecord, StepKind, StepRecord, TryRecord
from ironflow.retry import RetryPolicy
from ironflow.telemetry.tracing import span
from ironflow_worker.bodies import inside_of
from ironflow_worker.failures import error_record, raised
from ironflow_worker.memo import Memo
from ironflow_worker.pass_tools import PassTools
from ironflow_worker.user_frames import without_our_frames

Append = Callable[[str, msgspec.Struct], Awaitable[Appended]]
"""Records something, or learns what was recorded before. It raises MessageTooLarge for a result only."""

_PLAIN = (str, int, bool)
"""Of these exact types, nothing can come back as something else."""


class Call(msgspec.Struct, frozen=True):
    """A step that has been asked for, or an undo whose turn it is.

    Attributes:
        is_new: whether nothing is recorded of it.

    """

    name: str
    key: str
    kind: StepKind
    scope: Scope
    policy: RetryPolicy
    is_new: bool = False


class Standing(msgspec.Struct, frozen=True):
    """What is recorded of a step, and where."""

    record: StepRecord
    sequence: int


class Attempt:
    """The next attempt of a step.

    Args:
        call: the step.
        memo: knows of the attempts before.
        tools: what is needed to do and record things.
        append: records things.

    """

    def __init__(self, call: Call, memo: Memo, tools: PassTools, append: Append) -> None:
        earlier = None if call.is_new else memo.failed_attempt(call.key)
        self._number = 1 if earlier is None else earlier.attempt + 1
        self._call = call
        self._tools = tools
        self._append = append
        self._took_ms = 0
        self.next_due_ms = 0

    async def make(self, do: Callable[[], Awaitable[msgspec.Raw]]) -> Standing | None:
        """Do the step once and record what came of it.

        Returns:
            The result that stands, ours or that of whoever was first; None where another attempt is to be made,
            which is recorded then.

        Raises:
            SerializationError: the result that stands cannot be read.

        """
        call, started = self._call, time.monotonic()
        try:
            with inside_of(call.name, self._number):
                output = await (self._traced(do) if self._tools.traced else do())
        # A body that calls sys.exit() must not end the worker.
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the body raises is what came of it
            self._took_ms = _since(started)
            return await self._failed(error)
        self._took_ms = _since(started)
        try:
            standing = await self._record(output=output)
        except MessageTooLarge as error:
            refused = PayloadTooLargeError(f"result of step {call.name!r} is larger than the server takes: {error}")
            return await self._record_failure(refused)
        self._count("completed")
        return standing

    def give_up(self, error: ErrorRecord) -> Coroutine[Any, Any, Standing]:
        """Record that the step has failed for good, in place of another attempt."""
        return self._record(status="failed", error=replace(error, step=self._call.name, attempts=self._number))

    async def _traced(self, do: Callable[[], Awaitable[msgspec.Raw]]) -> msgspec.Raw:
        call, tools = self._call, self._tools
        shown: dict[str, str | int] = {
            "ironflow.run.id": tools.run,
            "ironflow.function.id": tools.function,
            "ironflow.step.name": call.name,
            "ironflow.step.kind": call.kind,
            "ironflow.step.attempt": self._number,
        }
        with span(f"step {call.name}", "internal", tools.trace, shown):
            return await do()

    async def _failed(self, error: BaseException) -> Standing | None:
        delay_ms = self._tools.delay_after(error, self._call.policy, self._number)
        if delay_ms is None:
            return await self._record_failure(error)
        self._count("retried")
        await self._record_attempt(delay_ms, error)
        return None

    async def _record_failure(self, error: BaseException) -> Standing:
        self._count("failed")
        failed = error_record(error, step=self._call.name, attempts=self._number)
        self._tools.log.warning(
            "step failed",
            step=self._call.name,
            attempt=self._number,
            error=failed.type,
            error_text=failed.message,
            exc_info=without_our_frames(raised(error)),
        )
        return await self._record(status="failed", error=failed)

    def _record(self, **result: Any) -> Coroutine[Any, Any, Standing]:
        call = self._call
        record = StepRecord(
            name=call.name,
            kind=call.kind,
            scope=call.scope,
            token=self._tools.token,
            attempt=self._number,
            duration_ms=self._took_ms,
            **result,
        )
        return record_result(record, call.key, self._tools, self._append)

    async def _record_attempt(self, delay_ms: int, error: BaseException) -> None:
        call, tools = self._call, self._tools
        record = TryRecord(
            name=call.name,
            kind=call.kind,
            scope=call.scope,
            token=tools.token,
            attempt=self._number,
            delay_ms=delay_ms,
            error=error_record(error, step=call.name, attempts=self._number),
            duration_ms=self._took_ms,
        )
        tools.log.info(
            "step failed, will be tried again",
            step=call.name,
            attempt=self._number,
            delay_ms=delay_ms,
            error=record.error.type,
            error_text=record.error.message,
            exc_info=without_our_frames(raised(error)),
        )
        await self._append(tools.names.journal_try(tools.queue, tools.run, call.key, self._number), record)
        self.next_due_ms = tools.due_ms(delay_ms)

    def _count(self, outcome: str) -> None:
        self._tools.metrics.step_ended(self._tools.function, outcome, self._took_ms / 1000)


async def record_result(record: StepRecord, key: str, tools: PassTools, append: Append) -> Standing:
    """Record a step's result and return the one that stands: ours, or that of whoever was first.

    Raises:
        SerializationError: the one that stands cannot be read.

    """
    appended = await append(tools.names.journal_step(tools.queue, tools.run, key), record)
    return Standing(record if appended.ours else decode_record(StepRecord, appended.payload), appended.sequence)


async def encoded_result(
    name: str, body: Callable[[], Awaitable[Any]], limits: Limits, expected: Any = Any
) -> msgspec.Raw:
    """Run a body and return what it returns, as it is recorded.

    Args:
        name: the step's name.
        body: the body.
        limits: what is refused.
        expected: what the result is to be decoded into.

    Raises:
        SerializationError: it cannot be recorded, or is not what is expected.
        PayloadTooLargeError: it is too large for that.

    """
    return encoded(await body(), f"result of step {name!r}", limits, expected)


def recorded_result(name: str, output: msgspec.Raw, expected: Any) -> Any:
    """Return the recorded result of a body, as a value of what it is annotated with.

    Args:
        name: the step's name.
        output: its result.
        expected: what it is to be decoded into.

    Raises:
        NondeterminismError: it is not what is expected. That was made sure of when it was recorded, so the code has
            changed since then. What stands behind the step may not be reached any more, nor undone.

    """
    try:
        return decode_value(output, expected, f"result of step {name!r}")
    except SerializationError as error:
        msg = (
            f"{error}; it was recorded by other code, and nothing was changed. Have the code read what is recorded "
            "(with a default for a new field, say), or restore it, then retry the run"
        )
        raise NondeterminismError(msg) from error


def encoded(value: object, what: str, limits: Limits, expected: Any = Any) -> msgspec.Raw:
    """Return a result or an output as it is recorded.

    Args:
        value: what a body or a handler has returned.
        what: what it is, for messages.
        limits: what is refused.
        expected: what it is to be decoded into. What is no such thing must not be recorded: every later pass, every
            retry of the run, and all who ask for it would fail with it.

    Raises:
        SerializationError: it cannot be recorded, or is not what is expected.
        PayloadTooLargeError: it is too large for that.

    """
    output = encode_value(value, what)
    check_payload(bytes(output), what, limits.payload_bytes)
    if expected is not Any and not (expected in _PLAIN and type(value) is expected):
        decode_value(output, expected, what)
    return output


def _since(started: float) -> int:
    return round((time.monotonic() - started) * 1000)
