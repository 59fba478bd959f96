"""What the ``match`` of ``step.wait_for_event`` means: where in an event's data to look, and when two values are equal.

Two values are equal where JSON has them equal: objects whatever the order of their keys, and numbers by their
value, so ``1``, ``1.0`` and ``1e0`` are one number. ``true`` is no number, a text never equals a number, and
``null`` is a value like any other; only what is not there at all matches nothing. Equal values have one
canonical text, so waits can be found by a hash of it.
"""

from __future__ import annotations

import json
from typing import Final, cast

import msgspec

from ironflow.errors import DefinitionError

_ROOT = "data"


class Missing:
    """Stands for what is not there. ``None`` cannot: it is JSON's ``null``."""


MISSING: Final = Missing()


def parse_path(match: object) -> str:
    """Return a path without its leading ``data``; the empty one for all of the data.

    Args:
        match: dotted keys and indexes below an event's data, with ``data.`` in front or without:
            ``"data.orderId"``, ``"orderId"``, ``"items.0.sku"``.

    Raises:
        DefinitionError: it is no such text.

    """
    if not isinstance(match, str) or not match or "" in match.split("."):
        msg = f'match must be a path like "data.orderId" or "items.0.sku", got {match!r}'
        raise DefinitionError(msg)
    try:
        match.encode()
    except UnicodeEncodeError as error:
        msg = f"match is not valid text, got {match!r}: {error.reason}"
        raise DefinitionError(msg) from error
    first, _, rest = match.partition(".")
    return rest if first == _ROOT else match


def show_path(path: str) -> str:
    """Return a parsed path the way messages show it."""
    return f"{_ROOT}.{path}" if path else _ROOT


def read_data(data: bytes | msgspec.Raw) -> object:
    """Return an event's data as plain JSON values; MISSING where it is none, which whoever may publish can cause."""
    try:
        return cast("object", msgspec.json.decode(data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return MISSING


def value_at(data: object, path: str) -> object:
    """Return what stands at a path within plain JSON values; MISSING where nothing does.

    Args:
        data: as :func:`read_data` returns it.
        path: as :func:`parse_path` returns it. Within a list, a key is an index from 0.

    """
    found = data
    for key in path.split(".") if path else ():
        if isinstance(found, dict):
            found = cast("dict[str, object]", found).get(key, MISSING)
        elif isinstance(found, list) and key.isascii() and key.isdigit():
            items = cast("list[object]", found)
            # So many digits are no index, and Python refuses to read them.
            found = items[int(key)] if len(key) < len(str(len(items))) + 1 and int(key) < len(items) else MISSING
        else:
            return MISSING
    return found


def canonical(value: object) -> str:
    """Return the one text of a plain JSON value and of all that equal it."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"))


def canonical_at(data: object, path: str) -> str | None:
    """Return the canonical text of what stands at a path; None where nothing does, or nothing that can be compared."""
    found = value_at(data, path)
    if isinstance(found, Missing):
        return None
    try:
        return canonical(found)
    except (RecursionError, ValueError):  # nested too deep, or a number of too many digits
        return None


def _plain(value: object) -> object:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in cast("dict[str, object]", value).items()}
    if isinstance(value, list):
        return [_plain(item) for item in cast("list[object]", value)]
    return value
