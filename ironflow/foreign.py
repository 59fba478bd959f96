"""What msgspec does not know itself, as JSON and back: pydantic models, subclasses of texts and numbers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, cast

import msgspec

from ironflow.models import is_secret, model_dump, model_validate


def _encode_foreign(value: object) -> object:
    for base, plain in _PLAIN.items():
        if isinstance(value, base) and not isinstance(value, bool):
            return plain(value)
    dump = model_dump(value)
    if dump is not None:
        return dump(mode="json")
    if is_secret(value):
        msg = (
            f"a {type(value).__name__} is not written, since only asterisks would come back; leave it out "
            "and look it up where it is needed, or pass its get_secret_value() if it may be recorded in clear"
        )
        raise TypeError(msg)
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
    validate = model_validate(wanted)
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
