"""Whoever waits for a run's end takes the engine's word for it, and asks where no word comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest

from ironflow.broker.protocol import Request, Unavailable
from ironflow.client import Client
from ironflow.errors import EngineUnavailableError, RunFailedError
from ironflow.handles import RunHandle
from ironflow.messages import ErrorView, RunView
from ironflow.names import run_id, start_event_id
from ironflow.records import NULL
from tests.unit.fake_engine import FakeEngine, raw, run_view, running_view

pytestmark = pytest.mark.virtual_time

RUN = run_id("f", start_event_id("f", "s-1"))
FAILED = ErrorView(type="StepError", message="no money", step="charge", attempts=3, path=None)


class Word:
    """What an engine says unasked."""

    def __init__(self, view: RunView | None, payload: bytes = b"") -> None:
        self.subject = f"ironflow.ended.{RUN}"
        self.payload = payload if view is None else msgspec.json.encode(view)

    def respond(self, payload: bytes) -> None:  # noqa: ARG002 - nobody answers it
        raise AssertionError


@pytest.fixture
async def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def client(engine: FakeEngine) -> AsyncGenerator[Client]:
    async with engine.connect() as client:
        yield client


def ended(**changes: Any) -> RunView:
    return run_view(RUN, **{"left_out": ("event",), **changes})


async def waiting(engine: FakeEngine, handle: RunHandle[Any]) -> asyncio.Task[Any]:
    """Begin to wait for a run's result."""
    result = asyncio.create_task(handle.result("1h"))
    while handle.id not in "".join(engine.listeners):  # noqa: ASYNC110 - the fake sends no signal
        await asyncio.sleep(0)
    return result


async def say(engine: FakeEngine, word: Request) -> None:
    hearing = engine.listeners[word.subject](word)
    if hearing is not None:
        await hearing


async def test_the_engines_word_is_enough_for_a_result(engine: FakeEngine, client: Client) -> None:
    result = await waiting(engine, await client.start("f", id="s-1"))
    await say(engine, Word(ended()))
    assert await result == {"total": 1.0}
    assert engine.asked == []


async def test_whoever_asks_at_once_knows_before_that_it_listens(engine: FakeEngine, client: Client) -> None:
    engine.runs[RUN] = [run_view(RUN)]
    await client.run(RUN).result("1h")
    started = await waiting(engine, await client.start("f", id="s-2"))
    started.cancel()
    assert engine.confirmed == [True, False]


async def test_the_engines_word_says_why_a_run_failed(engine: FakeEngine, client: Client) -> None:
    result = await waiting(engine, await client.start("f", id="s-1"))
    await say(engine, Word(ended(status="failed", output=NULL, error=FAILED)))
    with pytest.raises(RunFailedError, match="no money"):
        await result
    assert engine.asked == []


async def test_the_engines_word_ends_a_question_that_has_no_answer_yet(
    engine: FakeEngine, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(engine, "request", never)
    result = await waiting(engine, client.run(RUN))
    await asyncio.sleep(1)
    await say(engine, Word(ended()))
    assert await result == {"total": 1.0}


async def test_an_output_that_is_too_large_for_a_hint_is_asked_for(engine: FakeEngine, client: Client) -> None:
    engine.runs[RUN] = [run_view(RUN, output=raw('"large"'))]
    result = await waiting(engine, await client.start("f", id="s-1"))
    await say(engine, Word(ended(output=NULL, left_out=("event", "output"))))
    assert await result == "large"
    assert engine.asked == ["runs.part"]


async def test_to_wait_returns_the_event_too(engine: FakeEngine, client: Client) -> None:
    engine.runs[RUN] = [run_view(RUN)]
    handle = await client.start("f", id="s-1")
    wait = asyncio.create_task(handle.wait())
    await asyncio.sleep(0.01)
    await say(engine, Word(ended(event=msgspec.structs.replace(run_view().event, data=NULL))))
    assert await wait == run_view(RUN)


@pytest.mark.parametrize(
    "word",
    [
        Word(None, b""),
        Word(None, b"nonsense"),
        Word(None, b'{"result":null,"failure":null}'),
        Word(run_view("another")),
        Word(running_view(RUN)),
    ],
    ids=["an older engine's", "nonsense", "an answer", "of another run", "of a run that goes on"],
)
async def test_a_word_that_does_not_say_how_the_run_ended_is_a_reason_to_ask(
    engine: FakeEngine, client: Client, word: Word
) -> None:
    engine.runs[RUN] = [run_view(RUN, output=raw('"asked"'))]
    result = await waiting(engine, await client.start("f", id="s-1"))
    began = asyncio.get_running_loop().time()
    await say(engine, word)
    assert await result == "asked"
    assert asyncio.get_running_loop().time() == began


async def test_a_word_from_before_a_retry_does_not_count(engine: FakeEngine, client: Client) -> None:
    engine.runs[RUN] = [run_view(RUN, status="failed")]
    handle = client.run(RUN)
    assert await handle.retry()
    engine.runs[RUN] = [running_view(RUN), run_view(RUN, attempt=2, output=raw('"second"'))]
    result = await waiting(engine, handle)
    await say(engine, Word(ended(status="failed", output=NULL, error=FAILED)))
    assert await result == "second"


async def test_a_lost_word_costs_a_second_at_the_most(engine: FakeEngine, client: Client) -> None:
    engine.runs[RUN] = [run_view(RUN)]
    engine.publish_seconds = 5.0  # everything is slow: nobody knows whether the run has ended by now
    result = await waiting(engine, await client.start("f", id="s-1"))
    began = asyncio.get_running_loop().time()
    assert await result == {"total": 1.0}
    assert asyncio.get_running_loop().time() - began <= 1.0


@pytest.mark.parametrize("again", [False, True], ids=["later", "started again"])
async def test_a_run_that_may_have_ended_before_is_asked_for_at_once(
    engine: FakeEngine, client: Client, *, again: bool
) -> None:
    engine.runs[RUN] = [run_view(RUN)]
    handle = await client.start("f", id="s-1")
    if again:
        handle = await client.start("f", id="s-1")
    else:
        await asyncio.sleep(5)
    began = asyncio.get_running_loop().time()
    assert await handle.result() == {"total": 1.0}
    assert asyncio.get_running_loop().time() == began


async def test_a_time_limit_counts_while_there_is_no_connection(
    engine: FakeEngine, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_connection(*_: object, **__: object) -> None:
        await asyncio.sleep(15)
        raise Unavailable("not connected")

    monkeypatch.setattr(engine, "listen", no_connection)
    began = asyncio.get_running_loop().time()
    with pytest.raises(TimeoutError, match="has not ended within 1s"):
        await client.run(RUN).result("1s")
    assert asyncio.get_running_loop().time() - began == 1.0
    with pytest.raises(EngineUnavailableError, match="not connected"):
        await client.run(RUN).result("1h")
