"""What msgspec does not know itself, as JSON and back: pydantic models, subclasses of texts, numbers, collections."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable
from typing import Any, cast

import msgspec

from ironflow.collection_types import collected, plain_collection
from ironflow.models import is_secret, model_dump, model_validate

PATH = re.compile(r"(?: - in `([^`]*)`)?(?: - at `\$?([^`]*)`)?$")
"""Where a value did not fit: within what decode_foreign makes, as it says, and outside of it, as msgspec does."""


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
    if isinstance(value, BaseException):
        msg = (
            f"an exception ({type(value).__name__}) cannot be written as JSON; return what you want of it, say its text"
        )
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
_REBUILT = (str, int, float)
"""Subclasses of these are made of what they are based on."""
_EVERY_JSON: tuple[object, ...] = (None, True, 1, 1.0, "", [], {})
ENCODER = msgspec.json.Encoder(enc_hook=_encode_foreign)
"""Writes all that can be written."""


def decode_foreign(wanted: Any, value: object) -> object:
    """Make of plain JSON what msgspec does not know; its hook.

    Args:
        wanted: a class, or a generic one with what it is of (``Counter[str]``).
        value: the plain JSON.

    Raises:
        ValueError: it cannot be made of that.

    """
    if wanted is object:  # as in dict[str, object], for each of its values
        return value
    validate = model_validate(wanted)
    if validate is not None:
        try:
            return validate(value)
        except ValueError as error:
            # Of a ValueError msgspec makes its own, with the path; of its own it would leave that out.
            raise ValueError(_explain_model(error)) from error
    made_of = typing.get_origin(wanted) or wanted
    plain = plain_collection(wanted)
    if plain is not None and type(value) is typing.get_origin(plain):
        return collected(made_of, _converted(value, plain))
    if plain is None and _is_one(value, made_of):
        return value
    if any(issubclass(made_of, base) and type(value) is base for base in _REBUILT):
        return cast("Callable[[object], object]", made_of)(value)
    msg = f"cannot make a {made_of.__name__} of a {type(value).__name__}"
    raise ValueError(msg)


def _converted(value: object, plain: Any) -> object:
    try:
        return msgspec.convert(value, plain, str_keys=True, dec_hook=decode_foreign)
    except msgspec.ValidationError as error:
        text = str(error)
        found = cast("re.Match[str]", PATH.search(text))
        raise ValueError(f"{text[: found.start()]} - in `{found[2] or ''}{found[1] or ''}`") from error


def can_be_made(wanted: Any) -> bool:
    """Tell whether :func:`decode_foreign` makes something of a class of any JSON at all."""
    if hasattr(wanted, "model_validate") or any(issubclass(wanted, base) for base in (*_REBUILT, dict, list)):
        return True
    return any(_is_one(value, wanted) for value in _EVERY_JSON)


def _is_one(value: object, wanted: type) -> bool:
    try:
        return isinstance(value, wanted)
    except TypeError:  # of a protocol nobody can say so
        return False


def _explain_model(error: ValueError) -> str:
    """Return the first thing that a pydantic model complains about, and where."""
    errors = cast("Callable[[], list[dict[str, Any]]] | None", getattr(error, "errors", None))
    if errors is None:
        return " ".join(str(error).split())
    first = errors()[0]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
    return f"{first['msg']} - in `{path}`"
