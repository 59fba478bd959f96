"""What the workloads ask of a system under measurement. Each adapter implements it with the system's own means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol


class System(Protocol):
    """A durable-execution system whose server, workers and client run on this machine.

    Attributes:
        name: what the tables call it.
        durability: what it does before it acknowledges, by which settings.
        notes: what one must know to read its figures.
        folder: where its data are.
        most_runs: how many runs workload A has at the most, and with 200 in flight only, where as many as usual
            would take minutes; 0: no bound.

    """

    name: str
    durability: str
    notes: Sequence[str]
    folder: Path
    most_runs: int

    async def start(self, workers: int) -> None:
        """Start the server and so many workers, and return once they take work."""
        ...

    async def stop(self) -> None:
        """End all that was started."""
        ...

    def parts(self) -> Mapping[str, list[int]]:
        """Return the process ids by part, like "server" and "worker"; this process is added as "client"."""
        ...

    async def run(self, workflow: str, key: str, argument: Any = None) -> Any:
        """Run a workflow to its end and return its output.

        The workflows are ``three`` (three trivial steps), ``many`` (*argument* of them), ``nap`` (sleeps for
        *argument* seconds between two looks at the clock, and returns both), ``wait`` (waits for an event and
        returns when it came), ``fan`` (*argument* parallel steps, 50 at once), ``slow`` (ten steps of 50 ms, of
        which each writes a line into the file that *argument* names).
        """
        ...

    async def run_all(self, keys: Sequence[str], in_flight: int) -> None:
        """Run ``three`` for each key, so many at a time where the system lets its client bound that."""
        ...

    async def send(self, key: str) -> None:
        """Send the event that the ``wait`` with this key waits for."""
        ...

    async def kill_worker(self) -> None:
        """SIGKILL one of the workers; where the system needs it, start another in its place, a second later."""
        ...

    def counters(self) -> Mapping[str, float]:
        """Return what else the system counts, ever growing, like "messages"."""
        ...

    async def recorded_late_ms(self, key: str) -> float | None:
        """Return how late the sleep of the ``nap`` with this key is recorded as over, where the system shows that."""
        ...

    async def bare_writes_ms(self) -> Mapping[str, float]:
        """Return how long one durable write takes and nothing else, by who writes; where the storage can be asked."""
        ...
