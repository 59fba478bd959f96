"""Whether JSON can be decoded into a type at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import msgspec

from ironflow.collection_types import plain_collection
from ironflow.foreign import can_be_made, decode_foreign


def undecodable(value_type: Any) -> str | None:
    """Return why JSON cannot be decoded into *value_type*; None if it can."""
    try:
        foreign = list(_foreign_classes(_parts(value_type), {}))
    except Exception as error:  # noqa: BLE001 - msgspec evaluates annotations, which can raise whatever they like
        return str(error) or type(error).__name__
    return next((f"no JSON can be made a {each.__name__}" for each in foreign if not can_be_made(each)), None)


def _parts(value_type: Any) -> msgspec.inspect.Type:
    """Return what msgspec knows of a type.

    Raises:
        Exception: it cannot decode into that.

    """
    msgspec.json.Decoder(value_type, dec_hook=decode_foreign)  # it refuses more than the line below
    return msgspec.inspect.type_info(value_type)


def _foreign_classes(part: object, seen: dict[int, object]) -> Iterator[type]:
    """Yield the classes within that are left to ``decode_foreign``; types may go in circles."""
    if id(part) in seen:
        return
    seen[id(part)] = part
    if isinstance(part, msgspec.inspect.CustomType):
        yield part.cls
        plain = plain_collection(part.cls)
        if plain is not None and id(part.cls) not in seen:
            seen[id(part.cls)] = part.cls
            yield from _foreign_classes(_parts(plain), seen)
    elif isinstance(part, msgspec.inspect.Field):
        yield from _foreign_classes(part.type, seen)
    elif isinstance(part, tuple):
        for each in cast("tuple[object, ...]", part):
            yield from _foreign_classes(each, seen)
    elif isinstance(part, msgspec.inspect.Type):
        for name in part.__struct_fields__:
            yield from _foreign_classes(getattr(part, name), seen)
