"""The setup script, and the locks that it installs."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import bootstrap


def pins(lock: Path) -> dict[str, str]:
    """Read the version of each package in a lock."""
    return dict(re.findall(r"^([a-z0-9.-]+)==([^ ;]+)", lock.read_text(), flags=re.MULTILINE))


@pytest.fixture
def stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Titles of the stages that ran, in an environment where running one does nothing."""
    titles: list[str] = []
    monkeypatch.setattr(bootstrap, "VENV", tmp_path)
    monkeypatch.setattr(bootstrap, "stage", lambda title, _command: titles.append(title))
    return titles


@pytest.mark.parametrize("lock", bootstrap.LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_names_no_address_and_hashes_every_package(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    packages = re.split(r"\n(?=[a-z])", text)[1:]
    assert packages
    assert [package for package in packages if "--hash=sha256:" not in package] == []


@pytest.mark.parametrize("lock", [bootstrap.BUILD_LOCK, bootstrap.RUNTIME_LOCK], ids=lambda lock: lock.stem)
def test_the_development_lock_holds_the_other_locks_in_the_same_versions(lock: Path) -> None:
    assert pins(lock).items() <= pins(bootstrap.DEV_LOCK).items()


def test_the_runtime_lock_holds_what_the_project_depends_on() -> None:
    project = tomllib.loads((bootstrap.ROOT / "pyproject.toml").read_text())["project"]
    locked = pins(bootstrap.RUNTIME_LOCK)
    for line in [*project["dependencies"], *project["optional-dependencies"]["dev-server"]]:
        wanted = Requirement(line)
        assert wanted.specifier.contains(locked[wanted.name]), line


def test_an_install_is_done_once_for_the_same_inputs(stages: list[str]) -> None:
    for state in ("first", "first", "second"):
        bootstrap.install("packages", {f"install {state}": []}, state)
    assert stages == ["install first", "install second"]


def test_an_install_that_another_one_contains_is_left_out(stages: list[str]) -> None:
    bootstrap.install("packages", {"install dev": []}, "dev")
    bootstrap.install("packages", {"install runtime": []}, "runtime", "dev")
    assert stages == ["install dev"]


def test_an_install_that_failed_is_done_again(
    stages: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bootstrap.install("packages", {"install first": []}, "first")

    def fail(_title: str, _command: list[str]) -> None:
        sys.exit("no such package")

    with monkeypatch.context() as patch:
        patch.setattr(bootstrap, "stage", fail)
        with pytest.raises(SystemExit):
            bootstrap.install("packages", {"install second": []}, "second")
    assert list(tmp_path.iterdir()) == []
    bootstrap.install("packages", {"install first again": []}, "first")
    assert stages == ["install first", "install first again"]


def test_a_stage_that_fails_shows_what_it_printed() -> None:
    with pytest.raises(SystemExit, match="no space left\nbootstrap: installing failed"):
        bootstrap.stage("installing", [sys.executable, "-c", "print('no space left'); raise SystemExit(1)"])


def test_an_environment_copied_from_another_folder_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, copied = tmp_path / "made", tmp_path / "copied"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", made], check=True)
    made.rename(copied)
    monkeypatch.setattr(bootstrap, "VENV", copied)
    # The interpreter is a good one, so only the folder can be the reason.
    monkeypatch.setattr(bootstrap, "PYTHON", sys.executable)
    assert not bootstrap.is_usable()
    monkeypatch.setattr(bootstrap, "VENV", made)
    copied.rename(made)
    assert bootstrap.is_usable()


def test_two_setups_never_run_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    with bootstrap.alone(), (tmp_path / ".venv.lock").open("a") as other:
        assert not bootstrap.try_hold(other)
    with (tmp_path / ".venv.lock").open("a") as other:
        assert bootstrap.try_hold(other)


def test_an_old_python_is_refused_with_both_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 2))
    monkeypatch.setattr(sys, "version", "3.10.2 (main)")
    with pytest.raises(SystemExit, match=r"needs Python 3\.11 or newer; .* is 3\.10\.2"):
        bootstrap.main(["test"])
