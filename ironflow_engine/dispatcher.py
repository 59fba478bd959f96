"""Carries out what the reducer decides: publishes tasks and timers, takes them back, announces ends."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TypeVar

from msgspec.structs import replace

from ironflow.broker.protocol import Ambiguous, Broker, BrokerError, Publication, Schedule, Stored, SubjectTaken
from ironflow.codec import encode_record
from ironflow.logs import get_logger
from ironflow.messages import PassTold
from ironflow.names import Names
from ironflow.records import RunState, Task
from ironflow.telemetry.tracing import carrier_of, span, with_context
from ironflow_engine.facts import AnnounceEnd, Dispatch, SendCommand, SetTimer, StopRun, TellPass
from ironflow_engine.views import brief_view

_log = get_logger("ironflow.engine")

_TRIES = 3

_HINT_OUTPUT_BYTES = 32 * 1024
_HINT_BYTES = 128 * 1024
"""A hint goes to all who wait for the run. What is larger is asked for by those who want it."""

TIMER_LEAD_MS = 2_500
"""How much earlier than due a timer is scheduled. The server looks at its schedules every 250 ms, and each
that fires costs it two forced writes, so many that are due at once come late; the timer intake hands an
early one back to the server, with the time that remains, which is exact to a few milliseconds."""


class Dispatcher:
    """Carries out commands. Each may be carried out again: a second time has no further effect.

    Args:
        broker: the connection.
        names: the namespace.

    """

    def __init__(self, broker: Broker, names: Names) -> None:
        self._broker = broker
        self._names = names

    async def carry_out(self, commands: Sequence[SendCommand]) -> list[BrokerError | None]:
        """Carry out commands together; return what each failed with, in order."""
        self.announce([command for command in commands if isinstance(command, AnnounceEnd)])
        self._tell([command for command in commands if isinstance(command, TellPass)])
        commands = [_traced(command) for command in commands]
        failures: list[BrokerError | None] = [None] * len(commands)
        left = [index for index, command in enumerate(commands) if isinstance(command, (Dispatch, SetTimer))]
        for _ in range(_TRIES):
            over = await self._over({index: commands[index] for index in left})
            failures = [None if index in over else failure for index, failure in enumerate(failures)]
            left = [index for index in left if index not in over]
            if not left:
                break
            sent = [commands[index] for index in left]
            answers = await self._broker.publish_all([self._publication(command) for command in sent])
            for index, failure in zip(left, await self._failures(sent, answers), strict=True):
                failures[index] = failure
            # What may be stored is sent again: a pending task refuses its double, a timer replaces itself.
            left = [index for index in left if isinstance(failures[index], Ambiguous)]
            commands = [once_more(command) for command in commands]
        await self._stop(commands)
        return failures

    async def _over(self, commands: Mapping[int, SendCommand]) -> set[int]:
        """Return which tasks need not be published again: those whose pass has ended meanwhile.

        Nothing would come of such a task, but its place is free again, so that the server would take it.
        """
        again = {
            index: command.state
            for index, command in commands.items()
            if isinstance(command, Dispatch) and command.again
        }
        if not again:
            return set()
        ended = await asyncio.gather(*map(self._has_ended, again.values()))
        return {index for index, is_over in zip(again, ended, strict=True) if is_over}

    async def _has_ended(self, state: RunState) -> bool:
        """Tell whether a run's newest pass is known to have ended."""
        outcome = self._names.journal_outcome(state.queue, state.id, state.number)
        try:
            return await self._broker.last(self._names.shard_of(state.id).journal, outcome) is not None
        except BrokerError:
            return False  # a task too many costs less than one that is missing

    async def _failures(
        self, commands: Sequence[SendCommand], answers: Sequence[Stored | BrokerError]
    ) -> list[BrokerError | None]:
        """Return what commands failed with; tasks that were stored before and got lost are stored anew."""
        failures = [None if isinstance(answer, (Stored, SubjectTaken)) else answer for answer in answers]
        # Where an engine took over from one that died, that may be all of them.
        doubles = {
            place: (command, answer)
            for place, (command, answer) in enumerate(zip(commands, answers, strict=True))
            if isinstance(answer, Stored) and answer.duplicate and isinstance(command, Dispatch)
        }
        if not doubles:
            return failures
        found = await asyncio.gather(*(self._replace_if_lost(*double) for double in doubles.values()))
        for place, failure in zip(doubles, found, strict=True):
            failures[place] = failure
        return failures

    async def _replace_if_lost(self, command: Dispatch, stored: Stored) -> BrokerError | None:
        """See to it that the pass of a task that was stored before takes place.

        The server knows each task by an id of its own for a while, so that an engine which was stopped in mid-send
        cannot store one that was used up meanwhile. A task that is gone although its pass has not ended was lost, to
        a purge for instance. What replaces it is named after it: engines that replace the same one replace it once.
        """
        try:
            while stored.duplicate and await self._is_lost(command.state):
                stored = await self._broker.publish(self._task(once_more(command), replaces=stored.sequence))
        except SubjectTaken:
            return None
        except BrokerError as error:
            return error
        return None

    async def _is_lost(self, state: RunState) -> bool:
        """Tell whether the task of a run's newest pass is neither there nor done with.

        Raises:
            BrokerError: nobody can tell.

        """
        # In this order: a worker gives up its task once the end of the pass is stored.
        shard = self._names.shard_of(state.id)
        if await self._broker.last(shard.tasks, self._names.task(state.queue, state.id, state.number)):
            return False
        outcome = self._names.journal_outcome(state.queue, state.id, state.number)
        return await self._broker.last(shard.journal, outcome) is None

    def announce(self, ends: Sequence[AnnounceEnd]) -> None:
        """Tell whoever listens how runs have ended."""
        most = min(_HINT_BYTES, self._broker.server.max_payload)
        for end in ends:
            hint = encode_record(brief_view(end.state, end.output, _HINT_OUTPUT_BYTES))
            payload = hint if len(hint) <= most else b""
            self._broker.notify(self._names.ended(end.state.id), payload, at_once=len(ends) == 1)

    def _tell(self, hints: Sequence[TellPass]) -> None:
        for hint in hints:
            told = PassTold(run=hint.run, number=hint.number, end=hint.end)
            subject = self._names.told(hint.queue, hint.worker)
            self._broker.notify(subject, encode_record(told), at_once=len(hints) == 1)

    async def _stop(self, commands: Sequence[SendCommand]) -> None:
        stops = [command for command in commands if isinstance(command, StopRun)]
        if not stops:
            return
        # The hint goes first: a task that was delivered before it is taken back finds that it came.
        for stop in stops:
            self._broker.notify(self._names.cancelled(stop.run), b"%d" % stop.number)
        await asyncio.gather(*map(self._take_back, stops))

    async def _take_back(self, stop: StopRun) -> None:
        """Delete the task and the timers that the ended run has. What stays has no effect, so it is tried once.

        The run may have been retried by now; what it has since then is left alone.
        """
        shard = self._names.shard_of(stop.run)
        try:
            # It may be in a worker's hands, so it must not be purged.
            task = await self._broker.last(shard.tasks, self._names.task(stop.queue, stop.run, stop.number))
            if task is not None:
                await self._broker.delete(shard.tasks, task.sequence)
            if stop.timers:
                await self._broker.purge(shard.timers, self._names.timers_of_epoch(stop.run, stop.epoch))
        except BrokerError as error:
            _log.warning("task and timers of an ended run not taken back", run=stop.run, reason=str(error))

    def _publication(self, command: SendCommand) -> Publication:
        match command:
            case Dispatch():
                return self._task(command)
            case SetTimer():
                return self._timer(command)
            case AnnounceEnd() | StopRun() | TellPass():
                msg = "a hint is not stored"
                raise AssertionError(msg)

    def _task(self, command: Dispatch, replaces: int | None = None) -> Publication:
        """Return the message of a task; of one that takes the place of a lost one, whose sequence *replaces* is."""
        state = command.state
        task = Task(
            run=state.id,
            function=state.function,
            number=state.number,
            started_at=state.started_at,
            attempt=state.attempt,
            mode="compensate" if state.ending else "run",
            depth=state.depth,
            event=command.event,
            server=self._broker.server.id,
            check_journal=command.again,
            journal_sequence=state.woken_by,
            end=command.end,
        )
        return Publication(
            subject=self._names.task(state.queue, state.id, state.number),
            payload=encode_record(task),
            message_id=f"{state.id}.{state.number}" + ("" if replaces is None else f".{replaces}"),
        )

    def _timer(self, command: SetTimer) -> Publication:
        timer = command.record
        return Publication(
            subject=self._names.timer(timer.due_ms, timer.run, timer.epoch, command.timer),
            payload=encode_record(timer),
            schedule=Schedule(at_ms=timer.due_ms - TIMER_LEAD_MS, target=self._names.fired(timer.run, command.timer)),
        )


_Command = TypeVar("_Command", bound=SendCommand)


def once_more(command: _Command) -> _Command:
    """Return a command as one that may have been carried out, by others too, and that may be out of date."""
    return replace(command, again=True) if isinstance(command, Dispatch) else command


def _traced(command: SendCommand) -> SendCommand:
    """Begin the run's part of its trace, where the command begins a run.

    Its context goes into the event that the task carries, and with it into the journal. A command that is carried out
    again makes another span, which nothing goes on from, since the server takes the first task only.
    """
    if not isinstance(command, Dispatch) or command.event is None:
        return command
    state = command.state
    shown = {
        "ironflow.run.id": state.id,
        "ironflow.function.id": state.function,
        "ironflow.queue": state.queue,
        "ironflow.event.id": state.event_id,
    }
    with span(f"run {state.function}", "consumer", carrier_of(command.event.metadata), shown) as carrier:
        return replace(command, event=with_context(command.event, carrier))
