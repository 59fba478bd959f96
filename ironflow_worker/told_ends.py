"""The ends of waits that a pass was told: it goes on at once, and sees to it that the journal has them, too."""

from __future__ import annotations

import asyncio

from msgspec.structs import replace

from ironflow.names import mark
from ironflow.records import WaitEnd
from ironflow_worker.pass_tools import PassTools


class ToldEnds:
    """The ends that one pass was told.

    Args:
        tools: what is needed to record them.

    """

    def __init__(self, tools: PassTools) -> None:
        self._tools = tools
        self._recordings: list[asyncio.Task[None]] = []
        self._heard: list[str] = []

    @property
    def heard(self) -> tuple[str, ...]:
        """Short hashes of the steps whose ends came by hints."""
        return tuple(self._heard)

    def take(self, end: WaitEnd, *, by_hint: bool) -> asyncio.Future[None]:
        """Begin to record an end; return what is done when the journal has it, and raises a BrokerError otherwise.

        Args:
            end: what the pass was told.
            by_hint: by a hint, rather than by its task.

        """
        recording = asyncio.create_task(self._record(end))
        recording.add_done_callback(_look_at)
        self._recordings.append(recording)
        if by_hint:
            self._heard.append(mark(end.step))
        return recording

    async def recorded(self) -> None:
        """Return once the journal has all ends.

        Raises:
            LeaseLost: the pass may be another worker's by now.
            BrokerError: one cannot be recorded, and waiting would not help.

        """
        for recording in self._recordings:
            await recording

    def stop(self) -> None:
        """Let go of what is not recorded by now."""
        for recording in self._recordings:
            recording.cancel()

    async def _record(self, end: WaitEnd) -> None:
        await asyncio.sleep(0)  # the handler goes on first
        tools = self._tools
        subject = tools.names.journal_step(tools.queue, tools.run, end.step)
        record = replace(end.record, token=tools.token)
        # What is done beside could not be recorded any more, had this been given up.
        await tools.patiently(lambda: tools.journal.ensure(subject, record))
        # A body comes next. The hint may have waited for a process that stood still, and the record for NATS.
        tools.check_lease()


def _look_at(recording: asyncio.Future[None]) -> None:
    """Look at how it went: asyncio complains about what nobody has seen, and the pass may have failed before."""
    if not recording.cancelled():
        recording.exception()
