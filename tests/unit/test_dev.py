"""What ``ironflow dev`` decides before anything runs, and what it says."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from ironflow.cli.apps import AppError, DescribedFunction, describe, folders_of
from ironflow.cli.dev import dev
from ironflow.cli.dev_banner import banner, example_event, function_lines, hint_variables
from ironflow.cli.dev_session import changed_files, child_environment, free_or_any, make_data_folder, worker_names
from ironflow.names import Names

PAY = DescribedFunction("pay", "orders", ("order.placed", "order.changed"))
MAIL = DescribedFunction("send-mail", "default")
URL = "nats://127.0.0.1:4222"


@pytest.mark.parametrize(
    ("triggers", "event"),
    [
        (("order.placed",), "order.placed"),
        (("order.*", "user.created"), "user.created"),
        (("order.*.>",), "order.example.example"),
        ((), None),
    ],
)
def test_the_example_is_an_event_that_starts_something(triggers: tuple[str, ...], event: str | None) -> None:
    assert example_event([MAIL, DescribedFunction("f", "q", triggers)]) == event


def test_functions_are_listed_with_their_queues_and_triggers() -> None:
    assert function_lines([PAY, MAIL]) == [
        "pay        queue orders   ← order.placed, order.changed",
        "send-mail  queue default  ← only started or invoked",
    ]


def test_the_banner_says_where_nats_is_and_what_to_try() -> None:
    assert banner("nats://127.0.0.1:5000", Path("data"), [PAY, MAIL], {"NATS_URL": "nats://127.0.0.1:5000"}) == (
        "Ironflow runs; Ctrl-C ends it.\n"
        "NATS       nats://127.0.0.1:5000\n"
        "data       data\n"
        "functions  pay        queue orders   ← order.placed, order.changed\n"
        "           send-mail  queue default  ← only started or invoked\n"
        "try        NATS_URL=nats://127.0.0.1:5000 ironflow publish order.placed --data '{…}' --wait\n"
        "attention  without NATS_URL, commands in other terminals reach another NATS server than this one"
    )


def test_without_a_trigger_there_is_nothing_to_try() -> None:
    assert "try" not in banner(URL, Path("data"), [MAIL], {})


def test_a_command_needs_no_variables_to_reach_nats_where_it_looks_anyway(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NATS_URL", raising=False)
    monkeypatch.delenv("IRONFLOW_NAMESPACE", raising=False)
    assert hint_variables(URL, Names()) == {}
    assert hint_variables("nats://127.0.0.1:5000", Names()) == {"NATS_URL": "nats://127.0.0.1:5000"}
    assert hint_variables(URL, Names("mine")) == {"IRONFLOW_NAMESPACE": "mine"}
    monkeypatch.setenv("NATS_URL", "nats://production:4222")
    assert hint_variables(URL, Names()) == {"NATS_URL": URL}


def test_children_see_no_other_nats_server() -> None:
    environment = child_environment({"NATS_URL": "nats://production", "NATS_CREDS": "c", "HOME": "/home/me"})
    assert environment["HOME"] == "/home/me"
    assert not [name for name in environment if name.startswith("NATS_")]


def test_a_port_that_is_taken_becomes_any_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        assert free_or_any(taken) == 0
    assert free_or_any(taken) == taken


def test_one_worker_is_called_worker_and_several_have_numbers() -> None:
    assert worker_names(1) == ["worker"]
    assert worker_names(2) == ["worker-1", "worker-2"]


def test_changed_files_are_named_but_not_all_of_many() -> None:
    assert changed_files(["/a/b.py", "/a/a.py", "/c/a.py"]) == "a.py, b.py"
    assert changed_files(f"/{name}.py" for name in "abcde") == "a.py, b.py, c.py and 2 more"


def test_git_does_not_see_the_data(tmp_path: Path) -> None:
    assert make_data_folder(tmp_path / "new" / "data") == tmp_path / "new" / "data" / "nats"
    assert (tmp_path / "new" / "data" / ".gitignore").read_text(encoding="utf-8") == "*\n"


# Apps


def test_the_folder_of_a_file_is_watched(tmp_path: Path) -> None:
    assert folders_of(["shop/orders.py"], tmp_path) == (tmp_path / "shop",)


def test_the_folder_of_a_package_is_watched_and_for_a_module_the_one_that_it_lies_in(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "lone_module.py").touch()
    assert folders_of(["shop.orders"], tmp_path) == (tmp_path / "shop",)
    assert folders_of(["lone_module"], tmp_path) == (tmp_path,)


def test_a_folder_inside_of_another_is_not_watched_twice(tmp_path: Path) -> None:
    assert folders_of(["all.py", "shop/orders.py", "shop/stock.py"], tmp_path) == (tmp_path,)


async def test_the_functions_of_an_app_that_prints_are_described(tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text(
        "import ironflow\nprint('hello')\n"
        "@ironflow.function(id='pay', queue='orders', triggers=['order.placed'])\nasync def pay(ctx): ...\n",
        encoding="utf-8",
    )
    assert await describe([str(app)], child_environment({})) == [DescribedFunction("pay", "orders", ("order.placed",))]


async def test_an_app_that_cannot_be_imported_is_one_line_with_the_place(tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text("\nraise ValueError('no price')\n", encoding="utf-8")
    with pytest.raises(AppError, match=r"cannot import .*app\.py: ValueError: no price .*line 2") as caught:
        await describe([str(app)], child_environment({}))
    assert "\n" not in str(caught.value)
    assert caught.value.code == 2


# The command


def test_without_an_app_the_command_says_how_to_name_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("IRONFLOW_APP", raising=False)
    refused = CliRunner().invoke(dev, [])
    assert refused.exit_code == 2
    assert "IRONFLOW_APP" in refused.stderr


def test_without_watchfiles_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    refused = CliRunner().invoke(dev, ["app.py"])
    assert refused.exit_code == 1
    assert 'pip install "ironflow-nats[dev-server]"' in refused.stderr
    assert "--no-reload" in refused.stderr
