"""Definitions that are refused, and options of an engine."""

from __future__ import annotations

import json
import shlex
import socket
import sys

import pytest

from tests.e2e.bad_input.tables import (
    DONE,
    DURATION_RULE,
    FAILED,
    ID_RULE,
    Bad,
    Place,
    assert_refused,
    complaint_of,
    define,
    make_shop,
    table,
)
from tests.support import fresh_namespace

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="commands are forked, and signals are POSIX")


QUEUE_RULE = "is not allowed; start with a letter or digit, then up to 127 letters, digits or _ -"
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
        assert any(f"({file}, line {number})" in line for number in numbers)

    def test_code_that_cannot_be_read_is_refused_with_the_line(self, place: Place) -> None:
        place.file("app.py", "import ironflow\n\n\ndef f(:\n")
        outcome = place.worker("--queue", "orders", "app.py")
        assert (outcome.code, outcome.stdout) == (2, "")
        said = "cannot import app.py: SyntaxError: invalid syntax (app.py, line 4)\n    def f(:\n          ^\n"
        assert outcome.stderr == said

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

    @pytest.mark.parametrize(
        ("annotation", "unreadable"), [("Context", None), ("Context[Ordr]", "name 'Ordr' is not defined")]
    )
    def test_annotations_that_cannot_be_read_are_described(
        self, place: Place, annotation: str, unreadable: str | None
    ) -> None:
        head = "from __future__ import annotations\nimport ironflow\nfrom ironflow import Context\n\n"
        place.file("typed.py", head + define("id='a'", f"async def a(ctx: {annotation}): ..."))
        outcome = place.worker("--describe", "typed.py")
        assert outcome.code == DONE
        assert json.loads(outcome.stdout)[0]["unreadable"] == unreadable

    @table(
        Bad(
            "--queue mail", "none of the functions is on queue 'mail'; the functions that were loaded are on: 'orders'"
        ),
        Bad(
            "--queue orders --queue mail --queue orsder",
            "none of the functions is on queue 'mail', 'orsder'; the functions that were loaded are on: 'orders'",
        ),
        Bad(
            "--queue orders --queue mail --concurrency 1 shop/mail.py",
            "2 queues need a concurrency of at least as much, got 1",
        ),
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


class TestEngineOptions:
    @pytest.mark.usefixtures("nothing_stored")
    @table(
        Bad("--lease 0", "'--lease' (env var: 'IRONFLOW_LEASE'): it must be longer than zero, got '0s'"),
        Bad("--lease 0.4", "'IRONFLOW_LEASE'): it must be at least 500ms, got '0.4'"),
        Bad("--lease soon", f"'IRONFLOW_LEASE'): it {DURATION_RULE}; got 'soon'"),
        Bad("--retention 30", "'IRONFLOW_RETENTION'): say of what unit it is, like 30d for days or 30s for seconds"),
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
