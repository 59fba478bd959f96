"""What the system knows of processes: their CPU time and memory; and of the disk: its flushes. Linux only."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")
CLIENT = "client"
_FLUSHES = 18
"""Where a line of /proc/diskstats counts the flush requests that the device has completed."""


@dataclass(frozen=True)
class Reading:
    """What was used up to a moment.

    Attributes:
        cpu: seconds of CPU by part of the system, user and system time, of ended children too.
        flushes: flush requests to the disk of the data, by whomever on this machine; None where unknown.

    """

    cpu: dict[str, float]
    flushes: int | None


def read(parts: Mapping[str, Iterable[int]], folder: Path) -> Reading:
    """Read what the parts of a system, given by the process ids at their roots, and this process have used."""
    cpu = {part: sum(cpu_seconds(pid) for pid in tree(pids)) for part, pids in parts.items()}
    return Reading({**cpu, CLIENT: cpu_seconds(os.getpid())}, disk_flushes(folder))


def memory(parts: Mapping[str, Iterable[int]]) -> dict[str, tuple[float, float]]:
    """Return the MiB of each part and of this process: proportional now, and the sum of the highest resident ones."""
    processes = {**{part: tree(pids) for part, pids in parts.items()}, CLIENT: [os.getpid()]}
    return {
        part: (
            sum(_kib(_PROC / str(pid) / "smaps_rollup", "Pss") for pid in pids) / 1024,
            sum(_kib(_PROC / str(pid) / "status", "VmHWM") for pid in pids) / 1024,
        )
        for part, pids in processes.items()
    }


def tree(roots: Iterable[int]) -> list[int]:
    """Return processes and all that descend from them; what has ended meanwhile is left out."""
    found: list[int] = []
    for root in roots:
        found.append(root)
        for task in (_PROC / str(root) / "task").glob("*/children"):
            found += tree(int(child) for child in _text(task).split())
    return found


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and of its ended children; 0 once it is gone."""
    fields = _text(_PROC / str(pid) / "stat").rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / _TICK


def switches(pid: int) -> int:
    """Return how often the threads of a process have been given a core so far."""
    files = (_PROC / str(pid) / "task").glob("*/status")
    return sum(int(line.split()[1]) for file in files for line in _text(file).splitlines() if "_ctxt_switches" in line)


def resident(pid: int) -> float:
    """Return how many MiB of a process are in memory now."""
    return _kib(_PROC / str(pid) / "status", "VmRSS") / 1024


def disk_flushes(folder: Path) -> int | None:
    """Return how many flush requests the disk that holds a folder has completed; None where it does not tell."""
    device = folder.stat().st_dev
    for line in _text(_PROC / "diskstats").splitlines():
        fields = line.split()
        if (int(fields[0]), int(fields[1])) == (os.major(device), os.minor(device)) and len(fields) > _FLUSHES:
            return int(fields[_FLUSHES])
    return None


def load() -> str:
    """Return the machine's load averages, which tell whether it did something else too."""
    return " ".join(f"{number:.2f}" for number in os.getloadavg())


def _kib(file: Path, name: str) -> int:
    for line in _text(file).splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    return 0


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""
