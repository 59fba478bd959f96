"""The wire contract in schemas/ says what the code does."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from click.testing import CliRunner

from ironflow import engine_api
from ironflow.cli.schemas import schemas
from ironflow.codec import encode_record
from ironflow.messages import ErrorView, EventView, Reply, RunView
from ironflow.records import (
    BeganRecord,
    CanaryRecord,
    ClosedRecord,
    DueRecord,
    DutyRecord,
    ErrorRecord,
    EventRecord,
    ExcusedRecord,
    FunctionRecord,
    InputRecord,
    OutcomeRecord,
    ParentLink,
    PurgedRuns,
    Record,
    RetryRecord,
    RunState,
    StepRecord,
    Task,
    TimerRecord,
    TryRecord,
    WaitEnd,
    WaitEntry,
    WaitPath,
    WaitRecord,
)
from ironflow.schemas import api_schema, asyncapi_document, document_text, record_schemas, schema_documents
from ironflow.schemas.channels import VERBS
from ironflow.schemas.records import file_stem, record_types

COMMITTED = Path(__file__).parents[2] / "schemas"

WRITER = "w-1"
ERROR = ErrorRecord(type="ValueError", message="no such price", step="charge", attempts=3, path="data.price")
EVENT = EventRecord(
    id="o-1", name="order.placed", time="2026-01-31T09:00:00.000Z", data=msgspec.Raw(b'{"orderId": "o-1"}')
)
WAIT = WaitRecord(
    name="approval",
    kind="wait_for_event",
    token=WRITER,
    delay_ms=1000,
    event="order.approved",
    path="orderId",
    value='"o-1"',
    on_timeout="none",
)
SAMPLES: dict[str, Record] = {
    "began": BeganRecord(token=WRITER, worker="w"),
    "excused": ExcusedRecord(token=WRITER),
    "closed": ClosedRecord(token=WRITER, wait=WAIT),
    "canary": CanaryRecord(token=WRITER),
    "duty": DutyRecord(engine="e-1", token=WRITER),
    "due": DueRecord(token=WRITER),
    "deleted runs": PurgedRuns(number=1, runs={"r": 7}, token=WRITER),
    "error": ERROR,
    "event": EVENT,
    "event with everything": EventRecord(
        id="s",
        name="ironflow.invoked",
        time="2026-01-31T09:00:00Z",
        source="shop",
        metadata={"k": "v"},
        target="f",
    ),
    "function": FunctionRecord(id="process-order", queue="orders", triggers=("order.*",), timeout_ms=1000),
    "input": InputRecord(event=EVENT, token=WRITER),
    "outcome": OutcomeRecord(number=0, status="completed", token=WRITER, output=msgspec.Raw(b"[1, null]")),
    "outcome of a failure": OutcomeRecord(number=1, status="failed", token=WRITER, error=ERROR, event=EVENT),
    "outcome of a run that unwinds": OutcomeRecord(
        number=1, status="compensating", token=WRITER, ending="cancelled", imposed=True
    ),
    "parent-link": ParentLink(run="r", queue="orders", step="pay"),
    "retry": RetryRecord(token=WRITER),
    "run-state": RunState(
        id="r",
        function="process-order",
        queue="orders",
        status="failed",
        started_at=1,
        event_id="o-1",
        event_name="order.placed",
        event_sequence=1,
        error=ERROR,
    ),
    "step": StepRecord(name="charge", kind="run", token=WRITER, output=msgspec.Raw(b'"done"')),
    "step in a branch": StepRecord(name="a", kind="run", token=WRITER, scope=("all", 0), status="failed", error=ERROR),
    "task": Task(run="r", function="process-order", number=0, started_at=1, event=EVENT),
    "timer": TimerRecord(run="r", queue="orders", step="approval", due_ms=1, wait=WAIT),
    "try": TryRecord(name="charge", kind="run", token=WRITER, attempt=1, delay_ms=1000, error=ERROR),
    "wait": WAIT,
    "wait-end": WaitEnd(step="approval", record=StepRecord(name="approval", kind="wait_for_event", token="")),
    "wait of an invoke": WaitRecord(
        name="pay", kind="invoke", token=WRITER, function="pay", data=msgspec.Raw(b'{"price": 1}')
    ),
    "wait of a sleep": WaitRecord(name="nap", kind="sleep", token=WRITER, delay_ms=1000),
    "wait-entry": WaitEntry(run="r", queue="orders", step="approval", wait=WAIT, sequence=3, time_ms=1),
    "wait-path": WaitPath(event="order.approved", path="orderId"),
}


def test_the_committed_documents_are_what_the_code_generates() -> None:
    generated = {name: document_text(document) for name, document in schema_documents().items()}
    committed = {file.name: file.read_text(encoding="utf-8") for file in COMMITTED.glob("*.json")}
    stale = sorted(name for name in generated.keys() | committed.keys() if generated.get(name) != committed.get(name))
    assert not stale, (
        f"schemas/ is out of date ({', '.join(stale)}): run 'just schemas'; delete what it no longer writes"
    )


def test_every_document_is_generated_the_same_each_time() -> None:
    first, second = schema_documents(), schema_documents()
    assert [document_text(document) for document in first.values()] == [
        document_text(document) for document in second.values()
    ]
    assert list(first) == sorted(first)


def test_every_stored_record_has_a_valid_schema() -> None:
    for schema in record_schemas().values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_every_stored_record_has_a_sample_here() -> None:
    assert {file_stem(type(sample)) for sample in SAMPLES.values()} == {file_stem(record) for record in record_types()}


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES.keys())
def test_a_record_as_it_is_written_fits_its_schema(sample: Record) -> None:
    validator_of(sample).validate(msgspec.json.decode(encode_record(sample)))


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES.keys())
def test_a_record_that_lacks_a_required_field_does_not_fit(sample: Record) -> None:
    written = msgspec.json.decode(encode_record(sample))
    required = record_schemas()[file_stem(type(sample))]["required"]
    assert required
    for field in required:
        assert not validator_of(sample).is_valid({key: value for key, value in written.items() if key != field})


def test_a_record_with_a_value_of_another_type_does_not_fit() -> None:
    validator = validator_of(EVENT)
    assert not validator.is_valid({**msgspec.json.decode(encode_record(EVENT)), "name": 1})
    assert not validator.is_valid({**msgspec.json.decode(encode_record(EVENT)), "metadata": {"k": 1}})


def test_a_field_of_a_later_version_does_no_harm() -> None:
    validator_of(EVENT).validate({**msgspec.json.decode(encode_record(EVENT)), "added_later": [1]})


@pytest.mark.parametrize("value", [None, 1, 1.5, "text", True, [1, [2]], {"a": {"b": None}}])
def test_event_data_may_be_any_json(value: object) -> None:
    record = msgspec.structs.replace(EVENT, data=msgspec.Raw(msgspec.json.encode(value)))
    validator_of(record).validate(msgspec.json.decode(encode_record(record)))


def test_what_a_docstring_says_of_an_attribute_stands_beside_that_attribute() -> None:
    task = record_schemas()["task"]
    assert task["description"] == "One pass of a run, to be executed by a worker."
    assert task["properties"]["attempt"]["description"] == "1 + how often the run was retried."


def test_an_answer_as_it_is_written_fits_the_api_schema() -> None:
    view = RunView(
        id="r",
        function="f",
        queue="q",
        status="failed",
        compensation=None,
        event=EventView(id="e", name="n"),
        attempt=1,
        output=msgspec.Raw(b"null"),
        error=ErrorView(type="T", message="m", step=None, attempts=None, path=None),
        started_at="2026-01-31T09:00:00Z",
        finished_at=None,
    )
    validator = jsonschema.Draft202012Validator({**api_schema(), "$ref": "#/$defs/RunView"})
    validator.validate(msgspec.json.decode(encode_record(view)))
    assert not validator.is_valid(msgspec.json.decode(encode_record(Reply())))


def test_every_verb_that_is_asked_is_described_with_what_it_is_asked_with_and_answered() -> None:
    asked: dict[str, tuple[str, str]] = {}
    for call in ast.walk(ast.parse(inspect.getsource(engine_api))):
        match call:
            case ast.Call(
                func=ast.Attribute(attr="_ask"), args=[ast.Constant(str(verb)), request, ast.Name(answer), *_]
            ):
                asked[verb] = (ast.unparse(request), answer)
            case ast.Call(func=ast.Attribute(attr="_ask_raw"), args=[ast.Constant(str(verb)), request]):
                asked[verb] = (ast.unparse(request), "None")
            case _:
                pass
    assert asked.keys() == VERBS.keys()
    for verb, (asked_with, answered) in asked.items():
        request_type, answer_type = VERBS[verb]
        assert asked_with == "request" or asked_with.startswith(f"{request_type.__name__}(")
        assert answered == (answer_type.__name__ if answer_type else "None")


def test_every_stored_record_travels_on_a_channel_or_inside_of_another_record() -> None:
    carried = {schema["$ref"].rpartition("/")[2] for schema in payloads(asyncapi_document())}
    inside = {name for schema in record_schemas().values() for name in schema.get("$defs", {})}
    assert {record.__name__ for record in record_types()} <= carried | inside


def test_every_reference_of_the_asyncapi_document_leads_somewhere() -> None:
    document = asyncapi_document()
    for reference in references(document):
        target: Any = document
        for part in reference.removeprefix("#/").split("/"):
            assert part in target, reference
            target = target[part]


def test_addresses_have_their_parameters_described() -> None:
    for channel in asyncapi_document()["channels"].values():
        assert set(re.findall(r"\{(\w+)\}", channel["address"] or "")) == set(channel.get("parameters", {}))


def test_export_prints_all_documents_as_one() -> None:
    done = CliRunner().invoke(schemas, ["export"])
    assert done.exit_code == 0
    assert msgspec.json.decode(done.stdout) == schema_documents()


def test_export_writes_a_file_for_each_document(tmp_path: Path) -> None:
    done = CliRunner().invoke(schemas, ["export", "--output", str(tmp_path / "new")])
    assert done.exit_code == 0
    assert done.stdout == ""
    assert {file.name: msgspec.json.decode(file.read_bytes()) for file in (tmp_path / "new").iterdir()} == (
        schema_documents()
    )


def test_export_says_in_one_line_that_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = CliRunner().invoke(schemas, ["export", "--output", str(tmp_path / "file" / "below")])
    assert done.exit_code == 1
    assert "cannot write to" in done.stderr
    assert "Traceback" not in done.stderr


def validator_of(record: Record) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(record_schemas()[file_stem(type(record))])


def payloads(document: dict[str, Any]) -> list[dict[str, Any]]:
    messages = document["components"]["messages"].values()
    return [message["payload"] for message in messages if "$ref" in message.get("payload", {})]


def references(node: object) -> set[str]:
    if isinstance(node, list):
        return {reference for item in node for reference in references(item)}
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set[str]()
        return own.union(*(references(item) for item in node.values()))
    return set()
