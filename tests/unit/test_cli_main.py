"""The ``ironflow`` command as a whole."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from ironflow.cli.main import COMMANDS, cli
from ironflow.version import __version__
from tests.unit.fake_engine import Shell


def _commands(group: click.Group) -> list[tuple[str, click.Command]]:
    ctx = click.Context(group)
    found: list[tuple[str, click.Command]] = []
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        assert command is not None
        found.append((name, command))
        if isinstance(command, click.Group):
            found += [(f"{name} {inner}", each) for inner, each in _commands(command)]
    return found


COMMAND_LINES = [(name.split(), command) for name, command in _commands(cli)]


@pytest.mark.parametrize(("words", "command"), COMMAND_LINES, ids=[" ".join(words) for words, _ in COMMAND_LINES])
def test_every_command_explains_itself(shell: Shell, words: list[str], command: click.Command) -> None:
    result = shell(*words, "--help")
    assert (result.exit_code, result.stderr) == (0, "")
    assert command.help


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_each_command_says(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.name == name
    assert command.get_short_help_str(limit=200) == COMMANDS[name].summary


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_lists_all_commands(shell: Shell, word: str) -> None:
    printed = shell(word).stdout
    assert all(f"  {name} " in printed for name in COMMANDS)


def test_help_needs_neither_nats_nor_a_logging_library_nor_the_processes() -> None:
    script = (
        "import sys\n"
        "from ironflow.cli.main import cli\n"
        "try: cli(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'nats', 'structlog', 'tabulate', 'uvloop', 'ironflow_engine', 'ironflow_worker'}\n"
        "print(sorted(heavy & sys.modules.keys()), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


def test_version_is_printed(shell: Shell) -> None:
    assert shell("--version").stdout == f"ironflow, version {__version__}\n"


@pytest.mark.parametrize("words", [["nope"], ["--nope"], ["publish", "a", "--nope"]])
def test_what_does_not_exist_is_a_usage_error(shell: Shell, words: list[str]) -> None:
    result = shell(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "No such" in result.stderr


GROUPS = [([], cli), *((words, command) for words, command in COMMAND_LINES if isinstance(command, click.Group))]


@pytest.mark.parametrize(("words", "group"), GROUPS, ids=[" ".join(words) or "ironflow" for words, _ in GROUPS])
def test_a_group_names_its_commands_where_one_is_asked_for_that_it_has_not(
    shell: Shell, words: list[str], group: click.Group
) -> None:
    known = ", ".join(group.list_commands(click.Context(group)))
    path = " ".join(["ironflow", *words])
    assert shell(*words, "nope").stderr.endswith(f"No such command 'nope'. {path} has: {known}\n")
    assert shell(*words, "--", "--nope").stderr.endswith(f"{path} COMMAND --nope'\n")


@pytest.mark.parametrize(
    ("words", "option", "path"),
    [
        (["--json", "runs", "list"], "--json", "ironflow"),
        (["--nats-url", "nats://a", "runs", "list"], "--nats-url", "ironflow"),
        (["runs", "--json", "list"], "--json", "ironflow runs"),
    ],
)
def test_an_option_in_front_of_its_command_is_refused_with_where_it_goes(
    shell: Shell, words: list[str], option: str, path: str
) -> None:
    result = shell(*words)
    assert result.exit_code == 2
    assert result.stderr.endswith(
        f"No such option '{option}' of {path} itself. The options of a command go behind its name: "
        f"'{path} COMMAND {option}'\n"
    )


@pytest.mark.parametrize("name", ["engine", "worker"])
def test_a_process_that_is_taken_for_a_command_is_named(shell: Shell, name: str) -> None:
    result = shell(name, "--queue", "orders")
    assert result.exit_code == 2
    assert result.stderr.endswith(
        f"No such command '{name}'; it is a program of its own, ironflow-{name}: see 'ironflow-{name} --help'\n"
    )


def test_a_command_that_cannot_be_imported_is_one_line(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "dev", COMMANDS["dev"]._replace(place="ironflow.cli.missing:dev"))
    result = shell("dev")
    assert result.exit_code == 1
    assert result.stderr.startswith("internal error: ModuleNotFoundError: ")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_the_shell(shell: Shell, name: str) -> None:
    result = shell("completion", name)
    assert result.exit_code == 0
    assert "_IRONFLOW_COMPLETE=" in result.stdout


def test_words_are_completed(shell: Shell) -> None:
    env = {"_IRONFLOW_COMPLETE": "bash_complete", "COMP_WORDS": "ironflow runs ", "COMP_CWORD": "2"}
    assert shell(env=env).stdout.split() == ["plain,cancel", "plain,get", "plain,list", "plain,retry", "plain,watch"]


def test_completion_knows_three_shells(shell: Shell) -> None:
    assert shell("completion", "cmd").exit_code == 2
