"""Checks of the NATS server: version, sync, storage, clock."""

from __future__ import annotations

import re

from ironflow.broker.nats.connection import ADVISED_SERVER, OLDEST_SERVER
from ironflow.broker.nats.inspector import Storage
from ironflow.doctor.finding import Finding
from ironflow.doctor.monitor import Monitoring

WORST_CLOCK_OFFSET_MS = 1_000
LITTLE_STORAGE = 0.2
"""The share of the storage that should be left."""
NO_STORAGE = 0.05

_SYNC_ADVICE = "set 'sync_interval: always' in the jetstream block of the server's configuration and restart it"
_MONITOR_ADVICE = (
    "give the server's monitoring endpoint with --monitor-url http://HOST:8222 ('http_port: 8222' in its "
    "configuration turns it on)"
)


def check_version(version: str) -> Finding:
    """Say whether the server can do what Ironflow needs."""
    found = re.match(r"v?(\d+)\.(\d+)\.(\d+)", version)
    if found is None:
        return Finding(
            check="server version",
            level="unknown",
            text=f"cannot make sense of {version!r}",
            advice=_upgrade(),
        )
    numbers = tuple(int(part) for part in found.groups())
    if numbers < OLDEST_SERVER:
        text = f"nats-server {version} lacks what Ironflow needs"
        return Finding(check="server version", level="error", text=text, advice=_upgrade())
    if numbers < ADVISED_SERVER:
        text = f"nats-server {version} works, but timers and disk syncs were repaired since"
        return Finding(check="server version", level="warning", text=text, advice=_upgrade())
    return Finding(check="server version", level="ok", text=f"nats-server {version}")


def check_sync(monitoring: Monitoring) -> Finding:
    """Say whether what the server acknowledged survives a power failure."""
    server = monitoring.server
    if server is None or server.jetstream.config is None:
        why = monitoring.reason or "the monitoring endpoint says nothing of JetStream"
        return Finding(
            check="disk sync",
            level="unknown",
            text=f"the server's sync setting is not known ({why})",
            advice=f"{_MONITOR_ADVICE}, or look for 'sync_interval: always' in the server's configuration",
        )
    config = server.jetstream.config
    if config.sync_always:
        return Finding(check="disk sync", level="ok", text="written to disk before it is acknowledged")
    seconds = config.sync_interval / 1e9
    return Finding(
        check="disk sync",
        level="warning",
        text=f"written to disk only every {seconds:g} s; a power failure loses what was acknowledged since",
        advice=_SYNC_ADVICE,
    )


def check_storage(storage: Storage | None, monitoring: Monitoring) -> Finding:
    """Say whether JetStream is on, and has room.

    Args:
        storage: what the account uses and may use; None where JetStream is off.
        monitoring: knows the server's own limit.

    """
    if storage is None:
        return Finding(
            check="storage",
            level="error",
            text="JetStream does not answer",
            advice="turn it on: a 'jetstream {}' block in the server's configuration, and for this account; in a "
            "cluster, see whether most of its servers run",
        )
    rooms = [_left(storage.used_bytes, storage.limit_bytes)] if storage.limit_bytes else []
    server = monitoring.server
    if server is not None and server.jetstream.config is not None and server.jetstream.config.max_storage > 0:
        rooms.append(_left(server.jetstream.stats.storage, server.jetstream.config.max_storage))
    if not rooms:
        return Finding(
            check="storage",
            level="unknown",
            text=f"{_size(storage.used_bytes)} used; the account has no limit, and the server's is not known",
            advice=_MONITOR_ADVICE,
        )
    left, limit = min(rooms, key=lambda room: room[0] / room[1])
    text = f"{_size(left)} of {_size(limit)} left"
    advice = "give JetStream more room (max_file_store, or the account's limit); what is refused is not stored"
    if left < NO_STORAGE * limit:
        return Finding(check="storage", level="error", text=text, advice=advice)
    if left < LITTLE_STORAGE * limit:
        return Finding(check="storage", level="warning", text=text, advice=advice)
    return Finding(check="storage", level="ok", text=text)


def check_clock(offset_ms: float, uncertainty_ms: float) -> Finding:
    """Say whether this machine's clock agrees with the server's.

    Args:
        offset_ms: how far the server's clock is ahead.
        uncertainty_ms: how wrong that may be, since the answer took time.

    """
    text = f"the server's clock is {abs(offset_ms):.0f} ms {'ahead' if offset_ms > 0 else 'behind'}"
    shown = f"{text} (measured to within {uncertainty_ms:.0f} ms)"
    if abs(offset_ms) - uncertainty_ms > WORST_CLOCK_OFFSET_MS:
        return Finding(
            check="clock",
            level="warning",
            text=shown,
            advice="set both machines by NTP: timers go by the server's clock, displayed ages by this one",
        )
    return Finding(check="clock", level="ok", text=shown)


def _upgrade() -> str:
    return f"upgrade nats-server to {'.'.join(map(str, ADVISED_SERVER))} or newer"


def _left(used: int, limit: int) -> tuple[int, int]:
    return max(0, limit - used), limit


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:  # noqa: PLR2004 - what makes a unit of the next larger one
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
