"""Which tasks workers have taken, as they have told: pure."""

from __future__ import annotations

from ironflow.messages import Claims

_Task = tuple[str, int]
"""Its queue, and where it stands there."""


class ClaimBook:
    """What each worker has, by the place of the task in the queue.

    It may be out of date in every way; whatever is done by it must be harmless.
    """

    def __init__(self) -> None:
        self._by_worker: dict[str, dict[_Task, str]] = {}
        self._holder: dict[_Task, str] = {}

    @property
    def workers(self) -> tuple[str, ...]:
        """The workers that have taken something."""
        return tuple(self._by_worker)

    def take_in(self, queue: str, news: Claims) -> None:
        """Take in what a worker tells of a queue."""
        for number in news.ended:
            self._remove(news.worker, (queue, number))
        for claim in news.begun:
            task = (queue, claim.task)
            # A task that another worker has now was taken from the one before.
            holder = self._holder.get(task)
            if holder is not None and holder != news.worker:
                self._remove(holder, task)
            self._holder[task] = news.worker
            self._by_worker.setdefault(news.worker, {})[task] = claim.lease

    def forget(self, worker: str) -> tuple[tuple[str, str], ...]:
        """Forget a worker; return the leases that it had, each behind its queue."""
        held = self._by_worker.pop(worker, {})
        for task in held:
            del self._holder[task]
        return tuple((queue, lease) for (queue, _), lease in held.items())

    def _remove(self, worker: str, task: _Task) -> None:
        held = self._by_worker.get(worker)
        if held is None or held.pop(task, None) is None:
            return
        del self._holder[task]
        if not held:
            del self._by_worker[worker]
