"""The examples, and one way through each, on the in-process broker in virtual time."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ironflow.broker.local.virtual_time import run_virtual
from ironflow.function import forget_functions
from ironflow.messages import RunView
from ironflow_worker.loader import load_functions
from tests.support.inprocess import running_system

FOLDER = Path(__file__).resolve().parents[2] / "examples"
HOUR = 3600.0


class Later(NamedTuple):
    """An event that is published so many hours after the one before it."""

    hours: float
    event: str
    data: Any


class Play(NamedTuple):
    """One way through an example.

    Attributes:
        event: what starts it.
        data: of that event.
        output: what the run of it comes to, as JSON; with *error*, nothing.
        error: the message of the error with which it fails.
        steps: the names of some steps that its run records, in this order.
        later: further events.

    """

    event: str
    data: Mapping[str, Any]
    output: Any = None
    error: str | None = None
    steps: tuple[str, ...] = ()
    later: tuple[Later, ...] = ()


def _order() -> Any:
    with (FOLDER / "orders.jsonl").open(encoding="utf-8") as lines:
        return json.loads(next(lines))


ORDER = _order()
RECEIPT = {field: ORDER[field] for field in ("orderId", "email", "total", "currency")}
ALBUM = "album"
"""The folder of pictures; relative to where the example runs, which is a new folder each time."""

PLAYS: dict[str, Play] = {
    "approval.py": Play(
        "order.placed",
        {"orderId": "o-1", "total": 120_000, "buyer": "ada"},
        "ada: accepted by grace",
        steps=("ask", "decision", "remind", "decision-after-reminder", "tell"),
        later=(Later(70, "order.decided", {"orderId": "o-1", "approved": True, "by": "grace"}),),
    ),
    "onboarding.py": Play(
        "employee.hired",
        {"employee": "ada", "role": "engineer"},
        {"account": {"address": "ada@example.org"}, "laptop": {"serial": "laptop-ada", "approved_by": "grace"}},
        steps=("invoke:open-account", "invoke:get-laptop"),
        later=(Later(50, "laptop.approved", {"employee": "ada", "by": "grace"}),),
    ),
    "orders.py": Play(
        "order.placed",
        ORDER,
        RECEIPT,
        steps=("validate", "charge", "wait-for-parcel", "publish:order.fulfilled"),
    ),
    "thumbnails.py": Play(
        "album.created",
        {"folder": ALBUM, "pictures": 3, "longest_side": 150},
        [
            {
                "picture": f"{ALBUM}/picture-{number:04}.jpg",
                "path": f"{ALBUM}/picture-{number:04}.thumbnail.jpg",
                "width": width,
                "height": height,
            }
            for number, width, height in ((1, 150, 100), (2, 150, 100), (3, 100, 150))
        ],
        steps=("draw-pictures", "shrink"),
    ),
    "trip.py": Play(
        "trip.wanted",
        {"traveller": "ada", "city": "Atlantis"},
        error="step 'book-car' failed after 1 attempt(s): NonRetryableError: there are no cars in Atlantis",
        steps=("book-flight", "book-hotel", "book-car", "compensate:book-hotel", "compensate:book-flight"),
    ),
}


class Played(NamedTuple):
    """What came of an example.

    Attributes:
        run: the run that its event started.
        steps: the names of the steps that the run recorded, in their order.
        seconds: the real time that it took, without the time to import it.

    """

    run: RunView
    steps: list[str]
    seconds: float

    def differences(self, play: Play) -> list[str]:
        """Say what is not as it should be."""
        output = json.loads(bytes(self.run.output) or b"null")
        # A key that depends on the run's id is its own business, and the receipt's other fields are the order's.
        if isinstance(output, dict):
            output.pop("chargeId", None)
        error = self.run.error.message if self.run.error is not None else None
        found = [
            f"{what} is {got!r}, should be {wanted!r}"
            for what, got, wanted in (("output", output, play.output), ("error", error, play.error))
            if got != wanted
        ]
        recorded = iter(self.steps)
        found += [f"step {name!r} is not recorded, or not in order" for name in play.steps if name not in recorded]
        return found


def examples() -> list[str]:
    """Return the file names of the examples: what defines a function in the folder of examples."""
    files = sorted(FOLDER.glob("*.py"))
    return [file.name for file in files if "\n@ironflow.function(" in file.read_text(encoding="utf-8")]


def play(example: str) -> Played:
    """Run an example in process, in virtual time. Wants an empty working folder."""
    path = [*sys.path]
    forget_functions()
    try:
        functions = load_functions([str(FOLDER / example)])
        begun = time.perf_counter()
        run, steps = run_virtual(_play(PLAYS[example], functions))
        return Played(run, steps, time.perf_counter() - begun)
    finally:
        sys.path[:] = path
        forget_functions()


async def _play(play: Play, functions: Mapping[str, Any]) -> tuple[RunView, list[str]]:
    async with running_system(*functions.values(), sweep_seconds=HOUR) as system:
        published = await system.client.publish_record(play.event, msgspec.to_builtins(play.data))
        (run,), _ = await system.client.runs_of(published)
        handle = system.client.run(run)
        for later in play.later:
            await asyncio.sleep(later.hours * HOUR)
            await system.client.publish(later.event, later.data)
        view = await system.end_of(handle)
        return view, [step.name for step in await handle.steps()]
