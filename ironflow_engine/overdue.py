"""Which facts of a run should have had an effect by now, and have not: pure."""

from __future__ import annotations

from collections.abc import Iterable

from ironflow.broker.protocol import StoredMessage
from ironflow.codec import decode_record
from ironflow.errors import SerializationError
from ironflow.names import mark, parse_journal
from ironflow.records import RunState, StepRecord
from ironflow_engine.event_waits import has_timed_out
from ironflow_engine.facts import Fact, SleptOut, TryRecorded, WaitRecorded, WaitTimedOut, Woken
from ironflow_engine.journal_intake import read_fact
from ironflow_engine.timers import due_at


class RunJournal:
    """What a run still waits for, and what has ended waits of it.

    Args:
        state: the run.

    """

    def __init__(self, state: RunState) -> None:
        self._state = state
        self._open: dict[str, WaitRecorded | TryRecorded] = {}
        self._ended_at = 0
        self._slept_out: dict[str, int] = {}
        self._fails_by: WaitTimedOut | None = None

    def read(self, messages: Iterable[StoredMessage]) -> None:
        """Take in journal messages, in order.

        Raises:
            SerializationError: one of them cannot be read.

        """
        for message in messages:
            address = parse_journal(message.subject)
            match address.kind:
                case "wait" | "try":
                    fact = _read(message)
                    if fact is not None:
                        self._open[address.step] = fact
                case "step" | "due":
                    ended = self._open.pop(address.step, None)
                    # What ends a back-off is its due record; the result of the step is the worker's own.
                    if isinstance(ended, WaitRecorded):
                        self._note_end(ended, message)
                    elif ended is not None and address.kind == "due":
                        self._ended_at = message.sequence
                case "closed":
                    self._open.pop(address.step, None)
                case _:
                    pass

    def facts(self, now_ms: int) -> list[Fact]:
        """Return the facts to be applied once more: those of waits that are over by now, and of lost wake-ups.

        Args:
            now_ms: what the server's clock says.

        """
        facts: list[Fact] = [fact for fact in self._open.values() if _has_time(fact) and due_at(fact) <= now_ms]
        if self._state.live:
            return facts
        if self._fails_by is not None:
            return [*facts, self._fails_by]
        run, queue = self._state.id, self._state.queue
        facts += [
            SleptOut(run=run, queue=queue, by=by, sequence=sequence)
            for by, sequence in self._slept_out.items()
            if sequence > self._state.woken_by
        ]
        if self._ended_at > self._state.woken_by:
            facts.append(Woken(run=run, queue=queue, sequence=self._ended_at))
        return facts

    def _note_end(self, wait: WaitRecorded, message: StoredMessage) -> None:
        try:
            end = decode_record(StepRecord, message.payload)
        except SerializationError:
            self._ended_at = message.sequence  # whoever executes the run says what is wrong with it
            return
        if wait.record.on_timeout == "fail" and has_timed_out(self._state, wait.step):
            # The run is to end for it: no pass gets beyond that, so it would be woken in vain.
            self._fails_by = self._fails_by or WaitTimedOut(
                run=wait.run, queue=wait.queue, step=wait.step, wait=wait.record, record=end
            )
        elif end.slept_out:
            self._slept_out[mark(end.token)] = message.sequence
        else:
            self._ended_at = message.sequence


def _has_time(fact: WaitRecorded | TryRecorded) -> bool:
    """Tell whether a wait is ever over by itself: that for a child may have no time-out."""
    return isinstance(fact, TryRecorded) or fact.record.delay_ms is not None or fact.record.until_ms is not None


def _read(message: StoredMessage) -> WaitRecorded | TryRecorded | None:
    try:
        fact = read_fact(message)
    except SerializationError:
        return None  # nobody has set a timer for it either, and a worker says what is wrong with the run
    return fact if isinstance(fact, (WaitRecorded, TryRecorded)) else None
