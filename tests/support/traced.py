"""``python -m tests.support.traced MODULE ...``: a process of ours with an SDK of OpenTelemetry.

Each span that has ended is a line of JSON in the file that TRACES names.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult


class LineExporter(SpanExporter):
    """Appends each span in one write, so that lines of several processes never mix."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write what has ended."""
        handle = os.open(os.environ["TRACES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(handle, "".join(f"{span.to_json(indent=None)}\n" for span in spans).encode())
        finally:
            os.close(handle)
        return SpanExportResult.SUCCESS


def paths(file: Path) -> list[str]:
    """Return each span of a file with the names of those that it stands under, outermost first."""
    spans = read(file)
    by_id = {span["context"]["span_id"]: span for span in spans}

    def path(span: dict[str, Any]) -> str:
        return span["name"] if span["parent_id"] is None else f"{path(by_id[span['parent_id']])} > {span['name']}"

    return [path(span) for span in spans]


def read(file: Path) -> list[dict[str, Any]]:
    """Return the spans of a file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def main() -> None:
    """Run a module of ours."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(LineExporter()))
    trace.set_tracer_provider(provider)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
