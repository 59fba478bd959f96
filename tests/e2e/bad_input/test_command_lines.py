"""Command lines that are refused, and the executables as they are started."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.bad_input.tables import (
    DONE,
    FAILED,
    NOBODY,
    TEXT_RULE,
    UNREACHABLE,
    USAGE,
    Bad,
    Place,
    assert_refused,
    complaint_of,
    make_shop,
    table,
)
from tests.support.commands import COMMAND, ENGINE, WORKER, Outcome

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="commands are forked, and signals are POSIX")


# Other commands


LONG = "x" * 10_000


@pytest.mark.usefixtures("nothing_stored")
class TestCommandLines:
    @table(
        Bad("nope", "No such command 'nope'. ironflow has: dev, publish, runs, functions,"),
        Bad("run list", "No such command 'run'"),
        Bad("--nope", "No such option '--nope'"),
        Bad("runs show r1", "No such command 'show'. ironflow runs has: cancel, get, list, retry, watch"),
        Bad("runs get", "Missing argument 'RUN'"),
        Bad("runs get a b", "Got unexpected extra argument (b)"),
        Bad("runs retry", "name the runs to retry, or say which failed ones with --function or --since"),
        Bad("runs retry a --since 1h", "name the runs to retry, or say which failed ones with --function or --since"),
        Bad(
            "runs list --status done",
            "'done' is not one of 'queued', 'running', 'waiting', 'compensating', 'completed'",
        ),
        Bad("runs list --limit 0", "'--limit' (env var: 'IRONFLOW_LIMIT'): 0 is not in the range x>=1"),
        Bad("runs list --limit many", "'--limit' (env var: 'IRONFLOW_LIMIT'): 'many' is not a valid integer"),
        Bad(
            "runs list --since yesterday", "must be an ISO 8601 time like '2027-01-31T09:00:00+01:00', got 'yesterday'"
        ),
        Bad("runs list --since 2026-01-01T00:00", "it has no time zone: '2026-01-01T00:00:00'; add one"),
        Bad(
            "runs list --since 2026-02-30", "must be an ISO 8601 time like '2027-01-31T09:00:00+01:00', got '2026-02-30"
        ),
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
        ([f"{Path(sys.executable).parent}/ironflow-engine", "--lease", "0"], "it must be longer than zero, got '0s'"),
        ([f"{Path(sys.executable).parent}/ironflow-worker", "gone.py"], "no such file: gone.py"),
    ],
    ids=lambda value: Path(value[0]).name if isinstance(value, list) else None,
)
def test_a_started_executable_does_the_same(words: list[str], complaint: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    outcome = Outcome(done.returncode, done.stdout, done.stderr, 0.0)
    assert_refused(outcome, Bad("", complaint, UNREACHABLE if NOBODY in words else USAGE))
