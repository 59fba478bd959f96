"""Sees that a worker knows how its namespace is divided, before it takes anything."""

from __future__ import annotations

import asyncio

from ironflow.broker.protocol import Broker, BrokerError, NoSuchStream, WrongShards
from ironflow.logs import get_logger
from ironflow.names import Names

_log = get_logger("ironflow.worker")

_TRY_AGAIN_SECONDS = 1.0


async def agree_on_shards(broker: Broker, names: Names, stream: str, queue: str, registered: asyncio.Event) -> None:
    """Return once it is sure that the namespace has as many shards as *names* says.

    An engine tells, and by that time this worker has been stopped where it was told another number. Without one, what
    an engine has noted on the queue's consumer tells. Of a namespace that is not divided nothing is asked: no
    divided one has its streams, so that nothing can be taken from them or written to them by mistake.

    Args:
        broker: the connection.
        names: the namespace, with the number of shards that this worker was told.
        stream: the stream of tasks to take from.
        queue: the queue, whose consumer has its name.
        registered: set once an engine has told.

    Raises:
        WrongShards: it has another number.

    """
    while names.shards > 1 and not registered.is_set():
        try:
            standing = (await broker.consumer_state(stream, queue)).shards
        except NoSuchStream:
            # A queue that is new is made when functions are registered.
            await registered.wait()
        except BrokerError as error:
            _log.warning("not known how the namespace is divided, trying again", reason=str(error))
            await asyncio.sleep(_TRY_AGAIN_SECONDS)
        else:
            check_agreement(names, standing, f"the consumer {queue} of {stream}")
            return


def check_agreement(names: Names, standing: int, told_by: str) -> None:
    """Refuse a number of shards that is not the one that *told_by* tells.

    Raises:
        WrongShards: it is another one.

    """
    if standing != names.shards:
        raise WrongShards(names.shards, standing, told_by)
