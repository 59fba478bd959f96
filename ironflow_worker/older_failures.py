"""Whether another worker has recorded a failure in a group of branches before ours: every later pass would raise it."""

from __future__ import annotations

from ironflow.names import Scope
from ironflow_worker.memo import Memo
from ironflow_worker.pass_tools import PassTools


async def has_older(tools: PassTools, known: Memo, group: Scope, place: int | None) -> bool:
    """Read what was recorded since a pass began, and tell whether a failure of another one is older.

    Args:
        tools: the pass's.
        known: what was recorded when it began.
        group: the scope of the parallel or the map, and its name.
        place: where our failure stands in the journal; None where it is not recorded.

    Raises:
        BrokerError: it cannot be read.
        SerializationError: likewise.

    """
    since, journal = Memo(known.epoch), tools.names.journal_of_run(tools.queue, tools.run)
    async for page in tools.broker.read(tools.names.shard_of(tools.run).journal, journal, known.seen, one_each=True):
        since.read(page)
    return any(place is None or other < place for other in since.failures(group, but_of=tools.token))
