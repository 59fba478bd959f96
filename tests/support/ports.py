"""Ports of this machine."""

from __future__ import annotations

import itertools
import os
import random
import socket
from collections.abc import Iterator, Mapping

FIRST, LAST = 20_000, 32_000
"""Below those that systems take for outgoing connections: whoever stops and starts again finds its port free."""


def share(environment: Mapping[str, str]) -> range:
    """Return the ports of one process of a test run: what two of them give out at the same time differs."""
    number = int(environment.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    size = (LAST - FIRST) // int(environment.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    return range(FIRST + number * size, FIRST + (number + 1) * size)


def _in_turn(ports: range) -> Iterator[int]:
    """Yield them again and again, from any one on: other runs may be under way on this machine."""
    start = random.randrange(len(ports))
    return itertools.cycle([*ports[start:], *ports[:start]])


_ports = _in_turn(share(os.environ))


def free_port(candidates: Iterator[int] = _ports) -> int:
    """Return a port that is free now, on all addresses, and that was not given out for long."""
    while True:
        port = next(candidates)
        with socket.socket() as listener:
            try:
                listener.bind(("", port))
            except OSError:
                continue
            return port
