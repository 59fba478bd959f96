"""What a map of 10,000 items takes: time, and memory of the worker and of the engine."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from tabulate import tabulate

from ironflow.broker.embedded import EmbeddedServer
from tests.support.processes import Process, cluster, functions_are_known

ITEMS = 10_000


def memory_mib(process: Process, what: str) -> float:
    """Return a figure of a process's memory: "VmHWM", its peak, or "VmRSS", what it has now."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == what:
            return int(rest.split()[0]) / 1024
    msg = f"the system does not tell {what} of process {process.pid}"
    raise OSError(msg)


async def main() -> int:
    """Print the figures; fail where the results are not in order."""
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedServer(Path(folder) / "nats") as server,
        cluster(server.url, "bench", Path(folder)) as processes,
    ):
        members = {"engine": processes.engine(), "worker": processes.worker("flows.py")}
        async with processes.client() as client:
            await functions_are_known(client, "doubles")
            before = {name: memory_mib(process, "VmRSS") for name, process in members.items()}
            begun = time.monotonic()
            run = await client.start("doubles", ITEMS)
            results = await run.result("300s")
            took = time.monotonic() - begun
        peaks = {name: memory_mib(process, "VmHWM") for name, process in members.items()}
    print(f"{ITEMS:,} items in {took:.1f} s, {ITEMS / took:,.0f} a second")
    rows = [(name, before[name], peaks[name]) for name in members]
    print(tabulate(rows, headers=("memory in MiB", "before", "peak"), floatfmt=".0f"))
    return 0 if results == [2 * number for number in range(ITEMS)] else 1
