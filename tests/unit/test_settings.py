"""Where settings come from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ironflow.broker.nats.settings import DEFAULT_URL, ConnectionSettings
from ironflow.errors import DefinitionError
from ironflow.settings import (
    ProjectSettings,
    connection_settings,
    environment_app,
    environment_namespace,
    project_settings,
    resolve_app,
    resolve_connection,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder with no pyproject.toml around it."""
    return tmp_path


def _project(folder: Path, text: str) -> Path:
    file = folder / "pyproject.toml"
    file.write_text(text, encoding="utf-8")
    return file


def _context(folder: Path, name: str, **content: object) -> dict[str, str]:
    """Write a context of the nats CLI; return the environment in which it is found."""
    file = folder / "nats" / "context" / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")
    return {"XDG_CONFIG_HOME": str(folder)}


def test_without_anything_nats_is_on_this_machine(folder: Path) -> None:
    assert resolve_connection({}, folder) == ConnectionSettings(urls=(DEFAULT_URL,))


@pytest.mark.parametrize(
    ("flag", "environment", "project", "expected"),
    [
        ("nats://flag", "nats://env", "nats://project", "nats://flag"),
        (None, "nats://env", "nats://project", "nats://env"),
        (None, "", "nats://project", "nats://project"),
        (None, None, "nats://project", "nats://project"),
        (None, None, None, DEFAULT_URL),
        ("", None, None, DEFAULT_URL),
        (DEFAULT_URL, "nats://env", "nats://project", DEFAULT_URL),
        (None, DEFAULT_URL, "nats://project", DEFAULT_URL),
    ],
)
def test_a_flag_wins_over_the_environment_and_that_over_the_project(
    folder: Path, flag: str | None, environment: str | None, project: str | None, expected: str
) -> None:
    if project is not None:
        _project(folder, f'[tool.ironflow]\nnats_url = "{project}"')
    environ = {} if environment is None else {"NATS_URL": environment}
    assert resolve_connection(environ, folder, url=flag).urls == (expected,)


def test_several_servers_are_separated_by_commas(folder: Path) -> None:
    assert resolve_connection({}, folder, url="nats://a, nats://b").urls == ("nats://a", "nats://b")


def test_credentials_that_are_given_replace_every_other_way_to_sign_in(folder: Path) -> None:
    environ = {"NATS_USER": "u", "NATS_PASSWORD": "p", "NATS_CREDS": "env.creds", "NATS_CA": "ca.pem"}
    assert resolve_connection(environ, folder).user == "u"
    expected = ConnectionSettings(creds="flag.creds", tls_ca="ca.pem")
    assert resolve_connection(environ, folder, creds="flag.creds") == expected


def test_a_context_that_is_given_replaces_the_environment(folder: Path) -> None:
    environ = _context(folder, "prod", url="nats://prod", user="u", nkey="seed.nk")
    environ |= {"NATS_URL": "nats://env", "NATS_TOKEN": "t", "NATS_CONTEXT": "other"}
    expected = ConnectionSettings(urls=("nats://prod",), user="u", nkey="seed.nk")
    assert resolve_connection(environ, folder, context="prod") == expected


def test_a_context_of_the_environment_fills_in_what_other_variables_leave_open(folder: Path) -> None:
    environ = _context(folder, "prod", url="nats://prod", user="u", nkey="seed.nk")
    environ |= {"NATS_CONTEXT": "prod", "NATS_CA": "ca.pem"}
    _project(folder, '[tool.ironflow]\nnats_url = "nats://project"')
    expected = ConnectionSettings(urls=("nats://prod",), user="u", nkey="seed.nk", tls_ca="ca.pem")
    assert resolve_connection(environ, folder) == expected
    assert resolve_connection({**environ, "NATS_URL": "nats://env"}, folder).urls == ("nats://env",)
    assert resolve_connection(environ, folder, url="nats://flag").user == "u"


def test_a_context_that_is_missing_is_named(folder: Path) -> None:
    with pytest.raises(DefinitionError, match="there is no NATS context 'nope'"):
        resolve_connection({"XDG_CONFIG_HOME": str(folder)}, folder, context="nope")


