"""What users' annotations say that values are to be decoded into."""

from __future__ import annotations

import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Never, NoReturn, Self, TypeVar

from ironflow.decodable import undecodable
from ironflow.models import stand_in

ADVICE = (
    "correct a name that is not defined, or have it defined above the function when the program runs, too: what is "
    "imported under TYPE_CHECKING is not; tell the classes of a union apart as msgspec Structs with tag=True, or as "
    "pydantic models with a discriminator; and let the values of an enum be all texts or all whole numbers"
)
"""What to do about a problem, for the log."""


class Readable(NamedTuple):
    """What a value is decoded into.

    Attributes:
        type: ``Any`` for plain JSON; with a class that stands for what pydantic alone reads.
        problem: why it is plain JSON though something else is annotated; else None.

    """

    type: Any
    problem: str | None = None


PLAIN = Readable(Any)


def raw_annotations(fn: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a function as they are, in the order of its parameters: texts, or what they say."""
    if sys.version_info >= (3, 14):
        import annotationlib  # noqa: PLC0415 - older ones have none

        # One name that is not defined must not take the others along.
        return annotationlib.get_annotations(fn, format=annotationlib.Format.FORWARDREF)
    return getattr(fn, "__annotations__", {})


def annotation_of(fn: Callable[..., Any], name: str) -> Any:
    """Return what one parameter, or ``return``, is annotated with, whatever the others are.

    Raises:
        Exception: it names something that is not there, or raises what it likes.

    """
    alone = types.SimpleNamespace(
        __annotations__={name: raw_annotations(fn)[name]}, __type_params__=getattr(fn, "__type_params__", ())
    )
    scope = getattr(inspect.unwrap(fn), "__globals__", {})
    return typing.get_type_hints(alone, globalns=scope, include_extras=True)[name]


def readable(annotation: Any) -> Readable:
    """Return what JSON is decoded into for an annotation."""
    try:
        return _readable(annotation)
    except TypeError:  # it has no hash, as with a list in an Annotated
        return _readable.__wrapped__(annotation)


# Bodies that are defined in handlers ask anew in each pass. Bounded, since it keeps the types.
@functools.lru_cache(maxsize=256)
def _readable(annotation: Any) -> Readable:
    if annotation in (Never, NoReturn):
        return PLAIN
    variable = next(_variables_of(annotation), None)
    if variable is not None:
        return _unreadable(annotation, f"nothing says what {variable} is when the program runs")
    try:
        wanted = _replaced(annotation, stand_in)
    except Exception as error:  # noqa: BLE001 - pydantic has many
        return _unreadable(annotation, " ".join(str(error).split()))
    problem = undecodable(wanted)
    return Readable(wanted) if problem is None else _unreadable(annotation, problem)


def _unreadable(annotation: Any, problem: str) -> Readable:
    shown = annotation.__qualname__ if isinstance(annotation, type) else repr(annotation)
    return Readable(Any, f"JSON cannot be decoded into {shown}: {problem}")


def _variables_of(annotation: Any) -> Iterator[Any]:
    """Yield the type variables in an annotation."""
    if isinstance(annotation, TypeVar):
        yield annotation
    for part in typing.get_args(annotation):
        yield from _variables_of(part)


def with_self(annotation: Any, own: type) -> Any:
    """Return an annotation with the class of a method in the place of ``Self``."""
    return _replaced(annotation, lambda part: own if part is Self else part)


def _replaced(annotation: Any, change: Callable[[Any], Any]) -> Any:
    """Return an annotation with its parts changed; the very same one where none is."""
    changed = change(annotation)
    if changed is not annotation:
        return changed
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    new = tuple(_replaced(part, change) for part in parts)
    if all(one is other for one, other in zip(parts, new, strict=True)):
        return annotation
    generic: Any = typing.Union if origin is types.UnionType else origin
    return generic[new]
