"""Fired timers end waits, back-offs, and runs that take too long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from msgspec.structs import replace

from ironflow.broker.protocol import Broker, BrokerError, Delivery
from ironflow.codec import decode_record
from ironflow.durations import format_milliseconds
from ironflow.errors import RunTimeoutError, SerializationError, WaitTimeoutError
from ironflow.journal import Appended, Journal
from ironflow.names import ENGINE_CONSUMER, Names, mark
from ironflow.records import (
    TERMINAL,
    DueRecord,
    ErrorRecord,
    ParentLink,
    RunState,
    StepRecord,
    TimerRecord,
    WaitRecord,
)
from ironflow.server_clock import ServerClock
from ironflow.shards import Shard
from ironflow_engine import children as child_runs
from ironflow_engine import epochs, sleeps
from ironflow_engine.child_keeper import ChildKeeper
from ironflow_engine.conductor import Conductor
from ironflow_engine.dispatcher import TIMER_LEAD_MS
from ironflow_engine.facts import Fact, SleepNearsEnd, SleptOut, StateReviewed, WaitTimedOut, Woken
from ironflow_engine.intake import TRY_AGAIN_SECONDS, Intake
from ironflow_engine.run_store import RunStore, Version
from ironflow_engine.terminator import Terminator

_Timer = tuple[Delivery, TimerRecord]
_WillDo = Callable[[RunState | None, TimerRecord], bool]
_Facts = list[tuple[Delivery, list[Fact]]]

_LOOSE_MS = 20.0
_SLEPT_OUT_MS = 400
"""After the end of a sleep that a worker was to wait for, we look whether it has: long enough for one that is busy,
and within what a sleep may be late at the most."""


class TimerIntake(Intake):
    """Takes fired timers from the TIMERS of a shard and records what they end.

    A timer is only a hint: it may come twice, or after its run has ended. The journal's first write decides,
    and a refused one is folded all the same, with the record that stands there.

    Args:
        broker: the connection.
        conductor: applies the facts.
        names: the namespace.
        shard: the one whose timers they are.
        store: the run states.
        terminator: ends runs that take too long, or whose time to wait is over.
        children: ends child runs that their parents wait for no longer.
        make_token: returns a new random mark.
        clock: says what the server's clock has surely reached.

    """

    def __init__(  # noqa: PLR0913 - it is made in one place, and marks and time are handed in
        self,
        broker: Broker,
        conductor: Conductor,
        names: Names,
        shard: Shard,
        store: RunStore,
        terminator: Terminator,
        children: ChildKeeper,
        *,
        make_token: Callable[[], str],
        clock: ServerClock,
    ) -> None:
        super().__init__(broker, conductor, stream=shard.timers, consumer=ENGINE_CONSUMER)
        self._names = names
        self._store = store
        self._terminator = terminator
        self._children = children
        self._journal = Journal(broker, names)
        self._make_token = make_token
        self._clock = clock
        self._look_again_ms: dict[str, int] = {}
        """When early timers are to come again, by their leases, once their facts are applied."""

    async def facts_of(self, batch: Sequence[Delivery]) -> _Facts:
        """Record the end of each wait that is due; all of a batch together."""
        timers, facts = self._read_all(batch)
        due, early = await self._by_time(timers)
        facts += await self._begin_early(early)
        self._observe_lateness(timer for _, timer in due if not _is_sleep(timer))
        ends_itself: list[_Timer] = []
        for delivery, timer in due:
            if timer.wait is not None and timer.wait.event:
                facts.append((delivery, [_time_out(timer, timer.wait)]))
            else:
                ends_itself.append((delivery, timer))
        still_open = await self._still_open(ends_itself, facts)
        facts += await self._end_runs([timer for timer in still_open if timer[1].run_timeout_ms])
        still_open = [timer for timer in still_open if not timer[1].run_timeout_ms]
        ends = await self._journal.append_all([self._end(timer) for _, timer in still_open])
        ended = await asyncio.gather(*map(self._end_child, still_open, ends))
        for (delivery, timer), end in zip(still_open, ended, strict=True):
            if isinstance(end, BrokerError):
                self.hand_back(TRY_AGAIN_SECONDS, delivery)
            else:
                facts.append((delivery, self._ended(timer, end)))
        return facts

    async def _begin_early(self, early: Sequence[_Timer]) -> _Facts:
        """Return what the sleeps mean that are over in a moment; hand back all other timers that are not due yet."""
        sleeping = [each for each in early if each[1].sequence and _is_sleep(each[1])]
        versions = await self._current(
            [timer for _, timer in sleeping], lambda state, _: state is not None and sleeps.may_begin_early(state)
        )
        facts: _Facts = []
        for (delivery, timer), version in zip(sleeping, versions, strict=True):
            state = version.state if isinstance(version, Version) else None
            # The pass that has begun a sleep does not wait for its end, whatever it was begun for itself.
            is_waited_for = state is not None and sleeps.is_waited_for(state) and not timer.is_behind
            if state is None or not (sleeps.may_begin_early(state) or is_waited_for):
                continue
            self._look_again_ms[delivery.lease] = timer.due_ms + _SLEPT_OUT_MS
            is_news = not state.live or sleeps.is_for(state, timer.sequence)
            near = SleepNearsEnd(run=timer.run, queue=timer.queue, sequence=timer.sequence)
            facts.append((delivery, [near] if is_news else []))
        for delivery, timer in early:
            if delivery.lease not in self._look_again_ms:
                self.hand_back(self._seconds_until(timer.due_ms), delivery)
        return facts

    def let_go(self, delivery: Delivery) -> None:
        """Acknowledge a timer, unless it is to come again."""
        again_ms = self._look_again_ms.pop(delivery.lease, None)
        if again_ms is None:
            super().let_go(delivery)
        else:
            self.hand_back(self._seconds_until(again_ms), delivery)

    def hand_back(self, delay_seconds: float, *deliveries: Delivery) -> None:
        """Have timers delivered again."""
        for delivery in deliveries:
            self._look_again_ms.pop(delivery.lease, None)
        super().hand_back(delay_seconds, *deliveries)

    def _observe_lateness(self, timers: Iterable[TimerRecord]) -> None:
        for timer in timers:
            self._conductor.metrics.timer_lateness.observe((self._clock.at_least_ms() - timer.due_ms) / 1000)

    def _seconds_until(self, time_ms: int) -> float:
        # What names a time beyond the lead is none of ours, and must not keep a delivery for years.
        return min(max(time_ms - self._clock.at_least_ms(), 0), TIMER_LEAD_MS + _SLEPT_OUT_MS) / 1000

    def _ended(self, timer: TimerRecord, end: Appended) -> list[Fact]:
        """Return what the end of a wait means, which is recorded now."""
        if _is_sleep(timer):
            record = None if end.ours else _step(end)
            if record is not None and record.slept_out:
                return [SleptOut(run=timer.run, queue=timer.queue, by=mark(record.token), sequence=end.sequence)]
            self._observe_lateness([timer])
        if not end.ours:
            self._conductor.metrics.refused_records.inc()
        return [Woken(run=timer.run, queue=timer.queue, sequence=end.sequence, sleep=timer.sequence)]

    async def _end_child(self, due: _Timer, end: Appended | BrokerError) -> Appended | BrokerError:
        """End the child that a step has waited for, if that it waited too long is what is recorded of the step."""
        timer = due[1]
        if isinstance(end, BrokerError) or timer.wait is None or timer.wait.kind != "invoke":
            return end
        try:
            if child_runs.has_timed_out(_step(end)):
                link = ParentLink(run=timer.run, queue=timer.queue, step=timer.step)
                await self._children.end_timed_out(link, timer.wait)
        except BrokerError as error:
            return error
        return end

    async def _end_runs(self, timers: list[_Timer]) -> _Facts:
        """End the runs whose own timers are due; return those that are done with."""
        failures = await asyncio.gather(*(self._end_run(timer) for _, timer in timers))
        done: _Facts = []
        for (delivery, _), failure in zip(timers, failures, strict=True):
            if failure is None:
                done.append((delivery, []))
            else:
                self.hand_back(TRY_AGAIN_SECONDS, delivery)
        return done

    async def _end_run(self, timer: TimerRecord) -> BrokerError | None:
        message = f"the run took longer than its timeout of {timer.run_timeout_ms / 1000:g} s"
        try:
            error = ErrorRecord(type=RunTimeoutError.__name__, message=message)
            await self._terminator.end(timer.run, "failed", error, compensate=True, epoch=timer.epoch)
        except BrokerError as error:
            return error
        return None

    async def conclude(self, facts: Sequence[Fact]) -> dict[str, BrokerError]:
        """Fail the runs of which a wait has timed out that means their end."""
        return await self._terminator.end_timed_out(facts)

    async def _by_time(self, timers: list[_Timer]) -> tuple[list[_Timer], list[_Timer]]:
        """Return the timers that are due, and the early ones."""
        for delivery, _ in timers:
            self._clock.observe(delivery.time_ms, is_old=delivery.delivered > 1)
        due, early = self._split(timers)
        # One that was handed back comes when its time has come; if it seems far off, our bound is too loose.
        soonest_ms = self._clock.at_least_ms() + _LOOSE_MS
        too_loose = any(delivery.delivered > 1 and timer.due_ms > soonest_ms for delivery, timer in early)
        if too_loose or self._clock.is_doubtful:
            self._clock.observe(await self._clock.ask(partial(self.broker.server_time_ms, self.stream)))
            due, early = self._split(timers)
        return due, early

    def _split(self, timers: list[_Timer]) -> tuple[list[_Timer], list[_Timer]]:
        now_ms = self._clock.at_least_ms()
        due = [each for each in timers if each[1].due_ms <= now_ms]
        return due, [each for each in timers if each[1].due_ms > now_ms]

    async def _still_open(self, timers: list[_Timer], done: _Facts) -> list[_Timer]:
        """Return the timers for which their runs wait; the others are *done*."""
        versions = await self._current([timer for _, timer in timers], _is_open)
        still_open: list[_Timer] = []
        for (delivery, timer), version in zip(timers, versions, strict=True):
            if isinstance(version, BrokerError):
                self.hand_back(TRY_AGAIN_SECONDS, delivery)
            elif _is_open(version.state, timer):
                still_open.append((delivery, timer))
            else:
                done.append((delivery, _review(version.state)))
        return still_open

    async def _current(self, timers: list[TimerRecord], will_do: _WillDo) -> list[Version | BrokerError]:
        """Return the runs of timers; what is remembered will do where a timer has something to end by it."""
        known = [self._store.remembered(timer.run) is not None for timer in timers]
        versions = await self._store.load_all([timer.run for timer in timers])
        # One that had ended when it was looked at last may have been retried meanwhile, one that was live may rest.
        asked = [
            index
            for index, (version, timer) in enumerate(zip(versions, timers, strict=True))
            if known[index] and isinstance(version, Version) and not will_do(version.state, timer)
        ]
        fresh = await asyncio.gather(*(self._load(timers[index].run) for index in asked))
        for index, version in zip(asked, fresh, strict=True):
            versions[index] = version
        return versions

    async def _load(self, run: str) -> Version | BrokerError:
        try:
            return await self._store.load(run)
        except BrokerError as error:
            return error

    def _read_all(self, batch: Sequence[Delivery]) -> tuple[list[_Timer], _Facts]:
        """Return the timers, and the deliveries that are none, which are done with."""
        timers: list[_Timer] = []
        done: _Facts = []
        for delivery in batch:
            try:
                timers.append((delivery, decode_record(TimerRecord, delivery.payload)))
            except SerializationError as error:
                self.unreadable(delivery, error)
                done.append((delivery, []))
        return timers, done

    def _end(self, timer: TimerRecord) -> tuple[str, DueRecord | StepRecord]:
        """Return the record that ends what a timer was set for, and where it goes."""
        token = self._make_token()
        if timer.wait is None:
            subject = self._names.journal_due(timer.queue, timer.run, timer.step, timer.attempt)
            return subject, DueRecord(token=token)
        wait = timer.wait
        if wait.kind == "invoke":
            subject = self._names.journal_step(timer.queue, timer.run, timer.step)
            return subject, replace(child_runs.time_out(wait), token=token)
        record = StepRecord(
            name=wait.name,
            kind=wait.kind,
            scope=wait.scope,
            token=token,
            duration_ms=round(max(timer.due_ms, self._clock.at_least_ms()) - timer.waiting_since_ms),
        )
        return self._names.journal_step(timer.queue, timer.run, timer.step), record


def _step(end: Appended) -> StepRecord | None:
    try:
        return decode_record(StepRecord, end.payload)
    except SerializationError:
        return None  # of a newer worker, or of someone who should not write there; whoever executes the run says so


def _time_out(timer: TimerRecord, wait: WaitRecord) -> WaitTimedOut:
    error = None
    if wait.on_timeout != "none":
        waited = format_milliseconds(wait.delay_ms or 0)
        message = f"step {wait.name!r}: no event {wait.event!r} that it waits for came within {waited}"
        if wait.on_timeout == "fail":
            message = f"waitForEvent timed out: {message}"
        error = ErrorRecord(type=WaitTimeoutError.__name__, message=message, step=wait.name)
    record = StepRecord(
        name=wait.name,
        kind=wait.kind,
        scope=wait.scope,
        token="",  # whoever records it marks it
        status="completed" if error is None else "failed",
        error=error,
        duration_ms=wait.delay_ms or 0,
    )
    return WaitTimedOut(run=timer.run, queue=timer.queue, step=timer.step, wait=wait, record=record)


def _is_sleep(timer: TimerRecord) -> bool:
    return timer.wait is not None and timer.wait.kind == "sleep"


def _review(state: RunState | None) -> list[Fact]:
    """Return what is left to do about a run that does not wait for a timer, or not any more.

    An engine with an old memory may have let it wake the run, and died before it published the task.
    """
    if state is None or state.status in TERMINAL or not state.live:
        return []
    return [StateReviewed(run=state.id, queue=state.queue, number=state.number)]


def _is_open(state: RunState | None, timer: TimerRecord) -> bool:
    if state is None or state.status in TERMINAL or state.queue != timer.queue:
        return False
    # While a run is unwound, only the back-offs of its undos count.
    if state.ending is not None and timer.wait is not None:
        return False
    # The end of a back-off, or of a run's time, of an earlier epoch has nothing left to end.
    return _is_sleep(timer) or timer.epoch >= epochs.current(state)
