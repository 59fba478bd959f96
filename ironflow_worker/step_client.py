"""``ctx.step``: looks steps up in the memo, and does and records what is not there."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Literal, ParamSpec

import msgspec

from ironflow.broker.protocol import BrokerError, MessageTooLarge, Publication
from ironflow.clock import parse_when, to_iso
from ironflow.codec import decode_record, decode_value, encode_record, encode_value
from ironflow.durations import Duration, parse_duration
from ironflow.errors import (
    DefinitionError,
    DuplicateStepError,
    NondeterminismError,
    PublishError,
    SerializationError,
)
from ironflow.events import Event, make_event, read_event
from ironflow.fences import fence, is_fence
from ironflow.invocable import Invocable
from ironflow.journal import Appended
from ironflow.names import COMPENSATE_PREFIX, Scope, parse_step_key, run_id, step_token
from ironflow.records import NULL, ClosedRecord, EventRecord, OnTimeout, StepKind, StepRecord, WaitRecord
from ironflow.retry import Retry, RetryPolicy
from ironflow.step import OnError, Step
from ironflow.telemetry.tracing import passed_on
from ironflow.triggers import DETACHED, check_event_name
from ironflow_worker.arguments import check_ahead, check_body, policy_of
from ironflow_worker.attempts import Attempt, Call, Standing, encoded_result, record_result, recorded_result
from ironflow_worker.awaited_event import awaited_event, is_timeout
from ironflow_worker.bodies import check_outside_of_bodies, is_async_body, result_type
from ironflow_worker.calls import noted
from ironflow_worker.closing import left_behind
from ironflow_worker.current_pass import CurrentPass, StepRefused
from ironflow_worker.failures import raise_recorded, recorded_at
from ironflow_worker.fan_out import Branches, FanOut, check_options, checked_branches, checked_items
from ironflow_worker.invocation import detached_event, given_data, invocation
from ironflow_worker.older_failures import has_older
from ironflow_worker.pass_tools import PassTools, WorkerDrains
from ironflow_worker.signals import PassEnded
from ironflow_worker.strands import is_in_group
from ironflow_worker.undos import Undo

P = ParamSpec("P")


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
        self.calls = current.calls

    # The public steps; ironflow.step.Step documents them.

    @noted
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
        call = await self._claim(name, "run", self._policy if retry is None else policy_of(retry))
        check_body(name, fn)
        body = functools.partial(
            self._tools.bodies.run,
            name,
            functools.partial(fn, *args, **kwargs),
            is_async=is_async_body(fn),
            timeout_ms=timeout_ms,
        )
        expected = result_type(fn)
        do = functools.partial(encoded_result, name, body, self._tools.limits, expected)
        record = await self._memoized(call, do)
        return recorded_result(name, record.output, expected)

    @noted
    async def sleep(self, name: str, duration: Duration) -> None:
        """Pause the run."""
        delay_ms = parse_duration(duration, "duration")
        await self._end_of_wait(await self._claim(name, "sleep", self._policy), delay_ms=delay_ms)

    @noted
    async def sleep_until(self, name: str, when: str | datetime) -> None:
        """Pause the run until a point in time."""
        until_ms = parse_when(when)
        call = await self._claim(name, "sleep", self._policy)
        if call.is_new and not self._current.unwinds:
            check_ahead(until_ms, self._tools.now_ms())
        await self._end_of_wait(call, until_ms=until_ms)

    @noted
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
        if call.is_new and not self._current.unwinds:
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
            if not self._current.unwinds:
                # It may have died over that: then others see by the time that the run is overdue.
                self._current.note_due(self._current.memo.due_ms(call.key))
            with self._current.at_work():
                await self._current.wait()
        return wanted.result(record, self._current.memo.recorded_at(call.key))

    @noted
    async def publish(
        self, event: str, data: object = None, *, name: str | None = None, id: str | None = None
    ) -> Event[Any]:
        """Publish an event once."""
        check_event_name(event, self._tools.limits.event_name_bytes)
        call = await self._claim(self._named(name, f"publish:{event}"), "publish", self._policy)
        record = make_event(
            event_id=id if id is not None else self._effect_id(parse_step_key(call.key)[0]),
            name=event,
            data=data,
            time=to_iso(self._tools.now_ms()),
            source=f"run/{self._tools.run}",
            limits=self._tools.limits,
        )
        recorded = await self._memoized(call, functools.partial(self._publish, record))
        return read_event(decode_record(EventRecord, bytes(recorded.output)))

    @noted
    async def invoke(
        self,
        function: Invocable[Any, Any] | str,
        data: object = None,
        *,
        name: str | None = None,
        timeout: Duration | None = None,
    ) -> Any:
        """Run another function as a child run and return its output."""
        wanted = invocation(function, "invoke", timeout)
        call = await self._claim(self._named(name, f"invoke:{wanted.function}"), "invoke", self._policy)
        given = NULL
        if self._current.memo.kind(call.key) is None:
            given = given_data(wanted, data, self._tools.depth, self._tools.limits)
        record = await self._end_of_wait(
            call, function=wanted.function, data=given, delay_ms=wanted.timeout_ms, trace=self._tools.trace
        )
        child = wanted.child(self._tools.run, call.key, self._current.memo.wait(call.key))
        return wanted.result(record, child, self._current.memo.recorded_at(call.key))

    @noted
    async def invoke_async(
        self, function: Invocable[Any, Any] | str, data: object = None, *, name: str | None = None
    ) -> str:
        """Start a run of another function, and return its id."""
        tools = self._tools
        wanted = invocation(function, "invoke_async")
        call = await self._claim(self._named(name, f"invoke_async:{wanted.function}"), "invoke_async", self._policy)
        given = NULL
        if self._current.memo.step(call.key) is None:
            given = given_data(wanted, data, tools.depth, tools.limits)
        event = detached_event(wanted, given, tools.run, call.key, tools.depth, to_iso(tools.now_ms()))
        started = msgspec.Raw(encode_value(run_id(wanted.function, event.id), "run id"))
        recorded = await self._memoized(call, functools.partial(self._publish, event, started))
        return str(decode_value(recorded.output, str, f"result of step {call.name!r}"))

    @noted
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

    @noted
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

    def compensate(self, step_name: str, fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Register what undoes a step."""
        check_outside_of_bodies(step_name)
        if self._current.ended:
            raise self._current.signal()
        self._current.names.check_name(step_name)
        check_body(step_name, fn)
        token = step_token(self._scope, step_name)
        if self._current.undos.undoes(token):
            msg = f"step {step_name!r} has an undo already, and can have one only; put all that undoes it into that one"
            raise DuplicateStepError(msg)
        after = self._current.undos.place_of(token)
        if after is None:
            msg = (
                f"step {step_name!r} has no result yet that could be undone; call compensate({step_name!r}, …) "
                "behind the step, with the same step client and the same name"
            )
            raise DefinitionError(msg)
        name = COMPENSATE_PREFIX + step_name
        undo = Undo(
            name=name,
            key=self._current.names.claim(self._scope, name, "compensate", in_map=self._in_map)[0],
            scope=self._scope,
            undone=step_name,
            after=after,
            body=functools.partial(fn, *args, **kwargs),
            is_async=is_async_body(fn),
        )
        self._current.undos.register(token, undo)

    def idempotency_key(self, name: str) -> str:
        """Return a text that is unique per run and step, and anew once the step was undone."""
        self._current.names.check_name(name)
        return self._effect_id(step_token(self._scope, name))

    def _effect_id(self, token: str) -> str:
        return f"{self._tools.run}/{self._current.memo.effect_key(token)}"

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
        check_outside_of_bodies(name)
        self._current.check_here(name)
        self.calls.look()
        await self._current.check_running()
        self._current.names.claim_group(self._scope, name, kind, len(each))

        def branch(index: int) -> Any:
            scope = (*self._scope, name, index)
            in_map = self._in_map or kind == "map"
            return call(index, StepClient(self._current, self._tools, self._policy, scope, in_map=in_map))

        branches = Branches((*self._scope, name), len(each), branch, concurrency, on_error)
        group = FanOut(self._current, branches)
        try:
            return await group.run()
        except Exception as error:
            await self._check_first(branches.scope, error)
            if group.surely_fails and not self._current.unwinds:
                await self._close_waits(branches.scope)
            raise

    async def _check_first(self, group: Scope, error: Exception) -> None:
        """Have the pass done again where another worker has recorded an older failure of a group meanwhile.

        A worker that has lost its lease may go on for a while. What it recorded before our failure is in the
        journal now, and every later pass will raise it.
        """
        memo, place = self._current.memo, recorded_at(error)
        if place is not None and place <= memo.seen:
            return
        try:
            is_overtaken = await has_older(self._tools, memo, group, place)
        except (BrokerError, SerializationError) as trouble:
            raise self._give_up(trouble) from trouble
        if is_overtaken:
            overtaken = BrokerError(f"another worker has recorded an older failure in {group[-1]!r}")
            raise self._give_up(overtaken)

    async def _close_waits(self, group: Scope) -> None:
        """Record that the branches of a group which has failed wait for nothing any more."""
        tools = self._tools
        with self._current.at_work():
            await asyncio.gather(
                *(
                    self._append(
                        tools.names.journal_closed(tools.queue, tools.run, key),
                        ClosedRecord(token=tools.token, wait=msgspec.structs.replace(wait, data=NULL)),
                    )
                    for key, wait in left_behind(self._current.memo, self._current.waits, group).items()
                )
            )

    # How a step goes

    async def _claim(self, name: str, kind: StepKind, policy: RetryPolicy) -> Call:
        check_outside_of_bodies(name)
        self._current.check_here(name)
        self.calls.look()
        if self._current.ended:
            await self._current.check_running()
        key, is_new = self._current.names.claim(self._scope, name, kind, in_map=self._in_map)
        return Call(name, key, kind, self._scope, policy, is_new)

    def _named(self, name: str | None, base: str) -> str:
        """Return a step's name; of those without one of their own the second is called ``#2``, and so on."""
        if name is not None:
            return name
        count = self._unnamed[base] = self._unnamed.get(base, 0) + 1
        return base if count == 1 else f"{base}#{count}"

    async def _memoized(self, call: Call, do: Callable[[], Awaitable[msgspec.Raw]]) -> StepRecord:
        """Return a step's successful record, doing it first where there is none.

        Raises:
            StepError: it failed for good, now or before.

        """
        current = self._current
        current.begin_work()
        try:
            if current.unwinds:
                standing: Standing | None = await self._as_recorded(call)
            else:
                standing = None if call.is_new else self._recorded(call)
            if standing is None:
                if not call.is_new and current.memo.is_backing_off(call.key):
                    await current.wait()
                if is_in_group():
                    with current.new_work():
                        await self._may_begin(call)
                        standing = await self._attempt(call, do)
                else:
                    standing = await self._attempt(call, do)
                if current.ended:
                    await current.check_running()
        finally:
            current.end_work()
        record = self._settled(call, standing)
        if record.status == "failed":
            raise_recorded(record, standing.sequence)
        return record

    async def _may_begin(self, call: Call) -> None:
        """Wait until a step may begin that is not recorded; where it may not, nothing but the log will tell of it."""
        try:
            await self._current.may_begin()
        except StepRefused:
            self._tools.log.warning("a branch was cancelled, and cannot begin a step any more", step=call.name)
            raise

    async def _attempt(self, call: Call, do: Callable[[], Awaitable[msgspec.Raw]]) -> Standing:
        """Do a step once and record what came of it; where it is to be done again, wait for that."""
        if self._current.is_asleep:
            await self._current.awake_for_work()
        if self._tools.bodies.no_more:
            await self._current.leave(WorkerDrains())
        self._current.executes()
        try:
            if self._current.follows is not None:
                await asyncio.shield(self._current.follows)
        except BrokerError as error:
            raise self._give_up(error) from error
        try:
            attempt = Attempt(call, self._current.memo, self._tools, self._append)
            standing = await attempt.make(do)
        except SerializationError as error:
            raise self._give_up(error) from error
        if standing is None:
            self._current.note_due(attempt.next_due_ms, backs_off=True)
            await self._current.wait()
        if standing.record.status == "failed":
            if is_fence(standing.record):
                ended = BrokerError(f"step {call.name!r} came too late: its run is being unwound")
                raise self._give_up(ended)
            self._current.step_failed()
        return standing

    async def _as_recorded(self, call: Call) -> Standing:
        """Return a step's result in a pass that undoes; where it has none, see to it that it never gets one."""
        if call.kind == "sleep" and self._recorded(call) is None:
            # A sleep does nothing that could come too late, and a retry of the run goes on with it.
            await self._current.wait()
        try:
            never = fence(call.name, call.kind, call.scope, self._tools.token)
            standing = self._recorded(call) or await record_result(never, call.key, self._tools, self._append)
        except SerializationError as error:
            raise self._give_up(error) from error
        if is_fence(standing.record):
            await self._current.wait()
        await self._current.check_running()
        return standing

    def _recorded(self, call: Call) -> Standing | None:
        record = self._current.memo.step(call.key)
        return None if record is None else Standing(record, self._current.memo.recorded_at(call.key))

    def _settled(self, call: Call, standing: Standing) -> StepRecord:
        """Note that the handler comes to know a result, and return it."""
        self._current.undos.has_result(parse_step_key(call.key)[0], standing.sequence)
        return standing.record

    async def _append(self, subject: str, record: msgspec.Struct) -> Appended:
        """Record something, or end the pass where that is not possible.

        Raises:
            PassEnded: it is not.
            MessageTooLarge: it is the result of a step, and too large for the server.

        """
        branch = self._current.branch()
        if branch is not None:
            branch.record(+1)
        try:
            if self._current.follows is not None:
                await asyncio.shield(self._current.follows)
            return await self._tools.append(subject, record)
        except asyncio.CancelledError:
            await self._see_recorded(subject, record)
            raise
        except (BrokerError, SerializationError) as error:
            if isinstance(error, MessageTooLarge) and isinstance(record, StepRecord) and record.status == "completed":
                raise
            raise self._give_up(error) from error
        finally:
            if branch is not None:
                # Nobody looks at it again here: the step goes on at once, and says itself what has become of it.
                branch.record(-1)

    async def _see_recorded(self, subject: str, record: msgspec.Struct) -> None:
        """Wait for the end of an append whose answer a cancellation has cut off: the record may still be stored."""
        # To append it again has no second effect, and tells when it is. Where the whole pass is given up, another one
        # finds out.
        again = asyncio.create_task(self._tools.append(subject, record))
        over = asyncio.ensure_future(self._current.over.wait())
        while not again.done() and not over.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([again, over], return_when=asyncio.FIRST_COMPLETED)
        over.cancel()
        again.cancel()
        if again.done() and not again.cancelled():
            again.exception()  # asyncio complains about what nobody has seen

    def _give_up(self, error: Exception) -> PassEnded:
        """End the pass: what keeps us from recording is no failure of the step, and none of the handler's business."""
        self._current.fail(error)
        return PassEnded()

    async def _end_of_wait(self, call: Call, **awaited: Any) -> StepRecord:
        """Return how a step's wait has ended; where it has not, see to it that it is recorded, and wait."""
        with self._current.at_work():
            standing = self._recorded(call) if not self._current.unwinds else await self._as_recorded(call)
            if standing is not None:
                return self._settled(call, standing)
            if self._current.memo.is_closed(call.key):
                await self._refuse_closed(call)
            recorded = self._current.memo.wait(call.key)
            if recorded is None:
                return self._settled(call, await self._begin_wait(call, awaited))
            if call.kind == "sleep":
                return self._settled(call, await self._sleep_out(call))
            return await self._current.wait()

    async def _begin_wait(self, call: Call, awaited: dict[str, Any]) -> Standing:
        """Record that a step waits, and return how that has ended, where the pass is told it in time."""
        wait = WaitRecord(name=call.name, kind=call.kind, scope=self._scope, token=self._tools.token, **awaited)
        with self._current.new_work():
            await self._may_begin(call)
            if call.kind == "wait_for_event":
                lingers = await self._current.may_linger(wait.delay_ms or 0)
                self._current.open_wait(call.name)
                if lingers:
                    return await self._linger(call, msgspec.structs.replace(wait, worker=self._tools.worker))
            await self._record_wait(call, wait)
        return await self._current.wait()

    async def _linger(self, call: Call, wait: WaitRecord) -> Standing:
        with self._current.lingering(call.key) as end_of_wait:
            await self._record_wait(call, wait)
            record = await end_of_wait()
        return Standing(record, self._current.memo.recorded_at(call.key))

    async def _record_wait(self, call: Call, wait: WaitRecord) -> None:
        self._current.executes()
        self._current.note_wait(call.key, wait, self._tools.clock.at_least_ms())
        await self._append(self._tools.names.journal_wait(self._tools.queue, self._tools.run, call.key), wait)

    async def _sleep_out(self, call: Call) -> Standing:
        """Return the end of a sleep that began in an earlier pass, where this one can wait for it."""
        current, tools = self._current, self._tools
        due_ms = current.memo.due_ms(call.key)
        await current.sleep_until(due_ms)
        with current.new_work():
            current.executes()
            late_ms = max(0, round(tools.clock.at_least_ms()) - due_ms)
            record = StepRecord(
                name=call.name,
                kind=call.kind,
                scope=call.scope,
                token=tools.token,
                duration_ms=current.memo.slept_ms(call.key) + late_ms,
                slept_out=True,
            )
            try:
                standing = await record_result(record, call.key, tools, self._append)
            except SerializationError as error:
                raise self._give_up(error) from error
            tools.metrics.sleep_lateness.observe(late_ms / 1000)
            current.memo.sleep_ended(call.key, standing.record, standing.sequence)
            await current.awake()
        await current.check_running()
        return standing

    async def _refuse_closed(self, call: Call) -> None:
        """Wait until the groups around a step have failed that was left behind when they did; all passes must see that.

        Raises:
            NondeterminismError: they do not fail.

        """
        with self._current.new_work():
            await self._current.may_begin()
        msg = (
            f"step {call.name!r} waited in a branch that was cancelled because another one had failed, and in this "
            "pass that one does not fail; restore the code, or retry the run, which begins the wait anew"
        )
        raise NondeterminismError(msg)

    # What is done

    async def _publish(self, record: EventRecord, result: msgspec.Raw | None = None) -> msgspec.Raw:
        """Publish an event and return what is recorded of that: the event, where nothing else is wanted."""
        tools = self._tools
        payload = encode_record(passed_on(record))
        name = DETACHED if record.target else record.name
        publication = Publication(subject=tools.names.event(name), payload=payload, message_id=record.id)
        try:
            # The event's id makes a second publish harmless.
            await tools.patiently(lambda: tools.broker.publish(publication))
        except BrokerError as error:
            msg = f"event {record.name!r} is not published: {type(error).__name__}: {error}"
            raise PublishError(msg, retryable=False) from error
        return msgspec.Raw(payload) if result is None else result
