"""Workloads A to G on Ironflow alone."""

from __future__ import annotations

import argparse
import sys

from tests.bench.drive import add_options
from tests.bench.report import conditions, drive, table


def options() -> list[str] | None:
    """Return the options on the command line where it names no bench, else None."""
    given = sys.argv[1:]
    return given if not given or given[0].startswith("-") else None


async def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    add_options(parser)
    parser.add_argument("--unsynced", action="store_true", help="a second column, on a server as it comes")
    wanted = parser.parse_args(options() or [])
    names = ["ironflow", "ironflow-unsynced"] if wanted.unsynced else ["ironflow"]
    measured = [system for system in (drive(name, wanted) for name in names) if system is not None]
    if measured:
        print(table(measured), conditions(measured), sep="\n\n")
    return 0 if len(measured) == len(names) else 1
