"""A server's HTTP monitoring endpoint: the only place that says how it syncs and how much it may store."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from ironflow.broker.embedded import DEFAULT_FOLDER, read_ports
from ironflow.broker.nats.settings import redact

DEFAULT_PORT = 8222
TIMEOUT_SECONDS = 1.0


class JetStreamConfig(msgspec.Struct, frozen=True):
    """The ``config`` of ``/varz`` → ``jetstream``; a field that the server leaves out has its zero value."""

    max_storage: int = 0
    sync_interval: int = 0
    sync_always: bool = False


class JetStreamStats(msgspec.Struct, frozen=True):
    """The ``stats`` of ``/varz`` → ``jetstream``."""

    storage: int = 0


class JetStreamVarz(msgspec.Struct, frozen=True):
    """What ``/varz`` says of JetStream; without ``config`` where it is off."""

    config: JetStreamConfig | None = None
    stats: JetStreamStats = JetStreamStats()


class Varz(msgspec.Struct, frozen=True):
    """The part of ``/varz`` that the doctor reads."""

    server_id: str
    server_name: str = ""
    jetstream: JetStreamVarz = JetStreamVarz()


class Monitoring(msgspec.Struct, frozen=True):
    """What was learned from monitoring endpoints.

    Attributes:
        asked: the endpoints, in the order in which they count.
        server: what the first usable one said; None where none was.
        reason: why there is none.

    """

    asked: tuple[str, ...]
    server: Varz | None = None
    reason: str = ""


async def look(url: str | None, nats_urls: Iterable[str], server_id: str) -> Monitoring:
    """Read the monitoring endpoint that was given, else those at which the server's usually is.

    Args:
        url: an endpoint that somebody named: it is believed, whichever server of the cluster it is.
        nats_urls: the servers that clients connect to; without *url* the usual port of each is tried.
        server_id: the server that we are connected to; what was guessed counts only if it is the same one.

    """
    candidates = (url.rstrip("/"),) if url else (*guesses(nats_urls), *embedded_guesses(DEFAULT_FOLDER))
    answers = await asyncio.gather(*(asyncio.to_thread(read_varz, candidate) for candidate in candidates))
    return choose([redact(candidate) for candidate in candidates], answers, None if url else server_id)


def choose(asked: Sequence[str], answers: Sequence[Varz | str], server_id: str | None = None) -> Monitoring:
    """Return the first answer that counts, or why none does.

    Args:
        asked: the endpoints.
        answers: what each said, or why it said nothing.
        server_id: the one server whose answer counts; None for any.

    """
    reasons: list[str] = []
    for endpoint, answer in zip(asked, answers, strict=True):
        if isinstance(answer, str):
            reasons.append(f"{endpoint}: {answer}")
        elif server_id not in (None, answer.server_id):
            reasons.append(f"{endpoint}: belongs to another server")
        else:
            return Monitoring(tuple(asked), answer)
    return Monitoring(tuple(asked), None, "; ".join(reasons))


def guesses(nats_urls: Iterable[str]) -> tuple[str, ...]:
    """Return where the monitoring of these servers usually is."""
    hosts = dict.fromkeys(urlsplit(url if "://" in url else f"nats://{url}").hostname for url in nats_urls)
    return tuple(f"http://{_bracketed(host)}:{DEFAULT_PORT}" for host in hosts if host)


def embedded_guesses(folder: Path) -> tuple[str, ...]:
    """Return where the server of an ``ironflow dev`` in this folder has its monitoring."""
    found = (read_ports(file) for file in sorted(folder.glob("*.ports")))
    return tuple(f"http://127.0.0.1:{ports[1]}" for ports in found if ports)


def read_varz(url: str) -> Varz | str:
    """Return what an endpoint says, or why it says nothing. Blocks for a second at the most."""
    address = f"{url}/varz"
    if urlsplit(address).scheme not in ("http", "https"):
        return "not an http:// or https:// address"
    try:
        with contextlib.closing(urllib.request.urlopen(address, timeout=TIMEOUT_SECONDS)) as answer:  # noqa: S310 - the scheme was checked
            return msgspec.json.decode(answer.read(), type=Varz)
    except OSError as error:
        return f"no answer ({getattr(error, 'reason', None) or error})"
    except (ValueError, http.client.HTTPException, msgspec.MsgspecError):
        return "is no NATS monitoring endpoint"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
