"""Checks of a cluster: on how many servers each stream is kept, and whether these keep up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ironflow.broker.nats.inspector import Placement, Replica
from ironflow.doctor.finding import Finding, Level

MOST_LAG = 1_000
"""A server that has so many writes still to come takes more than a moment to take over."""
LONGEST_SILENCE_SECONDS = 5
"""A leader hears of its followers each second."""

_SHOWN = 3
_QUORUM = (
    "start the servers that are down, and see whether all reach each other: of the servers of a stream most must run, "
    "two of three; after the loss of a leader another one takes over within 10 s"
)
_MORE = "start engines with --replicas 3; what is kept on one server only is lost with its disk"
_SAME = "restart an engine with the --replicas that all streams shall have"
_PLACE = "let NATS have as many servers with JetStream as that; it puts the missing copies there by itself"
_BACK = "start that server, or see why the others do not reach it: with one more lost, the streams take nothing"
_LATER = "look again in a while; where it gets no less, look at that server's disk and network"


def check_replicas(found: Mapping[str, Placement | None]) -> list[Finding]:
    """Say whether enough servers keep each stream.

    Args:
        found: where each stream is; None where it does not exist, which is another check's concern.

    """
    placements = {name: placement for name, placement in found.items() if placement is not None}
    if not placements:
        return []
    if not any(placement.cluster for placement in placements.values()):
        return [Finding(check="replicas", level="ok", text="the server is not part of a cluster")]
    most = max(placement.wanted for placement in placements.values())
    if wrong := [*_leaderless(placements), *_too_few(placements, most), *_behind(placements)]:
        return wrong
    if most == 1:
        return [_finding("warning", f"{len(placements)} streams are on one server of the cluster only", _MORE)]
    text = f"{len(placements)} streams are on {most} servers each, which keep up"
    return [Finding(check="replicas", level="ok", text=text)]


def _leaderless(placements: Mapping[str, Placement]) -> Iterator[Finding]:
    if names := [name for name, placement in placements.items() if placement.cluster and not placement.leader]:
        yield _finding("error", f"no leader answers, so that nothing is stored or read: {_some(names)}", _QUORUM)


def _too_few(placements: Mapping[str, Placement], most: int) -> Iterator[Finding]:
    led = {name: placement for name, placement in placements.items() if placement.leader}
    if fewer := [name for name, placement in led.items() if placement.wanted < most]:
        yield _finding("warning", f"kept on fewer servers than the {most} of others: {_some(fewer)}", _SAME)
    if missing := [name for name, placement in led.items() if 1 + len(placement.others) < placement.wanted]:
        yield _finding("warning", f"kept on fewer servers than they shall be: {_some(missing)}", _PLACE)


def _behind(placements: Mapping[str, Placement]) -> Iterator[Finding]:
    behind: dict[str, list[tuple[str, Replica]]] = {}
    for name, placement in placements.items():
        for replica in placement.others if placement.leader else ():
            if not _keeps_up(replica):
                behind.setdefault(replica.name, []).append((name, replica))
    for server, copies in behind.items():
        names = _some([name for name, _ in copies])
        if any(_is_silent(replica) for _, replica in copies):
            yield _finding("warning", f"server {server} is not heard of, which keeps {names}", _BACK)
        else:
            lag = max(replica.lag for _, replica in copies)
            yield _finding("warning", f"server {server} does not keep up, by up to {lag} writes: {names}", _LATER)


def _is_silent(replica: Replica) -> bool:
    return replica.offline or replica.silent_seconds > LONGEST_SILENCE_SECONDS


def _keeps_up(replica: Replica) -> bool:
    return replica.current and replica.lag <= MOST_LAG and not _is_silent(replica)


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _finding(level: Level, text: str, advice: str) -> Finding:
    return Finding(check="replicas", level=level, text=text, advice=advice)
