"""How full queues and streams are, over all shards of a namespace."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from ironflow.broker.protocol import Broker, ConsumerState, NoSuchStream
from ironflow.names import Names


async def stored_in(broker: Broker, streams: Iterable[str]) -> int:
    """Return how many messages some streams hold together.

    Raises:
        BrokerError: it cannot be learned.

    """
    return sum([state.messages for state in await asyncio.gather(*map(broker.stream_state, streams))])


async def queue_state(broker: Broker, names: Names, queue: str) -> ConsumerState | None:
    """Return what the consumers of a queue have together; None where it has none.

    Raises:
        BrokerError: it cannot be learned.

    """
    found = await asyncio.gather(*(_state(broker, shard.tasks, queue) for shard in names.all_shards))
    states = [state for state in found if state is not None]
    if len(states) < 2:  # noqa: PLR2004 - nothing is to be added up
        return states[0] if states else None
    return ConsumerState(
        pending=sum(state.pending for state in states),
        ack_pending=sum(state.ack_pending for state in states),
        redelivered=sum(state.redelivered for state in states),
        ack_floor=0,  # each stream counts for itself
        waiting_pulls=sum(state.waiting_pulls for state in states),
        shards=names.shards,
    )


async def _state(broker: Broker, stream: str, queue: str) -> ConsumerState | None:
    try:
        return await broker.consumer_state(stream, queue)
    except NoSuchStream:
        return None