def test_the_project_is_found_upward_from_the_working_directory(folder: Path) -> None:
    _project(folder, '[tool.ironflow]\napp = "shop.flows"\nnamespace = "shop"')
    below = folder / "a" / "b"
    below.mkdir(parents=True)
    assert project_settings(below) == ProjectSettings(app=("shop.flows",), namespace="shop")


def test_a_file_without_our_table_does_not_hide_one_above_it(folder: Path) -> None:
    _project(folder, '[tool.ironflow]\nnamespace = "shop"')
    below = folder / "package"
    below.mkdir()
    _project(below, '[project]\nname = "x"\n[tool.other]\na = 1')
    assert project_settings(below).namespace == "shop"


def test_the_nearest_table_counts_alone(folder: Path) -> None:
    _project(folder, '[tool.ironflow]\nnamespace = "shop"')
    below = folder / "package"
    below.mkdir()
    _project(below, '[tool.ironflow]\nnats_url = "nats://x"')
    assert project_settings(below) == ProjectSettings(nats_url="nats://x")


def test_an_app_is_a_module_or_a_file_beside_the_project(folder: Path) -> None:
    _project(folder, '[tool.ironflow]\napp = ["shop.flows", "flows.py", "src/mail"]')
    assert project_settings(folder).app == ("shop.flows", str(folder / "flows.py"), str(folder / "src/mail"))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[tool.ironflow]\nnats_url = 4222", "nats_url of [tool.ironflow] must be a text that is not empty, got 4222"),
        ('[tool.ironflow]\nnamespace = " "', "namespace of [tool.ironflow] must be a text that is not empty, got ' '"),
        ("[tool.ironflow]\napp = [1]", "each of"),
        ("[tool.ironflow]\napp = true", "app of [tool.ironflow] must be a text that is not empty, got True"),
        ("[tool.ironflow]\nnats-url = 'x'", "has no setting 'nats-url'; it has app, nats_url, namespace"),
        ("[tool]\nironflow = 3", "tool.ironflow must be a table, got 3"),
        ("[tool.ironflow", "cannot read"),
    ],
)
def test_a_wrong_project_file_says_where_and_what(folder: Path, text: str, complaint: str) -> None:
    file = _project(folder, text)
    with pytest.raises(DefinitionError) as caught:
        project_settings(folder)
    assert complaint in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("text", ["tool = 3", "", "[tool]\nx = 1"])
def test_a_project_file_that_says_nothing_of_us_is_none(folder: Path, text: str) -> None:
    _project(folder, text)
    assert project_settings(folder) == ProjectSettings()


def test_a_wrong_project_file_is_not_read_where_the_url_is_known(folder: Path) -> None:
    _project(folder, "[tool.ironflow")
    assert resolve_connection({}, folder, url="nats://x").urls == ("nats://x",)


def test_the_app_of_the_environment_wins_over_the_project(folder: Path) -> None:
    _project(folder, '[tool.ironflow]\napp = "project"')
    assert resolve_app({"IRONFLOW_APP": "a.b, c.py ,"}, folder) == ("a.b", "c.py")
    assert resolve_app({"IRONFLOW_APP": ""}, folder) == ("project",)
    assert resolve_app({}, folder / "none") == ("project",)


def test_the_process_hands_in_its_environment_and_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _project(folder, '[tool.ironflow]\napp = "project"\nnamespace = "project"\nnats_url = "nats://project"')
    monkeypatch.chdir(folder)
    for name in ("NATS_URL", "NATS_CONTEXT", "IRONFLOW_NAMESPACE", "IRONFLOW_APP"):
        monkeypatch.delenv(name, raising=False)
    assert connection_settings().urls == ("nats://project",)
    assert (environment_namespace(), environment_app()) == ("project", ("project",))
    monkeypatch.setenv("IRONFLOW_NAMESPACE", "env")
    monkeypatch.setenv("NATS_URL", "nats://env")
    assert connection_settings().urls == ("nats://env",)
    assert environment_namespace() == "env"
