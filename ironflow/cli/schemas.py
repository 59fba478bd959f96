"""``ironflow schemas``: the wire contract, for programs in other languages and for reviews."""

from __future__ import annotations

from pathlib import Path

import click

from ironflow.cli.command_group import CommandGroup
from ironflow.cli.common import complain, errors_as_exit_codes, put


@click.group(cls=CommandGroup)
def schemas() -> None:
    """The wire contract as JSON Schema and AsyncAPI."""


@schemas.command()
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    envvar="IRONFLOW_SCHEMAS_OUTPUT",
    show_envvar=True,
    help="Write one file for each document there, instead of all to stdout.",
)
def export(output: Path | None) -> None:
    """Print the wire contract as one JSON document: the documents by file name."""
    from ironflow.schemas import document_text, schema_documents  # noqa: PLC0415 - keeps other commands fast

    with errors_as_exit_codes():
        documents = schema_documents()
        if output is None:
            put(document_text(documents), nl=False)
            return
        _write(output, {name: document_text(document) for name, document in documents.items()})
        complain(f"wrote {len(documents)} documents to {output}")


def _write(folder: Path, texts: dict[str, str]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        reason = error.strerror or str(error)
        raise click.ClickException(f"cannot write to {folder}: {reason}") from error
