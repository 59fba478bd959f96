"""The step client that a handler gets as ``ctx.step``: what it offers, typed. Workers implement it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from ironflow.durations import Duration
from ironflow.events import Event
from ironflow.retry import Retry

P = ParamSpec("P")
T = TypeVar("T")


class Step(Protocol):
    """The steps of a run. Each is recorded once; a replay gets the recorded result and runs nothing."""

    # ParamSpec cannot stand beside named options, so the call without options is typed to the last argument,
    # and the calls with "timeout" or "retry" check the body's result only. mypy thinks that the first two
    # signatures take all calls; tests/typing shows that they do not. The awaitable body comes first, since a
    # plain one may return anything, an awaitable too.

    @overload
    async def run(self, name: str, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    @overload
    async def run(self, name: str, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    @overload
    async def run(  # type: ignore[overload-cannot-match]
        self,
        name: str,
        fn: Callable[..., Awaitable[T]],
        /,
        *args: Any,
        timeout: Duration,
        retry: Retry | None = None,
        **kwargs: Any,
    ) -> T: ...
    @overload
    async def run(  # type: ignore[overload-cannot-match]
        self,
        name: str,
        fn: Callable[..., T],
        /,
        *args: Any,
        timeout: Duration,
        retry: Retry | None = None,
        **kwargs: Any,
    ) -> T: ...
    @overload
    async def run(  # type: ignore[overload-cannot-match]
        self, name: str, fn: Callable[..., Awaitable[T]], /, *args: Any, retry: Retry, **kwargs: Any
    ) -> T: ...
    @overload
    async def run(  # type: ignore[overload-cannot-match]
        self, name: str, fn: Callable[..., T], /, *args: Any, retry: Retry, **kwargs: Any
    ) -> T: ...
    async def run(self, name: str, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run a body and record its result; on a replay return the recorded result and run nothing.

        The body may be ``async`` or plain; a plain one runs in a thread, and an awaitable that it returns is
        awaited. What is returned is always decoded from what was recorded, into the body's return
        annotation, so that the first pass and every replay see the same.

        Args:
            name: unique in its scope; any non-empty text of up to 10 kB.
            fn: the body.
            *args: passed to the body.
            timeout: the longest that one attempt may take. Default none.
            retry: instead of the function's policy.
            **kwargs: passed to the body.

        Raises:
            StepError: the last attempt failed, or an attempt failed with an error that is not retried. It is
                recorded, and replays raise it again.
            DuplicateStepError: the name was used before in this pass.
            SerializationError: the result cannot be carried as JSON.
            PayloadTooLargeError: the result is over 512 KiB as JSON.
            LimitError: the run has more than 10,000 steps, or the name is over 10 kB.
            DefinitionError: the name is no text, or this is the body of another step: bodies have no steps.

        """
        ...

    async def sleep(self, name: str, duration: Duration) -> None:
        """Pause the run. Nothing waits meanwhile: the worker's slot is free, and every process may restart.

        Args:
            name: unique in its scope.
            duration: "30s", "24h", "1h30m", a number of seconds, or a timedelta. It never ends early by the
                server's clock; healthy, at most 0.5 s late.

        Raises:
            ValueError: not a duration, zero or negative.
            LimitError: longer than 366 days.
            DuplicateStepError: the name was used before in this pass.

        """
        ...

    async def sleep_until(self, name: str, when: str | datetime) -> None:
        """Pause the run until a point in time.

        Args:
            name: unique in its scope.
            when: an ISO 8601 text or a datetime, both with a time zone.

        Raises:
            ValueError: no time zone, or not in the future when the run first comes here.
            LimitError: more than 366 days ahead.
            DuplicateStepError: the name was used before in this pass.

        """
        ...

    async def publish(
        self, event: str, data: object = None, *, name: str | None = None, id: str | None = None
    ) -> Event[Any]:
        """Publish an event once, however often the step is tried. Functions trigger on it.

        Args:
            event: the event's name.
            data: its payload; anything that JSON can carry.
            name: the step's name. Default ``publish:<event>``, then ``publish:<event>#2``, ….
            id: the event's id. Default one that is unique per run and step.

        Raises:
            DefinitionError: the event's name or id is not allowed.
            SerializationError: the data cannot be carried as JSON.
            LimitError: the name, the id or the data is too large.
            DuplicateStepError: the step's name was used before in this pass.

        """
        ...

    def idempotency_key(self, name: str) -> str:
        """Return a text that is unique per run and step and the same in every attempt.

        Hand it to a payment provider or use it as a primary key, and doing the step twice has one effect.

        Args:
            name: the step's name.

        """
        ...
