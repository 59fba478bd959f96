"""Imports the modules and files that hold a worker's functions."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from ironflow.errors import DefinitionError
from ironflow.function import Function, registered_functions


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
        DefinitionError: it does not exist, or importing it fails.

    """
    try:
        return _load_file(Path(app)) if _is_file(app) else _load_module(app)
    except DefinitionError:
        raise
    except Exception as error:
        place = _place_of(error)
        msg = f"cannot import {app}: {type(error).__name__}: {error}{place}"
        raise DefinitionError(msg) from error


def _is_file(app: str) -> bool:
    return app.endswith(".py") or "/" in app or "\\" in app


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        msg = f"no such file: {path}"
        raise DefinitionError(msg)
    path = path.resolve()
    # A file is imported the way "python file.py" does it: what lies beside it can be imported.
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    # A name that is unique for the path keeps two files called app.py apart.
    name = f"ironflow_app_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        msg = f"{path} is not a Python file"
        raise DefinitionError(msg)
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
            raise DefinitionError(msg) from error
        raise


def _place_of(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return ""  # its text names the place already
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return ""
    return f" ({traceback.tb_frame.f_code.co_filename}, line {traceback.tb_lineno})"
