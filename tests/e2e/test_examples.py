"""The orders example, run in process, and the rules by which the demo judges what comes of an order."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import structlog

from examples import _demo_expected as expected
from examples import orders
from examples._demo_report import Work, read_starts
from examples._demo_runs import ended_runs, recorded_steps
from ironflow.broker.local.virtual_time import run_virtual
from tests.support.eventually import eventually
from tests.support.inprocess import System, running_system

FILE = Path(orders.__file__).with_name("orders.jsonl")
ORDERS = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
BUSY_CARD = "tok_busy_twice"
BUSY = "busy card"
PLAIN = "nothing special"
OF_EACH_KIND = 3


def kind_of(order: expected.Data) -> str:
    return expected.flaw_of(order) or (BUSY if order["card"]["token"] == BUSY_CARD else PLAIN)


@pytest.fixture(autouse=True)
def witness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    file = tmp_path / "witness"
    file.touch()
    monkeypatch.setenv("IRONFLOW_DEMO_WITNESS", str(file))
    with structlog.testing.capture_logs():
        yield file


async def run_all(chosen: Sequence[expected.Data]) -> tuple[list[expected.Ended], list[expected.Ended], Counter[Any]]:
    """Run orders to their end; return the runs of both functions, and the attempts of each step."""
    async with running_system(orders.fulfil_order, orders.send_receipt, workers=2) as system:
        for order in chosen:
            await system.client.publish("order.placed", order, id=order["orderId"])
        await eventually(lambda: all_ended(system, len(chosen)), within=60)
        order_runs = await ended_runs(system.client, "fulfil-order")
        receipt_runs = await ended_runs(system.client, "send-receipt")
        _, attempts = await recorded_steps(system.client, [*order_runs, *receipt_runs])
        return order_runs, receipt_runs, attempts


async def all_ended(system: System, placed: int) -> None:
    states = [await handle.state() async for handle in system.client.runs()]
    status = Counter((state.function, state.status) for state in states)
    completed = status["fulfil-order", "completed"]
    assert completed + status["fulfil-order", "failed"] == placed
    assert status["send-receipt", "completed"] == completed


@pytest.mark.parametrize("kind", [*(text for text, _ in expected.FLAWS), BUSY, PLAIN])
def test_an_order_ends_as_its_data_calls_for(kind: str, witness: Path) -> None:
    chosen = [order for order in ORDERS if kind_of(order) == kind][:OF_EACH_KIND]
    order_runs, receipt_runs, attempts = run_virtual(run_all(chosen))

    assert chosen
    assert expected.differences(chosen, order_runs, receipt_runs) == []
    starts, _ = read_starts(witness, killed=0)
    assert starts == attempts, "nothing was killed, so each body ran exactly as often as is recorded"


def test_a_busy_card_is_charged_at_the_third_attempt(witness: Path) -> None:
    busy = next(order for order in ORDERS if kind_of(order) == BUSY)
    _, _, attempts = run_virtual(run_all([busy]))

    assert attempts[busy["orderId"], "charge"] == 3
    assert witness.read_text(encoding="utf-8").count(" charge ") == 3


def test_an_order_that_fails_validation_is_never_charged(witness: Path) -> None:
    flawed = [order for order in ORDERS if expected.flaw_of(order)]
    run_virtual(run_all(flawed))

    assert " charge " not in witness.read_text(encoding="utf-8")


def test_the_orders_are_two_hundred_of_every_kind() -> None:
    kinds = Counter(map(kind_of, ORDERS))

    assert len({order["orderId"] for order in ORDERS}) == len(ORDERS) == 200
    assert kinds.keys() == {BUSY, PLAIN, *(text for text, _ in expected.FLAWS)}
    assert kinds[BUSY] >= 20
    assert kinds[PLAIN] >= 100


GOOD = next(order for order in ORDERS if kind_of(order) == PLAIN)
BAD = next(order for order in ORDERS if kind_of(order) == "has no lines")


def receipt_of(order: expected.Data) -> expected.Data:
    return {**{field: order[field] for field in ("orderId", "email", "total", "currency")}, "chargeId": "c"}


def as_it_should_be() -> tuple[list[expected.Ended], list[expected.Ended]]:
    good, bad = GOOD["orderId"], BAD["orderId"]
    mail = f"{GOOD['total'] / 100:.2f} {GOOD['currency']}: receipt sent to {GOOD['email']}"
    return (
        [
            expected.Ended("r1", good, "completed", receipt_of(GOOD), ""),
            expected.Ended("r2", bad, "failed", None, "the order has no lines"),
        ],
        [expected.Ended("r3", good, "completed", mail, "")],
    )


def test_nothing_differs_where_all_is_as_it_should_be() -> None:
    assert expected.differences([GOOD, BAD], *as_it_should_be()) == []


@pytest.mark.parametrize(
    ("place", "run", "change", "said"),
    [
        (0, 0, None, "has 0 runs, should have 1"),
        (0, 0, "twice", "has 2 runs, should have 1"),
        (0, 0, {"status": "failed", "error": "boom"}, "is failed, should be completed (boom; run r1)"),
        (0, 0, {"status": "waiting"}, "is waiting, should be completed"),
        (0, 0, {"output": {**receipt_of(GOOD), "total": 1}}, "came to"),
        (0, 0, {"output": {**receipt_of(GOOD), "chargeId": ""}}, '"chargeId": ""}, should be'),
        (0, 1, {"status": "completed"}, "is completed, should be failed"),
        (0, 1, {"error": "something else"}, "failed with 'something else', should say 'has no lines'"),
        (0, 1, {"order": "o-9999"}, "order o-9999: was never placed"),
        (1, 0, None, "receipt of o-1001: has 0 runs"),
        (1, 0, {"status": "failed"}, "receipt of o-1001: is failed"),
        (1, 0, {"output": "lost"}, "receipt of o-1001: came to"),
        (1, 0, {"order": BAD["orderId"]}, "there is one, although the order must fail"),
    ],
)
def test_each_difference_is_found(place: int, run: int, change: Any, said: str) -> None:
    told = copy.deepcopy(as_it_should_be())
    match change:
        case None:
            del told[place][run]
        case "twice":
            told[place].append(told[place][run])
        case _:
            told[place][run] = told[place][run]._replace(**change)

    assert any(said in difference for difference in expected.differences([GOOD, BAD], *told))


def test_starts_beyond_the_recorded_attempts_are_told_apart_by_who_made_them(witness: Path) -> None:
    witness.write_text("o-1 charge 7\no-1 charge 8\no-2 charge 8\no-3 mail 8\no-3 mail 8\n", encoding="utf-8")
    attempts = Counter({("o-1", "charge"): 1, ("o-2", "charge"): 1, ("o-3", "mail"): 1, ("o-4", "mail"): 1})
    work = Work(4, attempts, *read_starts(witness, killed=7))

    assert work.again_after_kill == 1
    assert work.again.total() == 2
    assert list(work.contradictions()) == ["step mail of o-4: is recorded more often than it was started"]
