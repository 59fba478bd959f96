"""Which tasks workers have taken, as they have told: pure."""

from __future__ import annotations

import msgspec

from ironflow.messages import Claims

_Task = tuple[str, int]
"""Its queue, and where it stands there."""


class _Told(msgspec.Struct, frozen=True):
    """What names the delivery of a task, and when the worker has told of it last, in seconds."""

    lease: str
    at: float


class ClaimBook:
    """What each worker has, by the place of the task in the queue.

    It may be out of date in every way; whatever is done by it must be harmless.
    """

    def __init__(self) -> None:
        self._by_worker: dict[str, dict[_Task, _Told]] = {}
        """Of each worker what it has told last comes last."""
        self._holder: dict[_Task, str] = {}
        self._asked_at: dict[str, float] = {}

    @property
    def workers(self) -> tuple[str, ...]:
        """The workers that have taken something."""
        return tuple(self._by_worker)

    def take_in(self, queue: str, news: Claims, now: float) -> None:
        """Take in what a worker tells of a queue at some time, in seconds."""
        over = self._told_of(news.worker, queue) if news.anew else [(queue, number) for number in news.ended]
        for task in over:
            self._remove(news.worker, task)
        for claim in news.begun:
            task = (queue, claim.task)
            holder = self._holder.get(task, news.worker)
            if holder != news.worker:
                if news.anew:
                    continue  # it was asked, and may not know yet that it has lost the task
                # A task that another worker has now was taken from the one before.
                self._remove(holder, task)
            self._holder[task] = news.worker
            held = self._by_worker.setdefault(news.worker, {})
            held.pop(task, None)
            held[task] = _Told(claim.lease, now)

    def to_be_asked(self, now: float, seconds: float) -> tuple[str, ...]:
        """Return the workers that have something of which they told so long ago, or longer; each once in that time.

        That they are done with it may have been lost.
        """
        before = now - seconds
        found = tuple(
            worker
            for worker, held in self._by_worker.items()
            if next(iter(held.values())).at <= before and self._asked_at.get(worker, before) <= before
        )
        self._asked_at.update(dict.fromkeys(found, now))
        return found

    def forget(self, worker: str) -> tuple[tuple[str, str], ...]:
        """Forget a worker; return the leases that it had, each behind its queue."""
        held = self._by_worker.pop(worker, {})
        self._asked_at.pop(worker, None)
        for task in held:
            del self._holder[task]
        return tuple((queue, told.lease) for (queue, _), told in held.items())

    def _told_of(self, worker: str, queue: str) -> list[_Task]:
        return [task for task in self._by_worker.get(worker, ()) if task[0] == queue]

    def _remove(self, worker: str, task: _Task) -> None:
        held = self._by_worker.get(worker)
        if held is None or held.pop(task, None) is None:
            return
        del self._holder[task]
        if not held:
            self.forget(worker)
