"""Spans, by the API of OpenTelemetry; imported only where that is installed."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_NOTHING: contextlib.nullcontext[Mapping[str, str]] = contextlib.nullcontext({})


def is_wanted(parent: Mapping[str, str]) -> bool:
    """Tell whether there is somebody who takes spans, or a context to hand on."""
    # The stand-in of the API, until somebody provides for spans. To ask it for a tracer is ten times the price.
    provided = not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    return provided or bool(parent) or trace.get_current_span().get_span_context().is_valid


def span(
    name: str, kind: str, parent: Mapping[str, str], attributes: Mapping[str, str | int]
) -> AbstractContextManager[Mapping[str, str]]:
    """Have a span while the block runs; see :func:`ironflow.telemetry.tracing.span`."""
    if not is_wanted(parent):
        return _NOTHING
    return _span(trace.get_tracer("ironflow"), name, kind, parent, attributes)


@contextlib.contextmanager
def _span(
    tracer: trace.Tracer, name: str, kind: str, parent: Mapping[str, str], attributes: Mapping[str, str | int]
) -> Generator[Mapping[str, str]]:
    context = TraceContextTextMapPropagator().extract(parent) if parent else None
    made = tracer.start_span(name, context, kind=trace.SpanKind[kind.upper()], attributes=dict(attributes))
    with trace.use_span(made, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield current()
        except BaseException as error:
            made.set_status(trace.Status(trace.StatusCode.ERROR, type(error).__name__))
            raise


def current() -> Mapping[str, str]:
    """Return the context of the current span; empty where there is none."""
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier
