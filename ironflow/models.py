"""Pydantic models as plain JSON, and back.

Pydantic is optional, and is not imported here: whoever has a model has imported it.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import typing
from collections.abc import Callable
from typing import Any, cast

import msgspec

_READS_BOTH = (2, 11)
"""The first Pydantic that can be asked to read names and aliases, whatever a model's configuration says."""


def model_dump(value: object) -> Callable[..., object] | None:
    """Return what turns a model into plain values that it can be made of again; None of anything else.

    Computed fields are left out, since a model that forbids what it does not know would refuse them.
    """
    # Asked of the type: a mock, or a proxy, has every attribute that it is asked for.
    dump = getattr(type(value), "model_dump", None)
    if dump is None:
        return None
    bound = cast("Callable[..., object]", cast("Any", value).model_dump)
    if not _is_pydantics_own(dump):
        return bound
    return functools.partial(bound, round_trip=True, by_alias=_by_alias(type(value)))


def model_validate(wanted: Any) -> Callable[[object], object] | None:
    """Return what makes a model of plain values, whether they are under its fields' names or aliases.

    Returns:
        A function that raises a ``ValueError`` where they do not fit; None if *wanted* is no model.

    """
    validate = cast("Callable[[object], object] | None", getattr(wanted, "model_validate", None))
    if validate is None or not _is_pydantics_own(validate):
        return validate
    return _reader(wanted.model_validate_json)


def _reader(validate_json: Callable[..., object]) -> Callable[[object], object]:
    # As JSON, since a strict model takes a text for a datetime from JSON only.
    options = {"by_alias": True, "by_name": True} if _reads_both() else {}
    return lambda value: validate_json(msgspec.json.encode(value), **options)


class _StandIn(type):
    """What the classes are made by that stand for what Pydantic alone reads: whatever comes of that is an instance."""

    def __instancecheck__(cls, instance: object) -> bool:
        return True


def stand_in(part: Any) -> Any:
    """Return a class that can be read as a model for a part of an annotation that Pydantic has to read; else *part*.

    These are unions with a discriminator, which msgspec does not know, and Pydantic's dataclasses, of which it knows
    no constraints. Within other dataclasses and structs nothing can stand for them.

    Raises:
        Exception: Pydantic does not know it either.

    """
    if not _has_discriminator(part) and not _is_checked_dataclass(typing.get_origin(part) or part):
        return part
    read = _reader(sys.modules["pydantic"].TypeAdapter(part).validate_json)
    return _StandIn(getattr(part, "__name__", repr(part)), (), {"model_validate": staticmethod(read)})


def _has_discriminator(part: Any) -> bool:
    noted = getattr(part, "__metadata__", ()) if typing.get_origin(part) is typing.Annotated else ()
    return any(getattr(each, "discriminator", None) is not None for each in noted)


def _is_checked_dataclass(part: Any) -> bool:
    """Tell whether a class is a dataclass of Pydantic's that reads what is written of it: all that it is made with."""
    if not isinstance(part, type) or "__is_pydantic_dataclass__" not in vars(part) or not _reads_both():
        return False
    fields: dict[str, dataclasses.Field[Any]] = vars(part)["__dataclass_fields__"]
    return all(field.init and "InitVar" not in str(field.type) for field in fields.values())


def is_secret(value: object) -> bool:
    """Tell whether *value* is one of Pydantic's secrets, which are written as asterisks."""
    return hasattr(type(value), "get_secret_value")


def _is_pydantics_own(method: object) -> bool:
    """Tell whether a class has not put a method of its own in the place of Pydantic's, which may take other options."""
    return getattr(method, "__module__", None) == "pydantic.main"


def _by_alias(model: Any) -> bool | None:
    """Return the option of ``model_dump``: None lets the model's configuration decide."""
    if not _reads_both():
        return True  # what an older one reads by itself
    return None if model.model_config.get("serialize_by_alias") and _reads_its_aliases(model) else False


def _reads_its_aliases(model: Any) -> bool:
    """Tell whether a model reads what it writes: it may have other aliases for that."""
    for name, field in model.model_fields.items():
        read = getattr(field.validation_alias, "choices", [field.validation_alias])
        if field.serialization_alias not in [None, name, *read]:
            return False
    return True


def _reads_both() -> bool:
    return _version(sys.modules["pydantic"].VERSION) >= _READS_BOTH


@functools.cache
def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2])
