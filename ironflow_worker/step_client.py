"""``ctx.step``: looks steps up in the memo, and does and records what is not there."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec
import structlog

from ironflow.broker.protocol import BrokerError, MessageTooLarge, Publication
from ironflow.clock import parse_when, to_iso
from ironflow.codec import decode_record, decode_value, encode_record, encode_value
from ironflow.durations import LONGEST_DAYS, Duration, format_milliseconds, parse_duration
from ironflow.errors import DefinitionError, LimitError, PayloadTooLargeError, PublishError, SerializationError
from ironflow.events import Event, make_event, read_event
from ironflow.journal import Appended
from ironflow.limits import check_payload
from ironflow.names import Scope, step_token
from ironflow.records import EventRecord, OnTimeout, StepKind, StepRecord, TryRecord, WaitRecord
from ironflow.retry import Retry, RetryPolicy
from ironflow.step import OnError, Step
from ironflow.triggers import check_event_name
from ironflow_worker.awaited_event import awaited_event, is_timeout
from ironflow_worker.bodies import is_async_body, result_type
from ironflow_worker.current_pass import CurrentPass
from ironflow_worker.failures import delay_after, error_record, raise_recorded, recorded_at
from ironflow_worker.fan_out import Branches, FanOut, check_options, checked_branches, checked_items
from ironflow_worker.memo import Memo
from ironflow_worker.pass_tools import PassTools
from ironflow_worker.signals import PassEnded

_DAY_MS = 24 * 60 * 60 * 1000

_body_of: contextvars.ContextVar[str | None] = contextvars.ContextVar("_body_of", default=None)
"""The step whose body runs here."""


class _Call(msgspec.Struct, frozen=True):
    """A step that has been asked for."""

    name: str
    key: str
    kind: StepKind
    policy: RetryPolicy


class _Standing(msgspec.Struct, frozen=True):
    """What is recorded of a step, and where."""

    record: StepRecord
    sequence: int


class StepClient(Step):
    """The steps of one pass, within one scope.

    Args:
        current: keeps account of the pass.
        tools: what is needed to do and record things.
        policy: the function's retry policy.
        scope: the parallels around this client; empty at the top.
        in_map: whether one of them is a map, whose steps are counted apart.

    """

    def __init__(
        self,
        current: CurrentPass,
        tools: PassTools,
        policy: RetryPolicy,
        scope: Scope = (),
        *,
        in_map: bool = False,
    ) -> None:
        self._current = current
        self._tools = tools
        self._policy = policy
        self._scope = scope
        self._in_map = in_map
        self._unnamed: dict[str, int] = {}

    # The public steps; ironflow.step.Step documents them.

    async def run(  # type: ignore[override]  # the overloads say more than one signature can
        self,
        name: str,
        fn: Callable[..., Any],
        /,
        *args: Any,
        timeout: Duration | None = None,
        retry: Retry | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run a body and record its result."""
        timeout_ms = None if timeout is None else parse_duration(timeout, "timeout")
        call = await self._claim(name, "run", _policy_of(retry, self._policy))
        _check_body(name, fn)
        body = functools.partial(
            self._tools.bodies.run,
            name,
            functools.partial(fn, *args, **kwargs),
            is_async=is_async_body(fn),
            timeout_ms=timeout_ms,
        )
        record = await self._memoized(call, functools.partial(self._encoded_result, name, body))
        return decode_value(record.output, result_type(fn), f"result of step {name!r}")

    async def sleep(self, name: str, duration: Duration) -> None:
        """Pause the run."""
        delay_ms = parse_duration(duration, "duration")
        await self._end_of_wait(await self._claim(name, "sleep", self._policy), delay_ms=delay_ms)

    async def sleep_until(self, name: str, when: str | datetime) -> None:
        """Pause the run until a point in time."""
        until_ms = parse_when(when)
        call = await self._claim(name, "sleep", self._policy)
        if self._current.memo.kind(call.key) is None:
            _check_ahead(until_ms, self._tools.now_ms())
        await self._end_of_wait(call, until_ms=until_ms)

    async def wait_for_event(  # type: ignore[override]  # the overloads say more than one signature can
        self,
        name: str,
        *,
        event: str,
        match: str | None = None,
        value: Any = ...,
        type: Any = None,
        timeout: Duration = "7d",
        on_timeout: OnTimeout = "fail",
    ) -> Event[Any] | None:
        """Pause the run until an event comes."""
        wanted = awaited_event(event, match, value, type, timeout, on_timeout, self._current.limits)
        call = await self._claim(name, "wait_for_event", self._policy)
        what = None
        if self._current.memo.kind(call.key) is None:
            what = wanted.compared(self._current.trigger, self._current.limits)
        record = await self._end_of_wait(
            call,
            delay_ms=wanted.timeout_ms,
            event=wanted.event,
            path=wanted.path,
            value=what,
            on_timeout=wanted.on_timeout,
        )
        if record.status == "failed" and on_timeout == "fail" and is_timeout(record):
            # The engine ends the run for it; what the handler would make of it does not count any more.
            with self._current.at_work():
                await self._current.wait()
        return wanted.result(record, self._current.memo.recorded_at(call.key))

    async def publish(
        self, event: str, data: object = None, *, name: str | None = None, id: str | None = None
    ) -> Event[Any]:
        """Publish an event once."""
        check_event_name(event, self._tools.limits.event_name_bytes)
        call = await self._claim(
            name if name is not None else self._default_name(f"publish:{event}"), "publish", self._policy
        )
        record = make_event(
            event_id=id if id is not None else f"{self._tools.run}/{call.key}",
            name=event,
            data=data,
            time=to_iso(self._tools.now_ms()),
            source=f"run/{self._tools.run}",
            limits=self._tools.limits,
        )
        recorded = await self._memoized(call, functools.partial(self._publish, record))
        return read_event(decode_record(EventRecord, bytes(recorded.output)))

    async def parallel(
        self,
        name: str,
        branches: Sequence[Callable[[Step], Awaitable[Any]]],
        *,
        concurrency: int | None = None,
        on_error: OnError = "fail_fast",
    ) -> Any:
        """Run branches at the same time."""
        each = checked_branches(name, branches)
        results = await self._fan_out(
            name, "parallel", each, lambda index, step: each[index](step), concurrency, on_error
        )
        return tuple(results) if isinstance(branches, tuple) else results

    async def map(
        self,
        name: str,
        items: Sequence[Any],
        fn: Callable[[Any, Step, int], Awaitable[Any]],
        *,
        concurrency: int | None = None,
        on_error: OnError = "fail_fast",
    ) -> list[Any]:
        """Do the same for each item, at the same time."""
        each = checked_items(name, items, fn)
        return await self._fan_out(
            name, "map", each, lambda index, step: fn(each[index], step, index), concurrency, on_error
        )

    def idempotency_key(self, name: str) -> str:
        """Return a text that is unique per run and step."""
        self._current.check_name(name)
        return f"{self._tools.run}/{step_token(self._scope, name)}"

    async def _fan_out(
        self,
        name: str,
        kind: Literal["parallel", "map"],
        each: Sequence[Any],
        call: Callable[[int, Step], Any],
        concurrency: int | None,
        on_error: OnError,
    ) -> list[Any]:
        check_options(name, concurrency, on_error)
        await self._check_place(name)
        self._current.claim_group(self._scope, name, kind, len(each))

        def branch(index: int) -> Any:
            scope = (*self._scope, name, index)
            in_map = self._in_map or kind == "map"
            return call(index, StepClient(self._current, self._tools, self._policy, scope, in_map=in_map))

        branches = Branches((*self._scope, name), len(each), branch, concurrency, on_error)
        try:
            return await FanOut(self._current, branches).run()
        except Exception as error:
            await self._check_first(branches.scope, error)
            raise

    async def _check_first(self, group: Scope, error: Exception) -> None:
        """Have the pass done again where another worker has recorded an older failure of a group meanwhile.

        A worker that has lost its lease may go on for a while. What it recorded before our failure is in the
        journal now, and every later pass will raise it.
        """
        tools, seen = self._tools, self._current.memo.seen
        place = recorded_at(error)
        if place is not None and place <= seen:
            return
        since, journal = Memo(self._current.memo.epoch), tools.names.journal_of_run(tools.queue, tools.run)
        try:
            async for page in tools.broker.read(tools.names.journal, journal, seen):
                since.read(page)
        except (BrokerError, SerializationError) as trouble:
            raise self._give_up(trouble) from trouble
        others = since.failures(group, but_of=tools.token)
        if any(place is None or other < place for other in others):
            overtaken = BrokerError(f"another worker has recorded an older failure in {group[-1]!r}")
            raise self._give_up(overtaken)

    # How a step goes

    async def _claim(self, name: str, kind: StepKind, policy: RetryPolicy) -> _Call:
        await self._check_place(name)
        key = self._current.claim(self._scope, name, kind, in_map=self._in_map)
        return _Call(name, key, kind, policy)

    async def _check_place(self, name: str) -> None:
        """Refuse a step where none may be asked for."""
        await self._current.check_running()
        outer = _body_of.get()
        if outer is not None:
            # The step around it is at work until its body returns, so a step in it could wait for ever.
            msg = (
                f"step {name!r} was asked for inside the body of step {outer!r}; a body has no steps of its own: "
                "call the steps one after the other, in the handler"
            )
            raise DefinitionError(msg)

    def _default_name(self, base: str) -> str:
        count = self._unnamed[base] = self._unnamed.get(base, 0) + 1
        return base if count == 1 else f"{base}#{count}"

    async def _memoized(self, call: _Call, do: Callable[[], Awaitable[msgspec.Raw]]) -> StepRecord:
        """Return a step's successful record, doing it first where there is none.

        Raises:
            StepError: it failed for good, now or before.

        """
        with self._current.at_work():
            record = self._current.memo.step(call.key)
            if record is not None:
                stands = _Standing(record, self._current.memo.recorded_at(call.key))
            else:
                if self._current.memo.is_backing_off(call.key):
                    await self._current.wait()
                with self._current.new_work():
                    await self._current.may_begin()
                    self._current.executes()
                    stands = await self._attempt(call, do)
                await self._current.check_running()
        if stands.record.status == "failed":
            raise_recorded(stands.record, stands.sequence)
        return stands.record

    async def _attempt(self, call: _Call, do: Callable[[], Awaitable[msgspec.Raw]]) -> _Standing:
        """Do a step once and record what came of it; where it is to be done again, wait for that."""
        earlier = self._current.memo.failed_attempt(call.key)
        attempt = 1 if earlier is None else earlier.attempt + 1
        started = time.monotonic()
        try:
            with structlog.contextvars.bound_contextvars(step=call.name, attempt=attempt), _inside_of(call.name):
                output = await do()
        # A body that calls sys.exit() must not end the worker.
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the body raises is what came of it
            took = _since(started)
            delay_ms = delay_after(error, call.policy, attempt, self._tools.chance())
            if delay_ms is not None:
                self._count("retried", took)
                await self._record_attempt(call, attempt, delay_ms, error, took)
                await self._current.wait()
            return await self._record_failure(call, attempt, took, error)
        took = _since(started)
        try:
            recorded = await self._record(self._result(call, attempt, took, output=output), call.key)
        except MessageTooLarge as error:
            refused = PayloadTooLargeError(f"result of step {call.name!r} is larger than the server takes: {error}")
            return await self._record_failure(call, attempt, took, refused)
        self._count("completed", took)
        return recorded

    async def _record_failure(self, call: _Call, attempt: int, took_ms: int, error: BaseException) -> _Standing:
        self._count("failed", took_ms)
        failed = error_record(error, step=call.name, attempts=attempt)
        return await self._record(self._result(call, attempt, took_ms, status="failed", error=failed), call.key)

    def _count(self, outcome: str, took_ms: int) -> None:
        self._tools.metrics.steps.labels(self._tools.function, outcome).inc()
        self._tools.metrics.step_seconds.labels(self._tools.function).observe(took_ms / 1000)

    def _result(self, call: _Call, attempt: int, took_ms: int, **result: Any) -> StepRecord:
        return StepRecord(
            name=call.name,
            kind=call.kind,
            scope=self._scope,
            token=self._tools.token,
            attempt=attempt,
            duration_ms=took_ms,
            **result,
        )

    async def _record(self, record: StepRecord, key: str) -> _Standing:
        """Record a step's result and return the one that stands: ours, or that of whoever was first."""
        tools = self._tools
        appended = await self._append(tools.names.journal_step(tools.queue, tools.run, key), record)
        if not appended.ours:
            try:
                record = decode_record(StepRecord, appended.payload)
            except SerializationError as error:
                raise self._give_up(error) from error
        if record.status == "failed":
            self._current.step_failed()
        return _Standing(record, appended.sequence)

    async def _append(self, subject: str, record: msgspec.Struct) -> Appended:
        """Record something, or end the pass where that is not possible.

        Raises:
            PassEnded: it is not.
            MessageTooLarge: it is the result of a step, and too large for the server.

        """
        try:
            with self._current.recording():
                return await self._finished(self._tools.append(subject, record))
        except (BrokerError, SerializationError) as error:
            if isinstance(error, MessageTooLarge) and isinstance(record, StepRecord) and record.status == "completed":
                raise
            raise self._give_up(error) from error

    async def _finished(self, append: Coroutine[Any, Any, Appended]) -> Appended:
        """Wait for an append to its end, also where the step is cancelled: what is not known may still be stored."""
        task = asyncio.create_task(append)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            # Where the whole pass is given up, another one finds out what was stored.
            over = asyncio.ensure_future(self._current.over.wait())
            while not task.done() and not over.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([task, over], return_when=asyncio.FIRST_COMPLETED)
            over.cancel()
            task.cancel()
            raise

    def _give_up(self, error: Exception) -> PassEnded:
        """End the pass: what keeps us from recording is no failure of the step, and none of the handler's business."""
        self._current.fail(error)
        return PassEnded()

    async def _record_attempt(
        self, call: _Call, attempt: int, delay_ms: int, error: BaseException, took_ms: int
    ) -> None:
        tools = self._tools
        record = TryRecord(
            name=call.name,
            kind=call.kind,
            scope=self._scope,
            token=tools.token,
            attempt=attempt,
            delay_ms=delay_ms,
            error=error_record(error, step=call.name, attempts=attempt),
            duration_ms=took_ms,
        )
        tools.log.info(
            "step failed, will be tried again",
            step=call.name,
            attempt=attempt,
            delay_ms=delay_ms,
            error=f"{record.error.type}: {record.error.message}",
        )
        await self._append(tools.names.journal_try(tools.queue, tools.run, call.key, attempt), record)
        self._current.note_due(tools.now_ms() + delay_ms)

    async def _end_of_wait(self, call: _Call, **awaited: Any) -> StepRecord:
        """Return how a step's wait has ended; where it has not, see to it that it is recorded, and wait."""
        with self._current.at_work():
            record = self._current.memo.step(call.key)
            if record is not None:
                return record
            if self._current.memo.wait(call.key) is None:
                tools = self._tools
                wait = WaitRecord(name=call.name, kind=call.kind, scope=self._scope, token=tools.token, **awaited)
                with self._current.new_work():
                    await self._current.may_begin()
                    if call.kind == "wait_for_event":
                        self._current.open_wait(call.name)
                    self._current.executes()
                    await self._append(tools.names.journal_wait(tools.queue, tools.run, call.key), wait)
                    if wait.until_ms or wait.delay_ms:
                        self._current.note_due(wait.until_ms or tools.now_ms() + (wait.delay_ms or 0))
            return await self._current.wait()

    # What is done

    async def _encoded_result(self, name: str, body: Callable[[], Awaitable[Any]]) -> msgspec.Raw:
        what = f"result of step {name!r}"
        output = encode_value(await body(), what)
        check_payload(bytes(output), what, self._tools.limits.payload_bytes)
        return output

    async def _publish(self, record: EventRecord) -> msgspec.Raw:
        tools = self._tools
        payload = encode_record(record)
        publication = Publication(subject=tools.names.event(record.name), payload=payload, message_id=record.id)
        try:
            # The event's id makes a second publish harmless.
            await tools.patiently(lambda: tools.broker.publish(publication))
        except BrokerError as error:
            msg = f"event {record.name!r} is not published: {type(error).__name__}: {error}"
            raise PublishError(msg, retryable=False) from error
        return msgspec.Raw(payload)


