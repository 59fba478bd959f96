"""Checks for what should have gone on and did not: runs without a task, timers that are overdue."""

from __future__ import annotations

from collections.abc import Sequence

from ironflow.doctor.finding import Finding
from ironflow.shards import Shard

STUCK_SECONDS = 60
"""An engine dispatches within moments, and after a crash within its ack wait of 5 s; this is not merely slow."""
BUCKET_SECONDS = 30
"""The due time in a schedule's subject is in units of this."""

_SHOWN = 3
_RECENT_BUCKETS = 10


def check_runs(stuck: Sequence[str], looked_at: int, *, all_seen: bool) -> Finding:
    """Say whether runs have stood still.

    Args:
        stuck: the runs that should have a task and have none.
        looked_at: how many runs were looked at.
        all_seen: whether that was all of them.

    """
    seen = f"{looked_at} active runs" if all_seen else f"the newest {looked_at} active runs"
    if not stuck:
        return Finding(check="stuck runs", level="ok", text=f"none among {seen}")
    return Finding(
        check="stuck runs",
        level="error",
        text=f"{len(stuck)} of {seen} have had no task for over {STUCK_SECONDS} s: {_some(stuck)}",
        advice=(
            "make sure that an engine runs: it publishes lost tasks again within 35 s; then look into the engines' "
            "logs for messages that come again and again"
        ),
    )


def check_timers(overdue: Sequence[str]) -> Finding:
    """Say whether schedules stand that should have fired.

    Args:
        overdue: the runs of the schedules that are overdue.

    """
    if not overdue:
        return Finding(check="timers", level="ok", text="none is overdue")
    return Finding(
        check="timers",
        level="error",
        text=f"{len(overdue)} are overdue by over {STUCK_SECONDS} s, of runs {_some(sorted(set(overdue)))}",
        advice=(
            "make sure that JetStream has room left and that an engine runs: it goes on without them within 35 s; "
            "schedules that fell due while there was no room stay until nats-server restarts, and do no harm"
        ),
    )


def newest_overdue_bucket(now_ms: int) -> int:
    """Return the latest due bucket in which no schedule should stand any more.

    Args:
        now_ms: the server's time.

    """
    return (now_ms - STUCK_SECONDS * 1000) // (BUCKET_SECONDS * 1000) - 1


def recent_timers(shard: Shard, now_ms: int) -> list[str]:
    """Return the filters of the schedules that should have fired in the last minutes.

    For each the server looks through all schedules that there are, so they are few. What keeps schedules from firing
    keeps the newest ones as well.

    Args:
        shard: whose schedules.
        now_ms: the server's time.

    """
    newest = newest_overdue_bucket(now_ms)
    return [shard.timers_due_in(bucket) for bucket in range(newest - _RECENT_BUCKETS + 1, newest + 1)]


def overdue_runs(subjects: Sequence[str], now_ms: int) -> list[str]:
    """Return the runs of the schedules that are overdue, one for each such schedule.

    Args:
        subjects: where the schedules stand: ``<namespace>.timers.<run>.<epoch>.<bucket>.<timer>``.
        now_ms: the server's time.

    """
    newest = newest_overdue_bucket(now_ms)
    tokens = (subject.split(".") for subject in subjects)
    return [run for _, _, run, _, bucket, *_ in tokens if bucket.isdecimal() and int(bucket) <= newest]


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
