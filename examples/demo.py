"""Two hundred orders and two workers, one of which is killed on the way: every order still ends as it should.

    python3 bootstrap.py demo

It runs a NATS server, an engine and two workers of its own in a temporary folder, publishes the orders of
examples/orders.jsonl, kills a worker with SIGKILL when a third of them is done, and waits for the rest. It exits
with 0 only if every order reached the state that its data calls for, and every fulfilled one has its receipt.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import ironflow
from examples._demo_expected import Data, differences
from examples._demo_processes import ROOT, WORKERS, DemoError, Fleet, running_fleet
from examples._demo_report import Progress, Work, print_differences, print_table, read_starts
from examples._demo_runs import count, ended_runs, recorded_steps, until_ready

FUNCTIONS = ("fulfil-order", "send-receipt")
ORDERS_PER_SECOND = 50
READY_SECONDS = 20.0
PATIENCE_SECONDS = 60.0
LOOK_SECONDS = 0.4


async def demo(orders: Sequence[Data], progress: Progress) -> int:
    """Run the demo; return its exit code."""
    end_when_told()
    with tempfile.TemporaryDirectory(prefix="ironflow-demo-") as folder:
        async with (
            running_fleet(Path(folder)) as fleet,
            ironflow.connect(fleet.url) as client,
            asyncio.TaskGroup() as group,
        ):
            watchers = [group.create_task(watch) for watch in fleet.watches()]
            code = await tell(orders, fleet, client, group, progress)
            for watcher in watchers:
                watcher.cancel()
            return code


async def tell(
    orders: Sequence[Data], fleet: Fleet, client: ironflow.Client, group: asyncio.TaskGroup, progress: Progress
) -> int:
    """Publish, kill, wait, check."""
    try:
        await asyncio.wait_for(until_ready(client, len(FUNCTIONS), WORKERS), READY_SECONDS)
    except TimeoutError:
        raise DemoError(f"engine and workers were not ready within {READY_SECONDS:g} s") from None
    progress.say(f"ready: a NATS server, an engine, {WORKERS} workers; publishing {len(orders)} orders")
    group.create_task(publish(orders, client))
    await until_done(client, progress, len(orders), least=max(1, len(orders) // 3))
    victim = fleet.workers[0]
    victim.kill()
    progress.say(f"killed {victim.name} (process {victim.pid}) with SIGKILL; its tasks go to the other one")
    all_done = await until_done(client, progress, len(orders), least=len(orders))
    return await check(orders, fleet, client, progress, all_done=all_done)


async def publish(orders: Sequence[Data], client: ironflow.Client) -> None:
    """Publish the orders as they come in. Its id sees to it that none counts twice."""
    for order in orders:
        await client.publish("order.placed", order, id=order["orderId"])
        await asyncio.sleep(1 / ORDERS_PER_SECOND)


async def until_done(client: ironflow.Client, progress: Progress, orders: int, least: int) -> bool:
    """Wait until so many orders have ended and, where that is all of them, their receipts; tell whether they did."""
    deadline = progress.seconds + PATIENCE_SECONDS
    while progress.seconds < deadline:
        completed, failed, receipts = await asyncio.gather(
            count(client, "fulfil-order", "completed"),
            count(client, "fulfil-order", "failed"),
            count(client, "send-receipt", "completed"),
        )
        progress.update(
            f"{completed + failed} of {orders} orders done ({completed} completed, {failed} failed), "
            f"{receipts} receipts sent"
        )
        if completed + failed >= least and (least < orders or receipts >= completed):
            return True
        await asyncio.sleep(LOOK_SECONDS)
    return False


async def check(
    orders: Sequence[Data], fleet: Fleet, client: ironflow.Client, progress: Progress, *, all_done: bool
) -> int:
    """Print what came of the orders; return the exit code."""
    order_runs, receipt_runs = [await ended_runs(client, function) for function in FUNCTIONS]
    recorded, attempts = await recorded_steps(client, [*order_runs, *receipt_runs])
    work = Work(recorded, attempts, *read_starts(fleet.witness, fleet.workers[0].pid))
    progress.close()
    print_table(order_runs, receipt_runs, work, progress.seconds)
    found = [*differences(orders, order_runs, receipt_runs), *work.contradictions()]
    if not all_done:
        found.insert(0, f"not everything had ended {PATIENCE_SECONDS:g} s after the kill")
    if found:
        print_differences(found)
        return 1
    print(f"All {len(orders)} orders are as their data calls for, and every fulfilled one has its receipt.")
    return 0


def end_when_told() -> None:
    """Let what else asks a process to end do so in good order, as Ctrl-C does."""
    loop, story = asyncio.get_running_loop(), asyncio.current_task()
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if story is not None and number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            with contextlib.suppress(NotImplementedError):  # Windows
                loop.add_signal_handler(number, story.cancel)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--orders", type=int, metavar="N", help="only the first N of them")
    lines = (ROOT / "examples" / "orders.jsonl").read_text(encoding="utf-8").splitlines()
    orders = [json.loads(line) for line in lines[: parser.parse_args().orders]]
    # The demo is the same on every machine, whatever NATS its user has set up there.
    for name in [name for name in os.environ if name.startswith(("NATS_", "IRONFLOW_"))]:
        del os.environ[name]
    progress = Progress()
    code = 1
    try:
        code = asyncio.run(demo(orders, progress))
    except* (KeyboardInterrupt, asyncio.CancelledError):
        code = 130
        progress.say("interrupted; nothing is left running")
    except* (DemoError, ironflow.IronflowError) as group:
        progress.say(f"the demo failed: {_first(group)}")
    return code


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


if __name__ == "__main__":
    sys.exit(main())
