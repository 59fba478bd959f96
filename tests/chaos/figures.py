"""Figures of a history: how long it took, how often it happened. All are pure."""

from __future__ import annotations

import bisect
import itertools
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence

from tests.chaos.history import History
from tests.chaos.timeline import Injected

NEARLY_ALL = 0.95


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


def stored_again(history: History) -> int:
    """Return how many tasks were stored again for a pass that had one: that pass had ended, and its task was gone."""
    return sum(len(each) - 1 for each in _sequences(history).values())


def executed_again(history: History) -> int:
    """Return how many tasks that were stored again had their pass executed again, too."""
    first = {subject: min(sequences) for subject, sequences in _sequences(history).items()}
    again: set[tuple[int, str]] = set()
    found = 0
    for line in history.lines:
        if line.kind == "delivered":
            if line.sequence > first[line.step]:
                again.add((line.pid, line.run))
            else:
                again.discard((line.pid, line.run))
        elif line.kind == "pass" and (line.pid, line.run) in again:
            again.discard((line.pid, line.run))
            found += 1
    return found


def pickups_after(history: History, kind: str, seconds: float) -> list[float]:
    """Return how many milliseconds each task lay that was stored within so many seconds of a fault's end."""
    ends = [injected.ended_ms for injected in history.injected if injected.fault.kind == kind]
    lay: dict[int, float] = {}
    for line in history.lines:
        if line.kind == "delivered" and any(0 <= line.stored_ms - end <= seconds * 1000 for end in ends):
            lay.setdefault(line.sequence, line.wall_ms - line.stored_ms)
    return list(lay.values())


def outages(history: History, kind: str, seconds: float) -> list[float]:
    """Return, for each fault of a kind, for how many milliseconds soon after it nothing was recorded or delivered."""
    recorded = [float(fact.time_ms) for fact in history.journal]
    delivered = [line.wall_ms for line in history.lines if line.kind == "delivered"]
    return [
        max(_longest_gap(moments, each.began_ms, each.began_ms + seconds * 1000) for moments in (recorded, delivered))
        for each in history.injected
        if each.fault.kind == kind
    ]


def _longest_gap(moments: Sequence[float], after: float, until: float) -> float:
    """Return the longest time between one moment and the next of those that follow *after*, begun before *until*."""
    later = [after, *sorted(moment for moment in moments if moment > after)]
    return max((end - begin for begin, end in itertools.pairwise(later) if begin < until), default=0.0)


def most_in_a_second(moments: Sequence[float]) -> int:
    """Return how many of these moments, in milliseconds and in order, fall into one second at the most."""
    return max((bisect.bisect_left(moments, moment + 1000) - place for place, moment in enumerate(moments)), default=0)


def overdue_after(history: History, kind: str) -> list[float]:
    """Return how many milliseconds after a fault's end each sleep ended that was over while it lasted."""
    found: list[float] = []
    for injected in history.injected:
        if injected.fault.kind == kind:
            found += [
                end - injected.ended_ms
                for due, end in _sleeps(history)
                if injected.began_ms <= due <= injected.ended_ms
            ]
    return found


def per_second(history: History) -> float:
    """Return how many runs a second completed, until nearly all had: those that die with a neighbour come later."""
    ends = sorted(
        each[0].time_ms
        for run, each in history.ends.items()
        if run in history.orders and each[0].record["status"] == "completed"
    )[: round(NEARLY_ALL * len(history.orders))]
    began = min((each.acknowledged_ms for each in history.orders.values()), default=0.0)
    return len(ends) / max(0.001, (max(ends, default=began) - began) / 1000)


def failed_without_reason(history: History) -> int:
    """Return how many runs that had to fail have not, or do not say why."""
    states = [history.states.get(run) for run, each in history.expected.items() if each.status == "failed"]
    return sum(state is None or state.status != "failed" or state.error is None for state in states)


def _sequences(history: History) -> dict[str, set[int]]:
    """Return the places at which the task of each pass was stored."""
    found: dict[str, set[int]] = {}
    for line in history.lines:
        if line.kind == "delivered":
            found.setdefault(line.step, set()).add(line.sequence)
    return found


def count_lines(history: History, kind: str) -> int:
    """Return how many lines are of a kind."""
    return sum(line.kind == kind for line in history.lines)


def foreign_refusals(history: History) -> int:
    """Return how many journal writes were refused because of what another process had written."""
    return sum(line.kind == "refused" and ".journal" in line.step and not line.own for line in history.lines)


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
    return [end - due for due, end in _sleeps(history)]


def _sleeps(history: History) -> list[tuple[float, float]]:
    """Return when each sleep, and each wait without an answer, was due, and when it ended."""
    return [
        (waits[0].time_ms + step.at_least_ms, end.time_ms)
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
