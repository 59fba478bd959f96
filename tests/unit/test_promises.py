"""A table of promises is found to be wrong wherever a row is not proved."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.promises import faults_of_rows, faults_of_tests, promises_of, run_tests

TESTS = """
import pytest

def test_good(): pass

def test_bad(): assert False

@pytest.mark.skip
def test_skipped(): pass

@pytest.mark.xfail
def test_expected_to_fail(): assert False

@pytest.mark.xfail
def test_expected_to_fail_that_passes(): pass

@pytest.fixture
def broken():
    yield
    assert False

def test_bad_at_its_end(broken): pass

@pytest.mark.parametrize("number", [1, 2])
def test_each(number): assert number == 1

@pytest.mark.parametrize("number", [1, 2])
def test_all(number): pass

def test_go(): pass

def test_goodness(): assert False

class TestGroup:
    def test_good(self): pass
"""
HEAD = "# Promises\n\n| number | promise | where | test |\n|---|---|---|---|\n"


def table(*rows: tuple[str, str, str, str]) -> str:
    return HEAD + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def row(*tests: str, number: int = 1, text: str = "it works", section: str = "run") -> tuple[str, str, str, str]:
    return (str(number), text, section, ", ".join(f"`{test}`" for test in tests))


def faults(*rows: tuple[str, str, str, str]) -> list[str]:
    return faults_of_rows(promises_of(table(*rows)), ["run"], not_by="test_itself.py")


@pytest.fixture(scope="module")
def came(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("made-up")
    (folder / "test_it.py").write_text(TESTS, encoding="utf-8")
    (folder / "test_broken.py").write_text("def test_good(:", encoding="utf-8")
    names = [line.split("(")[0].removeprefix("def ") for line in TESTS.splitlines() if line.startswith("def test")]
    wanted = [f"test_it.py::{name}" for name in names if name != "test_goodness"]
    others = [
        "test_it.py::TestGroup::test_good",
        "test_it.py::test_missing",
        "no.py::test_x",
        "test_broken.py::test_good",
    ]
    return run_tests([*wanted, *others], folder, root=folder)


def test_a_table_in_order_has_no_faults(came: dict[str, str]) -> None:
    rows = [row("test_it.py::test_good", "test_it.py::test_all"), row("test_it.py::TestGroup::test_good", number=2)]

    assert faults(*rows) == []
    assert faults_of_tests(promises_of(table(*rows)), came) == []


@pytest.mark.parametrize(
    ("test", "said"),
    [
        ("test_it.py::test_bad", "test_it.py::test_bad failed"),
        ("test_it.py::test_bad_at_its_end", "test_it.py::test_bad_at_its_end failed"),
        ("test_it.py::test_skipped", "test_it.py::test_skipped skipped"),
        ("test_it.py::test_expected_to_fail", "is expected to fail"),
        ("test_it.py::test_expected_to_fail_that_passes", "is expected to fail"),
        ("test_it.py::test_each", "test_it.py::test_each[2] failed"),
        ("test_it.py::test_missing", "test_it.py::test_missing did not run; is there such a test?"),
        ("test_it.py::test_all[3]", "test_it.py::test_all[3] did not run"),
        ("test_it.py::test_goo", "test_it.py::test_goo did not run"),
        ("test_it.py::test_goodness", "test_it.py::test_goodness did not run"),
        ("no.py::test_x", "no.py::test_x did not run"),
        ("test_broken.py::test_good", "test_broken.py::test_good did not run"),
    ],
)
def test_a_row_whose_test_does_not_pass_is_named(test: str, said: str, came: dict[str, str]) -> None:
    rows = promises_of(table(row("test_it.py::test_good"), row("test_it.py::test_good", test, number=2, text="x")))
    (fault,) = faults_of_tests(rows, came)

    assert fault.startswith("row 2 (x): ")
    assert said in fault


def test_what_is_not_named_does_not_run(came: dict[str, str]) -> None:
    assert "test_it.py::test_good" in came
    assert "test_it.py::test_goodness" not in came


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row()], "row 1 (it works): names no test"),
        ([("1", "it works", "run", "t.py::test_x")], "row 1 (it works): names no test"),
        ([row("t.py")], "'t.py' is no test's id"),
        ([row("test_x")], "'test_x' is no test's id"),
        ([row("test_itself.py::test_x")], "test_itself.py::test_x cannot prove itself"),
        ([row("t.py::test_x", text="")], "row 1 (): promises nothing"),
        ([row("t.py::test_x"), row("t.py::test_x", number=3)], "row 3 (it works): its number should be 2"),
        ([row("t.py::test_x"), row("t.py::test_x")], "row 1 (it works): its number should be 2"),
        ([row("t.py::test_x", number=2)], "row 2 (it works): its number should be 1"),
    ],
)
def test_a_row_that_is_wrong_in_itself_is_named(rows: list[tuple[str, str, str, str]], said: str) -> None:
    (fault,) = faults(*rows)

    assert said in fault


def test_a_section_has_to_be_known_and_to_have_a_row() -> None:
    assert faults(row("t.py::test_x", section="walk")) == [
        "row 1 (it works): no section is called 'walk'",
        "section 'run' has no row",
    ]
    assert faults() == ["section 'run' has no row"]


def test_a_row_with_too_few_cells_or_too_many_is_refused() -> None:
    for line in ("| 1 | it works | run |", "| 1 | it works | or | run | `t.py::test_x` |"):
        with pytest.raises(ValueError, match="a row has 4 cells"):
            promises_of(HEAD + line)


def test_what_is_not_there_yet_is_left_out() -> None:
    later = table(row("t.py::test_x", number=2)).removeprefix("# Promises\n")
    document = table(row("t.py::test_x")) + "\n## Not there yet: compensation\n" + later

    assert [promise.number for promise in promises_of(document)] == ["1"]


def test_nothing_runs_where_no_file_is_there(tmp_path: Path) -> None:
    assert run_tests(["no.py::test_x"], tmp_path, root=tmp_path) == {}
