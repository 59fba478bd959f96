"""JSON in and out: our own records, and the values that users hand us."""

from __future__ import annotations

import functools
import re
from typing import Any, TypeVar, cast

import msgspec

from ironflow.encoding_problems import ASTERISKS, MOST_LEVELS, NESTED_TOO_DEEP, first_problem
from ironflow.errors import SerializationError
from ironflow.foreign import ENCODER, decode_foreign
from ironflow.foreign import PATH as _PATH
from ironflow.private_fields import may_lose_fields

R = TypeVar("R", bound=msgspec.Struct)
T = TypeVar("T")

_TEXTS = re.compile(rb'"(?:[^"\\]|\\.)*"')
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_ASTERISKS = ASTERISKS.encode()
_NULL = msgspec.Raw(b"null")
_FAITHFUL = frozenset({str, int, bool})
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def encode_record(record: msgspec.Struct) -> bytes:
    """Encode one of our own records."""
    return ENCODER.encode(record)


def encode_raw(record: msgspec.Struct) -> msgspec.Raw:
    """Encode one of our own records to be a part of another one."""
    return msgspec.Raw(ENCODER.encode(record))


@functools.cache
def _decoder(record_type: type[msgspec.Struct]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(record_type)


def decode_record(record_type: type[R], payload: bytes) -> R:
    """Decode one of our own records.

    Raises:
        SerializationError: the bytes are not such a record.

    """
    try:
        record: R = _decoder(record_type).decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        msg = f"not a {record_type.__name__}: {error}"
        raise SerializationError(msg) from error
    return record


def encode_value(value: object, what: str) -> msgspec.Raw:
    """Encode a user's value as JSON.

    dataclasses, msgspec structs, attrs classes and pydantic models become objects; sets and tuples become
    lists, datetimes ISO 8601 texts, bytes base64; subclasses of texts and numbers become what they are based on.

    Args:
        value: what to encode.
        what: what it is, for the message and as the first part of the path ("result of step 'fetch'").

    Raises:
        SerializationError: JSON cannot carry it (NaN, Infinity, and two keys with one text included), or it is nested
            deeper than ``MOST_LEVELS``; names the place.

    """
    if value is None:
        return _NULL
    try:
        encoded = ENCODER.encode(value)
        # Of these exact types, none can be written as something else.
        suspicious = type(value) not in _FAITHFUL and (_may_have_lost_something(encoded) or may_lose_fields(value))
    except RecursionError as error:
        raise SerializationError(f"{what} {NESTED_TOO_DEEP}", what) from error
    except Exception as error:
        path, reason = first_problem(value) or ("", str(error))
        raise SerializationError(f"{what}{path}: {reason}", f"{what}{path}") from error
    if len(encoded) > MOST_LEVELS and _is_too_deep(encoded):
        raise SerializationError(f"{what} {NESTED_TOO_DEEP}", what)
    if suspicious:
        problem = first_problem(value)
        if problem is not None:
            raise SerializationError(f"{what}{problem[0]}: {problem[1]}", f"{what}{problem[0]}")
    return msgspec.Raw(encoded)


def _may_have_lost_something(encoded: bytes) -> bool:
    """Tell whether msgspec may have written JSON that says less than the value.

    It writes NaN and Infinity as null without complaint, and keys of one text beside each other (1 and "1"), of
    which readers keep one. What comes back otherwise than it was written may also be JSON that somebody else wrote.
    Pydantic writes asterisks for secrets.
    """
    return b"null" in encoded or _ASTERISKS in encoded or ENCODER.encode(msgspec.json.decode(encoded)) != encoded


def _is_too_deep(encoded: bytes) -> bool:
    opened = encoded.count(b"[") + encoded.count(b"{")
    if opened <= MOST_LEVELS:
        return False
    brackets = _TEXTS.sub(b"", encoded).translate(_BRACKETS, _NO_BRACKETS)
    for _ in range(MOST_LEVELS):
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


def decode_value(payload: bytes | msgspec.Raw, value_type: Any, what: str) -> Any:
    """Decode JSON into *value_type*; ``Any`` gives plain lists, dicts, texts and numbers.

    Args:
        payload: the JSON.
        value_type: what to make of it: anything msgspec knows, or a pydantic model.
        what: the first part of the path in the message.

    Raises:
        SerializationError: it does not fit, whatever its class makes of that; names the place, where it is known.

    """
    try:
        return msgspec.json.decode(payload, type=value_type, dec_hook=decode_foreign)
    except msgspec.ValidationError as error:
        text = str(error)
        found = cast("re.Match[str]", _PATH.search(text))  # it matches every text, if only its end
        path = f"{what}{found[2] or ''}{found[1] or ''}"
        raise SerializationError(f"{path}: {text[: found.start()]}", path) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SerializationError(f"{what}: {error}") from error
    except Exception as error:
        # Classes and their validators may raise what they like, and it is no failure of the body that made the value.
        reason = f"{type(error).__name__}: {error}"
        raise SerializationError(f"{what}: cannot decode into {value_type!r}: {reason}") from error
