"""Fields that msgspec does not write: those of attrs classes whose names begin with an underscore.

attrs is optional, and is not imported here: whoever has such a class has imported it.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable
from typing import Any, cast

import msgspec

from ironflow.decodable import parts_of

_LEAVES = frozenset({type(None), bool, int, float, str, bytes})
_LISTS = (list, tuple, set, frozenset)

_hiding: weakref.WeakKeyDictionary[type, bool] = weakref.WeakKeyDictionary()
"""The classes that were asked about, and whether such a field may be in one."""


def private_field(kind: type) -> str | None:
    """Return the first field of an attrs class that a value loses when it is written; None if it loses none.

    What the class makes by itself (``init=False``) is made again when it is read.
    """
    fields = cast("tuple[Any, ...]", getattr(kind, "__attrs_attrs__", ()))
    return next((field.name for field in fields if field.init and field.name.startswith("_")), None)


def may_lose_fields(value: object) -> bool:
    """Tell whether there may be a private field somewhere in *value*; where classes declare ``Any`` nobody looks."""
    return "attr" in sys.modules and _may_lose(value)


def _may_lose(value: object) -> bool:
    kind = type(value)
    if kind in _LEAVES:
        return False
    if issubclass(kind, dict):
        return _any_may_lose(cast("dict[object, object]", value).values())
    if issubclass(kind, _LISTS):
        return _any_may_lose(cast("Iterable[object]", value))
    try:
        return _hiding[kind]
    except KeyError:
        return _hiding.setdefault(kind, _hides(kind))


def _any_may_lose(items: Iterable[object]) -> bool:
    # Nearly all lists have leaves only, and Python finds that out quickest so.
    return not _LEAVES.issuperset(map(type, items)) and any(map(_may_lose, items))


def _hides(kind: type) -> bool:
    """Tell whether a class, or one that its fields declare, has a private field."""
    try:
        parts = parts_of(kind)
    except Exception:  # noqa: BLE001 - msgspec cannot read it, which does not matter here
        return True
    return any(isinstance(part, msgspec.inspect.DataclassType) and private_field(part.cls) for part in parts)
