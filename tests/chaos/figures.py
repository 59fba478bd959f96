"""Figures of a history: how long it took, how often it happened. All are pure."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence

from tests.chaos.history import History
from tests.chaos.timeline import Injected


def median(values: Sequence[float]) -> float:
    """Return the median; 0 of nothing."""
    return statistics.median(values) if values else 0.0


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that so large a share of all does not exceed; 0 of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def takeovers(history: History) -> list[float]:
    """Return, for each pass that was cut off by a kill, the milliseconds until its run went on elsewhere."""
    begun_by_run: dict[str, list[tuple[float, int]]] = {}
    for line in history.lines:
        if line.kind in ("pass", "begin"):
            begun_by_run.setdefault(line.run, []).append((line.wall_ms, line.pid))
    found: list[float] = []
    for kill in history.injected:
        if kill.fault.kind != "kill_worker":
            continue
        for run in _cut_off(history, kill):
            later = [wall - kill.began_ms for wall, pid in begun_by_run[run] if wall > kill.began_ms]
            found += [min(later)] if later else []
    return found


def touched(history: History) -> set[str]:
    """Return the runs that were being worked on while something went wrong there."""
    engaged = {line.pid for line in history.lines if line.kind == "pass"}
    found: set[str] = set()
    for injected in history.injected:
        if injected.pids and engaged & set(injected.pids):
            found |= _at_work(history, injected)
        elif not injected.fault.kind.endswith("worker"):
            found |= _in_flight(history, injected)
    return found


def repeated_bodies(history: History) -> int:
    """Return how often a body began again without a failure before: the cost of takeovers."""
    begun = Counter((line.run, line.step) for line in history.lines if line.kind == "begin")
    failed = Counter((line.run, line.step) for line in history.lines if line.kind == "failed")
    return sum(max(0, count - 1 - failed[key]) for key, count in begun.items())


def late_bodies(history: History) -> int:
    """Return how many bodies began after their result was recorded, in passes that had loaded before."""
    return sum(
        any(fact.time_ms < line.wall_ms for fact in history.steps.get((line.run, line.step), []))
        for line in history.lines
        if line.kind == "begin"
    )


def dispatched_twice(history: History) -> int:
    """Return how many tasks were stored again for a pass that had one."""
    sequences: dict[str, set[int]] = {}
    for line in history.lines:
        if line.kind == "delivered":
            sequences.setdefault(line.step, set()).add(line.sequence)
    return sum(len(each) - 1 for each in sequences.values())


def count_lines(history: History, kind: str) -> int:
    """Return how many lines are of a kind."""
    return sum(line.kind == kind for line in history.lines)


def foreign_refusals(history: History) -> int:
    """Return how many journal writes were refused because of what another process had written."""
    return sum(line.kind == "refused" and ".journal." in line.step and not line.own for line in history.lines)


def first_steps_after(history: History, kind: str) -> list[float]:
    """Return, for each fault of a kind, the milliseconds from its end to the next body's begin."""
    begins = sorted(line.wall_ms for line in history.lines if line.kind == "begin")
    found: list[float] = []
    for injected in history.injected:
        if injected.fault.kind == kind:
            later = [wall - injected.ended_ms for wall in begins if wall > injected.ended_ms]
            found += later[:1]
    return found


def timer_delays(history: History) -> list[float]:
    """Return by how many milliseconds each sleep was too long."""
    return [
        end.time_ms - waits[0].time_ms - step.at_least_ms
        for (run, token), waits in history.waits.items()
        if run in history.expected
        and (step := history.expected[run].steps.get(token)) is not None
        and step.at_least_ms is not None
        for end in history.steps.get((run, token), [])
    ]


def _cut_off(history: History, kill: Injected) -> Iterable[str]:
    return {
        each.run
        for each in history.passes.values()
        if each.pid in kill.pids and each.left_ms is None and each.began_ms <= kill.began_ms
    }


def _at_work(history: History, injected: Injected) -> set[str]:
    return {
        each.run
        for each in history.passes.values()
        if each.pid in injected.pids
        and each.began_ms <= injected.ended_ms
        and (each.left_ms is None or each.left_ms >= injected.began_ms)
    }


def _in_flight(history: History, injected: Injected) -> set[str]:
    return {
        run
        for run, submitted in history.orders.items()
        if submitted.acknowledged_ms <= injected.ended_ms
        and all(end.time_ms >= injected.began_ms for end in history.ends.get(run, []))
    }
