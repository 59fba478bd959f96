"""Facts become states and tasks, also when what an engine remembers is out of date."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable

import pytest
from structlog.testing import capture_logs

from ironflow.broker.local import LocalBroker, LocalServer, Stage
from ironflow.broker.protocol import (
    Ambiguous,
    BrokerError,
    MessageTooLarge,
    Publication,
    StorageFull,
    StoredMessage,
    Unavailable,
    WrongRevision,
)
from ironflow.broker.topology import streams
from ironflow.codec import decode_record
from ironflow.names import Names
from ironflow.records import (
    ErrorRecord,
    EventRecord,
    FunctionRecord,
    OutcomeRecord,
    Task,
    TimerRecord,
    TryRecord,
    WaitEntry,
    WaitRecord,
)
from ironflow_engine.child_keeper import ChildKeeper
from ironflow_engine.conductor import Conductor
from ironflow_engine.dispatcher import Dispatcher
from ironflow_engine.facts import (
    EventArrived,
    Fact,
    OutcomeRecorded,
    RunRetried,
    RunStarted,
    TryRecorded,
    WaitRecorded,
    Woken,
)
from ironflow_engine.metrics import Metrics
from ironflow_engine.run_store import RunStore, Version
from ironflow_engine.wait_keeper import WaitKeeper
from ironflow_engine.wait_store import WaitStore

pytestmark = pytest.mark.virtual_time

NAMES = Names("test")


async def nobody_is_cancelled(*_: object) -> None:
    raise AssertionError("nothing here has children")


class Engines:
    """Conductors that share a server, each with a memory of its own."""

    def __init__(self, server: LocalServer) -> None:
        self.server = server
        self._broker = server.connect()
        self._tokens = itertools.count()

    def new(self, seconds: Callable[[], float] = time.monotonic) -> Conductor:
        broker = self.server.connect()
        store = RunStore(broker, NAMES, self._token)
        keeper = WaitKeeper(broker, NAMES, WaitStore(broker, NAMES), self._token)
        children = ChildKeeper(broker, NAMES, store, nobody_is_cancelled, self._token)
        return Conductor(store, Dispatcher(broker, NAMES), keeper, children, Metrics(), seconds)

    def _token(self) -> str:
        return f"token-{next(self._tokens)}"

    async def state(self, run: str = "r") -> tuple[str, int, bool]:
        version = await RunStore(self._broker, NAMES, str).load(run)
        assert version.state is not None
        return version.state.status, version.state.number, version.state.live

    async def tasks(self) -> list[Task]:
        return [
            decode_record(Task, message.payload)
            async for page in self._broker.read(NAMES.all_shards[0].tasks, "test.tasks.>")
            for message in page
        ]

    async def timers(self) -> list[tuple[str, int]]:
        """Return the steps and the epochs that the timers are of."""
        return [
            (timer.step, timer.epoch)
            async for page in self._broker.read(NAMES.all_shards[0].timers, "test.timers.>")
            for message in page
            for timer in (decode_record(TimerRecord, message.payload),)
        ]


@pytest.fixture
async def engines() -> AsyncGenerator[Engines]:
    server = LocalServer()
    broker = server.connect()
    for stream in streams(NAMES):
        await broker.ensure_stream(stream)
    yield Engines(server)
    server.interceptor = None
    await broker.close()


def started(run: str = "r") -> RunStarted:
    return RunStarted(
        run=run,
        event=EventRecord(id="e", name="go", time=""),
        function=FunctionRecord(id="f", queue="q"),
        sequence=1,
        time_ms=1,
    )


def outcome(number: int, sequence: int, *, seen: int = 0, status: str = "suspended", run: str = "r") -> OutcomeRecorded:
    record = OutcomeRecord(number=number, status=status, token="", seen=seen)  # type: ignore[arg-type]
    return OutcomeRecorded(run=run, queue="q", record=record, sequence=sequence, time_ms=sequence)


def woken(sequence: int, run: str = "r") -> Woken:
    return Woken(run=run, queue="q", sequence=sequence)


def waits(run: str = "r") -> WaitRecorded:
    record = WaitRecord(name="s", kind="sleep", token="", delay_ms=1_000)
    return WaitRecorded(run=run, queue="q", step="s", record=record, sequence=5, time_ms=5)


FATES: dict[str, tuple[list[Fact], tuple[str, int, bool]]] = {
    "an outcome": ([outcome(1, 9, status="completed")], ("completed", 1, False)),
    "an outcome that suspends": ([outcome(1, 9, seen=8)], ("waiting", 1, False)),
    "a wake-up and an outcome": ([woken(12), outcome(1, 13, seen=8)], ("queued", 2, True)),
}


@pytest.mark.parametrize(("facts", "expected"), FATES.values(), ids=FATES)
async def test_a_memory_that_is_out_of_date_swallows_nothing(
    engines: Engines, facts: list[Fact], expected: tuple[str, int, bool]
) -> None:
    forgetful, diligent = engines.new(), engines.new()
    await forgetful.apply([started()])
    await diligent.apply([outcome(0, 6), woken(8)])
    assert await engines.state() == ("queued", 1, True)
    # By what it remembers pass 0 is live, and an outcome of pass 1 means nothing to it.
    assert await forgetful.apply(facts) == {}
    assert await engines.state() == expected


BEFORE_THE_RETRY: dict[str, list[Fact]] = {
    "going on": [started()],
    "being unwound": [started(), outcome(0, 6, status="compensating")],
    "ended": [started(), outcome(0, 6, status="compensating"), outcome(1, 7, status="failed")],
}


@pytest.mark.parametrize("remembered", BEFORE_THE_RETRY.values(), ids=BEFORE_THE_RETRY)
async def test_an_engine_that_remembers_a_run_before_its_retry_sets_the_timers_of_the_new_epoch(
    engines: Engines, remembered: list[Fact]
) -> None:
    forgetful, diligent = engines.new(), engines.new()
    await forgetful.apply(remembered)
    retry = RunRetried(run="r", queue="q", epoch=1, sequence=8, time_ms=8)
    await diligent.apply([*BEFORE_THE_RETRY["ended"], retry])
    assert await engines.state() == ("queued", 2, True)

    a_long_time = 10**13
    record = TryRecord(
        name="s", kind="run", token="", attempt=1, delay_ms=a_long_time, error=ErrorRecord(type="E", message="")
    )
    fact = TryRecorded(run="r", queue="q", step="s.1", record=record, sequence=9, time_ms=9)
    assert await forgetful.apply([fact]) == {}
    assert await engines.timers() == [("s.1", 1)]


async def test_a_memory_that_is_up_to_date_costs_no_question(engines: Engines) -> None:
    asked: Counter[str] = Counter()

    def count(at: Stage, verb: str, subject: str) -> BrokerError | None:
        asked[verb] += at == "before"
        return None

    engine = engines.new()
    engines.server.interceptor = count
    await engine.apply([started()])
    await engine.apply([waits()])
    await engine.apply([outcome(0, 6)])
    await engine.apply([woken(8)])
    await engine.apply([outcome(1, 9, status="completed")])
    assert asked["last"] == 0


async def test_states_that_are_not_remembered_are_read_at_the_same_time(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = RunStore.load

    async def load_slowly(store: RunStore, run: str) -> Version:
        await asyncio.sleep(1)
        return await load(store, run)

    await engines.new().apply([started(run) for run in "abc"])
    monkeypatch.setattr(RunStore, "load", load_slowly)
    began = asyncio.get_running_loop().time()
    assert await engines.new().apply([outcome(0, 6, run=run) for run in "abc"]) == {}
    assert asyncio.get_running_loop().time() - began == pytest.approx(1)
    assert [await engines.state(run) for run in "abc"] == [("waiting", 0, False)] * 3


async def test_a_state_that_cannot_be_read_is_no_trouble_of_other_runs(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = RunStore.load

    async def load_some(store: RunStore, run: str) -> Version:
        if run == "b":
            raise Unavailable(run)
        return await load(store, run)

    await engines.new().apply([started(run) for run in "abc"])
    with monkeypatch.context() as patch:
        patch.setattr(RunStore, "load", load_some)
        assert list(await engines.new().apply([outcome(0, 6, run=run) for run in "abc"])) == ["b"]
    states = [await engines.state(run) for run in "abc"]
    assert states == [("waiting", 0, False), ("queued", 0, True), ("waiting", 0, False)]


async def test_all_facts_of_a_run_in_a_batch_make_one_write(engines: Engines) -> None:
    written: Counter[str] = Counter()

    def count(at: Stage, verb: str, subject: str) -> BrokerError | None:
        written[subject] += (at, verb) == ("before", "publish")
        return None

    engine = engines.new()
    engines.server.interceptor = count
    await engine.apply([started(), waits(), outcome(0, 6), woken(8)])
    assert await engines.state() == ("queued", 1, True)
    assert written[NAMES.run_key("r")] == 1
    assert [task.number for task in await engines.tasks()] == [0, 1]


async def test_the_trouble_of_one_run_is_not_that_of_others(engines: Engines) -> None:
    engine = engines.new()
    engines.server.interceptor = lambda _, verb, subject: (
        StorageFull("full") if verb == "publish" and subject == NAMES.run_key("b") else None
    )
    failures = await engine.apply([started("a"), started("b"), started("c")])
    assert list(failures) == ["b"]
    assert [task.run for task in await engines.tasks()] == ["a", "c"]


@pytest.mark.parametrize("error", [Unavailable("gone"), Ambiguous("lost")], ids=lambda error: type(error).__name__)
async def test_a_task_that_may_be_missing_is_published_when_its_fact_comes_again(
    engines: Engines, error: BrokerError
) -> None:
    engine = engines.new()
    engines.server.interceptor = lambda _, __, subject: error if ".tasks." in subject else None
    assert list(await engine.apply([started()])) == ["r"]
    engines.server.interceptor = None
    assert await engine.apply([started()]) == {}
    (task,) = await engines.tasks()
    # It may have been there before, and executed.
    assert task.check_journal


async def test_a_new_task_does_not_have_its_journal_read_and_one_that_was_sent_twice_does(engines: Engines) -> None:
    engine = engines.new()
    await engine.apply([started("a")])
    lost = iter([Ambiguous("lost")])
    engines.server.interceptor = lambda at, _, subject: (
        next(lost, None) if at == "before" and ".tasks." in subject else None
    )
    await engine.apply([started("b")])
    assert [(task.run, task.check_journal) for task in await engines.tasks()] == [("a", False), ("b", True)]


async def test_a_state_that_others_write_all_the_time_is_given_up_for_now(engines: Engines) -> None:
    engine = engines.new()
    engines.server.interceptor = lambda _, verb, subject: (
        WrongRevision("overtaken") if verb == "publish" and subject == NAMES.run_key("r") else None
    )
    failures = await engine.apply([started()])
    assert isinstance(failures["r"], WrongRevision)
    assert await engines.tasks() == []


@pytest.mark.parametrize("fact", [outcome(0, 5), woken(5), waits()], ids=lambda fact: type(fact).__name__)
async def test_a_fact_about_a_run_that_is_gone_does_nothing(engines: Engines, fact: Fact) -> None:
    assert await engines.new().apply([fact]) == {}
    assert await engines.tasks() == []


async def test_a_fact_from_another_queue_does_nothing(engines: Engines) -> None:
    engine = engines.new()
    await engine.apply([started()])
    record = OutcomeRecord(number=0, status="completed", token="")
    forged = OutcomeRecorded(run="r", queue="other", record=record, sequence=5, time_ms=5)
    assert await engine.apply([forged]) == {}
    assert await engines.state() == ("queued", 0, True)


ENDED = Publication(subject=NAMES.journal_outcome("q", "r", 1), payload=b"{}")


@pytest.mark.parametrize("stopped", [False, True])
async def test_an_engine_that_was_stopped_publishes_no_task_for_a_pass_that_has_ended(
    engines: Engines, *, stopped: bool
) -> None:
    now = [0.0]
    held_up = engines.new(lambda: now[0])
    await held_up.apply([started()])

    def stop(stage: Stage, verb: str, subject: str) -> BrokerError | None:
        # Between its decision and the task, while another engine publishes that, and a worker executes it.
        if (stage, verb, subject) == ("after", "publish", NAMES.run_key("r")):
            engines.server.interceptor = None
            engines.server.store(ENDED)
            now[0] += 10.0 if stopped else 0.1
        return None

    engines.server.interceptor = stop
    assert await held_up.apply([outcome(0, 6), woken(8)]) == {}
    assert await engines.state() == ("queued", 1, True)
    assert [task.number for task in await engines.tasks()] == ([0] if stopped else [0, 1])


@pytest.mark.parametrize("stopped", [False, True])
async def test_an_end_that_an_engine_was_stopped_over_wakes_its_run_since_the_pass_that_was_told_may_be_lost(
    engines: Engines, *, stopped: bool
) -> None:
    now = [0.0]
    held_up, other = engines.new(lambda: now[0]), engines.new()
    wait = WaitRecord(name="w", kind="wait_for_event", token="", event="go", delay_ms=60_000)
    recorded = WaitRecorded(run="r", queue="q", step="w", record=wait, sequence=5, time_ms=5)
    await held_up.apply([started(), recorded, outcome(0, 6)])
    entry = WaitEntry(run="r", queue="q", step="w", wait=wait, sequence=5, time_ms=5)
    event = EventRecord(id="e-2", name="go", time="")

    def stop(stage: Stage, verb: str, subject: str) -> BrokerError | None:
        if (stage, verb, subject) == ("before", "publish", NAMES.journal_step("q", "r", "w")):
            now[0] += 10.0 if stopped else 0.1
        return None

    engines.server.interceptor = stop
    arrived = EventArrived(run="r", queue="q", entry=entry, event=event, sequence=2, time_ms=7)
    assert await held_up.apply([arrived]) == {}
    # What has taken the place of the task that was lost has not been told, and has not found the end in the journal.
    await other.apply([outcome(1, 8), outcome(2, 9)])
    assert await engines.state() == (("queued", 3, True) if stopped else ("waiting", 2, False))


async def test_an_engine_that_is_stopped_in_mid_send_stores_no_task_that_is_used_up_meanwhile(engines: Engines) -> None:
    one, other = engines.new(), engines.new()
    await one.apply([started()])
    task, sent = NAMES.task("q", "r", 1), list[str]()

    def used_up(stage: Stage, verb: str, subject: str) -> BrokerError | None:
        # Behind the last look of the other engine, and before what it sends arrives.
        if (stage, verb, subject) == ("before", "publish", task):
            sent.append(subject)
            engines.server.store(ENDED)
            engines.server.stream(NAMES.all_shards[0].tasks).purge(task)
        return None

    assert await one.apply([outcome(0, 6), woken(8)]) == {}
    engines.server.interceptor = used_up
    assert await other.apply([outcome(0, 6), woken(8)]) == {}
    assert sent == [task]
    assert [each.number for each in await engines.tasks()] == [0]


async def test_a_task_that_is_lost_is_stored_anew_however_often(engines: Engines) -> None:
    engine = engines.new()
    await engine.apply([started()])
    for _ in range(5):
        assert await engine.apply([outcome(0, 6), woken(8)]) == {}
        assert [(task.number, task.check_journal) for task in await engines.tasks()][1:] in ([(1, False)], [(1, True)])
        engines.server.stream(NAMES.all_shards[0].tasks).purge(NAMES.task("q", "r", 1))


async def test_tasks_that_were_stored_before_are_looked_for_at_the_same_time(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = LocalBroker.last

    async def look_slowly(broker: LocalBroker, stream: str, subject: str) -> StoredMessage | None:
        if stream == NAMES.all_shards[0].tasks:
            await asyncio.sleep(1)
        return await last(broker, stream, subject)

    engine = engines.new()
    runs = [f"r{number}" for number in range(150)]
    facts = [fact for run in runs for fact in (outcome(0, 6, run=run), woken(8, run))]
    await engine.apply([started(run) for run in runs])
    assert await engine.apply(facts) == {}
    for run in runs[::2]:
        engines.server.stream(NAMES.all_shards[0].tasks).purge(NAMES.task("q", run, 1))
    monkeypatch.setattr(LocalBroker, "last", look_slowly)
    began = asyncio.get_running_loop().time()
    assert await engine.apply(facts) == {}
    assert asyncio.get_running_loop().time() - began == pytest.approx(1)
    assert {task.run for task in await engines.tasks() if task.number == 1} == set(runs)


async def test_where_nobody_can_tell_whether_a_task_is_lost_its_facts_come_again(engines: Engines) -> None:
    engine = engines.new()
    await engine.apply([started()])
    await engine.apply([outcome(0, 6), woken(8)])
    engines.server.stream(NAMES.all_shards[0].tasks).purge(NAMES.task("q", "r", 1))
    engines.server.interceptor = lambda _, verb, subject: (
        Unavailable("gone") if verb == "last" and NAMES.all_shards[0].tasks in subject else None
    )
    assert [*await engine.apply([outcome(0, 6), woken(8)])] == ["r"]


async def test_a_task_that_may_be_missing_is_published_unless_its_pass_has_ended(engines: Engines) -> None:
    one, other = engines.new(), engines.new()
    await one.apply([started()])
    engines.server.interceptor = lambda _, verb, subject: (
        Unavailable("gone") if verb == "publish" and ".tasks." in subject else None
    )
    assert [*await one.apply([outcome(0, 6), woken(8)])] == ["r"]
    engines.server.interceptor = None
    engines.server.store(ENDED)
    assert await other.apply([outcome(0, 6), woken(8)]) == {}
    assert [task.number for task in await engines.tasks()] == [0]


class Order:
    """Notes in which order a run's state is stored and its end is told."""

    def __init__(self, server: LocalServer) -> None:
        self.seen: list[str] = []
        server.interceptor = self

    def __call__(self, at: Stage, verb: str, subject: str) -> BrokerError | None:
        if at == "after" and verb == "publish" and subject == NAMES.run_key("r"):
            self.seen.append("stored")
        if at == "before" and verb == "notify" and subject == NAMES.ended("r"):
            self.seen.append("told")
        return None


