"""Tables of what was measured."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from tabulate import tabulate

FEWEST_ROUNDS_FOR_SPREAD = 2

RATIOS = {
    "A200 runs/s": True,
    "A600 runs/s": True,
    "A200 CPU s/1000": False,
    "A200 flushes/run": False,
    "B p50 ms": False,
    "B p99 ms": False,
    "C ms/step": False,
    "D p50 ms late": False,
    "D p99 ms late": False,
    "E p50 ms": False,
    "E p99 ms": False,
    "E late p50 ms": False,
    "F ms": False,
    "G s": False,
}
"""The figures that are compared, and whether more is better."""


class Measured(msgspec.Struct):
    """What :mod:`tests.bench.drive` printed about one system."""

    name: str
    durability: str
    notes: list[str]
    load: str
    rounds: dict[str, list[float]]

    def median(self, figure: str) -> float | None:
        """Return a figure's median over the rounds."""
        values = self.rounds.get(figure)
        return statistics.median(values) if values else None


def drive(system: str, options: argparse.Namespace, *, python: Path | str = sys.executable) -> Measured | None:
    """Measure one system in a process of its own; None where that failed, which stderr explains."""
    command = [str(python), "-m", "tests.bench.drive", system]
    command += ["--workloads", options.workloads, "--rounds", str(options.rounds)]
    command += ["--quick"] if options.quick else []
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if answer.returncode != 0:
        return None
    # What comes before it are logs of the system's client.
    return msgspec.json.decode(answer.stdout.splitlines()[-1], type=Measured)


def table(systems: Sequence[Measured]) -> str:
    """Return all figures of all systems side by side: medians, with the least and the most where there are several."""
    names = dict.fromkeys(name for system in systems for name in system.rounds)
    rows = [(name, *(_cell(system.rounds.get(name)) for system in systems)) for name in names]
    return tabulate(rows, headers=("", *(system.name for system in systems)), tablefmt="github", disable_numparse=True)


def ratios(ours: Measured, peers: Sequence[Measured]) -> str:
    """Return how many times better we are than each peer; below 1 the peer is."""
    rows = [
        (name, *(_times(ours.median(name), peer.median(name), more_is_better=more) for peer in peers))
        for name, more in RATIOS.items()
        if name in ours.rounds
    ]
    return tabulate(rows, headers=("times better", *(peer.name for peer in peers)), tablefmt="github")


def conditions(systems: Sequence[Measured]) -> str:
    """Return what each system does before it acknowledges, and how it was set up."""
    return "\n".join(
        f"{system.name}: {'; '.join([system.durability, *system.notes])} (load average before: {system.load})"
        for system in systems
    )


def _cell(values: Sequence[float] | None) -> str:
    if not values:
        return "-"
    middle = _short(statistics.median(values))
    return (
        middle if len(values) < FEWEST_ROUNDS_FOR_SPREAD else f"{middle} ({_short(min(values))}-{_short(max(values))})"
    )


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _times(ours: float | None, theirs: float | None, *, more_is_better: bool) -> str:
    if not ours or not theirs:
        return "-"
    return f"{ours / theirs if more_is_better else theirs / ours:.2g}"
