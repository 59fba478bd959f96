"""JSON in and out: our own records, and the values that users hand us."""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, cast

import msgspec

from ironflow.errors import SerializationError

R = TypeVar("R", bound=msgspec.Struct)
T = TypeVar("T")

_encoder = msgspec.json.Encoder()
_PATH = re.compile(r"(?: - in `([^`]*)`)?(?: - at `\$?([^`]*)`)?$")
"""Where a value did not fit: within a pydantic model, as _decode_foreign says, and outside of it, as msgspec does."""
_NESTED_TOO_DEEP = "is nested too deep, or contains itself"
_DEEPEST = 200


def encode_record(record: msgspec.Struct) -> bytes:
    """Encode one of our own records."""
    return _encoder.encode(record)


def encode_raw(record: msgspec.Struct) -> msgspec.Raw:
    """Encode one of our own records to be a part of another one."""
    return msgspec.Raw(_encoder.encode(record))


@functools.cache
def _decoder(record_type: type[msgspec.Struct]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(record_type)


def decode_record(record_type: type[R], payload: bytes) -> R:
    """Decode one of our own records.

    Raises:
        SerializationError: the bytes are not such a record.

    """
    try:
        return cast("R", _decoder(record_type).decode(payload))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        msg = f"not a {record_type.__name__}: {error}"
        raise SerializationError(msg) from error


def encode_value(value: object, what: str) -> msgspec.Raw:
    """Encode a user's value as JSON.

    dataclasses, msgspec structs, attrs classes and pydantic models become objects; sets and tuples become
    lists, datetimes ISO 8601 texts, bytes base64.

    Args:
        value: what to encode.
        what: what it is, for the message and as the first part of the path ("result of step 'fetch'").

    Raises:
        SerializationError: JSON cannot carry it (NaN and Infinity included); names the place.

    """
    try:
        encoded = msgspec.json.encode(value, enc_hook=_encode_foreign)
    except RecursionError as error:
        raise SerializationError(f"{what} {_NESTED_TOO_DEEP}", what) from error
    except Exception as error:
        path, reason = _first_problem(value) or ("", str(error))
        raise SerializationError(f"{what}{path}: {reason}", f"{what}{path}") from error
    # msgspec writes NaN and Infinity as null without complaint, so only a null can hide one.
    if b"null" in encoded:
        problem = _first_problem(value)
        if problem is not None:
            raise SerializationError(f"{what}{problem[0]}: {problem[1]}", f"{what}{problem[0]}")
    return msgspec.Raw(encoded)


def decode_value(payload: bytes | msgspec.Raw, value_type: Any, what: str) -> Any:
    """Decode JSON into *value_type*; ``Any`` gives plain lists, dicts, texts and numbers.

    Args:
        payload: the JSON.
        value_type: what to make of it: anything msgspec knows, or a pydantic model.
        what: the first part of the path in the message.

    Raises:
        SerializationError: it does not fit; names the place.

    """
    try:
        return msgspec.json.decode(payload, type=value_type, dec_hook=_decode_foreign)
    except msgspec.ValidationError as error:
        text = str(error)
        found = cast("re.Match[str]", _PATH.search(text))  # it matches every text, if only its end
        path = f"{what}{found[2] or ''}{found[1] or ''}"
        raise SerializationError(f"{path}: {text[: found.start()]}", path) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SerializationError(f"{what}: {error}") from error
    except TypeError as error:
        raise SerializationError(f"{what}: cannot decode into {value_type!r}: {error}") from error


def is_decodable(value_type: Any) -> bool:
    """Tell whether JSON can be decoded into *value_type* at all."""
    try:
        msgspec.json.Decoder(value_type, dec_hook=_decode_foreign)
    except (TypeError, NameError):
        return False
    return True


def _encode_foreign(value: object) -> object:
    dump = cast("Callable[..., object] | None", getattr(value, "model_dump", None))
    if dump is not None and not isinstance(value, type):
        return dump(mode="json")
    msg = f"Objects of type {type(value).__name__} cannot be written as JSON"
    raise TypeError(msg)


def _decode_foreign(wanted: type, value: object) -> object:
    validate = cast("Callable[[object], object] | None", getattr(wanted, "model_validate", None))
    if validate is not None:
        try:
            return validate(value)
        except ValueError as error:
            # Of a ValueError msgspec makes its own, with the path; of its own it would leave that out.
            raise ValueError(_explain_model(error)) from error
    if isinstance(value, wanted):
        return value
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


def _first_problem(value: object, path: str = "", depth: int = 0) -> tuple[str, str] | None:
    """Find the first part of *value* that JSON cannot carry, as (path, reason)."""
    if depth > _DEEPEST:
        return path, _NESTED_TOO_DEEP
    if isinstance(value, float) and not math.isfinite(value):
        return path, f"{value} is not a JSON number"
    children = list(_children(value))
    for step, child in children:
        problem = _first_problem(child, f"{path}{step}", depth + 1)
        if problem is not None:
            return problem
    if not children:
        try:
            msgspec.json.encode(value, enc_hook=_encode_foreign)
        except Exception as error:  # noqa: BLE001 - whatever a user's class raises is the answer
            return path, str(error)
    return None


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
    """Return what stands in the place of a pydantic model: it may hold a NaN as well."""
    try:
        return [("", _encode_foreign(value))]
    except Exception:  # noqa: BLE001 - the caller encodes it by itself then, and reports what that raises
        return []
