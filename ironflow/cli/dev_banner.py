"""What ``ironflow dev`` says once everything runs."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ironflow.cli.apps import DescribedFunction
from ironflow.errors import DefinitionError
from ironflow.names import DEFAULT_NAMESPACE, Names


def banner(url: str, data: Path, functions: Sequence[DescribedFunction], variables: Mapping[str, str]) -> str:
    """Return what is said once everything runs.

    Args:
        url: where NATS listens.
        data: where everything is kept.
        functions: what the workers execute.
        variables: what another terminal must set to reach this NATS.

    """
    indented = f"\n{' ' * 11}".join(function_lines(functions))
    lines = [
        "Ironflow runs; Ctrl-C ends it.",
        f"NATS       {url}",
        f"data       {data}",
        f"functions  {indented}",
    ]
    event = example_event(functions)
    if event is not None:
        words = ["ironflow", "publish", event, "--data", "{…}", "--wait"]
        settings = [f"{name}={shlex.quote(value)}" for name, value in variables.items()]
        lines.append(f"try        {' '.join([*settings, shlex.join(words)])}")
    if "NATS_URL" in variables:
        lines.append("attention  without NATS_URL, commands in other terminals reach another NATS server than this one")
    return "\n".join(lines)


def hint_variables(url: str, names: Names) -> dict[str, str]:
    """Return the variables that a command needs to reach this NATS and namespace rather than another."""
    from ironflow.settings import connection_settings, environment_namespace  # noqa: PLC0415 - keeps --help fast

    try:
        reached = connection_settings().urls
    except DefinitionError:
        reached = ()
    variables = {} if reached == (url,) else {"NATS_URL": url}
    if (environment_namespace() or DEFAULT_NAMESPACE) != names.namespace:
        variables["IRONFLOW_NAMESPACE"] = names.namespace
    return variables


def example_event(functions: Iterable[DescribedFunction]) -> str | None:
    """Return the name of an event that starts one of the functions; None where none does."""
    triggers = [trigger for function in functions for trigger in function.triggers]
    plain = [trigger for trigger in triggers if not {"*", ">"} & set(trigger.split("."))]
    for trigger in (*plain, *triggers):
        return ".".join("example" if token in ("*", ">") else token for token in trigger.split("."))
    return None


def function_lines(functions: Iterable[DescribedFunction]) -> list[str]:
    """Return a line for each function: its id, its queue, and what starts it."""
    rows = [(each.id, each.queue, ", ".join(each.triggers) or "only started or invoked") for each in functions]
    ids, queues = (max((len(row[column]) for row in rows), default=0) for column in (0, 1))
    return [f"{name:<{ids}}  queue {queue:<{queues}}  ← {started_by}" for name, queue, started_by in rows]
