"""What the doctor makes of an installation that a test has put together in process."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from ironflow.broker.local import LocalBroker, LocalServer
from ironflow.broker.local.subjects import matches
from ironflow.broker.local.virtual_time import run_virtual
from ironflow.broker.nats.provisioner import consumer_config, stream_config
from ironflow.broker.protocol import Publication, Request
from ironflow.broker.topology import engine_consumers, queue_consumers, streams
from ironflow.clock import to_iso
from ironflow.codec import encode_record
from ironflow.doctor import Examination, Finding, stuck
from ironflow.messages import EngineView, Reply, RunsPage, WorkerCensus, WorkerView
from ironflow.names import Names
from ironflow.records import FunctionRecord, RunState
from tests.unit.fake_engine import run_view
from tests.unit.test_doctor import worker

NAMES = Names("test")


def test_a_healthy_installation_has_nothing_wrong() -> None:
    async def examine_healthy() -> None:
        house = await Installation.make()
        await house.engine()
        await house.register(FunctionRecord(id="pay", queue="orders"))
        await house.worker(worker())
        found = await house.examine()
        assert {finding.check for finding in found if finding.level == "error"} == set()
        assert levels(found)["streams"] == levels(found)["consumers"] == levels(found)["engine"] == "ok"
        assert levels(found)["workers"] == levels(found)["stuck runs"] == levels(found)["timers"] == "ok"

    run_virtual(examine_healthy())


def test_without_an_engine_the_rest_is_examined_all_the_same() -> None:
    async def examine_without() -> None:
        house = await Installation.make()
        await house.register(FunctionRecord(id="pay", queue="orders"))
        found = levels(await house.examine())
        assert (found["engine"], found["workers"], found["streams"]) == ("error", "warning", "ok")
        assert found["stuck runs"] == "unknown"

    run_virtual(examine_without())


def test_a_stream_that_somebody_changed_is_found() -> None:
    async def examine_changed() -> None:
        house = await Installation.make()
        house.configs[NAMES.all_shards[0].journal]["discard_new_per_subject"] = False
        found = await house.examine()
        assert "stream TEST_JOURNAL: discard_new_per_subject is False, not True" in texts(found)

    run_virtual(examine_changed())


def test_what_somebody_has_limited_a_stream_to_is_found() -> None:
    async def examine_limited() -> None:
        house = await Installation.make()
        house.configs[NAMES.events]["max_bytes"] = 1000
        found = await house.examine()
        assert levels(found)["limits"] == "warning"
        assert any("stream TEST_EVENTS drops its oldest messages" in text for text in texts(found))

    run_virtual(examine_limited())


def test_a_stream_that_acknowledges_nothing_is_found() -> None:
    async def examine_silent() -> None:
        house = await Installation.make()
        house.configs[NAMES.events]["no_ack"] = True
        assert "stream TEST_EVENTS: no_ack is True, not False" in texts(await house.examine())

    run_virtual(examine_silent())


def test_events_that_are_kept_for_an_archive_that_no_engine_has_are_found() -> None:
    async def examine_kept() -> None:
        house = await Installation.make()
        house.configs[NAMES.events]["max_age"] = 0
        await house.engine()
        found = await house.examine()
        assert (levels(found)["streams"], levels(found)["events"]) == ("ok", "warning")

    run_virtual(examine_kept())


def test_what_cannot_be_read_of_one_hides_nothing_of_the_others() -> None:
    async def examine_strange() -> None:
        house = await Installation.make()
        await house.register(FunctionRecord(id="pay", queue="orders"))
        strange = Publication(subject=NAMES.function_key("newer"), payload=b'{"id": "newer", "queue": ["two", "of"]}')
        await house.broker.publish(strange)
        await house.worker(worker())
        await house.strange_worker(b'{"worker": "of a newer version"}')
        found = await house.examine()
        assert levels(found)["workers"] == levels(found)["versions"] == "ok"
        assert "queue orders: 1 worker" in texts(found)
        [unread] = [finding for finding in found if finding.check == "unreadable"]
        assert unread.level == "warning"
        assert "1 registered function and the answer of 1 worker" in unread.text

    run_virtual(examine_strange())


def test_a_missing_consumer_is_found() -> None:
    async def examine_missing() -> None:
        house = await Installation.make()
        await house.register(FunctionRecord(id="pay", queue="elsewhere"))
        assert "consumer elsewhere of TEST_TASKS does not exist" in texts(await house.examine())

    run_virtual(examine_missing())


def test_a_queued_run_without_a_task_is_stuck_after_a_minute_and_not_before() -> None:
    async def examine_stuck() -> None:
        house = await Installation.make()
        await house.engine(await house.queued_run("lost"), await house.queued_run("alive"))
        await house.broker.publish(Publication(subject=NAMES.task("orders", "alive", 0), payload=b"{}"))
        await asyncio.sleep(50)
        assert levels(await house.examine())["stuck runs"] == "ok"
        await asyncio.sleep(20)
        found = await house.examine()
        assert levels(found)["stuck runs"] == "error"
        assert "1 of 2 active runs have had no task for over 60 s: lost" in texts(found)

    run_virtual(examine_stuck())


def test_an_old_run_that_has_just_changed_is_not_stuck() -> None:
    async def examine_changed() -> None:
        house = await Installation.make()
        run = await house.queued_run("busy")
        await house.engine(run)
        await asyncio.sleep(300)
        await house.queued_run("busy")
        await asyncio.sleep(50)
        assert levels(await house.examine())["stuck runs"] == "ok"

    run_virtual(examine_changed())


def test_a_timer_that_did_not_fire_is_found() -> None:
    async def examine_overdue() -> None:
        house = await Installation.make()
        now = await house.broker.server_time_ms(NAMES.all_shards[0].tasks)
        house.subjects[NAMES.all_shards[0].timers] = [
            NAMES.timer(now - 120_000, "late", 0, "w"),
            NAMES.timer(now + 1, "resting", 0, "w"),
        ]
        found = await house.examine()
        assert levels(found)["timers"] == "error"
        assert "of runs late" in " ".join(texts(found))

    run_virtual(examine_overdue())


@pytest.mark.parametrize("shards", [1, 3])
def test_where_timers_are_many_the_overdue_ones_of_the_last_minutes_are_found(shards: int) -> None:
    names, now = Names("ironflow", shards), 1_800_000_000_000
    filters = stuck.recent_timers(names.shard_of("run"), now)

    def is_found(due_ms: int) -> bool:
        return any(matches(each, names.timer(due_ms, "run", 0, "wait.nap")) for each in filters)

    assert is_found(now - 120_000)
    assert is_found(now - 300_000)
    assert not is_found(now + 1)
    assert len(filters) <= 10


def test_what_the_account_may_not_ask_is_unknown() -> None:
    async def examine_denied() -> None:
        house = await Installation.make()
        house.error = {"code": 403, "description": "not allowed"}
        found = await house.examine()
        assert levels(found)["streams"] == "unknown"
        assert "could not be checked: not allowed" in texts(found)

    run_virtual(examine_denied())


class Installation:
    """A namespace on the in-process broker, with a JetStream API that says what a test wants.

    Attributes:
        configs: the settings of the streams, by name.
        subjects: what stands in a stream, by its name.
        error: what every question to the API is answered with instead, where set.

    """

    def __init__(self, broker: LocalBroker) -> None:
        self.broker = broker
        self.configs = {spec.name: stream_config(spec) for spec in streams(NAMES)}
        self.subjects: dict[str, list[str]] = {}
        self.error: dict[str, Any] | None = None
        self._consumers = {
            f"{spec.stream}.{spec.name}": consumer_config(spec)
            for spec in (*engine_consumers(NAMES), queue_consumers(NAMES, "orders")[0])
        }

    @classmethod
    async def make(cls) -> Installation:
        """Provision a namespace."""
        broker = LocalServer().connect()
        for spec in streams(NAMES):
            await broker.ensure_stream(spec)
        made = cls(broker)
        await broker.listen("$JS.API.>", made._answer)
        return made

    async def examine(self) -> list[Finding]:
        """Return what the doctor finds."""
        return await Examination(self.broker, NAMES, monitor_url="http://127.0.0.1:1").findings()

    async def engine(self, *runs: Any) -> None:
        """Let an engine answer, which lists these runs as queued."""
        view = EngineView(id="e", host="h", pid=1, version="1", namespace="test", started_at="")
        await self._answer_always(NAMES.api("engine.status"), reply(view))

        async def list_runs(request: Request) -> None:
            queued = b'"queued"' in request.payload
            request.respond(reply(RunsPage(runs=tuple(runs) if queued else (), next=None)))

        await self.broker.listen(NAMES.api("runs.list"), list_runs)

    async def worker(self, view: WorkerView) -> None:
        """Let a worker answer the census."""
        await self.strange_worker(encode_record(WorkerCensus(worker=view, runs=())))

    async def strange_worker(self, answer: bytes) -> None:
        """Let whoever listens answer the census."""
        await self._answer_always(NAMES.worker_census, answer)

    async def register(self, function: FunctionRecord) -> None:
        """Store a function's definition."""
        await self.broker.publish(Publication(subject=NAMES.function_key(function.id), payload=encode_record(function)))

    async def queued_run(self, run: str) -> Any:
        """Store the state of a run that waits for a worker, and return what is shown of it."""
        started = await self.broker.server_time_ms(NAMES.all_shards[0].tasks)
        state = RunState(
            id=run,
            function="pay",
            queue="orders",
            status="queued",
            started_at=started,
            event_id="e",
            event_name="n",
            event_sequence=1,
        )
        await self.broker.publish(Publication(subject=NAMES.run_key(run), payload=encode_record(state)))
        return run_view(run, status="queued", started_at=to_iso(started))

    async def _answer_always(self, subject: str, payload: bytes) -> None:
        async def answer(request: Request) -> None:
            request.respond(payload)

        await self.broker.listen(subject, answer)

    async def _answer(self, request: Request) -> None:
        request.respond(msgspec.json.encode({"error": self.error} if self.error else self._api(request.subject)))

    def _api(self, subject: str) -> dict[str, Any]:
        verb = subject.removeprefix("$JS.API.")
        missing = {"error": {"code": 404, "description": "not found"}}
        if verb.startswith("STREAM.INFO."):
            name = verb.removeprefix("STREAM.INFO.")
            found = dict.fromkeys(self.subjects.get(name, ()), 1)
            answer = {"config": self.configs.get(name), "state": {"subjects": found}, "total": len(found)}
            return answer if name in self.configs else missing
        if verb.startswith("CONSUMER.INFO."):
            config = self._consumers.get(verb.removeprefix("CONSUMER.INFO."))
            return {"config": config} if config else missing
        return {"storage": 1, "limits": {"max_storage": 1 << 30}}


def reply(answer: msgspec.Struct) -> bytes:
    return encode_record(Reply(result=msgspec.Raw(encode_record(answer))))


def levels(findings: list[Finding]) -> dict[str, str]:
    return {finding.check: finding.level for finding in findings}


def texts(findings: list[Finding]) -> list[str]:
    return [finding.text for finding in findings]
