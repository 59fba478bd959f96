"""Importing the files and modules that hold functions."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ironflow.errors import DefinitionError
from ironflow.function import forget_functions
from ironflow_worker.loader import load_app, load_functions

FUNCTION = """
import ironflow

@ironflow.function(id="{id}")
async def {name}(ctx): ...
"""


@pytest.fixture(autouse=True)
def clean_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Import from a folder of the test's own, and leave nothing of it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    forget_functions()
    yield
    forget_functions()
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(path: str, text: str) -> str:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return path


def test_functions_are_found_in_files_and_modules() -> None:
    write("one.py", FUNCTION.format(id="one", name="one"))
    write("shop/orders.py", FUNCTION.format(id="two", name="two"))
    write("shop/__init__.py", "")
    assert sorted(load_functions(["one.py", "shop.orders"])) == ["one", "two"]


def test_a_file_may_import_what_lies_beside_it() -> None:
    write("apps/beside.py", "ID = 'from-beside'")
    write("apps/main.py", "from beside import ID\nimport ironflow\n@ironflow.function(id=ID)\nasync def f(ctx): ...\n")
    assert list(load_functions(["apps/main.py"])) == ["from-beside"]


def test_two_files_of_the_same_name_are_kept_apart() -> None:
    write("a/app.py", FUNCTION.format(id="a", name="f"))
    write("b/app.py", FUNCTION.format(id="b", name="f"))
    assert sorted(load_functions(["a/app.py", "b/app.py"])) == ["a", "b"]


def test_a_file_that_is_loaded_again_replaces_its_functions() -> None:
    write("app.py", FUNCTION.format(id="f", name="f"))
    first = load_functions(["app.py"])["f"]
    assert load_functions(["app.py", "./app.py"])["f"] is not first


def test_two_functions_with_one_id_are_refused_with_both_places() -> None:
    write("a.py", FUNCTION.format(id="same", name="first"))
    write("b.py", FUNCTION.format(id="same", name="second"))
    with pytest.raises(DefinitionError, match=r"two functions have the id 'same': first.*a\.py.* and second.*b\.py"):
        load_functions(["a.py", "b.py"])


@pytest.mark.parametrize(
    ("app", "content", "expected"),
    [
        pytest.param("missing.py", None, r"no such file: missing\.py", id="no file"),
        pytest.param("./missing", None, r"no such file: \./missing", id="no file of that path"),
        pytest.param("missing", None, r"no module named 'missing'; .*\./missing\.py", id="no module"),
        pytest.param("missing.inner", None, r"no module named 'missing\.inner'", id="no package"),
        pytest.param("empty.py", "", r"no functions found in empty\.py", id="no functions"),
        pytest.param("bad.py", "def f(:", r"cannot import bad\.py: SyntaxError: .*bad\.py, line 1", id="syntax"),
        pytest.param(
            "bad.py", "x = 1\n1 / 0", r"ZeroDivisionError: division by zero \(.*bad\.py, line 2\)", id="error"
        ),
        pytest.param(
            "bad.py",
            "import nowhere.at_all",
            r"ModuleNotFoundError: .*nowhere.* \(.*bad\.py, line 1\)",
            id="its import",
        ),
        pytest.param("bad.py", "import sys; sys.exit(3)", r"cannot import bad\.py: .*sys\.exit\(3\)", id="exit"),
        pytest.param(
            "bad.py", FUNCTION.format(id="no good", name="f"), r"id 'no good' is not allowed", id="definition"
        ),
        pytest.param("folder/", None, r"no such file: folder", id="folder"),
        pytest.param("a..b", None, r"'a\.\.b' is neither the name of a module nor", id="no name"),
        pytest.param("", None, r"'' is neither the name of a module nor", id="nothing"),
    ],
)
def test_what_cannot_be_loaded_is_said_in_one_line(app: str, content: str | None, expected: str) -> None:
    if content is not None:
        write(app, content)
    with pytest.raises(DefinitionError, match=expected) as refused:
        load_functions([app])
    assert "\n" not in str(refused.value)


def details_of(app: str) -> list[str]:
    with pytest.raises(DefinitionError) as refused:
        load_app(app)
    notes: list[str] = getattr(refused.value, "__notes__", [])
    return [line for note in notes for line in note.splitlines()]


def test_code_that_cannot_be_read_is_shown_with_where_it_went_wrong() -> None:
    write("bad.py", "x = 1\nif x:\n    def f(:\n")
    assert details_of("bad.py") == ["    def f(:", "          ^"]


def test_the_way_to_a_file_that_cannot_be_read_is_shown() -> None:
    bad = write("inner.py", "def f(:\n")
    app = write("app.py", "x = 1\nimport inner\n")
    assert details_of("app.py") == [
        f"  {Path(app).resolve()}:2 in <module>",
        f"  {Path(bad).resolve()}:1",
        "    def f(:",
        "          ^",
    ]


def test_the_way_to_an_error_is_shown_through_the_apps_own_code_and_nobody_elses() -> None:
    inner = write("failing.py", "import json\ndef read(text):\n    return json.loads(text)\n")
    app = write("app.py", "import failing\n\nfailing.read('nope')\n")
    assert details_of("app.py") == [f"  {Path(app).resolve()}:3 in <module>", f"  {Path(inner).resolve()}:3 in read"]


def test_an_error_in_the_app_itself_needs_no_more_than_its_place() -> None:
    write("bad.py", "import json\njson.loads('nope')\n")
    assert details_of("bad.py") == []


def test_of_a_long_way_the_end_is_shown() -> None:
    write("bad.py", "def down(left):\n    return down(left - 1) if left else 1 / 0\n\ndown(100)\n")
    assert len(details_of("bad.py")) == 10


def test_a_module_that_lacks_a_module_is_not_taken_for_missing_itself() -> None:
    write("shop.py", "import missing_library")
    with pytest.raises(DefinitionError, match=r"cannot import shop: ModuleNotFoundError: .*missing_library"):
        load_app("shop")


def test_a_file_that_fails_leaves_no_half_made_module() -> None:
    before = set(sys.modules)
    write("bad.py", "1 / 0")
    with pytest.raises(DefinitionError):
        load_app("bad.py")
    assert {name for name in set(sys.modules) - before if "bad" in name} == set()
