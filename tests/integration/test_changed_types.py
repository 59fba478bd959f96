"""Runs that are under way when code with other types is deployed: they stand still, and keep what they did."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

import ironflow
from ironflow import Context, Function, Retry
from ironflow.function import forget_functions
from ironflow.handles import RunHandle
from tests.support.inprocess import System, running_system

pytestmark = pytest.mark.virtual_time

told: list[str] = []


@pytest.fixture(autouse=True)
def nothing_told() -> None:
    told.clear()


@dataclasses.dataclass
class Order:
    total: int


@dataclasses.dataclass
class OrderWithRegion:
    total: int
    region: str


def order_function(order: Any, payment: Any) -> Function[Any, Any]:
    """Return a function of which one version differs from another by its types."""

    def charge() -> Any:
        told.append("charge")
        return {"total": 5}

    charge.__annotations__["return"] = payment

    async def handle_order(ctx: Context[Any]) -> int:
        await ctx.step.run("reserve", str)
        ctx.step.compensate("reserve", told.append, "release")
        paid = await ctx.step.run("charge", charge)
        ctx.step.compensate("charge", told.append, "refund")
        await ctx.step.sleep("a-while", "1h")
        return int(paid.total)

    handle_order.__annotations__["ctx"] = Context[order]
    forget_functions()
    return ironflow.function(id="order", retry=Retry(max_attempts=1))(handle_order)


async def deploy(system: System, function: Function[Any, Any]) -> None:
    """Replace the worker by one that has another version of a function."""
    system.functions[function.id] = function
    for worker in list(system.workers):
        system.cut_off(worker)
        await worker.stop()
    await system.add_worker()


async def begun(system: System, function: Function[Any, Any]) -> RunHandle[Any]:
    """Return a run that sleeps, behind its steps."""
    run = await system.client.start(function, {"total": 5})
    while (await run.state()).status != "waiting":
        await run.steps()
    return run


RESULT_UNREADABLE = (
    "result of step 'charge': Object missing required field `region`; it was recorded by other code, and nothing was "
    "changed. Have the code read what is recorded (with a default for a new field, say), or restore it, then "
    "retry the run"
)
EVENT_UNREADABLE = "data: Object missing required field `region`"


@pytest.mark.parametrize(
    ("event", "result", "error", "text"),
    [
        pytest.param(Order, OrderWithRegion, "NondeterminismError", RESULT_UNREADABLE, id="result"),
        pytest.param(OrderWithRegion, Order, "SerializationError", EVENT_UNREADABLE, id="event"),
    ],
)
async def test_what_the_code_cannot_read_any_more_undoes_nothing_and_is_read_after_a_retry(
    event: type[Any], result: type[Any], error: str, text: str
) -> None:
    old, wrong = order_function(Order, Order), order_function(event, result)
    async with running_system(old) as system:
        run = await begun(system, old)
        await deploy(system, wrong)
        view = await run.wait("3h")
        assert (view.status, view.compensation, told) == ("failed", None, ["charge"])
        assert view.error is not None
        assert (view.error.type, view.error.message) == (error, text)

        await deploy(system, old)
        assert await run.retry()
        assert await run.result("1h") == 5
        assert told == ["charge"]


async def test_a_run_that_undoes_and_cannot_read_a_result_says_that_not_all_is_undone() -> None:
    old, wrong = order_function(Order, Order), order_function(Order, OrderWithRegion)
    async with running_system(old) as system:
        run = await begun(system, old)
        await deploy(system, wrong)
        assert await run.cancel(compensate=True)
        view = await run.wait("3h")
        assert (view.status, view.compensation, told) == ("cancelled", "failed", ["charge", "release"])
