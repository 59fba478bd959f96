"""Messages that nobody can do anything with."""

from __future__ import annotations

import time

from ironflow.broker.protocol import Publication
from ironflow.client import Client
from ironflow.names import digest, run_id
from ironflow.records import FunctionRecord
from tests.chaos.history import Submitted
from tests.chaos.workflow import QUEUE, START

NOBODYS_FUNCTION = "nobodys"
NOBODYS_EVENT = "chaos.nobodys"
UNREADABLE = b'{"run": 5, "this is no'


async def poison(client: Client, number: int) -> list[Submitted]:
    """Store an event and a task that cannot be read, and start a run of a function that no worker has.

    Returns:
        What must come to a failed run.

    """
    names, broker = client.names, client.broker
    await broker.publish(Publication(subject=names.event(START), payload=UNREADABLE))
    task = names.task(QUEUE, digest(f"poison {number}".encode()), 0)
    await broker.publish(Publication(subject=task, payload=UNREADABLE))
    function = FunctionRecord(id=NOBODYS_FUNCTION, queue=QUEUE, triggers=(NOBODYS_EVENT,))
    await client.engine.register((function,))
    event_id = f"poison-{number}"
    published = await client.publish_record(NOBODYS_EVENT, id=event_id)
    return [Submitted(event_id, published.sequence, time.time() * 1000, run=run_id(NOBODYS_FUNCTION, event_id))]
