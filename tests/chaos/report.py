"""The table: what went wrong, what was promised, what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from tests.chaos.checker import Violation

VIOLATIONS_SHOWN = 5
_HEADER: tuple[str, ...] = ("row", "fault", "count", "figure", "measured", "limit", "ok")


class Figure(msgspec.Struct, frozen=True):
    """One figure of a row.

    Attributes:
        name: what was measured.
        measured: what came of it.
        limit: the most that is promised; None where it is only reported.
        unit: of both.

    """

    name: str
    measured: float
    limit: float | None = None
    unit: str = ""

    @property
    def holds(self) -> bool:
        """Whether the promise was kept."""
        return self.limit is None or self.measured <= self.limit


class RowResult(msgspec.Struct, frozen=True):
    """What a row came to.

    Attributes:
        number: of the row.
        fault: what went wrong.
        count: how often.
        figures: what was measured.
        violations: what contradicts the guarantees.
        tested: whether what went wrong met any work at all; if not, the row shows nothing.

    """

    number: int
    fault: str
    count: int
    figures: Sequence[Figure]
    violations: Sequence[Violation] = ()
    tested: bool = True

    @property
    def ok(self) -> bool:
        """Whether all that is promised was seen to hold."""
        return self.tested and not self.violations and all(figure.holds for figure in self.figures)


def render(results: Sequence[RowResult]) -> str:
    """Return the table, and below it what contradicts the guarantees."""
    rows = [_HEADER]
    for result in results:
        figures = [Figure("violations of the guarantees", len(result.violations), 0), *result.figures]
        for index, figure in enumerate(figures):
            lead = (str(result.number), result.fault, str(result.count)) if index == 0 else ("", "", "")
            limit = "" if figure.limit is None else f"≤ {figure.limit:g}{figure.unit}"
            rows.append((*lead, figure.name, f"{figure.measured:g}{figure.unit}", limit, _verdict(result, figure)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([*lines, *(line for result in results for line in _violations(result))])


def summary(results: Sequence[RowResult]) -> str:
    """Return which rows have shown what is promised, which have not, and which have shown nothing."""
    kept = [str(result.number) for result in results if result.ok]
    broken = [str(result.number) for result in results if result.tested and not result.ok]
    untested = [str(result.number) for result in results if not result.tested]
    named = (("kept", kept), ("NOT KEPT", broken), ("NOT TESTED", untested))
    return "\n".join(f"{what}: {'row' if len(rows) == 1 else 'rows'} {', '.join(rows)}" for what, rows in named if rows)


def _verdict(result: RowResult, figure: Figure) -> str:
    if not result.tested:
        return "not tested"
    if figure.limit is None:
        return ""
    return "yes" if figure.holds else "NO"


def _violations(result: RowResult) -> Iterator[str]:
    """Yield how often each guarantee is violated, and the first few cases of each."""
    by_claim: dict[str, list[Violation]] = {}
    for violation in result.violations:
        by_claim.setdefault(violation.claim, []).append(violation)
    for claim, violations in by_claim.items():
        yield f"row {result.number}: {claim}: not so {len(violations)} times"
        yield from (f"  {each.subject}: {each.detail}" for each in violations[:VIOLATIONS_SHOWN])
        if len(violations) > VIOLATIONS_SHOWN:
            yield f"  … and {len(violations) - VIOLATIONS_SHOWN} more"
