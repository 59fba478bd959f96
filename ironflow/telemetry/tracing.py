"""Spans of OpenTelemetry, where its API is installed: ``pip install 'ironflow-nats[otel]'``.

One trace holds a publish, the runs that the event starts, and each attempt at a step that was executed. Its context
travels in the metadata of the event, in the W3C's form, and so stays with the run for as long as the run is kept.
What is replayed makes no span. Spans have ids and names, and neither data nor the texts of errors.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Literal

from msgspec.structs import replace

from ironflow.records import EventRecord

IS_INSTALLED = importlib.util.find_spec("opentelemetry") is not None
_PROVIDED_BY_NAME = "OTEL_PYTHON_TRACER_PROVIDER" in os.environ
"""Whether the API finds by itself who takes spans, when it is first asked."""

Kind = Literal["internal", "producer", "consumer"]
Carrier = Mapping[str, str]
"""A trace's context: ``traceparent`` and ``tracestate``; empty where there is none."""

KEYS = ("traceparent", "tracestate")

_NOTHING: Carrier = {}


def carrier_of(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the context that an event's metadata carries."""
    return {key: metadata[key] for key in KEYS if key in metadata}


def is_wanted(parent: Carrier) -> bool:
    """Tell whether spans below this parent would be taken by anybody; asked once for many, since it takes a while."""
    if not _is_in_use(parent):
        return False
    from ironflow.telemetry import otel  # noqa: PLC0415 - brings in what is not installed everywhere

    return otel.is_wanted(parent)


def span(
    name: str, kind: Kind, parent: Carrier, attributes: Mapping[str, str | int]
) -> AbstractContextManager[Carrier]:
    """Have a span while the block runs; what the block raises is shown by its type.

    Args:
        name: what it is called.
        kind: its part in the conversation.
        parent: whose child it is; the current span's where it is empty.
        attributes: what else is shown.

    Returns:
        A context that yields its own context for whoever goes on.

    """
    if not _is_in_use(parent):
        return contextlib.nullcontext(_NOTHING)
    from ironflow.telemetry import otel  # noqa: PLC0415 - brings in what is not installed everywhere

    return otel.span(name, kind, parent, attributes)


def passed_on(event: EventRecord) -> EventRecord:
    """Return an event that carries the current span's context, where there is one."""
    if not _is_in_use(_NOTHING):
        return event
    from ironflow.telemetry import otel  # noqa: PLC0415 - brings in what is not installed everywhere

    return with_context(event, otel.current())


def _is_in_use(parent: Carrier) -> bool:
    """Tell whether there may be spans at all: somebody has imported the API, as whoever takes spans must, or made some.

    To import it for nothing takes memory, and to ask it takes a tenth of a millisecond in a process that has rested.
    """
    return IS_INSTALLED and (bool(parent) or "opentelemetry.trace" in sys.modules or _PROVIDED_BY_NAME)


def with_context(event: EventRecord, carrier: Carrier) -> EventRecord:
    """Return an event that carries a context, where there is one."""
    return replace(event, metadata={**event.metadata, **carrier}) if carrier else event
