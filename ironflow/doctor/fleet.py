"""Checks of engines and workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ironflow.doctor.finding import Finding
from ironflow.messages import EngineView, WorkerView
from ironflow.records import FunctionRecord


def check_engine(engine: EngineView | None) -> Finding:
    """Say whether an engine answers."""
    if engine is None:
        return Finding(
            check="engine",
            level="error",
            text="no engine answers: events are stored, and nothing starts or goes on",
            advice="start one with 'ironflow-engine' (or 'ironflow dev')",
        )
    text = f"engine {engine.id} on {engine.host} (version {engine.version}) answers"
    return Finding(check="engine", level="ok", text=text)


def check_workers(functions: Sequence[FunctionRecord], workers: Sequence[WorkerView]) -> list[Finding]:
    """Say of each queue that has functions whether workers pull from it and know them."""
    if not functions and any(worker.functions for worker in workers):
        text = f"no function is registered, although {_count(len(workers), 'worker')} answered: no event starts a run"
        advice = "start an engine if none answers, else restart the workers: they register when they start"
        return [Finding(check="workers", level="error", text=text, advice=advice)]
    if not functions:
        text = f"no function is registered; {_count(len(workers), 'worker')} answered"
        advice = "start a worker with 'ironflow-worker --queue QUEUE APP'; it registers its functions"
        return [Finding(check="workers", level="ok", text=text, advice=advice)]
    queues = sorted({function.queue for function in functions})
    found = [
        _check_queue(
            queue,
            [function.id for function in functions if function.queue == queue],
            [worker for worker in workers if queue in worker.queues and not worker.draining],
        )
        for queue in queues
    ]
    return [*found, *_check_namesakes(functions, workers)]


def check_versions(engine: EngineView | None, workers: Sequence[WorkerView]) -> Finding:
    """Say whether workers and one engine are of one version, as all are but for the moments of an upgrade.

    Args:
        engine: the one that took the request; no other is asked, so that there may be engines of other versions.
        workers: all that answered.

    """
    by_version: dict[str, list[str]] = {}
    if engine is not None:
        by_version.setdefault(engine.version, []).append(f"engine {engine.id}")
    for queue in sorted({queue for worker in workers for queue in worker.queues}):
        for version in sorted({worker.version for worker in workers if queue in worker.queues}):
            by_version.setdefault(version, []).append(f"workers of {queue}")
    shown = "; ".join(f"{version}: {', '.join(who)}" for version, who in sorted(by_version.items()))
    if engine is not None:
        shown += " (one engine answers for all; others may be of another version)"
    if len(by_version) < 2:  # noqa: PLR2004 - one of a kind
        return Finding(check="versions", level="ok", text=shown or "nobody answers who could have one")
    return Finding(
        check="versions",
        level="warning",
        text=shown,
        advice="finish the upgrade, engines first: what one version writes another may not be able to read",
    )


def _check_queue(queue: str, functions: Sequence[str], workers: Sequence[WorkerView]) -> Finding:
    if not workers:
        return Finding(
            check="workers",
            level="warning",
            text=f"queue {queue}: {_count(len(functions), 'function')} and no worker",
            advice=f"start one with 'ironflow-worker --queue {queue} APP'",
        )
    known = {function for worker in workers for function in worker.functions}
    unknown = sorted(set(functions) - known)
    if unknown:
        return Finding(
            check="workers",
            level="warning",
            text=f"queue {queue}: no worker has the code of {', '.join(unknown)}",
            advice="start a worker that has it, or end the function with 'ironflow functions delete ID'",
        )
    return Finding(check="workers", level="ok", text=f"queue {queue}: {_count(len(workers), 'worker')}")


def _check_namesakes(functions: Sequence[FunctionRecord], workers: Sequence[WorkerView]) -> Iterator[Finding]:
    """Warn of functions that workers of other queues have too: which of them is registered depends on who came last."""
    for function in functions:
        others = {
            queue
            for worker in workers
            if function.id in worker.functions and function.queue not in worker.queues and not worker.draining
            for queue in worker.queues
        }
        if others:
            yield Finding(
                check="workers",
                level="warning",
                text=f"function {function.id} is registered for queue {function.queue}, and workers of "
                f"{', '.join(sorted(others))} have one of this id too",
                advice="if they are two functions, give one another id; else stop the workers that have the old code",
            )


def check_readable(functions: int, workers: int) -> list[Finding]:
    """Say how many functions and workers could not be looked at, where there are any."""
    told = [
        _count(functions, "registered function") if functions else "",
        f"the answer of {_count(workers, 'worker')}" if workers else "",
    ]
    if not any(told):
        return []
    text = f"{' and '.join(filter(None, told))} cannot be read"
    advice = "another version has written them, or somebody who should not: see that all processes are of one version"
    return [Finding(check="unreadable", level="warning", text=text, advice=advice)]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
