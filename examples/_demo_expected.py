"""What each order's data calls for, by rules that know nothing of the code under examples/orders.py."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

Data = dict[str, Any]

SERVED = ["AT", "CH", "DE", "DK", "ES", "FR", "GB", "IT", "NL", "SE"]

FLAWS: tuple[tuple[str, Callable[[Data], bool]], ...] = (
    ("missing required field `email`", lambda order: "email" not in order),
    ("Expected `int`", lambda order: any(isinstance(line["quantity"], str) for line in order["lines"])),
    ("has no lines", lambda order: order["lines"] == []),
    ("a quantity of at least 1", lambda order: any(line["quantity"] < 1 for line in order["lines"])),
    ("the lines come to", lambda order: order["total"] != sum(map(price, order["lines"]))),
    ("do not ship to", lambda order: order["country"] not in SERVED),
    ("is not an e-mail address", lambda order: "@" not in order["email"]),
    ("the card expired", lambda order: order["card"]["expires"] < order["placedAt"][: len("2026-11")]),
)
"""Why an order fails: what its error says, and how that shows in its data. The first one counts."""


class Ended(NamedTuple):
    """How a run ended."""

    run: str
    order: str
    status: str
    output: Any
    error: str


def price(line: Data) -> int:
    """Return what a line of an order costs."""
    return int(line["quantity"] * line["unitPrice"])


def flaw_of(order: Data) -> str | None:
    """Return what the error of this order must say; None where it must be fulfilled."""
    return next((text for text, shows in FLAWS if shows(order)), None)


def differences(orders: Iterable[Data], order_runs: Iterable[Ended], receipt_runs: Iterable[Ended]) -> list[str]:
    """Return in which ways runs and receipts are not what the orders call for; nothing where all is well."""
    by_order, by_receipt = _grouped(order_runs), _grouped(receipt_runs)
    found: list[str] = []
    for order in orders:
        name, flaw = order["orderId"], flaw_of(order)
        runs, receipts = by_order.pop(name, []), by_receipt.pop(name, [])
        found += _difference(f"order {name}", runs, flaw, _receipt(order) if flaw is None else None)
        if flaw is None:
            found += _difference(f"receipt of {name}", receipts, None, _mail(order))
        elif receipts:
            found.append(f"receipt of {name}: there is one, although the order must fail")
    found += [f"order {name}: was never placed" for name in by_order]
    found += [f"receipt of {name}: was never due" for name in by_receipt]
    return found


def _difference(what: str, runs: list[Ended], flaw: str | None, output: Any) -> list[str]:
    if len(runs) != 1:
        return [f"{what}: has {len(runs)} runs, should have 1"]
    run = runs[0]
    wanted = "completed" if flaw is None else "failed"
    if run.status != wanted:
        return [f"{what}: is {run.status}, should be {wanted} ({run.error or flaw or 'no error'}; run {run.run})"]
    if flaw is not None and flaw not in run.error:
        return [f"{what}: failed with {run.error!r}, should say {flaw!r} (run {run.run})"]
    if flaw is None and _without_charge(run.output) != output:
        return [f"{what}: came to {json.dumps(run.output)}, should be {json.dumps(output)} (run {run.run})"]
    return []


def _receipt(order: Data) -> Data:
    return {field: order[field] for field in ("orderId", "email", "total", "currency")}


def _mail(order: Data) -> str:
    return f"{order['total'] / 100:.2f} {order['currency']}: receipt sent to {order['email']}"


def _without_charge(output: Any) -> Any:
    """Leave out the one field that the order's data does not determine; it has to be there."""
    if not isinstance(output, dict):
        return output
    rest = dict(output)
    return rest if rest.pop("chargeId", "") else None


def _grouped(runs: Iterable[Ended]) -> dict[str, list[Ended]]:
    groups: dict[str, list[Ended]] = {}
    for run in runs:
        groups.setdefault(run.order, []).append(run)
    return groups
