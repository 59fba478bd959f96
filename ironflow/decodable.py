"""Of which types a type consists, and whether JSON can be decoded into it at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import msgspec

from ironflow.collection_types import plain_collection
from ironflow.foreign import can_be_made, decode_foreign


def undecodable(value_type: Any) -> str | None:
    """Return why JSON cannot be decoded into *value_type*; None if it can."""
    try:
        parts = parts_of(value_type)
    except Exception as error:  # noqa: BLE001 - msgspec evaluates annotations, which can raise whatever they like
        return str(error) or type(error).__name__
    foreign = (part.cls for part in parts if isinstance(part, msgspec.inspect.CustomType))
    return next((f"no JSON can be made a {each.__name__}" for each in foreign if not can_be_made(each)), None)


def parts_of(value_type: Any) -> list[msgspec.inspect.Type]:
    """Return all types within *value_type*, also those of fields, as msgspec knows them.

    Raises:
        Exception: msgspec cannot decode into it.

    """
    return list(_parts(_inspected(value_type), {}))


def _inspected(value_type: Any) -> msgspec.inspect.Type:
    msgspec.json.Decoder(value_type, dec_hook=decode_foreign)  # it refuses more than the line below
    return msgspec.inspect.type_info(value_type)


def _parts(part: object, seen: dict[int, object]) -> Iterator[msgspec.inspect.Type]:
    """Yield the types within what msgspec says of one; they may go in circles."""
    if id(part) in seen:
        return
    if isinstance(part, (msgspec.inspect.Type, msgspec.inspect.Field)):
        seen[id(part)] = part
    if isinstance(part, msgspec.inspect.Field):
        yield from _parts(part.type, seen)
    elif isinstance(part, tuple):
        for each in cast("tuple[object, ...]", part):
            yield from _parts(each, seen)
    elif isinstance(part, msgspec.inspect.Type):
        yield part
        for name in part.__struct_fields__:
            yield from _parts(getattr(part, name), seen)
        yield from _content(part, seen)


def _content(part: msgspec.inspect.Type, seen: dict[int, object]) -> Iterator[msgspec.inspect.Type]:
    """Yield the types within a collection of a class that msgspec does not know."""
    if not isinstance(part, msgspec.inspect.CustomType) or id(part.cls) in seen:
        return
    seen[id(part.cls)] = part.cls
    plain = plain_collection(part.cls)
    if plain is not None:
        yield from _parts(_inspected(plain), seen)