def leave_bodies() -> None:
    """Forget in which body this runs; for the start of a handler, which is in none wherever its worker was started."""
    _body_of.set(None)


@contextlib.contextmanager
def _inside_of(step: str) -> Generator[None]:
    """Mark what runs within the block as the body of a step."""
    token = _body_of.set(step)
    try:
        yield
    finally:
        _body_of.reset(token)


def _policy_of(retry: object, default: RetryPolicy) -> RetryPolicy:
    if retry is None:
        return default
    if not isinstance(retry, Retry):
        msg = f"retry must be ironflow.Retry(…), got {retry!r}"
        raise DefinitionError(msg)
    return retry.policy


def _check_body(name: str, fn: object) -> None:
    if not callable(fn):
        msg = f"step {name!r} takes a function to call, got {fn!r}" + (
            "; pass the function itself and its arguments after it, without calling it"
            if asyncio.iscoroutine(fn)
            else ""
        )
        if asyncio.iscoroutine(fn):
            fn.close()
        raise DefinitionError(msg)


def _check_ahead(until_ms: int, now_ms: int) -> None:
    ahead = until_ms - now_ms
    if ahead <= 0:
        msg = f"when must be in the future, got {to_iso(until_ms)}, which is {format_milliseconds(-ahead)} ago"
        raise DefinitionError(msg)
    if ahead > LONGEST_DAYS * _DAY_MS:
        msg = f"when must be at most {LONGEST_DAYS} days ahead, got {to_iso(until_ms)}"
        raise LimitError(msg)


def _since(started: float) -> int:
    return round((time.monotonic() - started) * 1000)
