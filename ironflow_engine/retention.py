"""Deletes finished runs from NATS once their time there is over.

A run goes in an order that leaves no half of it behind which somebody could take for the whole: first it is marked,
by compare-and-set, so that no retry brings it back; then go its tasks and timers, its journal, and its state last.
A task that turns up late never meets an empty journal. Every part may be done again, so an engine that dies
half-way costs nothing: the next one finds the run in the list and starts over.

A purge leaves no message behind. So a list of the deleted runs is written after it, into the same bucket: that is
what the read models of all engines go by.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias, TypeVar

import msgspec

from ironflow.broker.protocol import Ambiguous, Broker, BrokerError, Publication, WrongRevision
from ironflow.codec import decode_record, encode_record
from ironflow.logs import get_logger
from ironflow.names import Names, bucket_stream
from ironflow.records import TERMINAL, PurgedRuns, RunState
from ironflow_engine.duty import Duty
from ironflow_engine.fullness import stored_in
from ironflow_engine.history import History
from ironflow_engine.read_model import ReadModel
from ironflow_engine.run_store import RunStore, Version

_log = get_logger("ironflow.engine")

LOOK_SECONDS = 30.0
DUTY_SECONDS = 90.0
RUNS_A_SECOND = 200
"""Deleting must not get into the way of work; it is more than one server brings to an end for long."""
_BATCH = 100
_AT_A_TIME = 8
_LISTS_KEPT = 200
"""How far a read model may be behind, in batches, before it has to read all runs anew."""

A = TypeVar("A")
B = TypeVar("B")
_Found: TypeAlias = tuple[int, RunState]
"""A run, and the revision of its state."""


class Retention:
    """Deletes runs that ended a while ago.

    Args:
        broker: the connection.
        names: the namespace.
        store: the run states.
        read_model: finds the runs.
        history: what must have them first.
        duty: has one engine at a time do it.
        keep_ms: for how long a run stays after its end, in milliseconds.
        make_token: returns a new random mark.

    """

    def __init__(
        self,
        broker: Broker,
        names: Names,
        store: RunStore,
        read_model: ReadModel,
        history: History,
        duty: Duty,
        keep_ms: int,
        make_token: Callable[[], str],
    ) -> None:
        self._broker = broker
        self._names = names
        self._store = store
        self._read_model = read_model
        self._history = history
        self._duty = duty
        self._keep_ms = keep_ms
        self._make_token = make_token
        self._states = bucket_stream(names.runs_bucket)

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                if await self._duty.claim():
                    await self.sweep()
            except BrokerError as error:
                _log.warning("runs not deleted, will be tried again", reason=f"{type(error).__name__}: {error}")
            except Exception:  # noqa: BLE001 - whatever it is, it must not stop the engine
                _log.exception("runs not deleted, will be tried again")

    async def sweep(self) -> int:
        """Delete what has been there for long enough; return how many runs that were.

        Raises:
            BrokerError: not all of it could be done. What is left is found again.

        """
        await self._read_model.catch_up()
        before_ms = await self._broker.server_time_ms(self._names.all_shards[0].journal) - self._keep_ms
        deleted, place = 0, (0, "")
        while batch := self._read_model.finished(before_ms, place, _BATCH):
            place = (batch[-1][1].finished_at, batch[-1][1].id)
            began = asyncio.get_running_loop().time()
            gone = await self._delete(await self._not_missing(batch))
            deleted += gone
            if gone:
                await asyncio.sleep(began + gone / RUNS_A_SECOND - asyncio.get_running_loop().time())
            if not await self._duty.claim():
                break
        if deleted:
            _log.info("finished runs deleted", runs=deleted, kept_seconds=self._keep_ms // 1000)
        return deleted

    async def _not_missing(self, found: list[_Found]) -> list[tuple[int, _Found]]:
        """Return the runs that may go, each with the place of its last record in the journal."""
        ends = await _some_at_a_time(self._last_record, [state for _, state in found])
        missing = await self._history.missing(
            [(state.id, revision, end) for (revision, state), end in zip(found, ends, strict=True)]
        )
        return [(end, each) for end, each in zip(ends, found, strict=True) if each[1].id not in missing]

    async def _last_record(self, state: RunState) -> int:
        last = 0
        if state.queue:  # one that never had a function has no journal
            subject_filter = self._names.journal_of_run(state.queue, state.id)
            async for page in self._broker.read(self._names.shard_of(state.id).journal, subject_filter, one_each=True):
                last = page[-1].sequence
        return last

    async def _delete(self, found: list[tuple[int, _Found]]) -> int:
        """Delete some runs; return how many are gone now."""
        if not found:
            return 0
        tasks = await stored_in(self._broker, (shard.tasks for shard in self._names.all_shards)) > 0
        timers = await stored_in(self._broker, (shard.timers for shard in self._names.all_shards)) > 0

        async def delete(each: tuple[int, _Found]) -> tuple[str, int]:
            end, (_, state) = each
            revision = revisions[state.id]
            if revision:
                await self._delete_one(state, end, revision, tasks=tasks, timers=timers)
            return state.id, revision or each[1][0]

        revisions = await self._mark([each for _, each in found])
        gone = dict(await _some_at_a_time(delete, [each for each in found if each[1][1].id in revisions]))
        await self._tell(gone)
        return len(gone)

    async def _mark(self, found: list[_Found]) -> dict[str, int]:
        """Take runs out of everybody's reach; return the revisions of their last states, 0 of those that are gone."""
        fresh = [each for each in found if not each[1].purged]
        marks = [(msgspec.structs.replace(state, purged=True), revision) for revision, state in fresh]
        answers = await self._store.write_all(marks) if marks else []
        revisions = {state.id: revision for revision, state in found if state.purged}
        for (_, state), answer in zip(fresh, answers, strict=True):
            if isinstance(answer, WrongRevision):
                # Gone already, and only the read model has it; or it has been retried, and stays.
                standing = await self._store.load(state.id)
                if standing.state is None or _is_marked(standing.state):
                    revisions[state.id] = standing.revision
            elif isinstance(answer, Version):
                revisions[state.id] = answer.revision
        return revisions

    async def _delete_one(self, state: RunState, end: int, revision: int, *, tasks: bool, timers: bool) -> None:
        # An engine that was stopped in the middle goes on with what it knew. By then the same event may have begun
        # the run again, whose records are newer.
        names, shard = self._names, self._names.shard_of(state.id)
        if tasks and state.queue:
            await self._delete_all(shard.tasks, names.tasks_of_run(state.queue, state.id))
        if timers:
            await self._broker.purge(shard.timers, names.timers_of_run(state.id))
            await self._delete_all(shard.timers, names.fired(state.id, ">"))
        if end:
            await self._broker.purge(shard.journal, names.journal_of_run(state.queue, state.id), end)
        await self._broker.purge(self._states, names.run_key(state.id), revision)
        self._store.forget(state.id)

    async def _delete_all(self, stream: str, subject_filter: str) -> None:
        """Delete messages that someone may have in hand."""
        async for page in self._broker.read(stream, subject_filter):
            for message in page:
                await self._broker.delete(stream, message.sequence)

    async def _tell(self, gone: dict[str, int]) -> None:
        """Write the list of what is gone, and delete the oldest lists."""
        if not gone:
            return
        standing: list[int] = []
        async for page in self._broker.read(self._states, self._names.every_purged):
            standing += [decode_record(PurgedRuns, message.payload).number for message in page]
        record = PurgedRuns(number=max(standing, default=0) + 1, runs=gone, token=self._make_token())
        # Where another engine takes the number at the same time, the runs are found again and told of then.
        key = self._names.purged_key(record.number)
        try:
            await self._broker.publish(Publication(subject=key, payload=encode_record(record), expected_revision=0))
        except Ambiguous:
            return
        for number in sorted(standing)[:-_LISTS_KEPT]:
            await self._broker.purge(self._states, self._names.purged_key(number))


def _is_marked(state: RunState) -> bool:
    return state.purged and state.status in TERMINAL


async def _some_at_a_time(do: Callable[[A], Awaitable[B]], things: Sequence[A]) -> list[B]:
    slots = asyncio.Semaphore(_AT_A_TIME)

    async def one(thing: A) -> B:
        async with slots:
            return await do(thing)

    return list(await asyncio.gather(*map(one, things)))
