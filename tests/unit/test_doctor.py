"""The doctor's checks, one by one, and what its command prints."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from ironflow.broker.local import LocalServer
from ironflow.broker.nats.inspector import Bounds, Storage
from ironflow.broker.topology import engine_consumers, queue_consumers, streams
from ironflow.cli.doctor import doctor, print_findings
from ironflow.client import Client
from ironflow.doctor import Examination, Finding, monitor
from ironflow.doctor.bounds import check_bounds
from ironflow.doctor.fleet import check_engine, check_versions, check_workers
from ironflow.doctor.monitor import JetStreamConfig, JetStreamStats, JetStreamVarz, Monitoring, Varz
from ironflow.doctor.server import check_clock, check_storage, check_sync, check_version
from ironflow.doctor.stuck import check_runs, check_timers, overdue_runs
from ironflow.doctor.topology import check_consumers, check_streams
from ironflow.errors import EngineUnavailableError
from ironflow.messages import EngineView, WorkerView
from ironflow.names import Names
from ironflow.records import FunctionRecord

NAMES = Names("test")
GIB = 1024**3


# Server


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ("2.14.2", "error"),
        ("2.9.30", "error"),
        ("2.14.3", "warning"),
        ("2.15.0", "ok"),
        ("2.15.1", "ok"),
        ("3.0.0-RC.1", "ok"),
        ("mine", "unknown"),
    ],
)
def test_the_server_version_decides(version: str, level: str) -> None:
    finding = check_version(version)
    assert finding.level == level
    assert bool(finding.advice) == (level != "ok")


def test_a_server_that_syncs_always_is_fine() -> None:
    assert check_sync(monitored(sync_always=True, sync_interval=120_000_000_000)).level == "ok"


def test_a_server_that_syncs_now_and_then_is_warned_about_with_how_often_it_does() -> None:
    finding = check_sync(monitored(sync_interval=120_000_000_000))
    assert finding.level == "warning"
    assert "every 120 s" in finding.text
    assert "sync_interval: always" in finding.advice


def test_a_sync_setting_that_nobody_tells_is_unknown_and_never_fine() -> None:
    finding = check_sync(Monitoring(("http://h:8222",), None, "http://h:8222: no answer"))
    assert finding.level == "unknown"
    assert "no answer" in finding.text
    assert "--monitor-url" in finding.advice


@pytest.mark.parametrize(("left", "level"), [(50, "ok"), (19, "warning"), (4, "error")])
def test_storage_that_runs_out_is_reported_in_time(left: int, level: str) -> None:
    finding = check_storage(Storage(used_bytes=(100 - left) * GIB, limit_bytes=100 * GIB), Monitoring(()))
    assert finding.level == level
    assert f"{left}.0 GiB of 100.0 GiB left" in finding.text


def test_the_tighter_of_the_accounts_and_the_servers_storage_counts() -> None:
    finding = check_storage(Storage(1 * GIB, 100 * GIB), monitored(max_storage=10 * GIB, stored=9 * GIB))
    assert (finding.level, finding.text) == ("warning", "1.0 GiB of 10.0 GiB left")


def test_storage_without_a_known_limit_is_unknown() -> None:
    assert check_storage(Storage(used_bytes=1), Monitoring(())).level == "unknown"


def test_a_server_without_jetstream_is_an_error() -> None:
    assert check_storage(None, Monitoring(())).level == "error"


@pytest.mark.parametrize(
    ("offset", "uncertainty", "level"),
    [(3, 2, "ok"), (-990, 2, "ok"), (1500, 2, "warning"), (-1500, 2, "warning"), (1500, 800, "ok")],
)
def test_a_clock_that_is_surely_off_by_over_a_second_is_warned_about(
    offset: float, uncertainty: float, level: str
) -> None:
    assert check_clock(offset, uncertainty).level == level


def test_the_clock_finding_says_which_way_it_is_off() -> None:
    assert "1500 ms behind" in check_clock(-1500, 2).text


# Monitoring


def test_a_guessed_endpoint_counts_only_if_it_is_the_same_server() -> None:
    theirs = Varz(server_id="OTHER")
    assert monitor.choose(["http://a"], [theirs], "OURS").server is None
    assert monitor.choose(["http://a"], [theirs], "OTHER").server is theirs
    assert monitor.choose(["http://a"], [theirs]).server is theirs


def test_every_endpoint_that_was_asked_in_vain_is_named() -> None:
    found = monitor.choose(["http://a", "http://b"], ["no answer", Varz(server_id="OTHER")], "OURS")
    assert found.reason == "http://a: no answer; http://b: belongs to another server"


def test_the_monitoring_of_a_server_is_guessed_from_where_clients_connect() -> None:
    urls = ["nats://user:secret@one:4222", "two", "tls://[::1]:4222", "nats://one:4223"]
    assert monitor.guesses(urls) == ("http://one:8222", "http://two:8222", "http://[::1]:8222")


def test_the_monitoring_of_an_ironflow_dev_in_this_folder_is_found(tmp_path: Path) -> None:
    ports = {"nats": ["nats://127.0.0.1:4222"], "monitoring": ["http://127.0.0.1:45678"]}
    (tmp_path / "nats-server_1.ports").write_bytes(msgspec.json.encode(ports))
    (tmp_path / "nats-server_2.ports").touch()
    assert monitor.embedded_guesses(tmp_path) == ("http://127.0.0.1:45678",)


def test_varz_says_how_the_server_syncs(web: Callable[[bytes], str]) -> None:
    url = web(b'{"server_id":"A","jetstream":{"config":{"sync_always":true,"max_storage":5},"stats":{"storage":2}}}')
    config = JetStreamConfig(max_storage=5, sync_always=True)
    assert monitor.read_varz(url) == Varz("A", "", JetStreamVarz(config, JetStreamStats(2)))


def test_what_is_no_monitoring_endpoint_is_said_to_be_none(web: Callable[[bytes], str]) -> None:
    assert monitor.read_varz(web(b"<html>")) == "is no NATS monitoring endpoint"
    assert monitor.read_varz("ftp://127.0.0.1") == "not an http:// or https:// address"
    assert str(monitor.read_varz("http://127.0.0.1:1")).startswith("no answer")


# Streams and consumers


def test_streams_as_they_shall_be_are_one_finding() -> None:
    [finding] = check_streams({spec: {} for spec in streams(NAMES)})
    assert finding.level == "ok"


def test_a_namespace_without_streams_is_one_finding() -> None:
    [finding] = check_streams(dict.fromkeys(streams(NAMES)))
    assert finding.level == "error"
    assert "start an engine" in finding.advice


def test_a_missing_stream_and_a_changed_one_are_named() -> None:
    first, second, *rest = streams(NAMES)
    found = {first: None, second: {"discard": ("old", "new")}, **{spec: {} for spec in rest}}
    missing, changed = check_streams(found)
    assert (missing.level, missing.text) == ("error", "stream TEST_EVENTS does not exist")
    assert (changed.level, changed.text) == ("error", "stream TEST_TASKS: discard is old, not new")
    assert "restart an engine" in missing.advice  # the one that runs does not make it


def test_a_setting_that_an_operator_may_tune_is_only_warned_about() -> None:
    [finding] = check_consumers(
        {queue_consumers(NAMES, "orders")[0]: {"max_waiting": (1, 2)}, **{spec: {} for spec in engine_consumers(NAMES)}}
    )
    assert finding.level == "warning"
    assert "consumer orders of TEST_TASKS" in finding.text


def test_what_an_engines_options_decide_is_no_difference() -> None:
    [finding] = check_consumers({queue_consumers(NAMES, "orders")[0]: {"ack_wait": (1, 2)}})
    assert finding.level == "ok"


def test_a_paused_consumer_is_named_with_how_to_resume_it_beside_what_else_is_wrong_with_it() -> None:
    [spec] = queue_consumers(NAMES, "orders")
    pause = {"pause_until": ("2199-01-01T00:00:00Z", None)}
    [paused] = check_consumers({spec: {**pause, "ack_wait": (1, 2)}})
    assert paused.level == "error"
    assert "consumer orders of TEST_TASKS is paused until 2199-01-01T00:00:00Z" in paused.text
    assert "nats consumer resume TEST_TASKS orders" in paused.advice
    _, strange = check_consumers({spec: {**pause, "headers_only": (True, None)}})
    assert strange.level == "error"
    assert strange.text == "consumer orders of TEST_TASKS: headers_only is True, and shall not be set"


@pytest.mark.parametrize(("held", "level"), [(79, None), (81, "warning"), (96, "error"), (120, "error")])
def test_a_stream_that_is_near_to_a_limit_of_its_own_is_named(held: int, level: str | None) -> None:
    limited = Bounds(messages=held, size_bytes=1, most_messages=100, most_bytes=1_000)
    found = check_bounds({"TEST_JOURNAL": limited, "TEST_TASKS": None}, 1024)
    assert [finding.level for finding in found] == ([] if level is None else [level])
    assert all("TEST_JOURNAL refuses" in finding.text and "nats stream edit" in finding.advice for finding in found)


@pytest.mark.parametrize(("held", "level"), [(0, "warning"), (96, "error")])
def test_a_stream_that_forgets_its_oldest_messages_is_named_before_it_does(held: int, level: str) -> None:
    [finding] = check_bounds({"E": Bounds(messages=held, size_bytes=1, most_messages=100, drops_oldest=True)}, 1024)
    assert finding.level == level
    assert f"{held} of 100 messages" in finding.text


@pytest.mark.parametrize(("most", "count"), [(1023, 1), (1024, 0)])
def test_a_stream_that_takes_less_than_the_server_is_named(most: int, count: int) -> None:
    assert len(check_bounds({"E": Bounds(messages=1, size_bytes=1, most_message_bytes=most)}, 1024)) == count


# Engines and workers


def test_no_engine_is_an_error_and_says_how_to_start_one() -> None:
    finding = check_engine(None)
    assert finding.level == "error"
    assert "ironflow-engine" in finding.advice


def test_a_queue_with_functions_and_no_worker_is_warned_about() -> None:
    functions = [FunctionRecord(id="pay", queue="orders"), FunctionRecord(id="mail", queue="mails")]
    mails, orders = check_workers(functions, [worker(queues=("mails",), functions=("mail",))])
    assert mails.level == "ok"
    assert (orders.level, orders.text) == ("warning", "queue orders: 1 function and no worker")
    assert "--queue orders" in orders.advice


def test_workers_whose_functions_are_not_registered_any_more_are_an_error() -> None:
    [finding] = check_workers([], [worker(queues=("mails",), functions=("mail",))])
    assert finding.level == "error"
    assert "restart the workers" in finding.advice
    [finding] = check_workers([], [])
    assert finding.level == "ok"


def test_a_worker_that_drains_counts_no_more() -> None:
    [finding] = check_workers([FunctionRecord(id="pay", queue="orders")], [worker(draining=True)])
    assert finding.level == "warning"


def test_a_function_that_workers_of_another_queue_have_too_is_warned_about() -> None:
    both = [worker(), worker(queues=("mails", "parcels"))]
    orders, finding = check_workers([FunctionRecord(id="pay", queue="orders")], both)
    assert (orders.level, finding.level) == ("ok", "warning")
    assert "pay is registered for queue orders, and workers of mails, parcels have one" in finding.text
    [orders] = check_workers(
        [FunctionRecord(id="pay", queue="orders")], [both[0], worker(queues=("x",), draining=True)]
    )
    assert orders.level == "ok"


def test_a_function_that_no_worker_has_the_code_of_is_warned_about() -> None:
    functions = [FunctionRecord(id="pay", queue="orders"), FunctionRecord(id="gone", queue="orders")]
    [finding] = check_workers(functions, [worker()])
    assert finding.level == "warning"
    assert "gone" in finding.text


def test_a_fleet_of_several_versions_is_warned_about_with_who_has_which() -> None:
    engine = EngineView(id="e", host="h", pid=1, version="2", namespace="n", started_at="")
    fleet = [worker(version="2"), worker(version="1"), worker(version="1", queues=("mail",))]
    found = check_versions(engine, fleet)
    assert found.level == "warning"
    assert found.text == (
        "1: workers of mail, workers of orders; 2: engine e, workers of orders"
        " (one engine answers for all; others may be of another version)"
    )
    assert "engines first" in found.advice


def test_a_fleet_of_one_version_is_in_order() -> None:
    engine = EngineView(id="e", host="h", pid=1, version="1", namespace="n", started_at="")
    found = check_versions(engine, [worker(version="1")])
    assert found.level == "ok"
    assert "others may be of another version" in found.text
    assert check_versions(None, []).level == "ok"


def test_nothing_is_said_of_other_engines_where_none_answers() -> None:
    assert check_versions(None, [worker(version="1")]).text == "1: workers of orders"


# What stands still


def test_stuck_runs_are_named_but_not_all_of_many() -> None:
    finding = check_runs(["r1", "r2", "r3", "r4", "r5"], 9, all_seen=True)
    assert finding.level == "error"
    assert finding.text == "5 of 9 active runs have had no task for over 60 s: r1, r2, r3 and 2 more"


def test_a_bounded_look_at_the_runs_is_said_to_be_one() -> None:
    assert "the newest 9 active runs" in check_runs([], 9, all_seen=False).text


def test_timers_of_buckets_long_past_are_overdue_and_later_ones_are_not() -> None:
    now = 10_000_000
    subjects = [
        NAMES.timer(due, run, 0, "w") for due, run in [(now - 91_000, "late"), (now - 59_000, "soon"), (now, "due")]
    ]
    assert overdue_runs(subjects, now) == ["late"]
    assert check_timers(["late"]).level == "error"
    assert check_timers([]).level == "ok"


# The command


def test_findings_are_printed_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    print_findings(
        [
            Finding(check="clock", level="ok", text="right"),
            Finding(check="engine", level="error", text="none", advice="start one"),
        ]
    )
    assert capsys.readouterr().out == "ok       clock: right\nerror    engine: none\n         → start one\n"


def test_nothing_that_a_worker_calls_itself_moves_the_terminals_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    print_findings([Finding(check="workers", level="warning", text="v\x1b[2J\r\nok", advice="stop \x9b1A")])
    assert capsys.readouterr().out == "warning  workers: v\\x1b[2J ok\n         → stop \\x9b1A\n"


@pytest.mark.parametrize(("level", "code"), [("ok", 0), ("warning", 0), ("unknown", 0), ("error", 1)])
def test_only_an_error_makes_the_command_fail(monkeypatch: pytest.MonkeyPatch, level: Any, code: int) -> None:
    async def findings(_: Examination) -> list[Finding]:
        return [Finding(check="clock", level=level, text="so it is")]

    monkeypatch.setattr("ironflow.client.connect", local_client)
    monkeypatch.setattr(Examination, "findings", findings)
    done = CliRunner().invoke(doctor, ["--json"])
    assert done.exit_code == code
    assert msgspec.json.decode(done.stdout) == [{"check": "clock", "level": level, "text": "so it is", "advice": ""}]


def test_a_server_that_cannot_be_reached_is_one_line_and_exit_code_3(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise EngineUnavailableError("cannot reach NATS")

    monkeypatch.setattr("ironflow.client.connect", refuse)
    done = CliRunner().invoke(doctor)
    assert (done.exit_code, done.stdout, done.stderr) == (3, "", "cannot reach NATS\n")


# Helpers


@pytest.fixture
def web() -> Iterator[Callable[[bytes], str]]:
    """Serve some bytes on a port of its own, and return the address."""
    servers: list[http.server.HTTPServer] = []

    def serve(body: bytes) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if self.path == "/varz" else 404)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@contextlib.asynccontextmanager
async def local_client(*_: object, **__: object) -> AsyncGenerator[Client]:
    broker = LocalServer().connect()
    yield Client(broker, NAMES)
    await broker.close()


def worker(**changes: Any) -> WorkerView:
    fields: dict[str, Any] = {
        "id": "w",
        "host": "h",
        "pid": 1,
        "queues": ("orders",),
        "functions": ("pay",),
        "concurrency": 1,
        "running": 0,
        "draining": False,
        "started_at": "",
        "version": "1",
    }
    return WorkerView(**{**fields, **changes})


def monitored(
    *, max_storage: int = 0, stored: int = 0, sync_interval: int = 0, sync_always: bool = False
) -> Monitoring:
    config = JetStreamConfig(max_storage, sync_interval, sync_always)
    return Monitoring(("http://h:8222",), Varz("A", "", JetStreamVarz(config, JetStreamStats(stored))))
