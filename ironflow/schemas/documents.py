"""The files of the wire contract."""

from __future__ import annotations

import msgspec

from ironflow.schemas.asyncapi import asyncapi_document
from ironflow.schemas.records import JsonObject, api_schema, record_schemas


def schema_documents() -> dict[str, JsonObject]:
    """Return all documents of the wire contract, by file name."""
    records = {f"{stem}.schema.json": schema for stem, schema in record_schemas().items()}
    documents = {**records, "api.schema.json": api_schema(), "asyncapi.json": asyncapi_document()}
    return dict(sorted(documents.items()))


def document_text(document: JsonObject) -> str:
    """Return a document as it is written: readable, always the same, with a line end at its end."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"
