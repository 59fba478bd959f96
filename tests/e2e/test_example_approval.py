"""The approval example, run in process: days take no time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from examples import approval
from ironflow.broker.local.virtual_time import run_virtual
from tests.support.inprocess import running_system

HOUR = 3600.0
ORDER = {"orderId": "o-1", "total": 120_000, "buyer": "ada"}
YES = {"orderId": "o-1", "approved": True, "by": "grace"}
NO = {"orderId": "o-1", "approved": False, "by": "grace"}
OTHER = {"orderId": "o-2", "approved": True, "by": "grace"}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with structlog.testing.capture_logs():
        yield


async def outcome_of(order: Any, decisions: list[tuple[float, Any]]) -> tuple[Any, list[str]]:
    """Return the output of an order of which somebody decides after so many hours, and its steps."""
    async with running_system(approval.approve_order, sweep_seconds=HOUR) as system:
        published = await system.client.publish_record("order.placed", order)
        for hours, decision in decisions:
            await asyncio.sleep(hours * HOUR)
            await system.client.publish("order.decided", decision)
        (run,), _ = await system.client.runs_of(published)
        handle = system.client.run(run)
        await system.end_of(handle)
        return await handle.result("1m"), [step.name for step in await handle.steps()]


ASKED = ["ask", "decision"]
REMINDED = [*ASKED, "remind", "decision-after-reminder"]


@pytest.mark.parametrize(
    ("order", "decisions", "output", "steps"),
    [
        ({**ORDER, "total": 99_999}, [], "ada: accepted", []),
        (ORDER, [(0, YES)], "ada: accepted by grace", ASKED),
        (ORDER, [(1, OTHER), (1, NO)], "ada: refused by grace", ASKED),
        (ORDER, [(30, YES)], "ada: accepted by grace", REMINDED),
        (ORDER, [(1, OTHER)], "ada: refused, since nobody has decided", REMINDED),
        (ORDER, [(80, YES)], "ada: refused, since nobody has decided", REMINDED),
    ],
    ids=["small", "at once", "refused", "after the reminder", "never", "too late"],
)
def test_an_order_ends_as_was_decided(order: Any, decisions: Any, output: str, steps: list[str]) -> None:
    came, names = run_virtual(outcome_of(order, decisions))

    assert came == output
    assert names == [*steps, "tell"]
