"""Finds what should have happened and did not, and acts as if the signal had come.

Timers, tasks and wake-ups are messages, and messages can be lost to us: a schedule that falls due while the server
has no room stays stuck until it restarts, and someone may purge a stream. What a run needs can be told from its
state and its journal, though. So the reconciler applies the facts again that should have had an effect, and the
reducer yields their commands again.

It costs what is overdue, and not what rests: the read model knows when each run is due. Where that is too much for one
sweep, each run has its turn: about those that stand first there may be nothing to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from ironflow.broker.protocol import Broker, BrokerError, NoSuchStream
from ironflow.codec import decode_record
from ironflow.errors import SerializationError
from ironflow.logs import get_logger
from ironflow.names import Names
from ironflow.records import EventRecord, OutcomeRecord, RunState
from ironflow_engine.conductor import Conductor
from ironflow_engine.duty import Duty
from ironflow_engine.facts import Fact, OutcomeRecorded, RunStarted, StateReviewed
from ironflow_engine.fullness import stored_in
from ironflow_engine.overdue import RunJournal
from ironflow_engine.queue_keeper import QueueKeeper
from ironflow_engine.read_model import ReadModel
from ironflow_engine.terminator import Terminator
from ironflow_engine.turns import Turns

_log = get_logger("ironflow.engine")

SWEEP_SECONDS = 8.0
DUTY_SECONDS = 15.0
"""When the engine with the duty dies, another one has it this much later, and sweeps one period later at the most."""
GRACE_MS = 4_000
"""How late a timer may be without being missed; bursts and restarts of the server take their time."""
LIVE_MS = 12_000
"""How long a pass may be under way without anybody asking whether its task is still there."""
_MOST = 1_000
"""So many runs of a kind are looked at in one sweep."""
_MOST_UNSUSPICIOUS = 50
_AT_A_TIME = 32

_Look: TypeAlias = Callable[[RunState], Awaitable[list[Fact]]]


class Reconciler:
    """Sweeps for what is overdue.

    Args:
        broker: the connection.
        names: the namespace.
        conductor: applies the facts.
        read_model: finds the runs.
        terminator: ends those that a wait was to end.
        duty: has one engine at a time do it.
        queues: their consumers are looked at as well.
        every_seconds: how long it rests between two sweeps.

    """

    def __init__(
        self,
        broker: Broker,
        names: Names,
        conductor: Conductor,
        read_model: ReadModel,
        terminator: Terminator,
        duty: Duty,
        queues: QueueKeeper,
        every_seconds: float = SWEEP_SECONDS,
    ) -> None:
        self._every_seconds = every_seconds
        self._broker = broker
        self._names = names
        self._conductor = conductor
        self._read_model = read_model
        self._terminator = terminator
        self._duty = duty
        self._queues = queues
        self._overdue, self._overtime = Turns(read_model.overdue), Turns(read_model.overtime)
        self._under_way = Turns(read_model.live)
        self._ack_floors: dict[tuple[str, str], int] = {}

    async def run(self) -> None:
        """Sweep now and then, until cancelled."""
        while True:
            await asyncio.sleep(self._every_seconds)
            try:
                if await self._duty.claim():
                    await self.sweep()
                elif not self._queues.has_looked:
                    # Whoever restarts an engine to have settings repaired cannot know which one has the duty.
                    await self._queues.restore()
            except BrokerError as error:
                _log.warning("not reconciled, will be tried again", reason=f"{type(error).__name__}: {error}")
            except Exception:  # noqa: BLE001 - whatever it is, it must not stop the engine
                _log.exception("not reconciled, will be tried again")

    async def sweep(self) -> int:
        """Look once; return for how many runs something was done.

        Raises:
            BrokerError: it is not known what should have happened.

        """
        self._ack_floors.clear()
        await self._queues.restore()
        await self._read_model.catch_up()
        now_ms = await self._broker.server_time_ms(self._names.all_shards[0].tasks)
        resting = self._overdue.take(now_ms - GRACE_MS, _MOST)
        overtime = self._overtime.take(now_ms - GRACE_MS, _MOST)
        found = [
            *await self._each(resting, lambda state: self._of_resting(state, now_ms)),
            *(StateReviewed(run=state.id, queue=state.queue, number=-1) for state in overtime),
            *await self._each(await self._live(now_ms), self._of_live),
        ]
        if not found:
            return 0
        runs = {fact.run for fact in found}
        _log.warning("runs were overdue and go on", runs=len(runs), facts=len(found), such_as=min(runs))
        gone_on = len(runs - await self._apply(found))
        self._conductor.metrics.reconciled.inc(gone_on)
        return gone_on

    async def _apply(self, found: Sequence[Fact]) -> set[str]:
        """Apply facts; return the runs whose facts could not be applied.

        Where that is a mistake of ours, the run that we make it about must not hold up the others.
        """
        try:
            failures = await self._conductor.apply(found)
            failures |= await self._terminator.end_timed_out([fact for fact in found if fact.run not in failures])
        except BrokerError:
            raise
        except Exception:  # noqa: BLE001 - whatever it is, it must not stop the sweep
            runs = sorted({fact.run for fact in found})
            if len(runs) == 1:
                _log.exception("a run cannot be reconciled", run=runs[0])
                return set(runs)
            first = set(runs[: len(runs) // 2])
            halves = [fact for fact in found if fact.run in first], [fact for fact in found if fact.run not in first]
            return {run for half in halves for run in await self._apply(half)}
        return set(failures)

    async def _live(self, now_ms: int) -> list[RunState]:
        """Return runs whose task may be missing; few, where there are as many tasks as there should be."""
        tasks = await stored_in(self._broker, (shard.tasks for shard in self._names.all_shards))
        suspicious = self._read_model.count_live() > tasks
        return self._under_way.take(now_ms - LIVE_MS, _MOST if suspicious else _MOST_UNSUSPICIOUS)

    async def _each(self, states: list[RunState], look: _Look) -> list[Fact]:
        slots = asyncio.Semaphore(_AT_A_TIME)

        async def guarded(state: RunState) -> list[Fact]:
            async with slots:
                try:
                    return await look(state)
                except SerializationError as error:
                    _log.error("a run cannot be reconciled", run=state.id, reason=str(error))
                except BrokerError:
                    raise
                except Exception:  # noqa: BLE001 - whatever it is, it must not stop the sweep
                    _log.exception("a run cannot be reconciled", run=state.id)
                return []

        return [fact for found in await asyncio.gather(*map(guarded, states)) for fact in found]

    async def _of_resting(self, state: RunState, now_ms: int) -> list[Fact]:
        journal = RunJournal(state)
        subject_filter = self._names.journal_of_run(state.queue, state.id)
        async for page in self._broker.read(self._names.shard_of(state.id).journal, subject_filter, one_each=True):
            journal.read(page)
        return journal.facts(now_ms - GRACE_MS)

    async def _of_live(self, state: RunState) -> list[Fact]:
        if await self._has_task(state):
            return []
        outcome = await self._broker.last(
            self._names.shard_of(state.id).journal, self._names.journal_outcome(state.queue, state.id, state.number)
        )
        if outcome is not None:
            record = decode_record(OutcomeRecord, outcome.payload)
            return [
                OutcomeRecorded(
                    run=state.id,
                    queue=state.queue,
                    record=record,
                    sequence=outcome.sequence,
                    time_ms=outcome.time_ms,
                )
            ]
        if state.number:
            return [StateReviewed(run=state.id, queue=state.queue, number=state.number)]
        return await self._start_of(state)

    async def _has_task(self, state: RunState) -> bool:
        """Tell whether a worker has the task of a run, or will get it; one that nobody ever gets is deleted."""
        task = self._names.task(state.queue, state.id, state.number)
        stream = self._names.shard_of(state.id).tasks
        message = await self._broker.last(stream, task)
        if message is None:
            return False
        if message.sequence > await self._ack_floor(stream, state.queue):
            return True
        # The consumer has done with it, and yet it is there: nats-server does that to what was in hand when
        # somebody purged a task beside it.
        await self._broker.delete(stream, message.sequence)
        return False

    async def _ack_floor(self, stream: str, queue: str) -> int:
        """Return up to where the workers of a queue are done with all tasks; 0 where there never was a worker."""
        if (stream, queue) not in self._ack_floors:
            try:
                self._ack_floors[stream, queue] = (await self._broker.consumer_state(stream, queue)).ack_floor
            except NoSuchStream:
                self._ack_floors[stream, queue] = 0
        return self._ack_floors[stream, queue]

    async def _start_of(self, state: RunState) -> list[Fact]:
        """Return the start of a run whose first task is missing, which carries the event."""
        message = await self._broker.at(self._names.events, state.event_sequence)
        if message is None:
            _log.error("the first task of a run is missing, and its event is gone", run=state.id)
            return []
        return [
            RunStarted(
                run=state.id,
                event=decode_record(EventRecord, message.payload),
                function=None,
                sequence=message.sequence,
                time_ms=message.time_ms,
            )
        ]
