"""What is known of runs and events that NATS no longer holds."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import msgspec

from ironflow.broker.protocol import Broker, StoredMessage
from ironflow.records import RunState
from ironflow_engine.duty import Duty
from ironflow_engine.read_model import RunQuery

ARCHIVE_DUTY_SECONDS = 10.0
"""When the engine that fills an archive dies, another one goes on this much later."""


class RunParts(msgspec.Struct, frozen=True, kw_only=True):
    """What is stored apart from a run's state: each None where it is not known.

    Attributes:
        event: the triggering event as EVENTS had it.
        input: the record of the journal that has the same, where there is one.
        first_outcome: how the run's first pass ended; it has the event as a rule, where there is no such record.
        outcome: how the run's newest pass ended.

    """

    event: bytes | None = None
    input: bytes | None = None
    first_outcome: bytes | None = None
    outcome: bytes | None = None


NO_PARTS = RunParts()


class History(Protocol):
    """A memory that outlives the streams. It lags behind them, so whatever they hold counts for more.

    Every call raises Unavailable while it cannot be asked.
    """

    async def run(self, run: str) -> RunState | None:
        """Return the last state of a run that has ended, marked as purged."""
        ...

    async def runs(self, query: RunQuery) -> Sequence[RunState]:
        """Return the runs that are asked for and have ended, newest first, marked as purged."""
        ...

    async def steps(self, run: str) -> Sequence[StoredMessage]:
        """Return the recorded steps of a run as the journal had them, in its order."""
        ...

    async def parts(self, runs: Sequence[RunState]) -> dict[str, RunParts]:
        """Return the large parts of some runs, by run; few runs at a time, since each may have a megabyte."""
        ...

    async def events(self, pattern: str | None, before: int, limit: int) -> Sequence[StoredMessage]:
        """Return the newest events that came before a place in EVENTS, by an exact name or a pattern, newest first."""
        ...

    async def missing(self, runs: Collection[tuple[str, int, int]]) -> set[str]:
        """Return those runs of which something is not kept here.

        Args:
            runs: of each its id, the revision of its state, and the place of its last record in the journal.

        """
        ...


class Archive(Protocol):
    """Fills a history, and answers from it."""

    @property
    def history(self) -> History:
        """What is in it."""
        ...

    async def keep(self, broker: Broker, duty: Duty) -> None:
        """Copy what comes to it, until cancelled."""
        ...

    async def copied(self, stream: str) -> int:
        """Return up to where a stream is copied.

        Raises:
            BrokerError: the archive cannot be asked.

        """
        ...

    async def behind(self, broker: Broker) -> int:
        """Return how many messages of the streams are not copied yet.

        Raises:
            BrokerError: the archive or the broker cannot be asked.

        """
        ...


class NoHistory:
    """Knows nothing, and so has nothing to wait for: what is deleted is gone."""

    async def run(self, run: str) -> RunState | None:  # noqa: ARG002 - nothing is known of any
        """Know of no run."""
        return None

    async def runs(self, query: RunQuery) -> Sequence[RunState]:  # noqa: ARG002 - likewise
        """Know of no runs."""
        return ()

    async def steps(self, run: str) -> Sequence[StoredMessage]:  # noqa: ARG002 - likewise
        """Know of no steps."""
        return ()

    async def parts(self, runs: Sequence[RunState]) -> dict[str, RunParts]:  # noqa: ARG002 - likewise
        """Know of no parts."""
        return {}

    async def events(self, pattern: str | None, before: int, limit: int) -> Sequence[StoredMessage]:  # noqa: ARG002 - likewise
        """Know of no events."""
        return ()

    async def missing(self, runs: Collection[tuple[str, int, int]]) -> set[str]:  # noqa: ARG002 - likewise
        """Miss nothing, since nothing is to be kept."""
        return set()