async def test_that_a_run_has_completed_is_told_once_while_it_is_stored(engines: Engines) -> None:
    engine = engines.new()
    await engine.apply([started()])
    order = Order(engines.server)
    await engine.apply([outcome(0, 5, status="completed")])
    assert order.seen == ["told", "stored"]


@pytest.mark.parametrize("status", ["failed", "cancelled"])
async def test_that_a_run_has_ended_otherwise_is_told_when_it_can_be_retried(engines: Engines, status: str) -> None:
    engine = engines.new()
    await engine.apply([started()])
    order = Order(engines.server)
    await engine.apply([outcome(0, 5, status=status)])
    await asyncio.sleep(1)  # a hint is sent, and not awaited
    assert order.seen == ["stored", "told"]


async def test_an_end_that_could_not_be_stored_is_told_again_when_its_outcome_comes_again(engines: Engines) -> None:
    engine = engines.new()
    await engine.apply([started()])
    engines.server.interceptor = lambda _, verb, subject: (
        StorageFull("full") if verb == "publish" and subject == NAMES.run_key("r") else None
    )
    assert list(await engine.apply([outcome(0, 5, status="completed")])) == ["r"]
    order = Order(engines.server)
    assert await engine.apply([outcome(0, 5, status="completed")]) == {}
    assert order.seen == ["told", "stored"]
    assert await engines.state() == ("completed", 0, False)


async def test_a_run_that_is_too_large_to_be_stored_is_told_of_once_until_it_goes_on(engines: Engines) -> None:
    engine = engines.new()
    await engine.apply([started()])

    def refuse(_: Stage, verb: str, subject: str) -> BrokerError | None:
        return MessageTooLarge("7 bytes too many") if verb == "publish" and subject == NAMES.run_key("r") else None

    async def told() -> list[tuple[str, str, str]]:
        with capture_logs() as logs:
            for number in range(3):
                assert [*await engine.apply([outcome(0, 6), started(f"other-{number}")])] == ["r"]
        return [(entry["log_level"], entry["run"], entry["reason"]) for entry in logs if "run" in entry]

    engines.server.interceptor = refuse
    assert await told() == [("error", "r", "7 bytes too many")]
    assert await told() == []
    engines.server.interceptor = None
    assert await engine.apply([outcome(0, 6)]) == {}
    await engine.apply([woken(8)])
    engines.server.interceptor = refuse
    with capture_logs() as logs:
        await engine.apply([outcome(1, 9)])
    assert [entry["log_level"] for entry in logs] == ["error"]
    assert "max_payload" in logs[0]["event"]
