"""Traces: from a publish over the runs that it starts to each step that is executed, on a virtual clock."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import ironflow
from ironflow import Context, Retry
from tests.support.inprocess import running_system

pytestmark = pytest.mark.virtual_time

CARD = "c4n4ry-5ecret"


class Traces:
    """What was exported."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    def lines(self) -> list[str]:
        """Return each span with the names of those that it stands under."""
        by_id = {span.context.span_id: span for span in self.spans if span.context is not None}

        def path(span: ReadableSpan) -> str:
            return span.name if span.parent is None else f"{path(by_id[span.parent.span_id])} > {span.name}"

        return [path(span) for span in self.spans]


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> Iterator[Traces]:
    made = Traces()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: made.provider)
    yield made
    made.provider.shutdown()


async def test_a_trace_leads_from_the_publish_to_each_step_once_also_where_a_worker_is_killed(traces: Traces) -> None:
    begun = asyncio.Event()

    async def work() -> str:
        begun.set()
        await asyncio.sleep(5)
        return "done"

    @ironflow.function(id="child", queue="q")
    async def child(ctx: Context) -> int:
        return await ctx.step.run("of-child", int, 1)

    @ironflow.function(id="follower", queue="q", triggers=["followed"])
    async def follower(ctx: Context) -> None:
        await ctx.step.run("of-follower", int)

    @ironflow.function(id="parent", queue="q", triggers=["order.placed"])
    async def parent(ctx: Context) -> None:
        await ctx.step.run("before", int)
        await ctx.step.sleep("nap", "1h")
        await ctx.step.run("work", work)
        await ctx.step.publish("followed")
        await ctx.step.invoke(child)
        await ctx.step.run("after", int)

    async with running_system(parent, child, follower) as system:
        event = await system.client.publish("order.placed", {"card": CARD})
        await begun.wait()
        (worker,) = system.workers
        traces.exporter._stopped = True  # noqa: SLF001 - a killed process exports nothing of what it was doing
        await system.kill(worker)
        traces.exporter._stopped = False  # noqa: SLF001 - as above
        await system.add_worker()
        runs = [run async for run in system.client.runs()]
        await asyncio.gather(*(run.result("3h") for run in runs))
        runs = [run async for run in system.client.runs()]
        await asyncio.gather(*(run.result("3h") for run in runs))

    run = "publish order.placed > run parent"
    publish = f"{run} > step publish:followed"
    assert Counter(traces.lines()) == {
        "publish order.placed": 1,
        run: 1,
        f"{run} > step before": 1,
        f"{run} > step work": 1,
        publish: 1,
        f"{publish} > run follower": 1,
        f"{publish} > run follower > step of-follower": 1,
        f"{run} > run child": 1,
        f"{run} > run child > step of-child": 1,
        f"{run} > step after": 1,
    }
    assert len({span.context.trace_id for span in traces.spans if span.context is not None}) == 1
    assert event.metadata["traceparent"]


async def test_each_attempt_is_a_span_and_tells_the_type_of_its_error_and_nothing_else_of_it(traces: Traces) -> None:
    failures = Counter[str]()

    async def flaky(card: str) -> None:
        failures["x"] += 1
        if failures["x"] < 3:
            raise ValueError(card)

    @ironflow.function(id="f")
    async def f(ctx: Context[str]) -> None:
        await ctx.step.run("flaky", flaky, ctx.event.data, retry=Retry(max_attempts=3))

    async with running_system(f) as system:
        await (await system.client.start(f, CARD)).result("3h")
    attempts = [span for span in traces.spans if span.name == "step flaky"]
    assert [span.status.description for span in attempts] == ["ValueError", "ValueError", None]
    assert [(span.attributes or {})["ironflow.step.attempt"] for span in attempts] == [1, 2, 3]
    assert CARD not in "".join(span.to_json() for span in traces.spans)


async def test_a_trace_that_the_publisher_has_begun_elsewhere_goes_on(traces: Traces) -> None:
    @ironflow.function(id="f", triggers=["e"])
    async def f(ctx: Context) -> None: ...

    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with running_system(f) as system:
        await system.client.publish("e", metadata={"traceparent": parent})
        await system.client.publish("e", metadata={"traceparent": "nonsense"})
        for run in [run async for run in system.client.runs()]:
            await run.result("1h")
    ids = {format(span.context.trace_id, "032x") for span in traces.spans if span.context is not None}
    assert "0af7651916cd43dd8448eb211c80319c" in ids
    assert len(ids) == 2


async def test_where_nobody_takes_spans_none_is_made_and_a_context_from_elsewhere_still_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def made(*_: object, **__: object) -> trace.Span:
        pytest.fail("a span was made for nobody")

    @ironflow.function(id="f", triggers=["e"])
    async def f(ctx: Context) -> None:
        await ctx.step.run("s", int)
        await ctx.step.publish("followed")

    async with running_system(f) as system:
        with monkeypatch.context() as patched:
            patched.setattr(trace.ProxyTracer, "start_span", made)
            event = await system.client.publish("e")
            await (await system.client.start(f)).result("1h")
        assert event.metadata == {}
        parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        await system.client.publish("e", metadata={"traceparent": parent})
        for run in [run async for run in system.client.runs()]:
            await run.result("1h")
        followed = [event async for event in system.client.events(name="followed")]
    assert sum("0af7651916cd43dd8448eb211c80319c" in each.metadata.get("traceparent", "") for each in followed) == 1


def test_without_the_extra_nothing_of_it_is_imported_and_what_a_publisher_says_is_passed_on() -> None:
    program = """
import sys
sys.modules["opentelemetry"] = None
from ironflow.records import EventRecord
from ironflow.telemetry import tracing
event = EventRecord(id="e", name="e", time="", metadata={"traceparent": "t"})
with tracing.span("x", "internal", tracing.carrier_of(event.metadata), {}) as carrier:
    assert carrier == {} and tracing.with_context(tracing.passed_on(event), carrier) is event
assert not tracing.IS_INSTALLED and not [name for name in sys.modules if name.startswith("opentelemetry.")]
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_api_is_imported_only_where_somebody_else_has_or_an_event_carries_a_trace() -> None:
    program = """
import sys
from ironflow.records import EventRecord
from ironflow.telemetry import tracing
event = EventRecord(id="e", name="e", time="")
with tracing.span("x", "internal", {}, {}) as carrier:
    assert carrier == {} and tracing.passed_on(event) is event and not tracing.is_wanted({})
assert tracing.IS_INSTALLED and not [name for name in sys.modules if name.startswith("opentelemetry")]
parent = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
with tracing.span("x", "internal", parent, {}) as carrier:
    assert carrier == parent and tracing.passed_on(event).metadata == parent
assert "opentelemetry.trace" in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_who_takes_spans_can_be_named_in_the_environment() -> None:
    program = """
from ironflow.telemetry import tracing
assert tracing.is_wanted({})
"""
    named = {**os.environ, "OTEL_PYTHON_TRACER_PROVIDER": "sdk_tracer_provider"}
    subprocess.run([sys.executable, "-c", program], check=True, env=named)


def test_who_takes_spans_may_come_later() -> None:
    program = """
from ironflow.telemetry import tracing
assert not tracing.is_wanted({})
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
assert not tracing.is_wanted({})
trace.set_tracer_provider(TracerProvider())
assert tracing.is_wanted({})
"""
    subprocess.run([sys.executable, "-c", program], check=True)
