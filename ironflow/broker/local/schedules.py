"""Timers: messages that stand on their subject until they are due, and then go to their target."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

from ironflow.broker.local.clock import US_PER_MS, Alarm, Clock
from ironflow.broker.protocol import Schedule


@dataclass(slots=True)
class Lateness:
    """How late every timer is, in milliseconds. A real server is 0 to 250 late."""

    milliseconds: int = 0


class Schedules:
    """The schedules of one stream that have not fired.

    Args:
        clock: the server's.
        lateness: added to each due time.
        fire: called with the sequence of a schedule and its target when it is due.

    """

    def __init__(self, clock: Clock, lateness: Lateness, fire: Callable[[int, str], None]) -> None:
        self._clock = clock
        self._lateness = lateness
        self._fire = fire
        self._targets: dict[int, str] = {}
        self._due: list[tuple[int, int]] = []
        self._alarm = Alarm(clock, self._ring)

    def add(self, sequence: int, schedule: Schedule) -> None:
        """Fire the message with that sequence when its time has come."""
        due_us = (schedule.at_ms + self._lateness.milliseconds) * US_PER_MS
        self._targets[sequence] = schedule.target
        heapq.heappush(self._due, (due_us, sequence))
        self._alarm.set(due_us)

    def remove(self, sequence: int) -> None:
        """Do not fire that message; harmless where it is not going to."""
        if self._targets.pop(sequence, None) is not None and not self._targets:
            self.suspend()
            self._due.clear()

    def suspend(self) -> None:
        """Fire nothing until :meth:`resume`: the server is down."""
        self._alarm.clear()

    def resume(self) -> None:
        """Fire what is due by now, and go on."""
        self._arm()

    def _arm(self) -> None:
        while self._due and self._due[0][1] not in self._targets:
            heapq.heappop(self._due)
        if self._due:
            self._alarm.set(self._due[0][0])

    def _ring(self) -> None:
        now = self._clock.now_us()
        while self._due and self._due[0][0] <= now:
            _, sequence = heapq.heappop(self._due)
            target = self._targets.pop(sequence, None)
            if target is not None:
                self._fire(sequence, target)
        self._arm()
