"""Ports of this machine."""

from __future__ import annotations

import random
import socket

_FIRST, _LAST = 20_000, 32_000
"""Below those that systems take for outgoing connections: whoever stops and starts again finds its port free."""


def free_port() -> int:
    """Return a port that is free now."""
    while True:
        port = random.randrange(_FIRST, _LAST)
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
