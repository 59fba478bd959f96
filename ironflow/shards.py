"""The shards of a namespace: streams of their own for the journal, the tasks and the timers of some of its runs.

A stream has one leader, which writes one message after the other. Past what one can do, each run belongs to one of
several, by a hash of its id. Names of a namespace that is not divided hold no number.
"""

from __future__ import annotations

import functools
import zlib

import msgspec

from ironflow.errors import DefinitionError

MOST_SHARDS = 64
"""Each has three streams, a consumer for each queue and two for the engines, and costs every server its share."""


class Shard(msgspec.Struct, frozen=True):
    """One of the shards.

    Args:
        namespace: the namespace.
        suffix: what its names have behind those of a namespace that is not divided, like "-2".

    """

    namespace: str
    suffix: str = ""

    # Streams

    @property
    def tasks(self) -> str:
        """The work queue of passes to execute."""
        return self._stream("TASKS")

    @property
    def journal(self) -> str:
        """The stream of facts about runs."""
        return self._stream("JOURNAL")

    @property
    def timers(self) -> str:
        """The stream of schedules and of what they fire."""
        return self._stream("TIMERS")

    def _stream(self, kind: str) -> str:
        return f"{self.namespace.upper()}_{kind}{self.suffix.replace('-', '_')}"

    # Filters. The number is part of the second token: what tells streams apart is at the same place in all subjects,
    # and what stands behind it too.

    @property
    def every_task(self) -> str:
        """The filter of all tasks."""
        return f"{self.namespace}.tasks{self.suffix}.>"

    def tasks_of_queue(self, queue: str) -> str:
        """The filter of all tasks of a queue."""
        return f"{self.namespace}.tasks{self.suffix}.{queue}.>"

    @property
    def every_record(self) -> str:
        """The filter of everything recorded."""
        return f"{self.namespace}.journal{self.suffix}.>"

    def journal_of_queue(self, queue: str) -> str:
        """The filter of everything recorded of the runs of a queue."""
        return f"{self.namespace}.journal{self.suffix}.{queue}.>"

    def journal_kind(self, kind: str) -> str:
        """The filter of one kind of record ("wait", "outcome", …) of all runs."""
        return f"{self.namespace}.journal{self.suffix}.*.*.{kind}.>"

    def journal_canary(self, queue: str) -> str:
        """The subject that workers of a queue write to in order to see whether they could write at all."""
        return f"{self.namespace}.journal{self.suffix}.{queue}.=health.canary"

    @property
    def every_timer(self) -> str:
        """The filter of all schedules."""
        return f"{self.namespace}.timers{self.suffix}.>"

    def timers_due_in(self, bucket: int) -> str:
        """The filter of the schedules that are due in the same half minute, counted from 1970."""
        return f"{self.namespace}.timers{self.suffix}.*.*.{bucket}.>"

    @property
    def every_fired(self) -> str:
        """The filter of what schedules have delivered."""
        return f"{self.namespace}.fired{self.suffix}.>"


def check_shards(count: int) -> None:
    """Refuse a number of shards that is not possible.

    Raises:
        DefinitionError: it is not between 1 and 64.

    """
    if not 1 <= count <= MOST_SHARDS:
        msg = f"a namespace has 1 to {MOST_SHARDS} shards, got {count!r}"
        raise DefinitionError(msg)


def shard_number(run: str, count: int) -> int:
    """Return to which of so many shards a run belongs: the same for all processes, machines and versions."""
    return zlib.crc32(run.encode("utf-8", "surrogatepass")) % count


def shard_number_of(subject: str) -> int:
    """Return to which shard the subject of a task, a record or a timer belongs; 0 where there is one only."""
    return int(subject.split(".", 2)[1].partition("-")[2] or 0)


@functools.cache
def shards_of(namespace: str, count: int) -> tuple[Shard, ...]:
    """Return the shards of a namespace."""
    if count == 1:
        return (Shard(namespace),)
    return tuple(Shard(namespace, f"-{number}") for number in range(count))
