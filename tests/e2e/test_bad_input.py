"""What was given, and what comes of it: an exit code, one line that says what to do, and nothing stored.

The commands run as processes against a real nats-server and a real engine; see tests/support/commands.py.
"""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import ironflow
from ironflow.broker.embedded import EmbeddedServer
from ironflow.broker.nats import ConnectionSettings, connect
from ironflow.client import Client
from ironflow.errors import (
    DefinitionError,
    EngineUnavailableError,
    IronflowError,
    LimitError,
    PayloadTooLargeError,
    PublishError,
    RunFailedError,
    RunNotFoundError,
    SerializationError,
)
from ironflow.names import Names, bucket_stream
from tests.support import eventually, fresh_namespace
from tests.support.commands import COMMAND, ENGINE, WORKER, Call, Commands, Outcome
from tests.support.processes import Cluster, Process, cluster, functions_are_known
from tests.support.servers import configured_server, info_line, stub_server

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="commands are forked, and signals are POSIX")

DONE, FAILED, USAGE, UNREACHABLE = 0, 1, 2, 3
WITHIN_SECONDS = 5.0
NOBODY = "nats://127.0.0.1:1"
MOST = 512 * 1024
USAGE_ERROR = re.compile(r"Usage: .*\nTry '.* --help' for help\.\n\nError: (.*)\n")


class Bad(NamedTuple):
    """One line of a table.

    Attributes:
        given: what was typed, as in a shell.
        complaint: what the line on stderr says, or a part of it.
        code: the exit code.

    """

    given: str
    complaint: str
    code: int = USAGE


def table(*rows: Bad) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("bad", rows, ids=ids_of(row.given for row in rows))


def ids_of(texts: Iterable[str]) -> list[str]:
    """Return what names the rows of a table: numbered, short, and of characters that a terminal shows."""
    escaped = (text.strip().encode("unicode_escape").decode("ascii") for text in texts)
    return [f"{number} {text[:60]}" for number, text in enumerate(escaped, 1)]


def complaint_of(outcome: Outcome) -> str:
    """Return the one line on stderr, without the hint at --help that click puts around it."""
    usage = USAGE_ERROR.fullmatch(outcome.stderr)
    if usage:
        return usage[1]
    lines = outcome.stderr.splitlines()
    assert len(lines) == 1, f"not one line: {outcome.stderr!r}"
    return lines[0].removeprefix("Error: ")


def assert_refused(outcome: Outcome, bad: Bad) -> None:
    """Check exit code and text, that stdout is empty, and that nothing of Python shows."""
    line = complaint_of(outcome)
    assert bad.complaint in line
    assert (outcome.code, outcome.stdout) == (bad.code, "")
    for inside in ("Traceback", "internal error", 'File "'):
        assert inside not in line


class Place(NamedTuple):
    """Where the commands run: the server's URL, the namespace in which an engine runs, and the commands."""

    url: str
    namespace: str
    commands: Commands

    def ironflow(self, *words: str, **how: Any) -> Outcome:
        return self.commands.run(COMMAND, *words, **how)

    def worker(self, *words: str, **how: Any) -> Outcome:
        return self.commands.run(WORKER, *words, **how)

    def engine(self, *words: str, **how: Any) -> Outcome:
        return self.commands.run(ENGINE, *words, **how)

    def file(self, name: str, text: str = "") -> Path:
        path = self.commands.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path


