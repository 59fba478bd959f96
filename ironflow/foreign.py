"""What msgspec does not know itself, as JSON and back: pydantic models, subclasses of texts and numbers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, cast

import msgspec


def _encode_foreign(value: object) -> object:
    for base, plain in _PLAIN.items():
        if isinstance(value, base) and not isinstance(value, bool):
            return plain(value)
    dump = model_dump(value)
    if dump is not None:
        return dump(mode="json")
    if inspect.isawaitable(value):
        msg = f"an awaitable ({type(value).__name__}) cannot be written as JSON; await it first"
        raise TypeError(msg)
    msg = f"Objects of type {type(value).__name__} cannot be written as JSON"
    raise TypeError(msg)


_PLAIN: dict[type, Callable[[Any], object]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    bytes: memoryview,
}
"""What makes a plain value of one of a subclass, whatever that says of itself."""
ENCODER = msgspec.json.Encoder(enc_hook=_encode_foreign)
"""Writes all that can be written."""


def decode_foreign(wanted: type, value: object) -> object:
    """Make of plain JSON what msgspec does not know; its hook.

    Raises:
        ValueError: it cannot be made of that.

    """
    validate = cast("Callable[[object], object] | None", getattr(wanted, "model_validate", None))
    if validate is not None:
        try:
            return validate(value)
        except ValueError as error:
            # Of a ValueError msgspec makes its own, with the path; of its own it would leave that out.
            raise ValueError(_explain_model(error)) from error
    if isinstance(value, wanted):
        return value
    if any(issubclass(wanted, base) and type(value) is base for base in (str, int, float)):
        return cast("Callable[[object], object]", wanted)(value)
    msg = f"cannot make a {wanted.__name__} of a {type(value).__name__}"
    raise ValueError(msg)


def _explain_model(error: ValueError) -> str:
    """Return the first thing that a pydantic model complains about, and where."""
    errors = cast("Callable[[], list[dict[str, Any]]] | None", getattr(error, "errors", None))
    if errors is None:
        return " ".join(str(error).split())
    first = errors()[0]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
    return f"{first['msg']} - in `{path}`"


def model_dump(value: object) -> Callable[..., object] | None:
    """Return what turns a pydantic model into plain values; None of anything else."""
    # Asked of the type: a mock, or a proxy, has every attribute that it is asked for.
    if getattr(type(value), "model_dump", None) is None:
        return None
    return cast("Callable[..., object]", cast("Any", value).model_dump)
