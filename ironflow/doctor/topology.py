"""Checks of streams, buckets and consumers against what they shall be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ironflow.broker.nats.inspector import Differences
from ironflow.broker.protocol import ConsumerSpec, StreamSpec
from ironflow.doctor.finding import Finding

OPTIONS = frozenset({"ack_wait", "num_replicas"})
"""Settings that an engine's options decide (``--lease``, ``--replicas``), which the doctor does not know."""
TUNABLE = frozenset({"duplicate_window", "max_ack_pending", "max_age", "max_waiting"})
"""Settings that an operator may have reasons to change; the guarantees rest on the others."""

PAUSE = "pause_until"
"""What is no setting, and stays where the settings are brought in."""

_PROVISION = "start an engine: it makes what is missing"
_RESTORE = "restart an engine, also where one runs: it makes what is missing when it starts"
_REPAIR = "restart an engine: it sets what NATS lets it change, and names what must be made anew"


def check_streams(found: Mapping[StreamSpec, Differences | None]) -> list[Finding]:
    """Say of each stream whether it exists and is as it shall be; buckets are streams.

    Args:
        found: how each differs; None where it does not exist.

    """
    if all(differences is None for differences in found.values()):
        text = "the namespace has no streams: no engine has run here yet, or the namespace is another one"
        return [Finding(check="streams", level="error", text=text, advice=_PROVISION)]
    wrong = [
        _wrong("streams", f"stream {spec.name}", differences)
        for spec, differences in found.items()
        if _is_wrong(differences)
    ]
    text = f"{len(found)} streams and buckets exist, with the right settings"
    return wrong or [Finding(check="streams", level="ok", text=text)]


def check_consumers(found: Mapping[ConsumerSpec, Differences | None]) -> list[Finding]:
    """Say of each consumer of the engine and of the queues whether it exists and is as it shall be.

    Args:
        found: how each differs; None where it does not exist.

    """
    if all(differences is None for differences in found.values()):
        text = f"none of the {len(found)} consumers exists"
        return [Finding(check="consumers", level="error", text=text, advice=_PROVISION)]
    wrong = [finding for spec, differences in found.items() for finding in _wrong_with_consumer(spec, differences)]
    text = f"{len(found)} consumers exist, with the right settings"
    return wrong or [Finding(check="consumers", level="ok", text=text)]


def _wrong_with_consumer(spec: ConsumerSpec, differences: Differences | None) -> Iterator[Finding]:
    what = f"consumer {spec.name} of {spec.stream}"
    if differences and PAUSE in differences:
        yield Finding(
            check="consumers",
            level="error",
            text=f"{what} is paused until {differences[PAUSE][0]}: what comes for it waits until then",
            advice=f"nats consumer resume {spec.stream} {spec.name} (no engine ends what may be on purpose)",
        )
        differences = {key: each for key, each in differences.items() if key != PAUSE}
    if _is_wrong(differences):
        yield _wrong("consumers", what, differences)


def _is_wrong(differences: Differences | None) -> bool:
    return differences is None or not differences.keys() <= OPTIONS


def _wrong(check: str, what: str, differences: Differences | None) -> Finding:
    if differences is None:
        return Finding(check=check, level="error", text=f"{what} does not exist", advice=_RESTORE)
    listed = "; ".join(
        f"{key} is {found}, {'and shall not be set' if wanted is None else f'not {wanted}'}"
        for key, (found, wanted) in differences.items()
        if key not in OPTIONS
    )
    return Finding(
        check=check,
        level="warning" if differences.keys() <= TUNABLE | OPTIONS else "error",
        text=f"{what}: {listed}",
        advice=_REPAIR,
    )
