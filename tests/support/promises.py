"""Reads a table of promises, and says which of them are not proved by a test that passes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.support import outcomes

ROOT = Path(__file__).resolve().parents[2]
NOT_YET = "\n## Not there yet"
"""Begins the part of a document whose rows nothing is asked of."""

_CELLS = 4
_TEST = re.compile(r"`([^`]+)`")
_NODE = re.compile(r"\S+\.py::\S.*")


class Promise(NamedTuple):
    """One row: a number, what is promised, the section that promises it, and the node ids of its tests."""

    number: str
    text: str
    section: str
    tests: tuple[str, ...]

    def __str__(self) -> str:
        return f"row {self.number} ({self.text})"


def promises_of(document: str) -> list[Promise]:
    """Return the rows of all tables above the part of what is not there yet.

    Raises:
        ValueError: a row has more or fewer than four cells.

    """
    found: list[Promise] = []
    for line in document.partition(NOT_YET)[0].splitlines():
        if not line.startswith("|"):
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) != _CELLS:
            msg = f"a row has {_CELLS} cells, got {len(cells)}: {line}"
            raise ValueError(msg)
        if cells[0] != "number" and cells[0].strip("-: "):
            found.append(Promise(cells[0], cells[1], cells[2], tuple(_TEST.findall(cells[3]))))
    return found


def faults_of_rows(promises: Sequence[Promise], sections: Collection[str], *, not_by: str) -> list[str]:
    """Say what is wrong with the rows themselves.

    Args:
        promises: the rows.
        sections: all that promise something; each needs a row.
        not_by: the file whose tests prove no row, since they run those that do.

    """
    found = [
        f"{promise}: its number should be {number}"
        for number, promise in enumerate(promises, 1)
        if promise.number != str(number)
    ]
    for promise in promises:
        if not promise.text:
            found.append(f"{promise}: promises nothing")
        if promise.section not in sections:
            found.append(f"{promise}: no section is called {promise.section!r}")
        if not promise.tests:
            found.append(f"{promise}: names no test")
        found += [f"{promise}: {test!r} is no test's id" for test in promise.tests if not _NODE.fullmatch(test)]
        found += [f"{promise}: {test} cannot prove itself" for test in promise.tests if test.startswith(not_by)]
    told = {promise.section for promise in promises}
    return found + [f"section {section!r} has no row" for section in sections if section not in told]


def faults_of_tests(promises: Iterable[Promise], came: Mapping[str, str]) -> list[str]:
    """Say which promises have a test that did not run, or did not pass in each of its variants.

    Args:
        promises: the rows.
        came: what came of each test that ran, by its node id.

    """
    found: list[str] = []
    for promise in promises:
        for test in promise.tests:
            variants = {node: outcome for node, outcome in came.items() if outcomes.is_variant(node, test)}
            if not variants:
                found.append(f"{promise}: {test} did not run; is there such a test?")
            found += [f"{promise}: {node} {came}" for node, came in variants.items() if came != outcomes.PASSED]
    return found


def run_tests(tests: Iterable[str], folder: Path, *, root: Path = ROOT) -> dict[str, str]:
    """Run some tests in a process of their own, and return what came of each that ran, by its node id.

    Args:
        tests: node ids; those of a parametrized test need not name the parameters.
        folder: for files that are needed meanwhile.
        root: where the node ids begin.

    """
    wanted, came = folder / "wanted.json", folder / "came.json"
    names = sorted(set(tests))
    wanted.write_text(json.dumps(names), encoding="utf-8")
    files = sorted({name.partition("::")[0] for name in names})
    options = "-q -p no:cacheprovider -p no:xdist -p tests.support.outcomes --continue-on-collection-errors"
    there = [file for file in files if (root / file).is_file()]
    if not there:
        return {}
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment |= {
        outcomes.WANTED: str(wanted),
        outcomes.CAME: str(came),
        "PYTHONPATH": os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-m", "pytest", *options.split(), "--rootdir", str(root), *there]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)  # noqa: T201 - pytest shows it where the test fails
    return dict(json.loads(came.read_text(encoding="utf-8")))
