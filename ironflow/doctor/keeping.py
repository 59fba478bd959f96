"""Checks of how an engine stands by its own account: its readiness, its archive, and what becomes of old runs."""

from __future__ import annotations

from ironflow.doctor.finding import Finding
from ironflow.durations import format_milliseconds
from ironflow.messages import ArchiveView, EngineView
from ironflow.names import Names

MOST_BEHIND = 10_000
"""Messages that an archive may be behind under load; it copies a thousand a second and more."""


def check_keeping(engine: EngineView) -> list[Finding]:
    """Say whether the engine that answered is ready, and how it keeps what has ended."""
    return [_check_health(engine), _check_archive(engine.archive), _check_retention(engine)]


def check_events(engine: EngineView | None, *, for_ever: bool) -> list[Finding]:
    """Say where EVENTS keeps all for an archive that the engine which answered knows nothing of.

    Args:
        engine: the one that answered.
        for_ever: the server forgets no event by its age.

    """
    if engine is None or engine.archive is not None or not for_ever:
        return []
    return [
        Finding(
            check="events",
            level="warning",
            text=f"nothing deletes old events: an engine had an archive for them, and engine {engine.id} has none",
            advice="give all engines the archive; where there is to be none any more, have the server forget: "
            f"'nats stream edit {Names(engine.namespace).events} --max-age 7d'",
        )
    ]


def check_writes(engine: EngineView) -> list[Finding]:
    """Say which streams the server has given up writing to, as it does when its disk is full."""
    return [
        Finding(
            check="writes",
            level="error",
            text=f"stream {stream} takes nothing more, and what is published to it is not answered: {reason}",
            advice="see that the disk of nats-server has room, and restart nats-server: room alone does not help",
        )
        for stream, reason in engine.stuck_streams.items()
    ]


def _check_health(engine: EngineView) -> Finding:
    if engine.problems:
        return Finding(
            check="health",
            level="error",
            text=f"engine {engine.id} is not ready: {'; '.join(engine.problems)}",
            advice="look at its log; NATS may refuse it something, or be short of room",
        )
    return Finding(check="health", level="ok", text=f"engine {engine.id} writes and pulls, as its /readyz says")


def _check_archive(archive: ArchiveView | None) -> Finding:
    if archive is None:
        return Finding(check="archive", level="ok", text="there is none: what NATS deletes is gone")
    if archive.problem is not None:
        return Finding(
            check="archive",
            level="error",
            text=f"it cannot be used: {archive.problem}",
            advice="see to Postgres and IRONFLOW_ARCHIVE_URL; until then nothing is deleted, and then all is copied",
        )
    text = f"it answers, and is {archive.behind:,} messages behind"
    if archive.behind > MOST_BEHIND:
        advice = "if that grows, look at the log of the engines for 'not archived', and at the load of Postgres"
        return Finding(check="archive", level="warning", text=text, advice=advice)
    return Finding(check="archive", level="ok", text=text)


def _check_retention(engine: EngineView) -> Finding:
    if engine.retention_ms:
        text = f"NATS keeps runs for {format_milliseconds(engine.retention_ms)} after their end"
        return Finding(check="retention", level="ok", text=text)
    return Finding(
        check="retention",
        level="ok",
        text="NATS keeps runs for ever; give all engines --retention, such as 30d, where that is not wanted",
    )
