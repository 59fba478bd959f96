"""The open waits for events, kept so that finding those of an event costs what matches.

A wait's key says what it waits for: the event's name, a hash of the path and a hash of the value there. The
paths that any wait of a name looks at have keys of their own; they come from code, so they are few and stay.
An event is looked at along these paths, and only waits with just its values are read.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence

from ironflow.broker.protocol import Ambiguous, Broker, BrokerError, Publication, Stored, WrongRevision
from ironflow.codec import decode_record, encode_record
from ironflow.errors import SerializationError
from ironflow.logs import get_logger
from ironflow.matching import canonical_at, read_data
from ironflow.names import Names, bucket_stream, check_step_key, parse_journal, parse_step_key
from ironflow.records import EventRecord, WaitEntry, WaitPath, WaitRecord
from ironflow.triggers import is_reserved
from ironflow_engine.recent_waits import RecentWaits

_log = get_logger("ironflow.engine")

_TRIES = 3
_AT_A_TIME = 64
"""So many reads or purges keep the connection busy; more of them only wait in the server."""


class WaitStore:
    """The open waits of one namespace.

    Args:
        broker: the connection.
        names: the namespace.

    """

    def __init__(self, broker: Broker, names: Names) -> None:
        self._broker = broker
        self._names = names
        self._stream = bucket_stream(names.waits_bucket)
        self._recent = RecentWaits()
        self._worked_out: tuple[EventRecord, set[str | None], list[str]] | None = None
        """An event, the paths that it was looked at along, and what came of that, the last time."""
        self._paths: dict[str, set[str | None]] = {}
        self._looked_at = 0
        self._bucket = ""
        self._read_up_to = 0
        self._lock = asyncio.Lock()
        self._room = asyncio.Semaphore(_AT_A_TIME)

    async def put_all(self, entries: Sequence[WaitEntry]) -> list[BrokerError | None]:
        """Have events find waits; return for each what it failed with.

        Raises:
            BrokerError: it cannot be asked what is there.

        """
        known = await self._current_paths()
        paths = dict.fromkeys((entry.wait.event, entry.wait.path) for entry in entries)
        new = [path for path in paths if path[1] not in known.get(path[0], ())]
        marks = [_once(self._names.wait_path_key(event, path), WaitPath(event=event, path=path)) for event, path in new]
        waits = [_once(self._key(entry.run, entry.step, entry.wait), entry) for entry in entries]
        stored = await self._store([*marks, *waits])
        self._keep_up(new, stored)
        answers = [None if isinstance(answer, (Stored, WrongRevision)) else answer for answer in stored]
        failed = {path: answer for path, answer in zip(new, answers, strict=False) if answer is not None}
        for entry, answer in zip(entries, answers[len(marks) :], strict=True):
            if answer is None:
                self._recent.keep(self._place(entry.wait), entry)
        # A wait at a path that is not marked would be found by none.
        return [
            failed.get((entry.wait.event, entry.wait.path)) or answer
            for entry, answer in zip(entries, answers[len(marks) :], strict=True)
        ]

    def remembered(self, event: EventRecord) -> list[WaitEntry]:
        """Return waits that an event matches, as far as this engine knows them; they may be over by now."""
        return self._recent.at(self._filters(event, self._paths.get(event.name, set())))

    def is_over(self, run: str, step: str) -> bool:
        """Tell whether this engine itself has forgotten a wait lately; none comes back after that."""
        return self._recent.has_ended(run, step)

    async def matching(self, events: Sequence[EventRecord]) -> list[list[WaitEntry]]:
        """Return the waits that each event matches, in the order in which they were recorded.

        It costs one question to the bucket's leader, so that a wait that was just registered misses nothing; none for
        events that nobody can wait for.
        """
        if all(is_reserved(event.name) for event in events):
            return [[] for _ in events]
        # What is known is nearly always all there is, so it need not wait for the answer whether that is so.
        found: dict[str, list[WaitEntry]] = {}
        known = self._wanted(events, self._paths)
        paths, _ = await asyncio.gather(self._current_paths(), self._read_all(known, found))
        wanted = self._wanted(events, paths)
        await self._read_all(wanted, found)
        return [
            sorted((entry for each in several for entry in found[each]), key=lambda entry: entry.sequence)
            for several in wanted
        ]

    async def forget(self, waits: Mapping[tuple[str, str], WaitRecord]) -> dict[str, BrokerError]:
        """Have no event find these waits, by run and step, any more; return the runs of those that stay, and why."""
        for run, step in waits:
            self._recent.end(run, step)
        purges = (self._purge(self._key(run, step, wait)) for (run, step), wait in waits.items())
        outcomes = zip(waits, await asyncio.gather(*purges), strict=True)
        return {run: failure for (run, _), failure in outcomes if failure is not None}

    async def forget_run(self, queue: str, run: str, epoch: int) -> None:
        """Have no event find any wait of a run that has ended. It costs what the run has waited for.

        Args:
            queue: its queue.
            run: its id.
            epoch: the epoch that ended; by a retry the run may have waits again, of a later one.

        Raises:
            BrokerError: the run's journal cannot be read, or a wait stays.

        """
        waits: dict[tuple[str, str], WaitRecord] = {}
        subject_filter = self._names.journal_waits(queue, run)
        async for page in self._broker.read(self._names.shard_of(run).journal, subject_filter, one_each=True):
            for message in page:
                try:
                    wait = decode_record(WaitRecord, message.payload)
                    step = check_step_key(parse_journal(message.subject).step)
                except SerializationError:
                    continue  # nobody has registered it either
                if wait.event and parse_step_key(step)[1] <= epoch:
                    waits[run, step] = wait
        for failure in (await self.forget(waits)).values():
            raise failure

    async def count(self) -> int:
        """Return how many waits are open."""
        paths = await self._current_paths()
        return (await self._broker.stream_state(self._stream)).messages - sum(map(len, paths.values()))

    def _key(self, run: str, step: str, wait: WaitRecord) -> str:
        return self._names.wait_key(wait.event, wait.path, wait.value, run, step)

    def _place(self, wait: WaitRecord) -> str:
        return self._names.waits_for(wait.event, wait.path, wait.value)

    def _wanted(self, events: Sequence[EventRecord], paths: Mapping[str, set[str | None]]) -> list[list[str]]:
        return [self._filters(event, paths.get(event.name, set())) for event in events]

    async def _read_all(self, wanted: Sequence[Sequence[str]], found: dict[str, list[WaitEntry]]) -> None:
        """Read the waits of the filters that are not in *found* yet, and put them there."""
        filters = list(dict.fromkeys(each for several in wanted for each in several if each not in found))
        found.update(zip(filters, await asyncio.gather(*map(self._read, filters)), strict=True))

    def _filters(self, event: EventRecord, paths: set[str | None]) -> list[str]:
        if not paths:
            return []
        if self._worked_out is not None:
            before, along, worked_out = self._worked_out
            if before == event and along == paths:
                return worked_out
        filters = [self._names.waits_for(event.name, None, None)] if None in paths else []
        data = read_data(event.data)
        for path in paths - {None}:
            value = None if path is None else canonical_at(data, path)
            if value is not None:
                filters.append(self._names.waits_for(event.name, path, value))
        self._worked_out = event, set(paths), filters
        return filters

    async def _current_paths(self) -> dict[str, set[str | None]]:
        """Return the paths in use of each event, as they are now."""
        async with self._lock:
            state = await self._broker.stream_state(self._stream)
            newest = state.last_sequence
            if newest < self._looked_at or state.created != self._bucket:  # the bucket was made anew
                self._paths, self._read_up_to, self._looked_at = {}, 0, 0
                self._bucket = state.created
            if newest != self._looked_at:
                async for page in self._broker.read(
                    self._stream, self._names.wait_paths, self._read_up_to, one_each=True
                ):
                    for message in page:
                        self._learn(message.payload)
                        self._read_up_to = message.sequence
                self._looked_at = newest
            return self._paths

    def _keep_up(self, marked: Sequence[tuple[str, str | None]], stored: Sequence[Stored | BrokerError]) -> None:
        """Spare the next event a look at the paths, where nobody but us has written since the last one.

        Args:
            marked: the paths that the first publications have marked.
            stored: what became of all publications.

        """
        if self._lock.locked():  # someone looks, and may have been told of less than we know
            return
        ours = zip(stored, itertools.chain(marked, itertools.repeat(None)), strict=False)
        written = {answer.sequence: mark for answer, mark in ours if isinstance(answer, Stored)}
        for sequence in sorted(written):
            if sequence != self._looked_at + 1:
                return
            if (mark := written[sequence]) is not None:
                self._paths.setdefault(mark[0], set()).add(mark[1])
            self._looked_at = self._read_up_to = sequence

    def _learn(self, payload: bytes) -> None:
        try:
            path = decode_record(WaitPath, payload)
        except SerializationError as error:
            _log.error("unreadable path of waits left out", reason=str(error))
        else:
            self._paths.setdefault(path.event, set()).add(path.path)

    async def _read(self, subject_filter: str) -> list[WaitEntry]:
        entries: list[WaitEntry] = []
        async with self._room:
            async for page in self._broker.read(self._stream, subject_filter, one_each=True):
                for message in page:
                    try:
                        entries.append(decode_record(WaitEntry, message.payload))
                    except SerializationError as error:
                        # Of a newer engine, or of someone who should not write here. The other waits go on.
                        _log.error("unreadable wait left out", subject=message.subject, reason=str(error))
        return entries

    async def _purge(self, subject: str) -> BrokerError | None:
        failure: BrokerError | None = None
        for _ in range(_TRIES):
            async with self._room:
                try:
                    await self._broker.purge(self._stream, subject)
                except BrokerError as error:
                    _log.debug("wait not taken away", subject=subject, reason=str(error))
                    failure = error
                else:
                    return None
        return failure

    async def _store(self, publications: Sequence[Publication]) -> list[Stored | BrokerError]:
        """Store publications; one whose answer was lost is sent again, and refused where it is stored."""
        outcomes: list[Stored | BrokerError] = list(await self._broker.publish_all(publications))
        for _ in range(_TRIES - 1):
            left = [index for index, outcome in enumerate(outcomes) if isinstance(outcome, Ambiguous)]
            answers = await self._broker.publish_all([publications[index] for index in left]) if left else []
            for index, answer in zip(left, answers, strict=True):
                outcomes[index] = answer
        return outcomes


def _once(key: str, record: WaitEntry | WaitPath) -> Publication:
    """Return what stores a record where there is none; one that is there says the same.

    It would be simpler to store it again. But nats-server (2.15) brings back, after a crash, what was replaced and
    whose replacement was taken away since.
    """
    return Publication(subject=key, payload=encode_record(record), expected_revision=0)
