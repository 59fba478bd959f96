"""Several systems that are measured by turns, so that what else the machine does reaches all of them alike."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from tabulate import tabulate

Rounds = dict[str, list[float]]
"""What each round gave, by figure."""
S = TypeVar("S")


async def by_turns(
    systems: Mapping[str, S], rounds: int, measure: Callable[[S], Awaitable[Mapping[str, float]]]
) -> dict[str, Rounds]:
    """Return the figures of each system; every second round goes through them backwards."""
    seen: dict[str, Rounds] = {name: {} for name in systems}
    for number in range(rounds):
        for name in list(systems) if number % 2 else list(systems)[::-1]:
            note(seen[name], await measure(systems[name]))
        print(f"  round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return seen


def note(seen: Rounds, figures: Mapping[str, float]) -> None:
    """Add one round's figures."""
    for figure, value in figures.items():
        seen.setdefault(figure, []).append(value)


def table(columns: Mapping[str, Rounds], bases: Mapping[str, Rounds], what: str) -> str:
    """Return medians, and behind each how many times that of its base it is.

    Args:
        columns: the figures, by the title of their column.
        bases: what each column is compared with; none where it stands alone.
        what: the title of the first column.

    """
    names = dict.fromkeys(name for rounds in columns.values() for name in rounds)
    rows = [
        (name, *(_cell(rounds.get(name), bases.get(title, {}).get(name)) for title, rounds in columns.items()))
        for name in names
    ]
    return tabulate(rows, headers=(what, *columns), tablefmt="github", disable_numparse=True)


def ratio(rounds: Rounds, base: Rounds, name: str) -> float:
    """Return how many times the median of a figure is that of its base."""
    return statistics.median(rounds[name]) / statistics.median(base[name])


def _cell(values: list[float] | None, base: list[float] | None) -> str:
    if not values:
        return "-"
    value = statistics.median(values)
    shown = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    if not base:
        return shown
    other = statistics.median(base)
    return f"{shown} ({value / other:.2f})" if other else f"{shown} (of 0)"
