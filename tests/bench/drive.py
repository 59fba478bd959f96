"""``python -m tests.bench.drive SYSTEM``: measure one system and print its figures as JSON; progress goes to stderr.

Runs with nothing but the standard library and the system's own client, since each peer has an environment of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import json
import signal
import sys

from tests.bench import machine
from tests.bench.system import System
from tests.bench.workloads import FULL, QUICK, WORKLOADS, measure

SYSTEMS = {
    "ironflow": "tests.bench.ironflow_system:Ironflow",
    "ironflow-unsynced": "tests.bench.ironflow_system:UnsyncedIronflow",
    "restate": "tests.bench.peers.restate_system:Restate",
    "dbos": "tests.bench.peers.dbos_system:DbosOnPostgres",
    "dbos-sqlite": "tests.bench.peers.dbos_system:DbosOnSqlite",
    "temporal": "tests.bench.peers.temporal_system:Temporal",
    "temporal-local": "tests.bench.peers.temporal_system:TemporalLocalActivities",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what all that measures can be told."""
    parser.add_argument("--workloads", default="".join(WORKLOADS), help="letters of A to G (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each; tables show the median (default: 3)")
    parser.add_argument("--quick", action="store_true", help="a fraction of everything, for development only")


def main() -> int:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.drive")
    parser.add_argument("system", choices=SYSTEMS)
    add_options(parser)
    options = parser.parse_args()
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415 - the system's environment may lack it

        uvloop.install()
    # Told to stop, it ends what it has started, as after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    module, _, name = SYSTEMS[options.system].partition(":")
    system: System = getattr(importlib.import_module(module), name)()
    load = machine.load()
    rounds = asyncio.run(
        measure(
            system,
            options.workloads.upper(),
            QUICK if options.quick else FULL,
            options.rounds,
            lambda line: print(line, file=sys.stderr, flush=True),
        )
    )
    answer = {"name": system.name, "durability": system.durability, "notes": list(system.notes), "load": load}
    print(json.dumps({**answer, "rounds": rounds}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
