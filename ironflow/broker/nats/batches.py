"""Atomic batches: many messages of one stream for one acknowledgement.

A batch has a fixed cost (the server stages it in files of its own) and then costs nearly nothing for each
message, synced or not. Single messages cost the same each. So a batch pays from some number on.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Sequence

import msgspec

from ironflow.broker.protocol import Publication

LARGEST_BATCH = 1000
"""What the server takes (NATS ADR-50)."""
LARGEST_BATCH_BYTES = 8 * 1024 * 1024
"""A bound of ours: the server holds a batch in memory until it is committed."""

_PREFIX = secrets.token_hex(6)
_numbers = itertools.count()


class Batch(msgspec.Struct, frozen=True):
    """Messages that go out together, by their places among all that are to be stored."""

    places: tuple[int, ...]


def split(publications: Sequence[Publication], smallest: int) -> tuple[list[Batch], list[int]]:
    """Return the batches to make of publications, and the places of those that go out singly.

    Args:
        publications: what is to be stored, in any streams.
        smallest: how many messages a batch has at least.

    """
    groups: dict[str, list[int]] = {}
    for place, publication in enumerate(publications):
        groups.setdefault(stream_of(publication.subject), []).append(place)
    batches: list[Batch] = []
    singles: list[int] = []
    for places in groups.values():
        # A batch with one subject or id twice may be refused as a whole; the later ones go out singly, later.
        firsts, doubles = _by_subject(places, publications)
        singles += doubles
        for part in _parts(firsts, publications):
            if len(part) < smallest:
                singles += part
            else:
                batches.append(Batch(tuple(part)))
    return batches, sorted(singles)


def new_batch_id() -> str:
    """Return an id that no other batch of any process has."""
    return f"{_PREFIX}-{next(_numbers)}"


def batch_headers(batch_id: str, position: int, size: int) -> str:
    """Return the header lines that make a message the one at *position*, from 1, of a batch."""
    lines = f"Nats-Batch-Id: {batch_id}\r\nNats-Batch-Sequence: {position}\r\n"
    return f"{lines}Nats-Batch-Commit: 1\r\n" if position == size else lines


def stream_of(subject: str) -> str:
    """Return what tells streams apart: the first two tokens, in all of our subjects."""
    return ".".join(subject.split(".", 2)[:2])


def _by_subject(places: list[int], publications: Sequence[Publication]) -> tuple[list[int], list[int]]:
    seen: set[tuple[str, str | None]] = set()
    firsts: list[int] = []
    doubles: list[int] = []
    for place in places:
        # Events of one name share a subject, and are told apart by their ids. Where a stream holds just one for each
        # subject, two on one subject have the same id or none. If not, the batch is refused and they go out singly.
        what = publications[place].subject, publications[place].message_id
        (doubles if what in seen else firsts).append(place)
        seen.add(what)
    return firsts, doubles


def _parts(places: list[int], publications: Sequence[Publication]) -> list[list[int]]:
    parts: list[list[int]] = []
    size = LARGEST_BATCH_BYTES
    for place in places:
        length = len(publications[place].payload)
        if not parts or len(parts[-1]) == LARGEST_BATCH or size + length > LARGEST_BATCH_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(place)
        size += length
    return parts
