"""Imports the modules and files that hold a worker's functions."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from ironflow.errors import DefinitionError
from ironflow.function import Function, one_import, registered_functions
from ironflow_worker.user_frames import is_ours

_PYTHONS = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), "<")
_MOST_FRAMES = 10
_INSTALLED = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))


def load_functions(apps: Iterable[str]) -> dict[str, Function[Any, Any]]:
    """Import apps and return all functions that are then defined, by id.

    Args:
        apps: module names ("shop.orders") or files ("examples/orders.py").

    Raises:
        DefinitionError: an app does not exist, cannot be imported, or none of them defines a function.

    """
    given = list(apps)
    for app in given:
        load_app(app)
    functions = registered_functions()
    if not functions:
        msg = f"no functions found in {', '.join(given)}; define some with @ironflow.function(id=…)"
        raise DefinitionError(msg)
    return functions


def load_app(app: str) -> ModuleType:
    """Import one app.

    Raises:
        DefinitionError: it does not exist, or importing it fails; with more lines about where as a note.

    """
    load = _loader_of(app)
    try:
        with one_import():
            return load()
    except _NotFoundError:
        raise
    # An app that is a script ends the process; silently, where nobody says so.
    except (Exception, SystemExit) as error:
        refused = DefinitionError(_explain(app, error))
        if details := _details(error):
            refused.add_note("\n".join(details))
        raise refused from error


class _NotFoundError(DefinitionError):
    """There is no such app; no place in a file is to blame for it."""


def _loader_of(app: str) -> Callable[[], ModuleType]:
    """Return what imports an app.

    Raises:
        DefinitionError: it is neither a file nor what a module may be called.

    """
    path = Path(app)
    if app.endswith(".py") or "/" in app or "\\" in app or (app and set(app) == {"."}):
        _check_file(app, path)
        return lambda: _load_file(path.resolve())
    if not _is_module_name(app):
        module, _, attribute = app.partition(":")
        hint = f"; leave out ':{attribute}'" if attribute and _is_module_name(module) else ""
        msg = f"{app!r} is neither the name of a module nor a .py file{hint}"
        raise DefinitionError(msg)
    return lambda: _load_module(app)


def _is_module_name(app: str) -> bool:
    # A name like "data.json" is one, as far as Python is concerned; what it is meant as is plain to see.
    return all(part.isidentifier() for part in app.split(".")) and not ("." in app and Path(app).is_file())


def _check_file(app: str, path: Path) -> None:
    if path.is_dir():
        msg = f"{app!r} is a folder; name the file in it that holds functions"
        raise DefinitionError(msg)
    if not path.is_file():
        hint = f"; did you mean {app}.py?" if Path(f"{app}.py").is_file() else ""
        msg = f"no such file: {app}{hint}"
        raise DefinitionError(msg)


def _load_file(path: Path) -> ModuleType:
    # A file is imported the way "python file.py" does it: what lies beside it can be imported.
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    # A name that is unique for the path keeps two files called app.py apart.
    name = f"ironflow_app_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        msg = f"{path} is not a Python file"
        raise _NotFoundError(msg)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _load_module(name: str) -> ModuleType:
    # The current folder is importable, as it is for "python -m".
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            msg = f"no module named {name!r}; give a module name or a file (./{name.replace('.', '/')}.py)"
            raise _NotFoundError(msg) from error
        raise


def _explain(app: str, error: BaseException) -> str:
    """Return why importing an app failed, and where."""
    place = _place_of(error)
    if isinstance(error, DefinitionError):
        return f"{error}{place}"
    if isinstance(error, SystemExit):
        code = "" if error.code is None else repr(error.code)
        return f"cannot import {app}: it ends the process with sys.exit({code}){place}"
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"cannot import {app}: {said}{place}"


def _place_of(error: BaseException) -> str:
    """Return the last place in the user's own code; nothing where the error's text names one."""
    own = [] if isinstance(error, SyntaxError) else _own_frames(error)
    if not own or f"{own[-1].filename}, line {own[-1].lineno}" in str(error):
        return ""
    return f" ({own[-1].filename}, line {own[-1].lineno})"


def _details(error: BaseException) -> list[str]:
    """Return lines that say more about where importing failed than one place does; none where there is no more."""
    frames = [f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in _own_frames(error)]
    if isinstance(error, SyntaxError):
        # Python's own lines of it: the file, the code, what points into it, and the error.
        code = [line.rstrip() for line in traceback.format_exception_only(error) if line.startswith("    ")]
        place = [f"  {error.filename}:{error.lineno}"] if frames else []
        return [*frames[-_MOST_FRAMES:], *place, *code]
    return frames[-_MOST_FRAMES:] if len(frames) > 1 else []


def _own_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Return where an error went through the user's own code, the place where it was raised last."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not is_ours(frame.filename)]
    users = [frame for frame in frames if not frame.filename.startswith(_PYTHONS)]
    # An app may be an installed package itself; where it is not, what is installed is not to blame.
    return [frame for frame in users if not frame.filename.startswith(_INSTALLED)] or users
