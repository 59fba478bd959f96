"""Fills a namespace with runs that rest or have ended, as if they had been executed.

What a worker appends is written with the product's own records; what the engine makes of it is decided by the
product's own reducer, and stored by its own stores. Only the way is short: no task, no pass, no acknowledgement, and
many runs to an atomic batch.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence

import msgspec
import nats

from ironflow.broker.protocol import Broker, BrokerError, Publication, Stored
from ironflow.broker.topology import engine_consumers
from ironflow.clock import to_iso
from ironflow.codec import encode_record, encode_value
from ironflow.names import Names, run_id, start_event_id
from ironflow.records import (
    ErrorRecord,
    EventRecord,
    FunctionRecord,
    OutcomeRecord,
    Record,
    RunState,
    StepRecord,
    WaitRecord,
)
from ironflow.triggers import INVOKED
from ironflow_engine.dispatcher import Dispatcher
from ironflow_engine.engine import random_token
from ironflow_engine.facts import Command, Fact, OutcomeRecorded, RegisterWait, RunStarted, SetTimer, WaitRecorded
from ironflow_engine.reducer import decide
from ironflow_engine.run_store import RunStore, Version
from ironflow_engine.wait_store import WaitStore

DAY_MS = 24 * 3600 * 1000
WAIT_MS = 7 * DAY_MS
"""How long a wait for an event lasts where the function does not say."""
FAILED_SHARE = 100
"""One of so many runs that have ended has failed."""
_AT_A_TIME = 2_000
_CHUNKS_AT_A_TIME = 3


class Planned(msgspec.Struct, frozen=True):
    """A run that is to be written.

    Attributes:
        appended: what its worker has appended, by the end of the subject.

    """

    run: str
    function: str
    event: EventRecord
    appended: tuple[tuple[str, Record], ...]


def sleeper(key: str, now_ms: int, nap_ms: int) -> Planned:
    """Return a run that sleeps, ``nap`` of the bench's functions."""
    event = _start("nap", key, nap_ms / 1000, now_ms)
    token = random_token()
    return Planned(
        run_id("nap", event.id),
        "nap",
        event,
        (
            ("step.begun", StepRecord(name="begun", kind="run", token=token, output=_json(now_ms / 1000))),
            ("wait.nap", WaitRecord(name="nap", kind="sleep", token=token, delay_ms=nap_ms)),
            (
                "outcome.0",
                OutcomeRecord(
                    number=0,
                    status="suspended",
                    token=token,
                    event=event,
                    due_ms=now_ms + nap_ms,
                    only_sleeps=True,
                ),
            ),
        ),
    )


def waiter(key: str, now_ms: int) -> Planned:
    """Return a run that waits for an event with its key, ``wait`` of the bench's functions."""
    event = _start("wait", key, key, now_ms)
    token = random_token()
    wait = WaitRecord(
        name="event",
        kind="wait_for_event",
        token=token,
        delay_ms=WAIT_MS,
        event="bench.go",
        path="key",
        value=bytes(_json(key)).decode(),
        worker="worker-0-12345-abcd",
    )
    return Planned(
        run_id("wait", event.id),
        "wait",
        event,
        (
            ("wait.event", wait),
            (
                "outcome.0",
                OutcomeRecord(number=0, status="suspended", token=token, event=event, due_ms=now_ms + WAIT_MS),
            ),
        ),
    )


def ended(key: str, now_ms: int, *, failed: bool) -> Planned:
    """Return a run that has ended, ``three`` of the bench's functions; a failed one at its last step."""
    event = _start("three", key, None, now_ms)
    token = random_token()
    error = ErrorRecord(type="ConnectionError", message="the host is gone", step="step-2", attempts=1)
    steps: list[tuple[str, Record]] = [
        (f"step.step-{number}", StepRecord(name=f"step-{number}", kind="run", token=token, output=_json(number)))
        for number in range(2)
    ]
    last = StepRecord(name="step-2", kind="run", token=token, output=_json(2))
    end = OutcomeRecord(number=0, status="completed", token=token, output=_json(3))
    if failed:
        last = StepRecord(name="step-2", kind="run", token=token, status="failed", error=error)
        end = OutcomeRecord(number=0, status="failed", token=token, error=error, event=event)
    return Planned(run_id("three", event.id), "three", event, (*steps, ("step.step-2", last), ("outcome.0", end)))


def _start(function: str, key: str, data: object, now_ms: int) -> EventRecord:
    """Return the event behind ``client.start``."""
    return EventRecord(
        id=start_event_id(function, key), name=INVOKED, time=to_iso(now_ms), data=_json(data), target=function
    )


def _json(value: object) -> msgspec.Raw:
    return encode_value(value, "a value")


