"""Names, payloads and ids that are refused, and what is stored of those that are not."""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.bad_input.tables import (
    DONE,
    DURATION_RULE,
    EVENT_ID_RULE,
    FAILED,
    MOST,
    NOBODY,
    TEXT_RULE,
    WITHIN_SECONDS,
    Bad,
    Place,
    assert_refused,
    complaint_of,
    table,
)
from tests.support.processes import Cluster, functions_are_known

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="commands are forked, and signals are POSIX")


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
        Bad("order placed", "Got unexpected extra argument (placed); an event's data goes behind --data"),
        Bad("order.placed 1 2", "Got unexpected extra arguments (1 2); an event's data goes behind --data"),
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
            f"no run is started by it: no registered function has a trigger that matches {given!r}; "
            "runs that wait for it go on"
        )
        assert [event["id"] for event in events(place, given)] == [outcome.stdout.strip()]

    def test_waiting_for_an_event_that_triggers_nothing_ends_at_once(self, place: Place) -> None:
        outcome = place.ironflow("publish", "lonely", "--wait", "--json", "--id", "lonely-1")
        assert complaint_of(outcome).startswith("no run is started by it: ")
        assert outcome.code == DONE
        assert json.loads(outcome.stdout) == {
            "event": {"id": "lonely-1", "name": "lonely"},
            "existed": False,
            "runs": [],
        }
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
