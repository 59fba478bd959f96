"""What an engine asks and does about child runs, where it cannot be done."""

from __future__ import annotations

import gc

import pytest

from ironflow.broker.local import LocalServer
from ironflow.broker.protocol import BrokerError, Unavailable
from ironflow.names import Names, invoke_event_id
from ironflow.records import EventRecord, ParentLink
from ironflow.triggers import INVOKED
from ironflow_engine.child_keeper import ChildKeeper
from ironflow_engine.run_store import RunStore

pytestmark = pytest.mark.virtual_time

NAMES = Names("test")


async def nobody_is_cancelled(*_: object) -> None:
    raise AssertionError("nothing here is ended")


def started_by(run: str) -> EventRecord:
    link = ParentLink(run=run, queue="default", step="child")
    return EventRecord(id=invoke_event_id(run, "child"), name=INVOKED, time="", target="f", parent=link)


async def test_what_was_not_asked_any_more_since_nobody_answers_is_not_complained_about() -> None:
    server = LocalServer()
    broker = server.connect()
    keeper = ChildKeeper(broker, NAMES, RunStore(broker, NAMES, str), nobody_is_cancelled, str)

    def refuse(*_: object) -> BrokerError:
        return Unavailable("nobody answers")

    server.interceptor = refuse
    with pytest.raises(Unavailable):
        await keeper.are_believable([started_by(f"run{number}") for number in range(200)])
    gc.collect()  # a warning about a coroutine that was never awaited fails the test
