"""Breaks a system of real processes, and proves that nothing was lost: ``python -m tests.chaos``."""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
import traceback
from pathlib import Path

import click
import msgspec
import structlog

from tests.chaos import endurance
from tests.chaos import timeline as timelines
from tests.chaos.checker import Violation, check
from tests.chaos.experiment import carry_out
from tests.chaos.report import RowResult, render, summary
from tests.chaos.row_three import sweep_all
from tests.chaos.rows import ROWS, Scale, is_tested

IN_PROCESS_ROW = 3
MIXED_ROW = 14
ENDURANCE_ROW = 15
STEPS = 600_000
"""Python takes memory a megabyte at a time: two or three of these in the middle of fewer steps look like more than one
for each 100,000. What really grows shows here too."""
ALL_ROWS = sorted([*ROWS, IN_PROCESS_ROW, ENDURANCE_ROW])


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--rows",
    default="14",
    show_default=True,
    help=f"Which rows, of {ALL_ROWS}; or 'all', with three seeds of {MIXED_ROW}.",
)
@click.option("--seconds", type=float, help="How long faults are injected in each row; default what the row says.")
@click.option("--share", type=float, default=1.0, show_default=True, help="Of each row's runs and faults.")
@click.option("--seed", type=int, default=1, show_default=True, help="Makes all choices; the same, the same again.")
@click.option("--lease", type=float, default=1.0, show_default=True, help="Seconds that a worker keeps a task.")
@click.option("--folder", type=click.Path(path_type=Path), help="Keeps data and logs there; default a temporary one.")
@click.option("--replay", type=click.Path(exists=True, path_type=Path), help="A timeline.jsonl to have again.")
def main(
    *,
    rows: str,
    seconds: float | None,
    share: float,
    seed: int,
    lease: float,
    folder: Path | None,
    replay: Path | None,
) -> None:
    """Inject faults into real processes under load, and check every guarantee on what is stored in the end.

    Prints a table, and which rows were kept. Exits with 1 where a guarantee is violated, a limit is exceeded, or
    nothing was tested.
    """
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    scale = Scale(seconds=seconds, share=share, seed=seed, lease=lease)
    chosen = [*ALL_ROWS, MIXED_ROW, MIXED_ROW] if rows == "all" else _numbers(rows)
    results: list[RowResult] = []
    with tempfile.TemporaryDirectory() as temporary:
        for index, number in enumerate(chosen):
            # A row that is asked for again is to show something else.
            its_seed = seed + chosen[:index].count(number)
            click.echo(f"row {number}, seed {its_seed} …", err=True)
            place = (folder or Path(temporary)) / f"row-{number}-seed-{its_seed}"
            result = _attempt(number, msgspec.structs.replace(scale, seed=its_seed), place, replay)
            if len(chosen) > 1:  # all of them come again at the end
                click.echo(render([result]), err=True)
            results.append(result)
    click.echo(render(results))
    click.echo(summary(results))
    sys.exit(0 if all(result.ok for result in results) else 1)


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(each) for each in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not set(numbers) <= set(ALL_ROWS):
        message = f"{text!r}: use numbers of {ALL_ROWS} with commas between them, or 'all'"
        raise click.BadParameter(message, param_hint="--rows")
    return numbers


def _attempt(number: int, scale: Scale, folder: Path, replay: Path | None) -> RowResult:
    """Run a row; one that cannot be run to its end shows nothing, and leaves the others alone."""
    try:
        return _run(number, scale, folder, replay)
    except Exception as error:  # noqa: BLE001 - hours of other rows are worth more
        violation = Violation("the row comes to its end", f"seed {scale.seed}", f"{type(error).__name__}: {error}")
        traceback.print_exception(error)
        return RowResult(number, "", 0, (), [violation], tested=False)


def _run(number: int, scale: Scale, folder: Path, replay: Path | None) -> RowResult:
    if number == IN_PROCESS_ROW:
        return sweep_all()
    if number == ENDURANCE_ROW:
        return asyncio.run(endurance.measure(scale.of(STEPS), folder))
    row = ROWS[number]
    experiment = row.plan(scale)
    if replay is not None:
        experiment = msgspec.structs.replace(experiment, timeline=timelines.load(replay))
    baseline = row.baseline and asyncio.run(carry_out(row.baseline(scale), folder / "nothing-wrong")).history
    seen = msgspec.structs.replace(asyncio.run(carry_out(experiment, folder)), baseline=baseline)
    return RowResult(
        number,
        row.fault,
        len(seen.history.injected),
        row.measure(seen),
        check(seen.history),
        tested=is_tested(seen.history),
    )


if __name__ == "__main__":
    main()
