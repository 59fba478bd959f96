"""JSON Schema 2020-12 of the stored records and of the engine's API messages."""

from __future__ import annotations

import functools
import inspect
import re
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, cast

import msgspec

from ironflow import messages, records

DIALECT = "https://json-schema.org/draft/2020-12/schema"

JsonObject = dict[str, Any]

_ATTRIBUTE = re.compile(r"(\w+): (.*)")


def record_types() -> tuple[type[msgspec.Struct], ...]:
    """Return the types of all stored records, by name."""
    return _structs_of(records, records.Record)


def message_types() -> tuple[type[msgspec.Struct], ...]:
    """Return the types of all requests to the engine and of its answers, by name."""
    return _structs_of(messages, messages.Message)


def record_schemas() -> dict[str, JsonObject]:
    """Return one self-contained schema for each stored record, by a file name's stem ("run-state")."""
    return {file_stem(record): _record_schema(record) for record in record_types()}


def api_schema() -> JsonObject:
    """Return one schema document with all requests and answers under ``$defs``."""
    return {
        "$schema": DIALECT,
        "$id": "api.schema.json",
        "title": "Ironflow engine API",
        "description": _markdown(messages.__doc__ or "")[0],
        "$defs": components(message_types(), "#/$defs/{name}"),
    }


def components(struct_types: tuple[type[msgspec.Struct], ...], ref_template: str) -> dict[str, JsonObject]:
    """Return the schemas of some structs and of all that they are made of, by type name.

    Args:
        struct_types: what to describe.
        ref_template: how one refers to another; ``{name}`` stands for its name.

    """
    described = [_with_plain_defaults(struct) for struct in struct_types]
    _, found = msgspec.json.schema_components(described, ref_template=ref_template)
    # Through JSON, since defaults are tuples until then.
    plain = cast("dict[str, JsonObject]", msgspec.json.decode(msgspec.json.encode(found)))
    return {name: _described(plain[name]) for name in sorted(plain)}


def file_stem(record: type[msgspec.Struct]) -> str:
    """Return the name of a record in file names: ``RunState`` → "run-state", ``StepRecord`` → "step"."""
    words = re.findall(r"[A-Z][a-z0-9]*", record.__name__.removesuffix("Record"))
    return "-".join(words).lower()


def _structs_of(module: types.ModuleType, base: type[msgspec.Struct]) -> tuple[type[msgspec.Struct], ...]:
    members = cast("list[type[msgspec.Struct]]", [member for _, member in inspect.getmembers(module, inspect.isclass)])
    return tuple(
        member
        for member in members
        if issubclass(member, base) and member is not base and member.__module__ == module.__name__
    )


def _record_schema(record: type[msgspec.Struct]) -> JsonObject:
    parts = components((record,), "#/$defs/{name}")
    root = parts.pop(record.__name__)
    schema = {"$schema": DIALECT, "$id": f"{file_stem(record)}.schema.json", **root}
    return {**schema, "$defs": parts} if parts else schema


# msgspec describes Raw as "any JSON", which is right, but cannot write the default of such a field.


@functools.cache
def _with_plain_defaults(struct: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """Return a struct that looks the same in JSON and has no Raw, nor has what it is made of."""
    hints = typing.get_type_hints(struct, include_extras=True)
    fields = [
        (field.encode_name, _without_raw(hints[field.name]), _default_of(field))
        for field in msgspec.structs.fields(struct)
    ]
    made = msgspec.defstruct(struct.__name__, fields, kw_only=True, module=struct.__module__, omit_defaults=True)
    made.__doc__ = struct.__doc__
    return made


def _without_raw(annotation: Any) -> Any:
    if annotation is msgspec.Raw:
        return Annotated[Any, msgspec.Meta(description="Any JSON.")]
    if inspect.isclass(annotation) and issubclass(annotation, msgspec.Struct):
        return _with_plain_defaults(annotation)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is None or origin is typing.Literal:
        return annotation
    changed = tuple(_without_raw(argument) for argument in arguments)
    if origin in (types.UnionType, typing.Union):
        return functools.reduce(lambda left, right: left | right, changed)
    return origin[changed]


def _default_of(field: msgspec.structs.FieldInfo) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return msgspec.field(default_factory=field.default_factory)
    if isinstance(field.default, msgspec.Raw):
        return msgspec.json.decode(field.default)
    if isinstance(field.default, msgspec.Struct):
        # Its own class is not the one that the field now has, and only its JSON is shown.
        return msgspec.json.decode(msgspec.json.encode(field.default))
    return field.default


def _described(schema: JsonObject) -> JsonObject:
    """Move what a docstring says of each attribute to that attribute."""
    text, attributes = _markdown(schema.get("description", ""))
    properties = cast("Mapping[str, JsonObject]", schema["properties"])
    shown = {
        name: {"description": attributes[name], **rest} if name in attributes else rest
        for name, rest in properties.items()
    }
    return {**schema, "description": text, "properties": shown}


def _markdown(docstring: str) -> tuple[str, dict[str, str]]:
    """Return a docstring's text and what it says of each attribute, as Markdown without line breaks."""
    text, _, listed = inspect.cleandoc(docstring).replace("``", "`").partition("Attributes:")
    attributes: dict[str, str] = {}
    name = ""
    for line in inspect.cleandoc(listed).splitlines():
        found = None if line.startswith(" ") else _ATTRIBUTE.fullmatch(line)
        if found:
            name, attributes[found[1]] = found[1], found[2]
        elif name:
            attributes[name] = f"{attributes[name]} {line.strip()}".rstrip()
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n")), attributes
