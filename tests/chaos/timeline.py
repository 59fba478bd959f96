"""What goes wrong when: chosen from a seed, kept in a file, and read back to have the same again."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

import msgspec

from tests.chaos.proxy import ModeName

FaultKind = Literal[
    "kill_worker",
    "kill_engine",
    "stop_worker",
    "stop_engine",
    "kill_server",
    "kill_leader",
    "network_of_worker",
    "network_of_engine",
    "reset_worker",
    "reset_engine",
    "ambiguous",
    "storage_full",
    "disk_full",
    "purge",
    "poison",
]
_ONLY_WHERE_ASKED_FOR: tuple[FaultKind, ...] = ("kill_leader", "storage_full", "disk_full", "purge", "poison")
_DISTURBING_NETWORKS: tuple[ModeName, ...] = ("black_hole", "deaf", "mute", "slow")


class Fault(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that goes wrong.

    Attributes:
        at: seconds from the start of the load.
        kind: what it is.
        victim: the number of the engine or worker; of a leader, that of the stream: journal, tasks, run states.
        seconds: how long it lasts; of a kill, until the process is started again.
        network: of a network's fault: which.
        share: of ambiguity: of all calls, from 0 to 1.

    """

    at: float
    kind: FaultKind
    victim: int = 0
    seconds: float = 0.0
    network: ModeName = "pass"
    share: float = 0.0


class Injected(msgspec.Struct, frozen=True):
    """A fault that was there.

    Attributes:
        pids: the processes that it hit; none where it hit all.

    """

    fault: Fault
    began_ms: float
    ended_ms: float
    pids: tuple[int, ...] = ()


Timeline = Sequence[Fault]


def every(interval: float, seconds: float, make: Callable[[int, float], Fault]) -> list[Fault]:
    """Return one fault each *interval*, for so long; *make* gets its number and its time."""
    return [make(number, (number + 1) * interval) for number in range(max(1, int(seconds / interval)))]


def mixed(seed: int, seconds: float, lease: float, *, engines: int = 2, workers: int = 4) -> list[Fault]:
    """Return a mixture of everything, with a quiet quarter of the time in between."""
    chance = random.Random(seed)
    faults: list[Fault] = []
    at = 1.0
    while at < seconds:
        kind = chance.choice([kind for kind in get_args(FaultKind) if kind not in _ONLY_WHERE_ASKED_FOR])
        faults.append(_one(chance, at, kind, lease, engines=engines, workers=workers))
        at += chance.uniform(0.3, 2.0) if chance.random() > 1 / 8 else 4 * lease
    return faults


def _one(chance: random.Random, at: float, kind: FaultKind, lease: float, *, engines: int, workers: int) -> Fault:
    victim = chance.randrange(engines if kind.endswith("engine") else workers)
    match kind:
        case "stop_worker" | "stop_engine":
            return Fault(at, kind, victim, seconds=chance.uniform(1.2, 3.0) * lease)
        case "network_of_worker" | "network_of_engine":
            network = chance.choice(_DISTURBING_NETWORKS)
            return Fault(at, kind, victim, seconds=chance.uniform(0.5, 3.0) * lease, network=network)
        case "ambiguous":
            return Fault(at, kind, seconds=chance.uniform(1.0, 4.0) * lease, share=0.05)
        case "kill_server":
            return Fault(at, kind, seconds=chance.uniform(0.0, 0.5))
        case _:
            return Fault(at, kind, victim, seconds=chance.uniform(0.0, 1.0))


def save(timeline: Timeline, file: Path) -> None:
    """Keep a timeline, one fault a line."""
    file.write_bytes(b"".join(msgspec.json.encode(fault) + b"\n" for fault in timeline))


def load(file: Path) -> list[Fault]:
    """Return a timeline that was kept."""
    decode = msgspec.json.Decoder(Fault).decode
    return [decode(line) for line in file.read_bytes().splitlines()]