class Filler:
    """Writes runs into a namespace whose engines are stopped.

    Args:
        broker: the connection.
        names: the namespace.
        functions: its registered functions, by id.

    """

    def __init__(self, broker: Broker, names: Names, functions: Mapping[str, FunctionRecord]) -> None:
        self._broker = broker
        self._names = names
        self._functions = functions
        self._states = RunStore(broker, names, random_token)
        self._waits = WaitStore(broker, names)
        self._timers = Dispatcher(broker, names)

    async def write(self, runs: Iterator[Planned]) -> int:
        """Write runs; return how many."""
        slots = asyncio.Semaphore(_CHUNKS_AT_A_TIME)
        written = 0

        async def write(chunk: Sequence[Planned]) -> None:
            async with slots:
                await self._write(chunk)

        async with asyncio.TaskGroup() as group:
            while chunk := list(itertools.islice(runs, _AT_A_TIME)):
                async with slots:  # no more chunks are made than can be written
                    group.create_task(write(chunk))
                written += len(chunk)
        return written

    async def _write(self, chunk: Sequence[Planned]) -> None:
        names = self._names
        events = [Publication(subject=names.event(each.event.name), payload=_bytes(each.event)) for each in chunk]
        started = await self._publish(events)
        journal = [
            Publication(
                subject=f"{names.journal_of_run(self._queue(each), each.run)[:-1]}{end}", payload=_bytes(record)
            )
            for each in chunk
            for end, record in each.appended
        ]
        sequences = iter(await self._publish(journal))
        now_ms = int(time.time() * 1000)
        states: list[RunState] = []
        commands: list[Command] = []
        for each, sequence in zip(chunk, started, strict=True):
            facts = self._facts(each, sequence, now_ms, [next(sequences) for _ in each.appended])
            state, wanted = _fold(facts)
            states.append(state)
            commands += wanted
        await asyncio.gather(self._store(states), self._set_timers(commands), self._register(commands))

    def _queue(self, run: Planned) -> str:
        return self._functions[run.function].queue

    def _facts(self, run: Planned, sequence: int, now_ms: int, appended: Sequence[int]) -> Iterator[Fact]:
        """Yield what an engine is told about a run, in order."""
        function = self._functions[run.function]
        yield RunStarted(run=run.run, event=run.event, function=function, sequence=sequence, time_ms=now_ms)
        for (end, record), place in zip(run.appended, appended, strict=True):
            if isinstance(record, WaitRecord):
                yield WaitRecorded(
                    run=run.run,
                    queue=function.queue,
                    step=end.partition(".")[2],
                    record=record,
                    sequence=place,
                    time_ms=now_ms,
                )
            elif isinstance(record, OutcomeRecord):
                yield OutcomeRecorded(run=run.run, queue=function.queue, record=record, sequence=place, time_ms=now_ms)

    async def _store(self, states: Sequence[RunState]) -> None:
        for answer in await self._states.write_all([(state, 0) for state in states]):
            if not isinstance(answer, Version):
                raise answer

    async def _set_timers(self, commands: Sequence[Command]) -> None:
        _check(await self._timers.carry_out([each for each in commands if isinstance(each, SetTimer)]))

    async def _register(self, commands: Sequence[Command]) -> None:
        entries = [each.entry for each in commands if isinstance(each, RegisterWait)]
        _check(await self._waits.put_all(entries) if entries else [])

    async def _publish(self, publications: Sequence[Publication]) -> list[int]:
        sequences: list[int] = []
        for answer in await self._broker.publish_all(publications):
            if not isinstance(answer, Stored):
                raise answer
            sequences.append(answer.sequence)
        return sequences


def _fold(facts: Iterator[Fact]) -> tuple[RunState, list[Command]]:
    state: RunState | None = None
    commands: list[Command] = []
    for fact in facts:
        decision = decide(state, fact)
        state = decision.state
        commands += decision.commands
    assert state is not None
    return state, commands


def _check(answers: Sequence[BrokerError | None]) -> None:
    for answer in answers:
        if answer is not None:
            raise answer


def _bytes(record: Record) -> bytes:
    return encode_record(record)


async def skip_what_is_written(url: str, broker: Broker, names: Names) -> None:
    """Have the engines' consumers go on behind all that is written: it has had its effects."""
    connection = await nats.connect(url)
    try:
        for spec in engine_consumers(names):
            if spec.stream == names.all_shards[0].timers:
                continue
            last = (await broker.stream_state(spec.stream)).last_sequence
            request = msgspec.json.encode({"seq": last + 1})
            answer = await connection.request(f"$JS.API.CONSUMER.RESET.{spec.stream}.{spec.name}", request, timeout=60)
            assert b'"error"' not in answer.data, answer.data
    finally:
        await connection.close()
