"""The rows: for each, its load, what goes wrong, and what is measured against which limit."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeAlias, get_args

import msgspec

from ironflow.cli.common import ExitCode
from tests.chaos import figures
from tests.chaos.cluster import ClusterSettings
from tests.chaos.experiment import REFUSED_RECORDS, Experiment, Observed
from tests.chaos.history import History
from tests.chaos.load import orders_of
from tests.chaos.programs import Order, Sleep, Work
from tests.chaos.proxy import ModeName
from tests.chaos.random_programs import random_program
from tests.chaos.report import Figure
from tests.chaos.timeline import Fault, FaultKind, every, mixed

MEGABYTE = 1024 * 1024
POISON_SECONDS = 600.0
"""What no worker can make anything of is tried twenty times, with half a minute in between, before it is given up."""
SOON_SECONDS = 5.0
"""For so long after a restart the pickup of tasks shows what the restart costs."""
ELECTION_SECONDS = 15.0
"""For so long after the loss of a leader what stands still may do so because of it."""
_NETWORKS: tuple[ModeName, ...] = tuple(mode for mode in get_args(ModeName) if mode not in ("pass", "slow"))


class Scale(msgspec.Struct, frozen=True):
    """How large everything is.

    Attributes:
        seconds: how long faults are injected, for a row that has no number of them; None: what the row says.
        share: of each row's runs and faults; 1 is what the guarantees are about.
        seed: makes all choices.
        lease: seconds that a worker keeps a task without renewing it.

    """

    seconds: float | None = None
    share: float = 1.0
    seed: int = 1
    lease: float = 1.0

    def of(self, count: int) -> int:
        """Return so much of a count, and at least one."""
        return max(1, round(count * self.share))

    def time(self, seconds: float) -> float:
        """Return how long a row goes on that takes so long in full."""
        return self.seconds if self.seconds is not None else max(5.0, seconds * self.share)


Measure: TypeAlias = Callable[[Observed], Sequence[Figure]]


class Row(msgspec.Struct, frozen=True):
    """A row.

    Attributes:
        fault: what goes wrong.
        plan: makes the experiment.
        measure: returns the figures beside the violations.
        baseline: makes the same experiment with nothing wrong, where the figures need it.

    """

    fault: str
    plan: Callable[[Scale], Experiment]
    measure: Measure
    baseline: Callable[[Scale], Experiment] | None = None


def _experiment(scale: Scale, seconds: float, timeline: Sequence[Fault], orders: Sequence[Order]) -> Experiment:
    return Experiment(
        orders=orders,
        submit_seconds=seconds,
        timeline=timeline,
        settings=ClusterSettings(lease=scale.lease, seed=scale.seed),
    )


def _w(scale: Scale, seconds: float, timeline: Sequence[Fault]) -> Experiment:
    """Return load W, under faults."""
    return _experiment(scale, seconds, timeline, orders_of(scale.of(300), scale.seed))


# What goes wrong in each row


def _kill_workers(scale: Scale) -> Experiment:
    seconds = scale.time(60)
    return _w(scale, seconds, every(2.0, seconds, lambda n, at: Fault(at, "kill_worker", n % 4, seconds=0.2)))


def _stop_workers(scale: Scale) -> Experiment:
    # Two of the four at a time, so that 200 times take five minutes and somebody is always there.
    pause = 2 * scale.lease
    count = scale.of(200) if scale.seconds is None else max(1, int(scale.seconds / pause * 2))
    faults = [
        Fault(1.0 + n // 2 * (pause + 0.5), "stop_worker", n % 4, seconds=pause, network="pass") for n in range(count)
    ]
    return _w(scale, faults[-1].at, faults)


def _ambiguous_writes(scale: Scale) -> Experiment:
    seconds = scale.time(60)
    return _w(scale, seconds, [Fault(0.0, "ambiguous", seconds=seconds, share=0.05)])


def _stop_an_engine(scale: Scale) -> Experiment:
    pause = 10.0 if scale.seconds is None else min(10.0, scale.seconds / 3)
    count = scale.of(20) if scale.seconds is None else max(1, int(scale.seconds / (pause + 1)))
    faults = [Fault(1.0 + n * (pause + 1.0), "stop_engine", n % 2, seconds=pause) for n in range(count)]
    return _w(scale, faults[-1].at + pause, faults)


def _kill_server(scale: Scale) -> Experiment:
    seconds = scale.time(60)
    count = min(scale.of(10), max(1, int(seconds / 3)))
    return _w(scale, seconds, every(seconds / count, seconds, lambda _, at: Fault(at, "kill_server", seconds=0.2)))


def _partitions(scale: Scale) -> Experiment:
    seconds = scale.time(60)
    lasting = 3 * scale.lease

    def partition(number: int, at: float) -> Fault:
        victim = number // len(_NETWORKS)
        kind: FaultKind = "network_of_engine" if number % 4 == 3 else "network_of_worker"
        return Fault(at, kind, victim, seconds=lasting, network=_NETWORKS[number % len(_NETWORKS)])

    return _w(scale, seconds, every(lasting / 2 + 0.5, seconds, partition))


def _timers(scale: Scale) -> Experiment:
    chance = random.Random(scale.seed)
    seconds = scale.time(30)
    orders = [
        Order(number, (Work("before"), Sleep("nap", chance.randrange(500, round(seconds * 1000))), Work("after")))
        for number in range(scale.of(1000))
    ]
    kinds: tuple[FaultKind, ...] = ("kill_worker", "kill_engine", "kill_server")
    faults = every(3.0, seconds, lambda n, at: Fault(at, kinds[n % 3], n // 3, seconds=0.2))
    return _experiment(scale, seconds / 2, faults, orders)


def _storage_full(scale: Scale) -> Experiment:
    # To fill it takes a while, too.
    seconds = max(15.0, scale.time(30))
    timeline = [Fault(seconds / 5, "storage_full", seconds=seconds / 3)]
    experiment = _w(msgspec.structs.replace(scale, share=scale.share / 2), seconds, timeline)
    settings = msgspec.structs.replace(experiment.settings, stored_bytes=128 * MEGABYTE)
    return msgspec.structs.replace(experiment, settings=settings)


def _poison(scale: Scale) -> Experiment:
    seconds = scale.time(60)
    faults = every(seconds / scale.of(10), seconds, lambda _, at: Fault(at, "poison"))
    experiment = _experiment(scale, seconds, faults, _short_orders(scale, deadly_share=0.01))
    return msgspec.structs.replace(experiment, end_within=POISON_SECONDS)


def _without_poison(scale: Scale) -> Experiment:
    return _experiment(scale, scale.time(60), (), _short_orders(scale, deadly_share=0.0))


def _short_orders(scale: Scale, deadly_share: float) -> list[Order]:
    count = scale.of(2000)
    deadly = set(random.Random(scale.seed).sample(range(count), round(count * deadly_share)))
    return [
        Order(number, (Work("before"), Work("deadly", ends_process=True) if number in deadly else Work("work")))
        for number in range(count)
    ]


def _kill_leaders(scale: Scale) -> Experiment:
    count = 3
    down, pause = 5.0, 20.0
    faults = [Fault(5.0 + n * pause, "kill_leader", n, seconds=down) for n in range(count)]
    experiment = _w(scale, count * pause, faults)
    return msgspec.structs.replace(experiment, settings=msgspec.structs.replace(experiment.settings, servers=3))


def _random_programs(scale: Scale) -> Experiment:
    seconds = scale.time(60)
    orders = [random_program(scale.seed, number) for number in range(scale.of(500))]
    return _experiment(scale, seconds, mixed(scale.seed, seconds, scale.lease), orders)


def _purge(scale: Scale) -> Experiment:
    seconds = scale.time(20)
    return _w(scale, seconds, every(seconds / 3, seconds, lambda _, at: Fault(at, "purge")))


def _everything(scale: Scale) -> Experiment:
    seconds = scale.time(600)
    # As many a second as the other rows have.
    orders = orders_of(max(1, round(5 * seconds * scale.share)), scale.seed)
    return _experiment(scale, seconds, mixed(scale.seed, seconds, scale.lease), orders)


# What is measured in each row


def _common(seen: Observed, *, exits: int | None = 0, end_within: float = 60.0) -> list[Figure]:
    history = seen.history
    return [
        Figure("runs", len(history.orders)),
        Figure("runs that did not end", len(history.orders.keys() - history.ends.keys()), 0),
        Figure("runs that it touched", len(figures.touched(history))),
        Figure(
            "all ended after healing", round(seen.seconds_to_end, 1) if seen.ended else float("inf"), end_within, " s"
        ),
        # One that starts while the server is down says so, and is started again.
        Figure("processes that ended by themselves", len(seen.exits) - _unreachable(seen), exits),
        Figure("processes that found no server at their start", _unreachable(seen)),
        Figure("bodies repeated", figures.repeated_bodies(history)),
    ]


def _unreachable(seen: Observed) -> int:
    return sum(code == ExitCode.UNREACHABLE for code in seen.exits)


def _takeover(seen: Observed) -> list[Figure]:
    took = figures.takeovers(seen.history)
    return [
        Figure("takeovers", len(took)),
        Figure("takeover, median", round(figures.median(took) / 1000, 3), 0.5, " s"),
        Figure("takeover, worst", round(max(took, default=0.0) / 1000, 3), 2.0, " s"),
        *_common(seen),
    ]


def _refusals(seen: Observed) -> list[Figure]:
    return [Figure("refused records, by the metric", seen.history.metrics[REFUSED_RECORDS]), *_common(seen)]


def _own_writes(seen: Observed) -> list[Figure]:
    history = seen.history
    foreign = figures.foreign_refusals(history)
    counted = history.metrics[REFUSED_RECORDS]
    return [
        Figure("answers kept back", figures.count_lines(history, "hidden")),
        Figure("own writes taken for lost races", max(0.0, counted - foreign), 0),
        *_common(seen),
    ]


def _dispatches(seen: Observed) -> list[Figure]:
    return [
        Figure("tasks whose pass was executed again", figures.executed_again(seen.history), 0),
        Figure("tasks stored again", figures.stored_again(seen.history), 0),
        *_common(seen),
    ]


def _given_up(seen: Observed) -> list[Figure]:
    with_poison = figures.per_second(seen.history)
    without = with_poison if seen.baseline is None else figures.per_second(seen.baseline)
    return [
        Figure("poisoned", sum(each.status == "failed" for each in seen.history.expected.values())),
        Figure("not given up, or without a reason", figures.failed_without_reason(seen.history), 0),
        Figure("healthy runs a second", round(with_poison, 1)),
        Figure("without poison", round(without, 1)),
        Figure("less than without", round(100 * (1 - with_poison / without)), 20, " %"),
        *_common(seen, exits=None, end_within=POISON_SECONDS),
    ]


def _refused_and_repaired(seen: Observed) -> list[Figure]:
    overdue = figures.overdue_after(seen.history, "storage_full")
    return [
        Figure("publications refused", sum(seen.history.refused.values())),
        Figure(
            "not as PublishError", sum(seen.history.refused.values()) - seen.history.refused.get("PublishError", 0), 0
        ),
        Figure("said that they are not ready, worst", round(max([0.0, *seen.unready_seconds]), 1), 5, " s"),
        Figure("overdue when space was freed", len(overdue)),
        Figure("fired after that, worst", round(max([0.0, *overdue]) / 1000, 1), 35, " s"),
        *_common(seen),
    ]


def _outages(seen: Observed) -> list[Figure]:
    lasted = figures.outages(seen.history, "kill_leader", ELECTION_SECONDS)
    tried = {name: figures.most_in_a_second(moments) for name, moments in seen.history.in_vain.items()}
    return [
        Figure("nothing recorded or delivered, median", round(figures.median(lasted) / 1000, 1), None, " s"),
        Figure("nothing recorded or delivered, worst", round(max(lasted, default=0.0) / 1000, 1), 10, " s"),
        Figure("asked in vain in a second, by one process", max(tried.values(), default=0), 50),
        *_common(seen),
    ]


def _after_server(seen: Observed) -> list[Figure]:
    after = figures.first_steps_after(seen.history, "kill_server")
    lay = figures.pickups_after(seen.history, "kill_server", SOON_SECONDS)
    return [
        Figure("first step after the port opens, worst", round(max(after, default=0.0) / 1000, 3), 1.5, " s"),
        Figure("pickup of a task after it, p99", round(figures.percentile(lay, 0.99) / 1000, 3), 1.0, " s"),
        *_common(seen),
    ]


def _lateness(seen: Observed) -> list[Figure]:
    late = figures.timer_delays(seen.history)
    return [
        Figure("timers", len(late)),
        Figure("late, median", round(figures.median(late) / 1000, 3), None, " s"),
        Figure("late, worst", round(max(late, default=0.0) / 1000, 3), None, " s"),
        *_common(seen),
    ]


def is_tested(history: History) -> bool:
    """Tell whether anything that went wrong met any work."""
    return bool(figures.touched(history)) or not history.injected


ROWS: dict[int, Row] = {
    1: Row("SIGKILL of a worker every 2 s", _kill_workers, _takeover),
    2: Row("SIGSTOP of workers for two leases", _stop_workers, _refusals),
    4: Row("5 % of all broker calls ambiguous", _ambiguous_writes, _own_writes),
    5: Row("SIGSTOP of one of two engines", _stop_an_engine, _dispatches),
    6: Row("SIGKILL of the server", _kill_server, _after_server),
    7: Row("black hole and half-open for three leases", _partitions, _common),
    8: Row("timers, with kills of everything", _timers, _lateness),
    9: Row("storage filled, then freed", _storage_full, _refused_and_repaired),
    10: Row("poison: unreadable, unknown, and ending its process", _poison, _given_up, _without_poison),
    11: Row("three nodes, SIGKILL of a leader", _kill_leaders, _outages),
    12: Row("random programs under everything mixed", _random_programs, _common),
    13: Row("all task and timer messages purged", _purge, _common),
    14: Row("everything mixed", _everything, _common),
}
