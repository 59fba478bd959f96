"""Where a setting comes from: the command line, then the environment, then pyproject.toml, then a default.

``[tool.ironflow]`` may hold ``app`` (one text or several), ``nats_url`` and ``namespace``. It is read from
the nearest pyproject.toml that has such a table, from the working directory upward.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec

from ironflow.broker.nats.settings import (
    ConnectionSettings,
    context_file,
    from_context,
    from_environment,
    split_urls,
)
from ironflow.errors import DefinitionError

_NOT_SIGNED_IN: dict[str, Any] = dict.fromkeys(("creds", "nkey", "user", "password", "token", "user_jwt", "user_seed"))


class ProjectSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What ``[tool.ironflow]`` says; nothing where there is no such table.

    Attributes:
        app: modules or files that define functions; files are made absolute.

    """

    app: tuple[str, ...] = ()
    nats_url: str | None = None
    namespace: str | None = None


def connection_settings(
    url: str | None = None, creds: str | None = None, context: str | None = None
) -> ConnectionSettings:
    """Return how to connect to NATS: see :func:`resolve_connection`."""
    return resolve_connection(os.environ, Path.cwd(), url=url, creds=creds, context=context)


def environment_namespace() -> str | None:
    """Return the namespace that ``IRONFLOW_NAMESPACE``, else pyproject.toml, says."""
    return os.environ.get("IRONFLOW_NAMESPACE") or project_settings(Path.cwd()).namespace


def environment_app() -> tuple[str, ...]:
    """Return the modules and files that ``IRONFLOW_APP`` (with commas between), else pyproject.toml, says."""
    return resolve_app(os.environ, Path.cwd())


def resolve_app(environ: Mapping[str, str], cwd: Path) -> tuple[str, ...]:
    """Return the modules and files that define functions; empty where nothing says."""
    named = tuple(app.strip() for app in environ.get("IRONFLOW_APP", "").split(",") if app.strip())
    return named or project_settings(cwd).app


def resolve_connection(
    environ: Mapping[str, str],
    cwd: Path,
    *,
    url: str | None = None,
    creds: str | None = None,
    context: str | None = None,
) -> ConnectionSettings:
    """Return how to connect to NATS.

    A *context* that is given takes the place of the environment; one that ``NATS_CONTEXT`` names fills in
    only what the other variables leave open. *url* and *creds* win over both.

    Args:
        environ: the environment variables.
        cwd: where to look for pyproject.toml from.
        url: servers, with commas between them.
        creds: a credentials file.
        context: the name of a context of the ``nats`` CLI.

    Raises:
        DefinitionError: a URL is not one, or the context or pyproject.toml cannot be read or holds a value that
            is not allowed.

    """
    if url:
        environ = {**environ, "NATS_URL": ""}  # what is not used need not be right
    settings = (
        from_context(context_file(context, environ)) if context else _from_surroundings(environ, cwd, needs_url=not url)
    )
    if url:
        settings = msgspec.structs.replace(settings, urls=split_urls(url))
    if creds:
        settings = msgspec.structs.replace(settings, **{**_NOT_SIGNED_IN, "creds": creds})
    return settings


def _from_surroundings(environ: Mapping[str, str], cwd: Path, *, needs_url: bool) -> ConnectionSettings:
    named = environ.get("NATS_CONTEXT")
    settings = from_context(context_file(named, environ)) if named else ConnectionSettings()
    default, given = ConnectionSettings(), from_environment(environ)
    changed = {field: getattr(given, field) for field in given.__struct_fields__}
    changed = {field: value for field, value in changed.items() if value != getattr(default, field)}
    if environ.get("NATS_URL"):
        changed["urls"] = given.urls
    elif needs_url and not named:
        project_url = project_settings(cwd).nats_url
        changed |= {"urls": split_urls(project_url)} if project_url else {}
    return msgspec.structs.replace(settings, **changed)


def project_settings(cwd: Path) -> ProjectSettings:
    """Return what the nearest ``[tool.ironflow]`` says, from *cwd* upward.

    Raises:
        DefinitionError: a pyproject.toml on the way cannot be read, or the table holds what is not allowed.

    """
    for folder in (cwd, *cwd.parents):
        table = _ironflow_table(folder / "pyproject.toml")
        if table is not None:
            return _read_table(table, folder / "pyproject.toml")
    return ProjectSettings()


def _ironflow_table(file: Path) -> object:
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        msg = f"cannot read {file}: {error}"
        raise DefinitionError(msg) from error
    tool = document.get("tool")
    return cast("dict[str, object]", tool).get("ironflow") if isinstance(tool, dict) else None


def _read_table(table: object, file: Path) -> ProjectSettings:
    if not isinstance(table, dict):
        msg = f"{file}: tool.ironflow must be a table, got {table!r}"
        raise DefinitionError(msg)
    found: dict[str, Any] = {}
    for key, value in cast("dict[str, object]", table).items():
        read = _READERS.get(key)
        if read is None:
            msg = f"{file}: [tool.ironflow] has no setting {key!r}; it has {', '.join(_READERS)}"
            raise DefinitionError(msg)
        found[key] = read(value, f"{file}: {key} of [tool.ironflow]")
    app = tuple(_beside(file.parent, named) for named in found.pop("app", ()))
    return ProjectSettings(app=app, **found)


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        msg = f"{what} must be a text that is not empty, got {value!r}"
        raise DefinitionError(msg)
    return value


def _texts(value: object, what: str) -> tuple[str, ...]:
    if isinstance(value, list):
        return tuple(_text(item, f"each of {what}") for item in cast("list[object]", value))
    return (_text(value, what),)


_READERS: dict[str, Callable[[object, str], object]] = {
    "app": _texts,
    "nats_url": _text,
    "namespace": _text,
}


def _beside(folder: Path, app: str) -> str:
    """Return a file as it is found from anywhere; a module's name stays as it is."""
    return str(folder / app) if app.endswith(".py") or "/" in app else app
