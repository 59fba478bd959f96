"""Which functions an event starts: pure."""

from __future__ import annotations

from collections.abc import Iterable

from ironflow.errors import SerializationError
from ironflow.names import is_detached_event_id, run_id
from ironflow.records import EventRecord, FunctionRecord
from ironflow.triggers import DETACHED, INVOKED, matches
from ironflow_engine.facts import START_A_WORKER, RunStarted

_LONGEST_TEXT = 4_096
"""Bytes. Far more than clients send, also those with limits of their own; far less than a message may have."""


class Matcher:
    """Finds the functions of an event without trying every pattern of every function.

    Args:
        functions: all registered functions.

    """

    def __init__(self, functions: Iterable[FunctionRecord]) -> None:
        self.functions = {function.id: function for function in functions if not function.deleted}
        self._exact: dict[str, list[FunctionRecord]] = {}
        self._patterns: list[tuple[str, FunctionRecord]] = []
        for function in self.functions.values():
            for trigger in function.triggers:
                if "*" in trigger.split(".") or trigger.split(".")[-1] == ">":
                    self._patterns.append((trigger, function))
                else:
                    self._exact.setdefault(trigger, []).append(function)

    def functions_for(self, name: str) -> list[FunctionRecord]:
        """Return the functions that trigger on an event name, each once."""
        found = {function.id: function for function in self._exact.get(name, ())}
        for pattern, function in self._patterns:
            if function.id not in found and matches(pattern, name):
                found[function.id] = function
        return list(found.values())

    def starts(self, event: EventRecord, sequence: int, time_ms: int, advice: str = START_A_WORKER) -> list[RunStarted]:
        """Return the runs that an event starts.

        Args:
            event: the event.
            sequence: where it stands in EVENTS.
            time_ms: when it was stored there.
            advice: what to do about a function that it names and that is not registered.

        """
        wanted: list[tuple[str, FunctionRecord | None]]
        if event.target:
            wanted = [(event.target, self.functions.get(event.target))]
        else:
            wanted = [(function.id, function) for function in self.functions_for(event.name)]
        return [
            RunStarted(
                run=run_id(function_id, event.id),
                event=event,
                function=function,
                sequence=sequence,
                time_ms=time_ms,
                advice=advice,
            )
            for function_id, function in wanted
        ]


def check_texts(event: EventRecord) -> EventRecord:
    """Return an event where the state of each run that it starts can hold what it takes from it.

    Raises:
        SerializationError: its id, its name or what it starts is too long; our own clients publish none such.

    """
    for what in ("id", "name", "target"):
        size = len(getattr(event, what).encode())
        if size > _LONGEST_TEXT:
            msg = f"its {what} is {size:,} bytes, and at most {_LONGEST_TEXT:,} can be kept with a run"
            raise SerializationError(msg)
    return event


def may_say_what_it_starts(event: EventRecord, published_as: str) -> bool:
    """Tell whether an event may name the one function that it starts.

    Whoever may publish any event at all could start anything otherwise, under the id of a run that somebody else is
    about to start.

    Args:
        event: the event.
        published_as: the name by which its subject calls it.

    """
    if published_as == DETACHED:
        return event.parent is None and is_detached_event_id(event.id)
    return published_as == INVOKED