@pytest.fixture(scope="module")
def processes(nats_server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(nats_server.url, fresh_namespace(), tmp_path_factory.mktemp("processes")) as made:
        made.engine()
        asyncio.run(engine_answers(made))
        yield made


@pytest.fixture
def place(processes: Cluster, tmp_path: Path) -> Place:
    environment = {
        "HOME": str(tmp_path),
        "NATS_URL": processes.url,
        "IRONFLOW_NAMESPACE": processes.names.namespace,
    }
    return Place(processes.url, processes.names.namespace, Commands(tmp_path, environment))


async def engine_answers(processes: Cluster) -> None:
    """Wait until an engine is there, and has made what it needs."""
    async with processes.client() as client:

        async def answered() -> None:
            try:
                await client.engine.status()
            except EngineUnavailableError as error:
                raise AssertionError(str(error)) from error

        await eventually(answered, within=20.0)


class Ledger:
    """Counts what has ever been written, on a connection and a loop of its own."""

    def __init__(self, runner: asyncio.Runner, url: str, names: Names) -> None:
        self._runner = runner
        self._broker = runner.run(connect(ConnectionSettings(urls=(url,))))
        buckets = map(bucket_stream, (names.runs_bucket, names.waits_bucket, names.functions_bucket))
        self._streams = (names.events, names.tasks, names.journal, names.timers, *buckets)

    def read(self) -> dict[str, int]:
        """Return how many messages each stream has taken."""
        return self._runner.run(self._read())

    async def _read(self) -> dict[str, int]:
        states = await asyncio.gather(*map(self._broker.stream_state, self._streams))
        return {stream: state.last_sequence for stream, state in zip(self._streams, states, strict=True)}

    def close(self) -> None:
        """Close the connection."""
        self._runner.run(self._broker.close())


@pytest.fixture(scope="module")
def ledger(processes: Cluster) -> Iterator[Ledger]:
    with asyncio.Runner() as runner:
        made = Ledger(runner, processes.url, processes.names)
        yield made
        made.close()


@pytest.fixture
def nothing_stored(ledger: Ledger) -> Iterator[None]:
    """Check that a test has written nothing at all."""
    before = ledger.read()
    yield
    assert ledger.read() == before


# Definitions


def define(options: str, handler: str = "async def f(ctx): ...") -> str:
    return f"@ironflow.function({options})\n{handler}\n"


ID_RULE = "is not allowed; start with a letter or digit, then up to 127 letters, digits or _ . -"
QUEUE_RULE = "is not allowed; start with a letter or digit, then up to 127 letters, digits or _ -"
DURATION_RULE = 'must be a text like "250ms", "30s", "5m", "2h", "7d" or "1h30m"'
F = "function 'a': "

DEFINITIONS = (
    # ids and queues
    Bad(define("id='a b'"), f"function id 'a b' {ID_RULE}"),
    Bad(define("id=''"), f"function id '' {ID_RULE}"),
    Bad(define("id=None"), f"function id None {ID_RULE}"),
    Bad(define("id='x' * 129"), ID_RULE),
    Bad(define("id='ironflow.x'"), "function id 'ironflow.x' is reserved: ids that start with 'ironflow.' are"),
    Bad(define(""), "missing 1 required keyword-only argument: 'id'"),
    Bad("@ironflow.function\nasync def f(ctx): ...\n", "missing 1 required keyword-only argument: 'id'"),
    Bad(define("'a'"), "missing 1 required keyword-only argument: 'id'"),
    Bad(define("'a', id='a'"), "@ironflow.function takes keywords only, like id='a'; got 'a'"),
    Bad(define("id='a', trigger=['a']"), "unexpected keyword argument 'trigger'"),
    Bad(define("id='a', queue='a.b'"), f"function queue 'a.b' {QUEUE_RULE}"),
    Bad(define("id='a', queue=''"), f"function queue '' {QUEUE_RULE}"),
    # triggers
    Bad(define("id='a', triggers='a.b'"), F + "triggers must be a list of event names, got the text 'a.b'"),
    Bad(define("id='a', triggers=None"), F + "triggers must be a list of event names, got None"),
    Bad(define("id='a', triggers=[1]"), F + "trigger must be a non-empty text without spaces around it, got 1"),
    Bad(define("id='a', triggers=['']"), F + "trigger must be a non-empty text without spaces around it, got ''"),
    Bad(define("id='a', triggers=[' a']"), F + "trigger must be a non-empty text without spaces around it, got ' a'"),
    Bad(define("id='a', triggers=['a..b']"), F + "trigger 'a..b' has an empty part; write the parts with one dot"),
    Bad(define("id='a', triggers=['a.>.b']"), F + "trigger 'a.>.b' has \">\" before the end; it stands for all"),
    Bad(define("id='a', triggers=['x' * 300]"), F + "trigger is 300 bytes long; at most 256 are allowed"),
    Bad(
        define("id='a', triggers=['ironflow.invoked']"),
        F + "trigger 'ironflow.invoked' can match nothing: events that start with 'ironflow.' are Ironflow's own",
    ),
    # retry
    Bad(define("id='a', retry=3"), F + "retry must be ironflow.Retry(…), got 3"),
    Bad(define("id='a', retry={'max_attempts': 3}"), F + "retry must be ironflow.Retry(…), got {'max_attempts': 3}"),
    Bad(define("id='a', retry=Retry(max_attempts=0)"), "max_attempts must be a whole number from 1 to 100, got 0"),
    Bad(define("id='a', retry=Retry(max_attempts='3')"), "max_attempts must be a whole number from 1 to 100, got '3'"),
    Bad(define("id='a', retry=Retry(backoff=0.5)"), "backoff must be a number from 1 to 100, got 0.5"),
    Bad(define("id='a', retry=Retry(jitter=2)"), "jitter must be a number from 0 to 1, got 2"),
    Bad(define("id='a', retry=Retry(initial_delay='-1s')"), f"initial_delay {DURATION_RULE}; got '-1s'"),
    Bad(define("id='a', retry=Retry(max_delay='400d')"), "max_delay must be at most 366 days, got '400d'"),
    Bad(
        define("id='a', retry=Retry(initial_delay='1m', max_delay='1s')"),
        "max_delay ('1s') must not be shorter than initial_delay ('1m')",
    ),
    Bad(define("id='a', retry=Retry(attempts=3)"), "unexpected keyword argument 'attempts'"),
    # timeout
    Bad(define("id='a', timeout=0"), F + "timeout must be longer than zero, got 0"),
    Bad(define("id='a', timeout=-5"), F + "timeout must be longer than zero, got -5"),
    Bad(define("id='a', timeout='-1h'"), F + f"timeout {DURATION_RULE}; got '-1h'"),
    Bad(define("id='a', timeout='soon'"), F + f"timeout {DURATION_RULE}; got 'soon'"),
    Bad(define("id='a', timeout=True"), F + f"timeout {DURATION_RULE}, a number of seconds, or a timedelta; got True"),
    Bad(define("id='a', timeout='367d'"), F + "timeout must be at most 366 days, got '367d'"),
    Bad(define("id='a', timeout=float('inf')"), F + "timeout must be at most 366 days, got inf"),
    # handlers
    Bad(define("id='a'", "def f(ctx): ..."), F + "f must be declared with 'async def'"),
    Bad(define("id='a'", "class f: ..."), F + "f must be declared with 'async def'"),
    Bad("ironflow.function(id='a')(lambda ctx: 1)\n", F + "<lambda> must be declared with 'async def'"),
    Bad(define("id='a'", "async def f(ctx): yield 1"), F + "f yields; a handler returns its result"),
    Bad(define("id='a'", "async def f(): ..."), F + "f must take one argument, the context: async def f(ctx)"),
    Bad(define("id='a'", "async def f(ctx, x): ..."), F + "f must take one argument, the context: async def f(ctx)"),
    Bad(define("id='a'", "async def f(*, ctx): ..."), F + "f must take one argument, the context: async def f(ctx)"),
    # two functions with one id
    Bad(define("id='a'") + define("id='a'", "async def g(ctx): ..."), "two functions have the id 'a': f ("),
    Bad(define("id='a'") + define("id='a'"), "two functions have the id 'a': f ("),
    Bad(
        "for queue in ('x', 'y'):\n    @ironflow.function(id='a', queue=queue)\n    async def f(ctx): ...\n",
        "two functions have the id 'a': f (",
    ),
    # files that cannot be imported
    Bad("def f(:\n", "cannot import app.py: SyntaxError: invalid syntax (app.py, line 4)"),
    Bad("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
    Bad("from ironflow import Nope\n", "ImportError: cannot import name 'Nope' from 'ironflow'"),
    Bad("raise RuntimeError('line one\\nline two')\n", "cannot import app.py: RuntimeError: line one line two ("),
    Bad("raise RuntimeError\n", "cannot import app.py: RuntimeError ("),
    Bad("import json\njson.loads('nope')\n", "cannot import app.py: JSONDecodeError: Expecting value"),
    Bad("import sys\nsys.exit()\n", "cannot import app.py: it ends the process with sys.exit() ("),
    Bad("import sys\nsys.exit(3)\n", "cannot import app.py: it ends the process with sys.exit(3) ("),
)


@pytest.mark.usefixtures("nothing_stored")
class TestDefinitions:
    @table(*DEFINITIONS)
    def test_a_wrong_definition_is_refused_at_import_with_its_place(self, place: Place, bad: Bad) -> None:
        file = place.file("app.py", f"import ironflow\nfrom ironflow import Context, Retry\n\n{bad.given}")
        outcome = place.worker("--queue", "orders", "app.py")
        assert_refused(outcome, bad)
        line = complaint_of(outcome)
        numbers = range(4, 4 + bad.given.count("\n"))
        assert any(f"({file}, line {number})" in line for number in numbers) or "SyntaxError" in line

    @table(
        Bad("", "no APP: name a module or file that holds functions, like 'ironflow-worker --queue orders orders.py'"),
        Bad("missing.py", "no such file: missing.py"),
        Bad("nowhere/app.py", "no such file: nowhere/app.py"),
        Bad("missing", "no module named 'missing'; give a module name or a file (./missing.py)"),
        Bad("shop.missing", "no module named 'shop.missing'; give a module name or a file (./shop/missing.py)"),
        Bad("shop/orders", "no such file: shop/orders; did you mean shop/orders.py?"),
        Bad("shop/", "'shop/' is a folder; name the file in it that holds functions"),
        Bad(".", "'.' is a folder; name the file in it that holds functions"),
        Bad(".orders", "'.orders' is neither the name of a module nor a .py file"),
        Bad("shop..orders", "'shop..orders' is neither the name of a module nor a .py file"),
        Bad("shop.orders:cash", "'shop.orders:cash' is neither the name of a module nor a .py file; leave out ':cash'"),
        Bad("data.json", "'data.json' is neither the name of a module nor a .py file"),
        Bad("''", "'' is neither the name of a module nor a .py file"),
        Bad("shop", "no functions found in shop; define some with @ironflow.function(id=…)"),
        Bad("os", "no functions found in os; define some with @ironflow.function(id=…)"),
        Bad("shop/orders.py other.py", "two functions have the id 'cash': cash ("),
    )
    def test_an_app_that_holds_no_functions_is_refused(self, place: Place, bad: Bad) -> None:
        make_shop(place)
        assert_refused(place.worker("--queue", "orders", *shlex.split(bad.given)), bad)

    @pytest.mark.parametrize("given", ["shop/orders.py shop.orders", "shop.orders shop/orders.py shop/orders.py"])
    def test_the_same_file_by_its_path_and_as_a_module_is_no_duplicate(self, place: Place, given: str) -> None:
        make_shop(place)
        outcome = place.worker("--describe", *given.split())
        assert (outcome.code, outcome.stderr) == (DONE, "")
        assert [function["id"] for function in json.loads(outcome.stdout)] == ["cash"]

    @table(
        Bad(
            "--queue mail", "none of the functions is on queue 'mail'; the functions that were loaded are on: 'orders'"
        ),
        Bad("--queue orders --queue mail --concurrency 1", "2 queues need a concurrency of at least as much, got 1"),
        Bad("", "no queue: say which with --queue"),
        Bad("--queue a.b", f"function queue 'a.b' {QUEUE_RULE}"),
        Bad("--queue ''", f"function queue '' {QUEUE_RULE}"),
        Bad("--queue '*'", f"function queue '*' {QUEUE_RULE}"),
        Bad(
            "--queue orders --concurrency 0", "'--concurrency' (env var: 'IRONFLOW_CONCURRENCY'): 0 is not in the range"
        ),
        Bad("--queue orders --threads x", "'--threads' (env var: 'IRONFLOW_THREADS'): 'x' is not a valid integer"),
        Bad("--queue orders --drain-timeout soon", f"'IRONFLOW_DRAIN_TIMEOUT'): it {DURATION_RULE}; got 'soon'"),
        Bad("--queue orders --metrics-port 70000", "70000 is not in the range 0<=x<=65535"),
        Bad("--queue orders --log-level loud", "'loud' is not one of 'debug', 'info', 'warning', 'error'"),
        Bad("--queue orders --quick", "No such option '--quick'"),
    )
    def test_a_worker_that_could_not_work_does_not_start(self, place: Place, bad: Bad) -> None:
        make_shop(place)
        assert_refused(place.worker("shop/orders.py", *shlex.split(bad.given)), bad)

    def test_a_metrics_port_that_is_taken_is_said_to_be(self, place: Place) -> None:
        make_shop(place)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            outcome = place.worker("--queue", "orders", "shop/orders.py", "--metrics-port", str(port))
        assert_refused(outcome, Bad("", f"cannot serve metrics on port {port}: Address already in use", FAILED))


def make_shop(place: Place) -> None:
    """Write a package with one function, and a file that holds another one with its id."""
    cash = "import ironflow\n\n" + define("id='cash', queue='orders'", "async def cash(ctx): ...")
    for name, text in {"shop/__init__.py": "", "shop/orders.py": cash, "other.py": cash, "data.json": "{}"}.items():
        place.file(name, text)


class TestEngineOptions:
    @pytest.mark.usefixtures("nothing_stored")
    @table(
        Bad("--lease 0", "'--lease' (env var: 'IRONFLOW_LEASE'): 0.0 is not in the range x>=0.5"),
        Bad("--replicas 9", "'--replicas' (env var: 'IRONFLOW_REPLICAS'): 9 is not in the range 1<=x<=5"),
        Bad("--read-model .", "'--read-model' (env var: 'IRONFLOW_READ_MODEL'): File '.' is a directory"),
        Bad("--read-model data.json/lists", "cannot keep lists in data.json/lists: "),
        Bad("extra", "Got unexpected extra argument (extra)"),
    )
    def test_what_an_engine_cannot_use_is_refused(self, place: Place, bad: Bad) -> None:
        place.file("data.json", "{}")
        assert_refused(place.engine(*shlex.split(bad.given)), bad)

    def test_replicas_that_a_single_server_cannot_keep_are_refused(self, place: Place) -> None:
        outcome = place.engine("--replicas", "3", "--namespace", fresh_namespace())
        assert_refused(outcome, Bad("", "replicas > 1 not supported in non-clustered mode", FAILED))

    @pytest.mark.usefixtures("nothing_stored")
    def test_a_file_that_is_something_else_is_not_taken_for_lists(self, place: Place) -> None:
        file = place.file("precious.json", '{"keep": "me"}')
        outcome = place.engine("--read-model", "precious.json")
        assert_refused(outcome, Bad("", "precious.json holds something else than lists of runs; name another file"))
        assert file.read_text(encoding="utf-8") == '{"keep": "me"}'


# Names, payloads, ids


TEXT_RULE = "must be a non-empty text without spaces around it, got"
EVENT_ID_RULE = "an event id must be a non-empty printable text without spaces around it, got"


@pytest.mark.usefixtures("nothing_stored")
class TestPublish:
    @table(
        # names
        Bad("", "Missing argument 'EVENT'"),
        Bad("''", f"event name {TEXT_RULE} ''"),
        Bad("' '", f"event name {TEXT_RULE} ' '"),
        Bad("' order'", f"event name {TEXT_RULE} ' order'"),
        Bad("'order.*'", 'event name \'order.*\' has a wildcard; "*" and ">" are allowed in triggers only'),
        Bad("'>'", "event name '>' has a wildcard"),
        Bad("order..placed", "event name 'order..placed' has an empty part; write the parts with one dot between them"),
        Bad("ironflow.invoked", "event name 'ironflow.invoked' is reserved: names that start with 'ironflow.' are"),
        Bad("x" * 257, "event name is 257 bytes long; at most 256 are allowed: 'xxxx"),
        Bad("ü" * 129, "event name is 258 bytes long; at most 256 are allowed: 'üüü"),
        Bad("order placed", "Got unexpected extra argument (placed)"),
        # data
        Bad("a --data", "Option '--data' requires an argument"),
        Bad("a --data ''", "it is not JSON: line 1, column 1: it ends too early"),
        Bad("""a --data '{"a":'""", 'it is not JSON: line 1, column 6: it ends too early: {"a":⟨here⟩'),
        Bad("""a --data '{"a": nope}'""", 'it is not JSON: line 1, column 7: invalid character: {"a": ⟨here⟩nope}'),
        Bad("""a --data "{'a': 1}\"""", "it is not JSON: line 1, column 2: object keys must be strings: {⟨here⟩'a'"),
        Bad("a --data '[1,]'", "it is not JSON: line 1, column 4: trailing comma in array: [1,⟨here⟩]"),
        Bad("a --data '1 2'", "it is not JSON: line 1, column 3: trailing characters: 1 ⟨here⟩2"),
        Bad("a --data hello", "it is not JSON: line 1, column 1: invalid character: ⟨here⟩hello"),
        Bad("a --data NaN", "it is not JSON: line 1, column 1: invalid character: ⟨here⟩NaN"),
        Bad(
            """a --data '{"a": [Infinity]}'""", 'it is not JSON: line 1, column 8: invalid character: {"a": [⟨here⟩Inf'
        ),
        Bad("a --data @", "name a file behind the '@', like @order.json"),
        Bad("a --data @missing.json", "cannot read 'missing.json': No such file or directory"),
        Bad("a --data @.", "cannot read '.': Is a directory"),
        Bad("a --data @bad.json", 'bad.json is not JSON: line 2, column 8: invalid character: "b": ⟨here⟩nope}'),
        Bad("a --data @over.json", "over.json is 524,289 bytes as JSON; at most 524,288 are allowed. Keep large data"),
        Bad("a --data -", "stdin is not JSON: line 1, column 1: it ends too early"),
        # ids, source, metadata
        Bad("a --id ''", f"{EVENT_ID_RULE} ''"),
        Bad("a --id ' '", f"{EVENT_ID_RULE} ' '"),
        Bad("a --id 'a\nb'", f"{EVENT_ID_RULE} 'a\\nb'"),
        Bad(f"a --id {'x' * 257}", "an event id may have at most 256 bytes, got 257"),
        Bad("a --id ironflow:start:f:1", "'ironflow:start:f:1' is reserved: ids that start with 'ironflow:' are"),
        Bad("a --metadata novalue", "write KEY=VALUE, got 'novalue'"),
        Bad("a --metadata =value", "write KEY=VALUE, got '=value'"),
        Bad(f"a --metadata k={'x' * 9_000}", "metadata is 9,001 bytes; at most 8,192 are allowed"),
        Bad(f"a --source {'x' * 300}", "source is 300 bytes; at most 256 are allowed"),
        # waiting
        Bad("a --wait --timeout soon", f"'--timeout' (env var: 'IRONFLOW_TIMEOUT'): it {DURATION_RULE}; got 'soon'"),
        Bad("a --wait --timeout 0", "it must be longer than zero, got '0s'"),
        Bad("a --wait --timeout -5s", f"it {DURATION_RULE}; got '-5s'"),
        Bad("a --wait --timeout 400d", "it must be at most 366 days, got '400d'"),
        Bad("a --wait --timeout ''", f"it {DURATION_RULE}; got ''"),
        Bad("a --dta 1", "No such option '--dta'. (Did you mean one of: '--data'"),
    )
    def test_what_cannot_be_an_event_is_refused(self, place: Place, bad: Bad) -> None:
        place.file("bad.json", '{"a": 1,\n  "b": nope}')
        place.file("over.json", json.dumps("x" * (MOST - 1)))
        assert_refused(place.ironflow("publish", *shlex.split(bad.given)), bad)

    def test_bytes_on_stdin_that_are_no_text_are_refused(self, place: Place) -> None:
        outcome = place.ironflow("publish", "a", "--data", "-", stdin=b"\xff\xfe")
        assert_refused(outcome, Bad("", "stdin is not JSON: line 1, column 1: invalid character: ⟨here⟩"))

    @table(*(Bad(given, "") for given in ("''", "a --id ''", "a --data nope", "a --data @over.json")))
    def test_a_usage_error_needs_no_server(self, place: Place, bad: Bad) -> None:
        place.file("over.json", json.dumps("x" * (MOST - 1)))
        assert_refused(place.ironflow("publish", *shlex.split(bad.given), NATS_URL=NOBODY), bad)


class TestWhatIsStored:
    @pytest.mark.parametrize("given", ["order placed", "bestellung.größe", "-x", "x" * 256, "a>b*c", "ironflow"])
    def test_other_names_are_published_and_nothing_is_triggered_by_them(self, place: Place, given: str) -> None:
        outcome = place.ironflow("publish", "--", given)
        assert outcome.code == DONE
        assert complaint_of(outcome) == (
            f"nothing is triggered by it: no registered function has a trigger that matches {given!r}"
        )
        assert [event["id"] for event in events(place, given)] == [outcome.stdout.strip()]

    def test_waiting_for_an_event_that_triggers_nothing_ends_at_once(self, place: Place) -> None:
        outcome = place.ironflow("publish", "lonely", "--wait", "--json", "--id", "lonely-1")
        assert complaint_of(outcome).startswith("nothing is triggered by it: ")
        assert outcome.code == DONE
        assert json.loads(outcome.stdout) == {"event": {"id": "lonely-1", "name": "lonely"}, "runs": []}
        assert outcome.seconds < WITHIN_SECONDS

    @pytest.mark.parametrize("source", ["@full.json", "-"])
    def test_data_of_exactly_the_limit_is_stored(self, place: Place, source: str) -> None:
        full = json.dumps("x" * (MOST - 2))
        place.file("full.json", full)
        outcome = place.ironflow("publish", "large", "--data", source, stdin=full.encode())
        assert outcome.code == DONE
        assert events(place, "large")[0]["data"] == json.loads(full)

    def test_data_that_does_not_fit_the_function_fails_its_run_with_the_place(
        self, place: Place, processes: Cluster
    ) -> None:
        worker = processes.worker(str(Path(__file__).parent / "bad_apps" / "typed.py"))
        asyncio.run(known(processes, "typed"))
        outcome = place.ironflow("publish", "order.placed", "--data", '{"price": "dear"}', "--wait", "--json")
        worker.kill()
        assert (outcome.code, outcome.stderr) == (FAILED, "")
        (run,) = json.loads(outcome.stdout)["runs"]
        assert (run["status"], run["output"]) == ("failed", None)
        assert run["error"] | {"attempts": 0} == {
            "type": "SerializationError",
            "message": "data.price: Expected `float`, got `str`",
            "step": None,
            "attempts": 0,
            "path": "data.price",
        }


async def known(processes: Cluster, function: str) -> None:
    async with processes.client() as client:
        await functions_are_known(client, function)


def events(place: Place, name: str) -> list[Any]:
    """Return the stored events of a name."""
    listed: list[Any] = json.loads(place.ironflow("events", "list", "--json").stdout)
    return [event for event in listed if event["name"] == name]


# Other commands


LONG = "x" * 10_000


@pytest.mark.usefixtures("nothing_stored")
class TestCommandLines:
    @table(
        Bad("nope", "No such command 'nope'"),
        Bad("run list", "No such command 'run'"),
        Bad("--nope", "No such option '--nope'"),
        Bad("runs nope", "No such command 'nope'"),
        Bad("runs get", "Missing argument 'RUN'"),
        Bad("runs get a b", "Got unexpected extra argument (b)"),
        Bad("runs retry", "Missing argument 'RUN'"),
        Bad("runs retry a b", "Got unexpected extra argument (b)"),
        Bad(
            "runs list --status done",
            "'done' is not one of 'queued', 'running', 'waiting', 'compensating', 'completed'",
        ),
        Bad("runs list --limit 0", "'--limit' (env var: 'IRONFLOW_LIMIT'): 0 is not in the range x>=1"),
        Bad("runs list --limit many", "'--limit' (env var: 'IRONFLOW_LIMIT'): 'many' is not a valid integer"),
        Bad(
            "runs list --since yesterday", "must be an ISO 8601 time like '2027-01-31T09:00:00+01:00', got 'yesterday'"
        ),
        Bad("runs list --since 2026-01-01", "it has no time zone: '2026-01-01T00:00:00'; add one"),
        Bad("runs list --since -1h", "got '-1h'; or say how long ago, like '1h'"),
        Bad("runs list --since 9999d", "it must be at most 366 days, got '9999d'"),
        Bad("functions delete", "Missing argument 'ID'"),
        Bad("events list --name a..b", "pattern 'a..b' has an empty part"),
        Bad("events list --name ''", f"pattern {TEXT_RULE} ''"),
        Bad("events list --name 'a.>.b'", "pattern 'a.>.b' has \">\" before the end"),
        Bad("schemas export --output data.json", "Directory 'data.json' is a file"),
        Bad("schemas export --output data.json/x", "cannot write to data.json/x: Not a directory", FAILED),
        Bad("completion tcsh", "'tcsh' is not one of 'bash', 'zsh', 'fish'"),
    )
    def test_what_is_mistyped_is_a_usage_error(self, place: Place, bad: Bad) -> None:
        place.file("data.json", "{}")
        assert_refused(place.ironflow(*shlex.split(bad.given)), bad)

    @table(
        *(
            Bad(f"{command} {shlex.quote(given)}", complaint, FAILED)
            for command in ("runs get", "runs get --json", "runs watch", "runs retry", "runs retry --json")
            for given, complaint in (
                ("ABC", "no run ABC"),
                ("a b", "no run a b"),
                ("a.b.*", "no run a.b.*"),
                (">", "no run >"),
                ("../../etc", "no run ../../etc"),
                ("größe", "no run größe"),
                ("", "no run ''"),
                (" ABC", "no run ' ABC'"),
                ("a\nb", "no run 'a\\nb'"),
                (LONG, f"no run '{'x' * 60}'… (10,000 characters)"),
            )
        ),
        *(
            Bad(f"functions delete {shlex.quote(given)}", complaint, FAILED)
            for given, complaint in (
                ("nope", "no function nope"),
                ("*", "no function *"),
                ("", "no function ''"),
                ("a\nb", "no function 'a\\nb'"),
                (LONG, f"no function '{'x' * 60}'… (10,000 characters)"),
            )
        ),
    )
    def test_what_does_not_exist_is_named(self, place: Place, bad: Bad) -> None:
        outcome = place.ironflow(*shlex.split(bad.given))
        assert_refused(outcome, bad)
        assert complaint_of(outcome) == bad.complaint

    def test_deleting_an_unknown_function_is_told_as_json_too(self, place: Place) -> None:
        outcome = place.ironflow("functions", "delete", "nope", "--json")
        assert (outcome.code, outcome.stderr) == (FAILED, "no function nope\n")
        assert json.loads(outcome.stdout) == {"id": "nope", "deleted": False}

    def test_a_function_that_nobody_knows_has_no_runs(self, place: Place) -> None:
        outcome = place.ironflow("runs", "list", "--function", "no such", "--json")
        assert (outcome.code, outcome.stdout, outcome.stderr) == (DONE, "[]\n", "")


@table(
    Bad("", "no APP: name a module or file that holds functions, like 'ironflow dev orders.py'"),
    Bad("missing.py", "no such file: missing.py"),
    Bad("script.py", "cannot import script.py: it ends the process with sys.exit() ("),
    Bad("shop/orders.py --port 0", "'--port' (env var: 'IRONFLOW_DEV_PORT'): 0 is not in the range 1<=x<=65535"),
    Bad("shop/orders.py --data data.json", "Directory 'data.json' is a file"),
    Bad("shop/orders.py --namespace Prod", "namespace 'Prod' is not allowed"),
)
def test_what_cannot_be_developed_leaves_no_data_behind(place: Place, bad: Bad) -> None:
    make_shop(place)
    place.file("script.py", "import sys\nsys.exit()\n")
    assert_refused(place.ironflow("dev", *shlex.split(bad.given)), bad)
    assert not (place.commands.folder / ".ironflow").exists()


# Settings


NAMESPACE_RULE = "is not allowed; use a lower-case letter followed by up to 31 lower-case letters, digits, '_' or '-'"
URL_RULE = "is not a NATS URL; write it like nats://127.0.0.1:4222"


class Setting(NamedTuple):
    """One line of the table of settings: arguments, environment variables, or [tool.ironflow]."""

    words: str = ""
    environment: dict[str, str] = {}  # noqa: RUF012 - nobody changes it
    project: str = ""
    complaint: str = ""
    code: int = USAGE

    @property
    def given(self) -> str:
        return " ".join([*(f"{key}={value}" for key, value in self.environment.items()), self.words, self.project])


SETTINGS = (
    Setting("--namespace Prod", complaint=f"namespace 'Prod' {NAMESPACE_RULE}"),
    Setting("--namespace a.b", complaint=f"namespace 'a.b' {NAMESPACE_RULE}"),
    Setting(f"--namespace {'x' * 33}", complaint=NAMESPACE_RULE),
    Setting("--namespace ''", complaint="'--namespace': it is empty; leave the option out for the default"),
    Setting(environment={"IRONFLOW_NAMESPACE": "Prod"}, complaint=f"namespace 'Prod' {NAMESPACE_RULE}"),
    Setting("--nats-url ''", complaint="'--nats-url': it is empty; leave the option out for the default"),
    *(
        Setting(f"--nats-url {shlex.quote(url)}", complaint=f"{url!r} {URL_RULE}")
        for url in (
            "http://127.0.0.1:8222",
            "nats:/127.0.0.1",
            "nats://",
            "nats://:4222",
            "nats://127.0.0.1:99999",
            "nats://127.0.0.1:port",
            "nats://[::1",
            "nats://my host:4222",
        )
    ),
    Setting("--nats-url nats://me:sesame@127.0.0.1:no", complaint=f"'nats://127.0.0.1:no' {URL_RULE}"),
    Setting("--nats-url nats://a,http://b", complaint=f"'http://b' {URL_RULE}"),
    Setting(environment={"NATS_URL": "http://x"}, complaint=f"'http://x' {URL_RULE}"),
    Setting(
        "--nats-url nowhere.invalid", complaint="cannot reach NATS at nowhere.invalid: unknown host", code=UNREACHABLE
    ),
    Setting("--creds missing.creds", complaint="cannot read the credentials file missing.creds: No such file"),
    Setting("--creds .", complaint="cannot read the credentials file .: Is a directory"),
    Setting("--creds data.json/x", complaint="cannot read the credentials file data.json/x: Not a directory"),
    Setting("--creds data.json", complaint="data.json is not a credentials file with a user JWT and an nkey seed"),
    Setting("--creds ''", complaint="'--creds': it is empty; leave the option out for the default"),
    Setting(environment={"NATS_CREDS": "missing.creds"}, complaint="cannot read the credentials file missing.creds: "),
    Setting(
        environment={"NATS_NKEY": "missing.nk"}, complaint="cannot read the nkey seed file missing.nk: No such file"
    ),
    Setting(environment={"NATS_NKEY": "data.json"}, complaint="data.json is not a file with the seed of a user's nkey"),
    Setting(environment={"NATS_CA": "missing.pem"}, complaint="cannot read the CA file missing.pem: No such file"),
    Setting(environment={"NATS_CA": "data.json"}, complaint="the TLS certificate or key cannot be used: "),
    Setting("--context nowhere", complaint="there is no NATS context 'nowhere' (looked for "),
    Setting("--context ''", complaint="'--context': it is empty; leave the option out for the default"),
    Setting(environment={"NATS_CONTEXT": "nowhere"}, complaint="there is no NATS context 'nowhere' (looked for "),
    Setting("--context broken", complaint="cannot read the NATS context "),
    Setting("--context web", complaint=f"'http://x' {URL_RULE}"),
    Setting(
        project='namespce = "x"', complaint="[tool.ironflow] has no setting 'namespce'; it has app, nats_url, name"
    ),
    Setting(project="namespace = 5", complaint="namespace of [tool.ironflow] must be a text that is not empty, got 5"),
    Setting(project='namespace = "Prod"', complaint=f"namespace 'Prod' {NAMESPACE_RULE}"),
    Setting(project='nats_url = "http://x"', complaint=f"'http://x' {URL_RULE}"),
    Setting(project="app = ", complaint="pyproject.toml: Invalid value (at line 2, column"),
)
EACH_EXECUTABLE = (
    Call(COMMAND, ("functions", "list")),
    Call(ENGINE, ()),
    Call(WORKER, ("--queue", "orders", "shop/orders.py")),
)


@pytest.mark.usefixtures("nothing_stored")
class TestSettings:
    @pytest.mark.parametrize("setting", SETTINGS, ids=ids_of(setting.given for setting in SETTINGS))
    def test_a_setting_that_cannot_be_used_is_said_to_be_one(self, place: Place, setting: Setting) -> None:
        make_shop(place)
        place.file(".config/nats/context/broken.json", "{")
        place.file(".config/nats/context/web.json", '{"url": "http://x"}')
        place.file("pyproject.toml", f"[tool.ironflow]\n{setting.project}\n")
        # The project's settings count where the environment says nothing.
        unset = {"NATS_URL": "", "IRONFLOW_NAMESPACE": ""} if setting.project else {}
        called = [call._replace(words=(*call.words, *shlex.split(setting.words))) for call in EACH_EXECUTABLE]
        for outcome in place.commands.run_all(called, {**unset, **setting.environment}):
            assert_refused(outcome, Bad(setting.given, setting.complaint, setting.code))

    def test_an_app_of_the_project_that_does_not_exist_is_named(self, place: Place) -> None:
        place.file("pyproject.toml", '[tool.ironflow]\napp = "gone.py"\n')
        assert_refused(place.worker("--queue", "orders"), Bad("", f"no such file: {place.commands.folder / 'gone.py'}"))
        outcome = place.worker("--queue", "orders", IRONFLOW_APP="gone")
        assert_refused(outcome, Bad("", "no module named 'gone'; give a module name or a file (./gone.py)"))


# Servers


CONNECTING = (
    *("publish a", "runs list", "runs get ABC", "runs watch", "runs watch ABC", "runs retry ABC", "functions list"),
    *("functions delete ABC", "workers list", "queues list", "events list", "doctor"),
)
ASKING = tuple(words for words in CONNECTING if words not in ("publish a", "doctor"))


def calls(*lines: str) -> list[Call]:
    return [Call(COMMAND, tuple(line.split())) for line in lines]


async def assert_unreachable(place: Place, called: Sequence[Call], complaint: str, **environment: str) -> None:
    """Run commands at the same time, each of which shall say so within five seconds."""
    make_shop(place)
    outcomes = await asyncio.to_thread(place.commands.run_all, called, environment)
    for call, outcome in zip(called, outcomes, strict=True):
        assert_refused(outcome, Bad(str(call), complaint, UNREACHABLE))
        assert outcome.seconds < WITHIN_SECONDS, call


@pytest.fixture
def http_url() -> Iterator[str]:
    """A web server where a NATS server is looked for."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"nats://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class TestServers:
    async def test_nobody_listens(self, place: Place) -> None:
        called = [*calls(*CONNECTING), *EACH_EXECUTABLE]
        complaint = (
            f"cannot reach NATS at {NOBODY}: connection refused. Is the server running? (`ironflow dev` starts one"
        )
        await assert_unreachable(place, called, complaint, NATS_URL=NOBODY)

    async def test_an_old_server(self, place: Place) -> None:
        async with stub_server(info_line("2.10.29"), answers_ping=True) as url:
            complaint = f"cannot use NATS at {url}: the server is nats-server 2.10.29, and 2.14.3 or newer is needed"
            await assert_unreachable(place, EACH_EXECUTABLE, complaint, NATS_URL=url)

    async def test_a_server_without_jetstream(self, place: Place, tmp_path: Path) -> None:
        with configured_server(tmp_path) as url:
            complaint = f"cannot use NATS at {url}: it runs without JetStream. Start nats-server with -js"
            await assert_unreachable(place, EACH_EXECUTABLE, complaint, NATS_URL=url)

    async def test_a_web_server(self, place: Place, http_url: str) -> None:
        complaint = f"cannot reach NATS at {http_url}: no answer within 3.5 s. Is the server running?"
        await assert_unreachable(place, EACH_EXECUTABLE, complaint, NATS_URL=http_url)

    async def test_a_server_that_speaks_something_else(self, place: Place) -> None:
        async with stub_server(b"220 mail.example.org ESMTP\r\n") as url:
            complaint = f"cannot use NATS at {url}: what answers there is no NATS server"
            await assert_unreachable(place, EACH_EXECUTABLE, complaint, NATS_URL=url)

    async def test_a_server_that_falls_silent(self, place: Place) -> None:
        async with stub_server(info_line("2.15.1")) as url:
            complaint = f"cannot reach NATS at {url}: it named its version and then said nothing within 3.5 s"
            await assert_unreachable(place, EACH_EXECUTABLE, complaint, NATS_URL=url)

    async def test_wrong_credentials(self, place: Place, tmp_path: Path) -> None:
        users = [{"user": "ada", "password": "right"}]
        with configured_server(tmp_path, jetstream={"store_dir": str(tmp_path)}, authorization={"users": users}) as url:
            complaint = (
                f"NATS at {url} refused to sign in: Authorization Violation. Check user, password, token or cred"
            )
            for wrong in ({"NATS_USER": "ada", "NATS_PASSWORD": "wrong"}, {"NATS_TOKEN": "wrong"}, {}):
                await assert_unreachable(place, EACH_EXECUTABLE, complaint, NATS_URL=url, **wrong)

    async def test_no_engine_in_the_namespace(self, place: Place) -> None:
        namespace = fresh_namespace()
        complaint = f"no engine answers in namespace {namespace!r}; start one with 'ironflow-engine' or 'ironflow dev'"
        await assert_unreachable(place, calls(*ASKING), complaint, IRONFLOW_NAMESPACE=namespace)

    async def test_publishing_where_no_engine_has_ever_been(self, place: Place) -> None:
        namespace = fresh_namespace()
        complaint = f"event 'a' is not stored: namespace {namespace!r} has no streams yet; an engine makes them"
        await assert_unreachable(
            place, calls("publish a", "publish a --wait --json"), complaint, IRONFLOW_NAMESPACE=namespace
        )

    def test_doctor_says_that_no_engine_answers(self, place: Place) -> None:
        outcome = place.ironflow("doctor", "--json", "--namespace", fresh_namespace())
        assert (outcome.code, outcome.stderr) == (FAILED, "")
        assert any("no engine answers" in finding["text"] for finding in json.loads(outcome.stdout))
        assert outcome.seconds < WITHIN_SECONDS


@pytest.fixture
async def left_alone(nats_server: EmbeddedServer, namespace: str, tmp_path: Path) -> AsyncGenerator[Process]:
    """An engine in a namespace of its own, ready and without any work."""
    with cluster(nats_server.url, namespace, tmp_path) as made:
        engine = made.engine()
        await engine_answers(made)
        yield engine


class TestEnginesThatAreAway:
    async def test_events_are_stored_while_no_engine_runs(
        self, place: Place, left_alone: Process, namespace: str
    ) -> None:
        left_alone.terminate()
        outcome = await asyncio.to_thread(place.ironflow, "publish", "a", "--id", "a-1", IRONFLOW_NAMESPACE=namespace)
        assert (outcome.code, outcome.stdout, outcome.stderr) == (DONE, "a-1\n", "")
        waiting = await asyncio.to_thread(
            place.ironflow, "publish", "a", "--wait", "--json", IRONFLOW_NAMESPACE=namespace
        )
        assert complaint_of(waiting).startswith(f"no engine answers in namespace {namespace!r}")
        assert waiting.code == UNREACHABLE
        assert waiting.seconds < WITHIN_SECONDS
        assert json.loads(waiting.stdout)["runs"] == []
        async with ironflow.connect(place.url, namespace=namespace) as client:
            assert (await client.broker.stream_state(client.names.events)).messages == 2

    async def test_an_engine_that_hangs_is_not_waited_for(
        self, place: Place, left_alone: Process, namespace: str
    ) -> None:
        os.kill(left_alone.pid, signal.SIGSTOP)
        complaint = f"no engine answers in namespace {namespace!r}"
        await assert_unreachable(place, calls("runs list", "runs get ABC"), complaint, IRONFLOW_NAMESPACE=namespace)


# The client library


class Wrong(NamedTuple):
    """One line of a table: a call, and the error that it raises."""

    call: Callable[[Any], Any]
    error: type[BaseException]
    complaint: str


class Refused:
    """What JSON cannot carry."""

    def __repr__(self) -> str:
        return "Refused()"


NESTED: list[Any] = []
NESTED.append(NESTED)
NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001 - that it has no time zone is the point

CALLS = (
    Wrong(lambda c: c.publish(""), DefinitionError, f"event name {TEXT_RULE} ''"),
    Wrong(lambda c: c.publish(None), DefinitionError, f"event name {TEXT_RULE} None"),
    Wrong(lambda c: c.publish("order.*"), DefinitionError, "event name 'order.*' has a wildcard"),
    Wrong(lambda c: c.publish("ironflow.x"), DefinitionError, "event name 'ironflow.x' is reserved"),
    Wrong(lambda c: c.publish("\ud800"), DefinitionError, "is not valid text: surrogates not allowed"),
    Wrong(lambda c: c.publish("x" * 257), LimitError, "event name is 257 bytes long; at most 256 are allowed"),
    Wrong(
        lambda c: c.publish("a", Refused()),
        SerializationError,
        "data: Objects of type Refused cannot be written as JSON",
    ),
    Wrong(
        lambda c: c.publish("a", {"b": [1, Refused()]}), SerializationError, "data.b[1]: Objects of type Refused cannot"
    ),
    Wrong(lambda c: c.publish("a", float("nan")), SerializationError, "data: nan is not a JSON number"),
    Wrong(lambda c: c.publish("a", [{"b": float("inf")}]), SerializationError, "data[0].b: inf is not a JSON number"),
    Wrong(lambda c: c.publish("a", {(1, 2): 3}), SerializationError, "data: "),
    Wrong(lambda c: c.publish("a", NESTED), SerializationError, "data is nested too deep, or contains itself"),
    Wrong(
        lambda c: c.publish("a", "x" * (MOST - 1)),
        PayloadTooLargeError,
        "data of event 'a' is 524,289 bytes as JSON; at most 524,288 are allowed",
    ),
    Wrong(lambda c: c.publish("a", id=""), DefinitionError, f"{EVENT_ID_RULE} ''"),
    Wrong(lambda c: c.publish("a", id=5), DefinitionError, f"{EVENT_ID_RULE} 5"),
    Wrong(lambda c: c.publish("a", id="a\nb"), DefinitionError, f"{EVENT_ID_RULE} 'a\\nb'"),
    Wrong(lambda c: c.publish("a", id="ironflow:1"), DefinitionError, "event id 'ironflow:1' is reserved"),
    Wrong(lambda c: c.publish("a", id="x" * 257), LimitError, "an event id may have at most 256 bytes, got 257"),
    Wrong(lambda c: c.publish("a", source=5), DefinitionError, "source must be a text, got 5"),
    Wrong(lambda c: c.publish("a", source="x" * 300), LimitError, "source is 300 bytes; at most 256 are allowed"),
    Wrong(lambda c: c.publish("a", metadata="k=v"), DefinitionError, "metadata must map texts to texts, got 'k=v'"),
    Wrong(lambda c: c.publish("a", metadata={"k": 1}), DefinitionError, "metadata 'k' must be a text, got 1"),
    Wrong(lambda c: c.publish("a", metadata={"k": "x" * 9_000}), LimitError, "metadata is 9,001 bytes; at most 8,192"),
    Wrong(lambda c: c.start(""), DefinitionError, f"function id '' {ID_RULE}"),
    Wrong(lambda c: c.start("a b"), DefinitionError, f"function id 'a b' {ID_RULE}"),
    Wrong(lambda c: c.start("x" * 5_000), DefinitionError, ID_RULE),
    Wrong(lambda c: c.start("ironflow.x"), DefinitionError, "function id 'ironflow.x' is reserved"),
    Wrong(lambda c: c.start(5), DefinitionError, "start takes an ironflow function or its id, got 5"),
    Wrong(lambda c: c.start(print), DefinitionError, "start takes an ironflow function or its id, got <built-in"),
    Wrong(lambda c: c.start("f", float("nan")), SerializationError, "data: nan is not a JSON number"),
    Wrong(lambda c: c.start("f", "x" * MOST), PayloadTooLargeError, "is 524,290 bytes as JSON; at most 524,288 are"),
    Wrong(lambda c: c.start("f", id=""), DefinitionError, f"{EVENT_ID_RULE} ''"),
    Wrong(lambda c: c.start("f", id="x" * 257), LimitError, "an event id may have at most 256 bytes, got 257"),
    Wrong(lambda c: c.run("ABC").state(), RunNotFoundError, "no run ABC"),
    Wrong(lambda c: c.run("ABC").steps(), RunNotFoundError, "no run ABC"),
    Wrong(lambda c: c.run("ABC").result(), RunNotFoundError, "no run ABC"),
    Wrong(lambda c: c.run("a.b.*").result(), RunNotFoundError, "no run a.b.*"),
    Wrong(lambda c: c.run("").state(), RunNotFoundError, "no run ''"),
    Wrong(lambda c: c.run("x" * 10_000).wait(), RunNotFoundError, f"no run '{'x' * 60}'… (10,000 characters)"),
    Wrong(lambda c: c.run(5), DefinitionError, "a run id must be a text, got 5"),
    Wrong(lambda c: c.run(None), DefinitionError, "a run id must be a text, got None"),
    Wrong(lambda c: c.run("\ud800"), DefinitionError, "a run id is not valid text"),
    Wrong(lambda c: c.run("ABC").result("soon"), DefinitionError, f"timeout {DURATION_RULE}; got 'soon'"),
    Wrong(lambda c: c.run("ABC").result(0), DefinitionError, "timeout must be longer than zero, got 0"),
    Wrong(lambda c: c.run("ABC").result("400d"), LimitError, "timeout must be at most 366 days, got '400d'"),
    Wrong(
        lambda c: c.runs(status="done"), DefinitionError, "status must be one of 'queued', 'running', 'waiting', 'comp"
    ),
    Wrong(lambda c: c.runs(function=5), DefinitionError, "function must be a text, got 5"),
    Wrong(lambda c: c.runs(since="yesterday"), DefinitionError, "since must be an ISO 8601 time like"),
    Wrong(
        lambda c: c.runs(since="2026-01-01"), DefinitionError, "since has no time zone: '2026-01-01T00:00:00'; add one"
    ),
    Wrong(lambda c: c.runs(since=NAIVE), DefinitionError, "since has no time zone"),
    Wrong(lambda c: c.runs(limit=-1), DefinitionError, "limit must be a whole number that is not negative, got -1"),
    Wrong(
        lambda c: c.runs(limit="many"), DefinitionError, "limit must be a whole number that is not negative, got 'many'"
    ),
    Wrong(lambda c: c.runs(limit=1.5), DefinitionError, "limit must be a whole number that is not negative, got 1.5"),
    Wrong(lambda c: c.events(name="a..b"), DefinitionError, "pattern 'a..b' has an empty part"),
    Wrong(lambda c: c.events(name=5), DefinitionError, f"pattern {TEXT_RULE} 5"),
    Wrong(lambda c: c.events(limit=-1), DefinitionError, "limit must be a whole number that is not negative, got -1"),
)


CONNECTIONS = (
    Wrong(lambda connect: connect(NOBODY), EngineUnavailableError, f"cannot reach NATS at {NOBODY}: connection"),
    Wrong(lambda connect: connect("http://x"), DefinitionError, f"'http://x' {URL_RULE}"),
    Wrong(lambda connect: connect(5), DefinitionError, "url must be a text, got 5"),
    Wrong(lambda connect: connect(["nats://a"]), DefinitionError, "url must be a text, got ['nats://a']"),
    Wrong(lambda connect: connect(namespace="Prod"), DefinitionError, f"namespace 'Prod' {NAMESPACE_RULE}"),
    Wrong(lambda connect: connect(namespace=5), DefinitionError, "namespace must be a text, got 5"),
    Wrong(
        lambda connect: connect(creds="gone"),
        DefinitionError,
        "cannot read the credentials file gone: No such file",
    ),
    Wrong(lambda connect: connect(creds=5), DefinitionError, "creds must be a text, got 5"),
    Wrong(lambda connect: connect(context="gone"), DefinitionError, "there is no NATS context 'gone'"),
    Wrong(lambda connect: connect(context=5), DefinitionError, "context must be a text, got 5"),
)


async def attempt(call: Callable[[Any], Any], subject: object) -> None:
    """Make a call, and await, exhaust or enter what it returns."""
    made = call(subject)
    if hasattr(made, "__aiter__"):
        async for _ in made:
            pass
    elif hasattr(made, "__aenter__"):
        async with made:
            pass
    else:
        await made


READING: list[Callable[[Any], Any]] = [lambda c: c.runs(), lambda c: c.run("ABC").state(), lambda c: c.events()]


async def errors_of(calls: Iterable[Callable[[Any], Any]], client: Client) -> list[BaseException | None]:
    """Make calls at the same time, and return what they raise."""
    return await asyncio.gather(*(attempt(call, client) for call in calls), return_exceptions=True)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask an engine once, and not for as long as it may take to come back."""
    monkeypatch.setattr("ironflow.engine_api._PATIENT_SHARE", 0.0)


class TestClient:
    @pytest.mark.usefixtures("nothing_stored")
    @pytest.mark.parametrize("wrong", CALLS, ids=ids_of(wrong.complaint for wrong in CALLS))
    async def test_a_wrong_call_raises_its_error(self, place: Place, wrong: Wrong) -> None:
        async with ironflow.connect(place.url, namespace=place.namespace) as client:
            with pytest.raises(IronflowError) as caught:
                await attempt(wrong.call, client)
        assert type(caught.value) is wrong.error
        assert wrong.complaint in str(caught.value)
        assert "\n" not in str(caught.value)
        assert isinstance(caught.value, ValueError) == issubclass(wrong.error, (DefinitionError, LimitError))

    async def test_starting_a_function_that_nobody_has_fails_the_run(self, place: Place) -> None:
        async with ironflow.connect(place.url, namespace=place.namespace) as client:
            run = await client.start("nobody-has-it")
            with pytest.raises(RunFailedError, match=r"FunctionNotFound: no function 'nobody-has-it' is registered"):
                await run.result("10s")

    async def test_a_result_that_does_not_come_in_time_is_a_time_out(
        self, nats_server: EmbeddedServer, left_alone: Process, namespace: str
    ) -> None:
        left_alone.terminate()
        async with ironflow.connect(nats_server.url, namespace=namespace) as client:
            run = await client.start("f")
            with pytest.raises(TimeoutError, match=f"run {run.id} has not ended within 50ms; it goes on"):
                await run.result("50ms")

    @pytest.mark.usefixtures("impatient")
    async def test_without_an_engine_reading_fails_and_publishing_where_there_are_no_streams(
        self, nats_server: EmbeddedServer, namespace: str
    ) -> None:
        broker = await connect(ConnectionSettings(urls=(nats_server.url,)), patience_seconds=0.2)
        client = Client(broker, Names(namespace))
        unavailable, unstored = await asyncio.gather(
            errors_of(READING, client), errors_of([lambda c: c.publish("a"), lambda c: c.start("f")], client)
        )
        await broker.close()
        assert [type(error) for error in unavailable] == [EngineUnavailableError] * len(READING)
        assert all(f"no engine answers in namespace '{namespace}'" in str(error) for error in unavailable)
        assert [type(error) for error in unstored] == [PublishError] * 2
        assert all("is not stored: no stream takes the subject" in str(error) for error in unstored)

    @pytest.mark.usefixtures("impatient")
    async def test_a_client_that_was_closed_says_so(self, place: Place) -> None:
        async with ironflow.connect(place.url, namespace=place.namespace) as client:
            pass
        with pytest.raises(PublishError, match="event 'a' is not stored: the connection to NATS was closed"):
            await client.publish("a")
        errors = await errors_of(READING, client)
        assert [type(error) for error in errors] == [EngineUnavailableError] * len(READING)
        assert all("the connection to NATS was closed" in str(error) for error in errors)

    @pytest.mark.parametrize("wrong", CONNECTIONS, ids=ids_of(wrong.complaint for wrong in CONNECTIONS))
    async def test_a_connection_that_cannot_be_made_raises_its_error(self, wrong: Wrong) -> None:
        with pytest.raises(IronflowError) as caught:
            await attempt(wrong.call, ironflow.connect)
        assert type(caught.value) is wrong.error
        assert wrong.complaint in str(caught.value)


# The executables as they are started


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (
            [sys.executable, "-m", COMMAND, "publish", "a", "--data", "nope"],
            "is not JSON: line 1, column 1: invalid character: ⟨here⟩nope",
        ),
        ([sys.executable, "-m", ENGINE, "--nats-url", NOBODY], f"cannot reach NATS at {NOBODY}: connection refused"),
        ([sys.executable, "-m", WORKER, "--queue", "orders", "gone.py"], "no such file: gone.py"),
        ([f"{Path(sys.executable).parent}/ironflow", "runs", "list", "--limit", "0"], "0 is not in the range x>=1"),
        ([f"{Path(sys.executable).parent}/ironflow-engine", "--lease", "0"], "0.0 is not in the range x>=0.5"),
        ([f"{Path(sys.executable).parent}/ironflow-worker", "gone.py"], "no such file: gone.py"),
    ],
    ids=lambda value: Path(value[0]).name if isinstance(value, list) else None,
)
def test_a_started_executable_does_the_same(words: list[str], complaint: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    outcome = Outcome(done.returncode, done.stdout, done.stderr, 0.0)
    assert_refused(outcome, Bad("", complaint, UNREACHABLE if NOBODY in words else USAGE))
