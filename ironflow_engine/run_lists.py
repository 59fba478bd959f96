"""Finds runs in what NATS holds and in what it no longer does."""

from __future__ import annotations

import msgspec

from ironflow.broker.protocol import Unavailable
from ironflow.logs import get_logger
from ironflow.records import RunState
from ironflow_engine.history import History
from ironflow_engine.read_model import Place, ReadModel, RunQuery

_log = get_logger("ironflow.engine")

PATIENT_SECONDS = 3.0
"""Whoever asks for a list waits for five, and should rather hear why there is none yet."""


class RunLists:
    """Lists runs, each once, newest first.

    Args:
        read_model: knows all runs that NATS holds.
        history: knows those that have ended, also where NATS holds them no more; it lags behind.

    """

    def __init__(self, read_model: ReadModel, history: History) -> None:
        self._read_model = read_model
        self._history = history

    async def find(self, query: RunQuery) -> list[RunState]:
        """Return the runs that are asked for; without those that only the history has while it cannot be asked.

        Raises:
            StillReading: the engine has just begun, and there is much to read.

        """
        await self._read_model.catch_up_within(PATIENT_SECONDS)
        present = self._read_model.query(query)
        if query.include is not None:  # such runs are under way
            return present
        try:
            past = await self._past(query, _place(present[-1]) if len(present) == query.limit else None)
        except Unavailable as error:
            _log.warning("a list of runs leaves out those that only the archive has", reason=str(error))
            return present
        return sorted([*present, *past], key=lambda state: (state.started_at, state.id), reverse=True)[: query.limit]

    async def _past(self, query: RunQuery, until: Place | None) -> list[RunState]:
        """Return runs that NATS does not hold, as many as are asked for, down to a place where that is enough."""
        past: list[RunState] = []
        place = query.before
        while len(past) < query.limit:
            page = await self._history.runs(msgspec.structs.replace(query, before=place))
            # What NATS holds it shows itself, or it is not what was asked for any more.
            known = self._read_model.known([state.id for state in page])
            past += [state for state in page if state.id not in known]
            if len(page) < query.limit:
                break
            place = _place(page[-1])
            if until is not None and _order(place) <= _order(until):
                break
        return past


def _place(state: RunState) -> Place:
    return Place(state.started_at, state.id)


def _order(place: Place) -> tuple[int, str]:
    return place.started_at, place.id
