"""Why a value cannot be written as JSON, and where in it that is; slow, and only asked for when something is wrong."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Iterator, Mapping
from typing import cast

import msgspec

from ironflow.foreign import ENCODER
from ironflow.models import is_secret, model_dump
from ironflow.names import readable
from ironflow.private_fields import private_field

MOST_LEVELS = 200
"""How deep lists and objects may be nested. msgspec's own bound is the stack's, which differs from call to call, and a
result must not be readable in one pass and unreadable in the next."""
ASTERISKS = "*" * 10
"""What pydantic writes in the place of a secret."""
NESTED_TOO_DEEP = f"is nested too deep, or contains itself; at most {MOST_LEVELS} levels are allowed"


def first_problem(value: object, path: str = "", depth: int = 0) -> tuple[str, str] | None:
    """Find the first part of *value* that JSON cannot carry, as (path, reason)."""
    if depth > MOST_LEVELS:
        return "", NESTED_TOO_DEEP
    if isinstance(value, float) and not math.isfinite(value):
        return path, f"{float.__repr__(value)} is not a JSON number"
    private = private_field(type(value))
    if private is not None:
        return path, _left_out(type(value).__name__, private)
    try:
        children = list(_children(value))
    except Exception as error:  # noqa: BLE001 - whatever a user's class raises is the answer
        return path, str(error)
    problems = (first_problem(child, f"{path}{step}", depth + 1) for step, child in children)
    problem = next((found for found in problems if found is not None), None)
    if problem is not None:
        return problem
    if isinstance(value, dict):
        reason = _problem_of_keys(cast("dict[object, object]", value))
    else:
        reason = None if children else _problem_of_leaf(value)
    return (path, reason) if reason is not None else None


def _left_out(class_name: str, field: str) -> str:
    return (
        f"the attrs class {class_name} has the private field {field!r}, which is not written; "
        f"give it a name without an underscore in front, or make {class_name} a dataclass"
    )


def _problem_of_leaf(value: object) -> str | None:
    try:
        msgspec.json.decode(ENCODER.encode(value))
    except Exception as error:  # noqa: BLE001 - likewise
        return str(error)
    return None


def _problem_of_keys(items: dict[object, object]) -> str | None:
    """Return what is wrong with the keys of an object: JSON has texts only, each once."""
    texts: dict[str, object] = {}
    for key in items:
        try:
            (text,) = msgspec.json.decode(ENCODER.encode({key: 0}))
        except Exception as error:  # noqa: BLE001 - whatever it is, this key cannot be written
            return f"key {_shown(key)}: {error}"
        if text in texts:
            return f"the keys {_shown(texts[text])} and {_shown(key)} are both written as {_shown(text)}"
        texts[text] = key
    return None


def _shown(key: object) -> str:
    try:
        return readable(repr(key))
    except Exception:  # noqa: BLE001 - whatever a user's class raises
        return f"of type {type(key).__name__}"


def _children(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, enum.Enum):
        yield "", value.value
    elif isinstance(value, Mapping):
        for key, item in cast("Mapping[object, object]", value).items():
            yield f".{key}", item
    elif isinstance(value, (list, tuple, set, frozenset)):
        for index, item in enumerate(cast("list[object]", value)):
            yield f"[{index}]", item
    else:
        names = _field_names(value)
        yield from [(f".{name}", getattr(value, name)) for name in names] if names else _dumped(value)


def _field_names(value: object) -> list[str]:
    """Return the fields of a msgspec struct, a dataclass or an attrs class; none of anything else."""
    if isinstance(value, msgspec.Struct):
        return list(value.__struct_fields__)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [field.name for field in dataclasses.fields(value)]
    return [attribute.name for attribute in getattr(type(value), "__attrs_attrs__", ())]


def _dumped(value: object) -> list[tuple[str, object]]:
    """Return what stands in the place of a pydantic model: it may hold a NaN as well, or a secret."""
    try:
        dump = model_dump(value)
        if dump is None:
            return []
        written = dump(mode="json")
        return [("", written), *_lost(dump(mode="python"), written)]
    except Exception:  # noqa: BLE001 - the caller encodes it by itself then, and reports what that raises
        return []


def _lost(dumped: object, written: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Yield the numbers that pydantic has made null of, in fields that may be something else as well, and secrets."""
    if (isinstance(dumped, float) and written is None) or (is_secret(dumped) and written == ASTERISKS):
        yield path, dumped
    elif isinstance(dumped, Mapping) and isinstance(written, Mapping):
        pairs = zip(
            cast("Mapping[object, object]", dumped).values(),
            cast("Mapping[object, object]", written).items(),
            strict=False,
        )
        for item, (key, item_written) in pairs:
            yield from _lost(item, item_written, f"{path}.{key}")
    elif isinstance(dumped, (list, tuple, set, frozenset)) and isinstance(written, list):
        items = zip(cast("list[object]", dumped), cast("list[object]", written), strict=False)
        for index, (item, item_written) in enumerate(items):
            yield from _lost(item, item_written, f"{path}[{index}]")
