"""Runs step bodies: coroutines in the loop, plain functions in threads of their own."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import types
import typing
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Executor
from typing import Any

from ironflow.annotations import ADVICE, annotation_of, raw_annotations, readable, with_self
from ironflow.errors import DefinitionError, StepTimeoutError
from ironflow.logs import get_logger
from ironflow_worker.log_bindings import logged_attempt, logged_step
from ironflow_worker.signals import BodyFailure, is_pass_end

_log = get_logger("ironflow.worker")

_AWAITABLES = (Awaitable, Coroutine, Generator)

_body_of: contextvars.ContextVar[str | None] = contextvars.ContextVar("_body_of", default=None)
"""The step whose body runs here."""


class Bodies:
    """Runs bodies.

    Args:
        threads: runs the plain ones. It is used for nothing else, so that a slow body cannot starve others.

    Attributes:
        no_more: whether none is to begin any more, so that those at work can end before their worker does.

    """

    def __init__(self, threads: Executor) -> None:
        self._threads = threads
        self.no_more = False

    def run(
        self, step: str, body: Callable[[], Any], *, is_async: bool, timeout_ms: int | None
    ) -> Coroutine[Any, Any, Any]:
        """Run a body to its end and return what it returns.

        Args:
            step: the step's name, for the message.
            body: takes no arguments any more.
            is_async: whether it is a coroutine function.
            timeout_ms: the longest that it may take. A plain body cannot be stopped: its thread goes on, and
                what it returns is ignored.

        Raises:
            StepTimeoutError: it took longer.
            Exception: whatever the body raises.
            BodyFailure: the body has raised something that is none.

        """
        if timeout_ms is not None:
            return self._run_within(step, body, is_async=is_async, timeout_ms=timeout_ms)
        return _outcome_of(body()) if is_async else self._call_in_thread(body)

    async def _run_within(self, step: str, body: Callable[[], Any], *, is_async: bool, timeout_ms: int) -> Any:
        bound = asyncio.timeout(timeout_ms / 1000)
        try:
            async with bound:
                return await (_outcome_of(body()) if is_async else self._call_in_thread(body))
        except TimeoutError as error:
            if not bound.expired():
                raise
            msg = f"step {step!r} took longer than its timeout of {timeout_ms / 1000:g} s"
            raise StepTimeoutError(msg) from error

    async def _call_in_thread(self, body: Callable[[], Any]) -> Any:
        context = contextvars.copy_context()
        result = await asyncio.get_running_loop().run_in_executor(self._threads, _in_thread, context, body)
        return await _outcome_of(result) if inspect.isawaitable(result) else result


def _in_thread(context: contextvars.Context, body: Callable[[], Any]) -> Any:
    try:
        return context.run(body)
    except Exception as error:
        if isinstance(error, StopIteration):
            raise BodyFailure(error) from error
        raise
    except BaseException as error:
        raise BodyFailure(error) from error


async def _outcome_of(awaitable: Awaitable[Any]) -> Any:
    task = asyncio.current_task()
    try:
        return await awaitable
    except Exception:
        raise
    except BaseException as error:
        if _comes_from_outside(error, task):
            raise
        raise BodyFailure(error) from error


def _comes_from_outside(error: BaseException, task: asyncio.Task[Any] | None) -> bool:
    """Tell whether what has come through a body ends its task, rather than that the body has raised it."""
    if isinstance(error, asyncio.CancelledError):
        return task is None or task.cancelling() > 0
    if isinstance(error, GeneratorExit):
        try:
            return asyncio.current_task() is not task  # whoever closes a coroutine does so from elsewhere
        except RuntimeError:
            return True
    return is_pass_end(error)


def leave_bodies() -> None:
    """Forget in which body this runs; for the start of a handler, which is in none wherever its worker was started."""
    _body_of.set(None)


class inside_of:  # noqa: N801 - it reads as the function that it could be; a generator takes three times as long
    """Mark what runs within the block as an attempt at a step, also in what is logged there."""

    __slots__ = ("_attempt", "_step", "_tokens")

    def __init__(self, step: str, attempt: int) -> None:
        self._step = step
        self._attempt = attempt

    def __enter__(self) -> None:
        self._tokens = (
            _body_of.set(self._step),
            logged_step.set(self._step),
            logged_attempt.set(self._attempt),
        )

    def __exit__(self, *_: object) -> None:
        body, step, attempt = self._tokens
        _body_of.reset(body)
        logged_step.reset(step)
        logged_attempt.reset(attempt)


def check_outside_of_bodies(step: str) -> None:
    """Refuse a step that is asked for inside the body of another, or of an undo.

    Raises:
        DefinitionError: it is.

    """
    outer = _body_of.get()
    if outer is not None:
        # The step around it is at work until its body returns, so a step in it could wait for ever.
        msg = (
            f"step {step!r} was asked for inside the body of step {outer!r}; a body has no steps of its own: "
            "call the steps one after the other, in the handler"
        )
        raise DefinitionError(msg)


def is_async_body(fn: Callable[..., Any]) -> bool:
    """Tell whether calling *fn* gives a coroutine, so that it needs no thread."""
    # Asking that first answers nearly always, at a tenth of the price.
    if type(fn) is types.FunctionType and fn.__code__.co_flags & inspect.CO_COROUTINE:
        return True
    plain = fn
    while isinstance(plain, functools.partial):
        plain = plain.func
    return inspect.iscoroutinefunction(plain) or inspect.iscoroutinefunction(type(plain).__call__)


def result_type(fn: Callable[..., Any]) -> Any:
    """Return what a body's result is decoded into: its return annotation, or ``Any`` where that says nothing."""
    plain = fn.__func__ if isinstance(fn, types.MethodType) else fn
    if not isinstance(plain, types.FunctionType) or not _says_what_it_returns(plain):
        return Any
    try:
        return _result_types[plain]
    except KeyError:
        pass
    annotation = _annotated_result(plain)
    # What a method returns may depend on whose it is, so that it is not kept.
    of_its_class = annotation if plain is fn else with_self(annotation, _class_of(fn))
    if of_its_class is not annotation:
        return _type_of(plain, of_its_class)
    return _result_types.setdefault(plain, _type_of(plain, annotation))


