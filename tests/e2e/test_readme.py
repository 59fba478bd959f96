"""The README says what is so: its commands, its first workflow, its links."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from ironflow.broker.local.virtual_time import run_virtual
from ironflow.function import Function, forget_functions
from ironflow_worker.loader import load_functions
from tests.support.inprocess import running_system
from tests.support.markdown import fences, links

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"


@pytest.fixture
def greet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Function[Any, Any]]:
    """The first workflow, loaded from a file as a worker does it."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    forget_functions()
    file = tmp_path / "hello.py"
    file.write_text(fences(README, "python")[0], encoding="utf-8")
    with structlog.testing.capture_logs():
        yield load_functions([str(file)])["greet"]
    forget_functions()


def test_the_first_two_commands_run_the_demo_and_the_tests() -> None:
    assert fences(README, "sh")[:2] == ["python3 bootstrap.py demo\n", "python3 bootstrap.py test\n"]


def test_the_first_workflow_does_what_is_shown(greet: Function[Any, Any], capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = [line for line in fences(README, "sh") if line.startswith("ironflow publish")]
    _, _, event, _, data, _ = shlex.split(command)
    (shown,) = fences(README, "text")

    async def run() -> object:
        async with running_system(greet) as system:
            published = await system.client.publish_record(event, json.loads(data))
            (started,), _ = await system.client.runs_of(published)
            return await system.client.run(started).result(timeout="1m")

    assert f"greet       completed  {json.dumps(run_virtual(run()))}\n" in shown
    assert capsys.readouterr().out == "Welcome, Ada!\nThree tips for you, Ada.\n"


def test_what_is_installed_is_what_the_project_is_called() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")

    assert 'name = "ironflow-nats"' in project
    assert "dev-server = [" in project
    assert 'pip install "ironflow-nats[dev-server]"\n' in fences(README, "sh")


@pytest.mark.parametrize("document", [README, *sorted((ROOT / "docs").rglob("*.md"))], ids=str)
def test_links_lead_somewhere(document: Path) -> None:
    for target, anchor in links(document):
        file = (document.parent / target).resolve() if target else document
        assert file.is_file(), f"{document.name} links to {target}"
        assert not anchor or anchor in headings(file), f"{document.name} links to {target}#{anchor}"


def headings(document: Path) -> set[str]:
    found = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in found}
