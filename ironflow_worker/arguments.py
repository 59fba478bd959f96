"""Checks what steps are called with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence

from ironflow.clock import to_iso
from ironflow.durations import LONGEST_DAYS, format_milliseconds
from ironflow.errors import DefinitionError, LimitError
from ironflow.invocable import Invocable
from ironflow.retry import Retry, RetryPolicy

_DAY_MS = 24 * 60 * 60 * 1000


def policy_of(retry: object) -> RetryPolicy:
    """Return the policy of a ``retry``.

    Raises:
        DefinitionError: it is something else.

    """
    if not isinstance(retry, Retry):
        msg = f"retry must be ironflow.Retry(…), got {retry!r}"
        raise DefinitionError(msg)
    return retry.policy


def check_body(name: str, fn: object) -> None:
    """Refuse what is no body of a step.

    Raises:
        DefinitionError: it cannot be called; or it is a workflow, which has steps of its own.

    """
    if isinstance(fn, Invocable):
        msg = f"step {name!r} takes a plain function, got the workflow {fn.id!r}; have it run with step.invoke"
        raise DefinitionError(msg)
    if callable(fn):
        return
    if inspect.iscoroutine(fn):
        fn.close()
    hint = "pass the function itself and its arguments after it, without calling it"
    raise DefinitionError(f"step {name!r} takes a function to call, got {fn!r}; {hint}")


def wrong_call(
    method: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object]
) -> DefinitionError | None:
    """Return what is wrong with the arguments of a step's call, and how it is called; None where they fit.

    Args:
        method: the method of the step client, which *args* begin with.
        args: what stands at a place.
        kwargs: what stands behind a name.

    """
    signature = inspect.signature(method)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        name = method.__name__
        return DefinitionError(f"step.{name}: {error}; it is called as step.{name}{_without_types(signature)}")
    return None


def _without_types(signature: inspect.Signature) -> str:
    _client, *given = signature.parameters.values()
    bare = [each.replace(annotation=inspect.Parameter.empty) for each in given]
    return str(inspect.Signature(bare)).replace("Ellipsis", "…")


def check_ahead(until_ms: int, now_ms: int) -> None:
    """Refuse a time that nobody can sleep until.

    Raises:
        DefinitionError: it is over.
        LimitError: it is too far ahead.

    """
    ahead = until_ms - now_ms
    if ahead <= 0:
        msg = f"when must be in the future, got {to_iso(until_ms)}, which is {format_milliseconds(-ahead)} ago"
        raise DefinitionError(msg)
    if ahead > LONGEST_DAYS * _DAY_MS:
        msg = f"when must be at most {LONGEST_DAYS} days ahead, got {to_iso(until_ms)}"
        raise LimitError(msg)
