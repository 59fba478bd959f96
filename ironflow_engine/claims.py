"""Which tasks workers have taken, as they have told: pure."""

from __future__ import annotations

from ironflow.messages import Claims


class ClaimBook:
    """What each worker has, by the place of the task in the queue.

    It may be out of date in every way; whatever is done by it must be harmless.
    """

    def __init__(self) -> None:
        self._by_worker: dict[str, dict[int, str]] = {}
        self._holder: dict[int, str] = {}

    @property
    def workers(self) -> tuple[str, ...]:
        """The workers that have taken something."""
        return tuple(self._by_worker)

    def take_in(self, news: Claims) -> None:
        """Take in what a worker tells."""
        for task in news.ended:
            self._remove(news.worker, task)
        for claim in news.begun:
            # A task that another worker has now was taken from the one before.
            holder = self._holder.get(claim.task)
            if holder is not None and holder != news.worker:
                self._remove(holder, claim.task)
            self._holder[claim.task] = news.worker
            self._by_worker.setdefault(news.worker, {})[claim.task] = claim.lease

    def forget(self, worker: str) -> tuple[str, ...]:
        """Forget a worker; return the leases that it had."""
        held = self._by_worker.pop(worker, {})
        for task in held:
            del self._holder[task]
        return tuple(held.values())

    def _remove(self, worker: str, task: int) -> None:
        held = self._by_worker.get(worker)
        if held is None or held.pop(task, None) is None:
            return
        del self._holder[task]
        if not held:
            del self._by_worker[worker]
