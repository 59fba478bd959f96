"""The wire contract as documents: JSON Schema for what is stored, AsyncAPI for who sends what where.

All of it is derived from the records, the messages, the names and the topology; only the roles are written by
hand. The documents are kept in ``schemas/`` of the repository, and a test fails where they are out of date.
"""

from __future__ import annotations

from ironflow.schemas.asyncapi import asyncapi_document
from ironflow.schemas.documents import document_text, schema_documents
from ironflow.schemas.records import api_schema, record_schemas

__all__ = ["api_schema", "asyncapi_document", "document_text", "record_schemas", "schema_documents"]
