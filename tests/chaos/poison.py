"""Messages that nobody can do anything with."""

from __future__ import annotations

import time

from ironflow.broker.protocol import Publication
from ironflow.client import Client
from ironflow.names import run_id
from ironflow.records import FunctionRecord
from tests.chaos.history import Submitted
from tests.chaos.workflow import FUNCTION, QUEUE, START

NOBODYS_FUNCTION = "nobodys"
NOBODYS_EVENT = "chaos.nobodys"
UNREADABLE = b'{"run": 5, "this is no'


async def poison(client: Client, number: int) -> list[Submitted]:
    """Store an event and a task that cannot be read, and start a run of a function that no worker has.

    Returns:
        What must come to a failed run.

    """
    return [
        await _unreadable_event(client),
        await _unreadable_task(client, f"unreadable-{number}"),
        await _nobodys(client, f"nobodys-{number}"),
    ]


async def _unreadable_event(client: Client) -> Submitted:
    subject = client.names.event(START)
    stored = await client.broker.publish(Publication(subject=subject, payload=UNREADABLE))
    return Submitted("", stored.sequence, time.time() * 1000, run=run_id("", f"unreadable:{stored.sequence}"))


async def _unreadable_task(client: Client, event_id: str) -> Submitted:
    """Take the place of the task that a run is going to have."""
    run = run_id(FUNCTION, event_id)
    await client.broker.publish(Publication(subject=client.names.task(QUEUE, run, 0), payload=UNREADABLE))
    published = await client.publish_record(START, id=event_id)
    return Submitted(event_id, published.sequence, time.time() * 1000, run=run)


async def _nobodys(client: Client, event_id: str) -> Submitted:
    function = FunctionRecord(id=NOBODYS_FUNCTION, queue=QUEUE, triggers=(NOBODYS_EVENT,))
    await client.engine.register((function,))
    published = await client.publish_record(NOBODYS_EVENT, id=event_id)
    return Submitted(event_id, published.sequence, time.time() * 1000, run=run_id(NOBODYS_FUNCTION, event_id))
