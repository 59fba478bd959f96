"""Collections of classes that msgspec does not know: ``Counter``, ``Iterable``, subclasses of lists and dicts."""

from __future__ import annotations

import typing
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any, cast


def plain_collection(wanted: Any) -> Any:
    """Return the ``list[…]`` or ``dict[…]`` that a collection is made of; None for what is no such collection."""
    made_of = typing.get_origin(wanted) or wanted
    arguments = typing.get_args(wanted)
    if made_of is Iterable:
        # Without saying of what, an iterable may be anything: also a text, or a dict.
        return cast("Any", list)[arguments] if arguments else None
    if issubclass(made_of, Counter):
        return cast("Any", dict)[arguments[0], int] if arguments else dict[Any, Any]
    base: Any = next((base for base in (dict, list) if issubclass(made_of, base)), None)
    if base is None:
        return None
    for declared in cast("tuple[Any, ...]", getattr(cast("Any", made_of), "__orig_bases__", ())):
        if issubclass(typing.get_origin(declared) or declared, base):
            return plain_collection(declared[arguments] if arguments and declared.__parameters__ else declared)
    return base[arguments or ((Any, Any) if base is dict else Any)]


def collected(made_of: Any, content: object) -> object:
    """Make a collection of its content.

    A ``defaultdict`` has no factory then, as nothing says which it had: what is missing raises a ``KeyError``.
    """
    if made_of is Iterable:
        return content
    before = (None,) if issubclass(made_of, defaultdict) else ()
    return cast("Callable[..., object]", made_of)(*before, content)
