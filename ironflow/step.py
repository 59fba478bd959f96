"""The step client that a handler gets as ``ctx.step``: what it offers, typed. Workers implement it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Literal, ParamSpec, Protocol, TypeVar, overload

from ironflow.durations import Duration
from ironflow.events import Event
from ironflow.invocable import Invocable
from ironflow.retry import Retry

P = ParamSpec("P")
T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T4 = TypeVar("T4")
T5 = TypeVar("T5")
Item = TypeVar("Item")
In = TypeVar("In")
Out = TypeVar("Out")

OnError = Literal["fail_fast", "all_settled"]

Branch = Callable[["Step"], Awaitable[T]]
"""One of the things that a parallel does: an async function that takes a step client of its own."""


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

    @overload
    async def wait_for_event(
        self,
        name: str,
        *,
        event: str,
        match: str | None = None,
        value: Any = ...,
        type: None = None,
        timeout: Duration = "7d",
        on_timeout: Literal["fail", "raise"] = "fail",
    ) -> Event[Any]: ...
    @overload
    async def wait_for_event(
        self,
        name: str,
        *,
        event: str,
        match: str | None = None,
        value: Any = ...,
        type: type[T],
        timeout: Duration = "7d",
        on_timeout: Literal["fail", "raise"] = "fail",
    ) -> Event[T]: ...
    @overload
    async def wait_for_event(
        self,
        name: str,
        *,
        event: str,
        match: str | None = None,
        value: Any = ...,
        type: None = None,
        timeout: Duration = "7d",
        on_timeout: Literal["none"],
    ) -> Event[Any] | None: ...
    @overload
    async def wait_for_event(
        self,
        name: str,
        *,
        event: str,
        match: str | None = None,
        value: Any = ...,
        type: type[T],
        timeout: Duration = "7d",
        on_timeout: Literal["none"],
    ) -> Event[T] | None: ...
    async def wait_for_event(
        self,
        name: str,
        *,
        event: str,
        match: str | None = None,
        value: Any = ...,
        type: Any = None,
        timeout: Duration = "7d",
        on_timeout: Literal["fail", "none", "raise"] = "fail",
    ) -> Event[Any] | None:
        """Pause the run until an event comes, and return the event.

        An event counts that came after the one that started the run, also where it came before this call. One
        event ends one wait of a run. Event and timeout exclude each other: what came first is recorded.

        Args:
            name: unique in its scope.
            event: the name of the awaited event; exact.
            match: a path into an event's data, like ``"data.orderId"`` or ``"items.0.sku"``: the awaited event
                must have there what the event has that started this run. Default: any event of the name will do.
            value: what the awaited event must have at *match*, instead of what the starting event has there.
            type: what to decode the event's data into. Default plain JSON.
            timeout: how long to wait, from when the wait was recorded.
            on_timeout: "fail" fails the run on the server, with "waitForEvent timed out: …"; "none" returns None;
                "raise" raises WaitTimeoutError.

        Raises:
            WaitTimeoutError: no such event came in time, and *on_timeout* is "raise". It is recorded, and replays
                raise it again.
            DefinitionError: the starting event has nothing at *match*, or another argument is not allowed. It is
                a ValueError.
            SerializationError: the event's data does not decode into *type*, or *value* cannot be carried as JSON.
            LimitError: the run waits for 1,000 events already, the timeout is over 366 days, or the compared value
                is over 8 KiB.
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

    @overload
    async def invoke(
        self, function: Invocable[In, Out], data: In, *, name: str | None = None, timeout: Duration | None = None
    ) -> Out: ...
    @overload
    async def invoke(
        self, function: Invocable[Any, Out], *, name: str | None = None, timeout: Duration | None = None
    ) -> Out: ...
    @overload
    async def invoke(
        self, function: str, data: object = None, *, name: str | None = None, timeout: Duration | None = None
    ) -> Any: ...
    async def invoke(
        self,
        function: Invocable[Any, Any] | str,
        data: object = None,
        *,
        name: str | None = None,
        timeout: Duration | None = None,
    ) -> Any:
        """Run another function as a child run, and return its output.

        The child is a run of its own, on its function's queue; it sees an event named ``ironflow.invoked`` with
        *data*. Nothing waits meanwhile: the worker's slot is free. The child is cancelled when this run ends
        before it does, and when the branch that waits for it is cancelled.

        Args:
            function: the function, or its id.
            data: the payload of the child's event; anything that JSON can carry.
            name: the step's name. Default ``invoke:<id>``, then ``invoke:<id>#2``, ….
            timeout: how long to wait for the child's end, from when the step was recorded. Default no bound.

        Returns:
            The child's output, decoded into the function's return annotation; of an id, plain JSON.

        Raises:
            InvokeError: the child failed, was cancelled, or has no function of that id. It is recorded, and
                replays raise it again.
            InvokeTimeoutError: the child did not end in time; it is cancelled. It is recorded likewise.
            DefinitionError: it is no function and no function's id, or not a timeout. It is a ValueError.
            SerializationError: the data cannot be carried as JSON, or the output does not decode.
            PayloadTooLargeError: the data is over 512 KiB as JSON.
            LimitError: ten runs stand above this one already, each started by the one before, or the timeout is
                over 366 days.
            DuplicateStepError: the step's name was used before in this pass.

        """
        ...

    @overload
    async def invoke_async(self, function: Invocable[In, Any], data: In, *, name: str | None = None) -> str: ...
    @overload
    async def invoke_async(self, function: Invocable[Any, Any], *, name: str | None = None) -> str: ...
    @overload
    async def invoke_async(self, function: str, data: object = None, *, name: str | None = None) -> str: ...
    async def invoke_async(
        self, function: Invocable[Any, Any] | str, data: object = None, *, name: str | None = None
    ) -> str:
        """Start a run of another function once, however often the step is tried, and return the run's id.

        This run neither waits for that one nor takes it along when it ends.

        Args:
            function: the function, or its id.
            data: the payload of the run's event, which is named ``ironflow.invoked``.
            name: the step's name. Default ``invoke_async:<id>``, then ``invoke_async:<id>#2``, ….

        Raises:
            DefinitionError: it is no function and no function's id. It is a ValueError.
            SerializationError: the data cannot be carried as JSON.
            PayloadTooLargeError: the data is over 512 KiB as JSON.
            LimitError: ten runs stand above this one already, each started by the one before.
            DuplicateStepError: the step's name was used before in this pass.

        """
        ...

    # A tuple is a sequence too; that it gives a tuple and not a list is what mypy calls an overlap.

    @overload
    async def parallel(  # type: ignore[overload-overlap]
        self,
        name: str,
        branches: tuple[Branch[T1], Branch[T2]],
        *,
        concurrency: int | None = None,
        on_error: Literal["fail_fast"] = "fail_fast",
    ) -> tuple[T1, T2]: ...
    @overload
    async def parallel(  # type: ignore[overload-overlap]
        self,
        name: str,
        branches: tuple[Branch[T1], Branch[T2], Branch[T3]],
        *,
        concurrency: int | None = None,
        on_error: Literal["fail_fast"] = "fail_fast",
    ) -> tuple[T1, T2, T3]: ...
    @overload
    async def parallel(  # type: ignore[overload-overlap]
        self,
        name: str,
        branches: tuple[Branch[T1], Branch[T2], Branch[T3], Branch[T4]],
        *,
        concurrency: int | None = None,
        on_error: Literal["fail_fast"] = "fail_fast",
    ) -> tuple[T1, T2, T3, T4]: ...
    @overload
    async def parallel(  # type: ignore[overload-overlap]
        self,
        name: str,
        branches: tuple[Branch[T1], Branch[T2], Branch[T3], Branch[T4], Branch[T5]],
        *,
        concurrency: int | None = None,
        on_error: Literal["fail_fast"] = "fail_fast",
    ) -> tuple[T1, T2, T3, T4, T5]: ...
    @overload
    async def parallel(  # type: ignore[overload-overlap]
        self,
        name: str,
        branches: tuple[Branch[T], ...],
        *,
        concurrency: int | None = None,
        on_error: Literal["fail_fast"] = "fail_fast",
    ) -> tuple[T, ...]: ...
    @overload
    async def parallel(
        self,
        name: str,
        branches: Sequence[Branch[T]],
        *,
        concurrency: int | None = None,
        on_error: Literal["fail_fast"] = "fail_fast",
    ) -> list[T]: ...
    @overload
    async def parallel(  # type: ignore[overload-overlap]
        self,
        name: str,
        branches: tuple[Branch[T1], Branch[T2]],
        *,
        concurrency: int | None = None,
        on_error: Literal["all_settled"],
    ) -> tuple[T1 | Exception, T2 | Exception]: ...
    @overload
    async def parallel(  # type: ignore[overload-overlap]
        self,
        name: str,
        branches: tuple[Branch[T1], Branch[T2], Branch[T3]],
        *,
        concurrency: int | None = None,
        on_error: Literal["all_settled"],
    ) -> tuple[T1 | Exception, T2 | Exception, T3 | Exception]: ...
    @overload
    async def parallel(  # type: ignore[overload-overlap]
        self,
        name: str,
        branches: tuple[Branch[T1], Branch[T2], Branch[T3], Branch[T4]],
        *,
        concurrency: int | None = None,
        on_error: Literal["all_settled"],
    ) -> tuple[T1 | Exception, T2 | Exception, T3 | Exception, T4 | Exception]: ...
    @overload
    async def parallel(  # type: ignore[overload-overlap]
        self,
        name: str,
        branches: tuple[Branch[T1], Branch[T2], Branch[T3], Branch[T4], Branch[T5]],
        *,
        concurrency: int | None = None,
        on_error: Literal["all_settled"],
    ) -> tuple[T1 | Exception, T2 | Exception, T3 | Exception, T4 | Exception, T5 | Exception]: ...
    @overload
    async def parallel(  # type: ignore[overload-overlap]
        self,
        name: str,
        branches: tuple[Branch[T], ...],
        *,
        concurrency: int | None = None,
        on_error: Literal["all_settled"],
    ) -> tuple[T | Exception, ...]: ...
    @overload
    async def parallel(
        self,
        name: str,
        branches: Sequence[Branch[T]],
        *,
        concurrency: int | None = None,
        on_error: Literal["all_settled"],
    ) -> list[T | Exception]: ...
    async def parallel(
        self,
        name: str,
        branches: Sequence[Branch[Any]],
        *,
        concurrency: int | None = None,
        on_error: OnError = "fail_fast",
    ) -> Any:
        """Run branches at the same time and return what they return, in their order.

        Sleeps, waits and retries of different branches overlap. A branch gets a step client of its own, so two
        branches may use the same names. The parallel itself is not recorded, only the steps in it.

        Args:
            name: unique in its scope, among steps too.
            branches: async functions that take a step client; a list or a tuple.
            concurrency: how many branches may have begun and not ended; one that sleeps or waits keeps its
                place. Default no bound.
            on_error: "fail_fast" cancels the branches that have begun when one fails, skips the others and raises
                the failure; of several failed steps the one whose failure was recorded first, in every pass.
                "all_settled" awaits all branches, and returns exceptions in the place of results.

        Returns:
            A list for a list of branches, a tuple for a tuple.

        Raises:
            DefinitionError: the branches are not async functions, or an option is not allowed.
            DuplicateStepError: the name was used before in this pass.
            Exception: what a branch raised, of a parallel that fails fast.

        """
        ...

    @overload
    async def map(
        self,
        name: str,
        items: Sequence[Item],
        fn: Callable[[Item, Step, int], Awaitable[T]],
        *,
        concurrency: int | None = None,
        on_error: Literal["fail_fast"] = "fail_fast",
    ) -> list[T]: ...
    @overload
    async def map(
        self,
        name: str,
        items: Sequence[Item],
        fn: Callable[[Item, Step, int], Awaitable[T]],
        *,
        concurrency: int | None = None,
        on_error: Literal["all_settled"],
    ) -> list[T | Exception]: ...
    async def map(
        self,
        name: str,
        items: Sequence[Any],
        fn: Callable[[Any, Step, int], Awaitable[Any]],
        *,
        concurrency: int | None = None,
        on_error: OnError = "fail_fast",
    ) -> list[Any]:
        """Do the same for each item, at the same time, and return the results in the order of the items.

        An item is known by its index: every pass must see the same items in the same order.

        Args:
            name: unique in its scope, among steps too.
            items: a list, or another sequence that is not a text.
            fn: an async function that takes the item, a step client of its own, and the item's index.
            concurrency: how many items may have begun and not ended; one that sleeps or waits keeps its place.
                Default no bound; no more are in memory at a time than keep the journal busy.
            on_error: as in ``parallel``.

        Raises:
            DefinitionError: the items are no sequence, the function is not async, or an option is not allowed.
            LimitError: the maps of the run have more than 100,000 items together.
            DuplicateStepError: the name was used before in this pass.
            Exception: what the function raised for an item, of a map that fails fast.

        """
        ...

    def compensate(self, step_name: str, fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Register what undoes a step, for the case that the run fails for good.

        It is a plain call, not to be awaited, and it runs nothing. Call it right behind the step. If the run fails
        then, takes longer than its timeout, or is cancelled with ``compensate=True``, its undos run one after the
        other, the one of the step that was recorded last first. Each is a step of its own called
        ``compensate:<step>``: it runs at least once, its result is recorded, and it is retried under the
        function's retry policy. One that fails for good is recorded, and the others run all the same. Until the
        last one has ended the run is "compensating".

        A handler that catches the failure of a step and returns has not failed, and nothing is undone.

        Args:
            step_name: the name of the step, in the scope of this step client.
            fn: what undoes it, ``async`` or plain, like the body of a step; it has no steps of its own.
            *args: passed to it.
            **kwargs: passed to it.

        Raises:
            DefinitionError: the step has no result yet, or the function is none.
            DuplicateStepError: the step has an undo already.

        """
        ...

    def idempotency_key(self, name: str) -> str:
        """Return a text that is unique per run and step and the same in every attempt, also of a retried run.

        Hand it to a payment provider or use it as a primary key, and doing the step twice has one effect. A step that
        was undone, and that a retry of the run does again, has another one: its first effect is gone.

        Args:
            name: the step's name.

        """
        ...
