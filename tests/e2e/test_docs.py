"""Every example in the documentation does what its comment says.

The comment stands right above the code, names the event to publish, and says what comes of it:

    <!-- example: order.placed {"orderId": "o-1"} -> {"output": "as JSON"} -->
    <!-- example: order.placed {"orderId": ""} -> fails: the error's whole text -->


What is checked is the run of the first function in the code; the others run too, and must complete.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import structlog

from ironflow.broker.local import LocalServer
from ironflow.broker.local.virtual_time import run_virtual
from ironflow.clock import now_ms
from ironflow.function import Function, forget_functions
from ironflow.messages import RunView
from ironflow_worker.loader import load_functions
from tests.support.inprocess import running_system
from tests.support.markdown import fences

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FAILS = "fails: "
DAY = 86_400.0

_EXAMPLE = re.compile(
    r"^<!-- example: (\S+) ([^\n]+) -> ([^\n]+) -->\n```python\n(.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


class Example(NamedTuple):
    document: Path
    number: int
    event: str
    data: str
    expected: str
    code: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}-{self.number}"


def examples_in(document: Path) -> list[Example]:
    found = _EXAMPLE.findall(document.read_text(encoding="utf-8"))
    return [Example(document, number, *parts) for number, parts in enumerate(found, 1)]


EXAMPLES = [example for document in DOCUMENTS for example in examples_in(document)]


@pytest.fixture(autouse=True)
def apart(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", [*sys.path])
    forget_functions()
    with structlog.testing.capture_logs():
        yield
    forget_functions()


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_an_example_does_what_it_says(example: Example, tmp_path: Path) -> None:
    check(example, tmp_path)


def check(example: Example, tmp_path: Path) -> None:
    file = tmp_path / "example.py"
    file.write_text(example.code, encoding="utf-8")
    first = run_virtual(run(example, [*load_functions([str(file)]).values()]))

    if example.expected.startswith(FAILS):
        assert first.error is not None
        assert first.error.message == example.expected.removeprefix(FAILS)
    else:
        assert first.error is None
        assert json.loads(bytes(first.output)) == json.loads(example.expected)


async def run(example: Example, functions: Sequence[Function[Any, Any]]) -> RunView:
    """Publish the example's event; return the run of its first function once all runs have ended."""
    # Examples read this machine's clock, so the server's starts with it.
    async with running_system(*functions, server=LocalServer(epoch_ms=now_ms()), sweep_seconds=DAY) as system:
        published = await system.client.publish_record(example.event, json.loads(example.data))
        (first,), _ = await system.client.runs_of(published)
        view = await system.end_of(system.client.run(first))
        others = [handle async for handle in system.client.runs() if handle.id != first]
        assert [(await other.wait("1m")).status for other in others] == ["completed"] * (len(functions) - 1)
    assert view.function == functions[0].id
    return view


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_no_workflow_in_the_documentation_goes_unchecked(document: Path) -> None:
    workflows = [code for code in fences(document, "python") if "@ironflow.function" in code]
    checked = [example.code for example in examples_in(document)]

    assert document.name == "README.md" or workflows == checked


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_python_in_the_documentation_is_python(document: Path) -> None:
    for code in fences(document, "python"):
        compile(code, document.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