_result_types: weakref.WeakKeyDictionary[types.FunctionType, Any] = weakref.WeakKeyDictionary()
"""A body that is defined in a handler holds on to all that the handler has, so it must not outlive its pass."""
_warned_of: weakref.WeakSet[types.CodeType] = weakref.WeakSet()
"""The bodies of whose annotations it was said that they cannot be read: by code, which all passes share."""


def _says_what_it_returns(fn: types.FunctionType) -> bool:
    try:
        return "return" in fn.__annotations__
    except Exception:  # noqa: BLE001 - from Python 3.14 on they are evaluated only now, and may name what is not there
        return "return" in raw_annotations(fn)


def _class_of(method: Any) -> type:
    owner = method.__self__
    return owner if isinstance(owner, type) else type(owner)


def _annotated_result(fn: types.FunctionType) -> Any:
    try:
        annotation = annotation_of(fn, "return")
    except Exception as error:  # noqa: BLE001 - a name that only the type checker knows says nothing to us
        _warn_of(fn, str(error) or type(error).__name__)
        return Any
    return typing.get_args(annotation)[-1] if typing.get_origin(annotation) in _AWAITABLES else annotation


def _type_of(fn: types.FunctionType, annotation: Any) -> Any:
    result = readable(annotation)
    if result.problem is not None:
        _warn_of(fn, result.problem)
    return result.type


def _warn_of(fn: types.FunctionType, problem: str) -> None:
    if fn.__code__ in _warned_of:
        return
    _warned_of.add(fn.__code__)
    _log.warning(
        "the return annotation of a step's body cannot be read: its result stays plain JSON",
        body=f"{fn.__module__}.{fn.__qualname__}",
        reason=problem,
        advice=ADVICE,
    )
