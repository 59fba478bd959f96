"""Archives that have what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from ironflow_engine.history import NoHistory


class Lagging(NoHistory):
    """An archive that takes its time.

    Attributes:
        has_all: whether it has all that there is of runs.
        position: up to where it has events.

    """

    def __init__(self) -> None:
        self.has_all = False
        self.position = 0

    @property
    def history(self) -> Lagging:
        return self

    async def keep(self, broker: object, duty: object) -> None:  # noqa: ARG002 - it never copies anything
        await asyncio.Event().wait()

    async def copied(self, stream: str) -> int:  # noqa: ARG002 - as above
        return self.position

    async def behind(self, broker: object) -> int:  # noqa: ARG002 - as above
        return 0

    async def missing(self, runs: Collection[tuple[str, int, int]]) -> set[str]:
        return set() if self.has_all else {run for run, _, _ in runs}
