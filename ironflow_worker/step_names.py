"""The names that steps have in one pass: each is given out once, and has to fit what is recorded under it."""

from __future__ import annotations

from typing import Literal

from ironflow.errors import DefinitionError, DuplicateStepError, LimitError, NondeterminismError
from ironflow.limits import Limits
from ironflow.names import COMPENSATE_PREFIX, Scope, step_token
from ironflow.records import StepKind
from ironflow_worker.memo import Memo
from ironflow_worker.strands import is_in_group

_MOST_UNASKED = 100


class StepNames:
    """The names of one pass.

    Args:
        memo: what is recorded of the run.
        limits: bounds the number of steps and their names.

    """

    def __init__(self, memo: Memo, limits: Limits) -> None:
        self._memo = memo
        self._limits = limits
        self._asked: set[str] = set()
        self._unasked = set(memo.recorded_tokens())
        self._steps = {"run": 0, "map": 0}
        self._map_items = 0

    @property
    def any_unasked(self) -> bool:
        """Whether the handler has yet to ask for a recorded step."""
        return bool(self._unasked)

    def unasked(self) -> tuple[str, ...]:
        """Return the keys of recorded steps that the handler has not asked for; the first hundred."""
        return self._memo.unasked(self._unasked, _MOST_UNASKED) if self._unasked else ()

    def leaves_results(self) -> bool:
        """Tell whether there are results that the handler did not come to; what undoes them is not known then."""
        return any(map(self._memo.is_done, self._unasked))

    def claim(self, scope: Scope, name: str, kind: StepKind, *, in_map: bool = False) -> tuple[str, bool]:
        """Take a step's name for this pass; return its key, and whether nothing is recorded of it.

        Args:
            scope: the parallels around the step.
            name: its name.
            kind: what kind of step it is.
            in_map: whether it belongs to an item of a map; those are counted apart.

        Raises:
            DefinitionError: the name is not a non-empty text.
            LimitError: the name is too long, or the run has too many steps.
            DuplicateStepError: the name was taken before in this pass.
            NondeterminismError: it is recorded as another kind of step.

        """
        # A name that is allowed for a step is allowed for its undo.
        self.check_name(name.removeprefix(COMPENSATE_PREFIX) if kind == "compensate" else name)
        token = step_token(scope, name)
        if token in self._asked:
            raise _used_twice(scope, name)
        key, recorded = self._memo.find(token, kind)
        if recorded is not None:
            self._check_kind(name, recorded, kind)
        counted, limit = ("map", self._limits.map_items_per_run) if in_map else ("run", self._limits.steps_per_run)
        if self._steps[counted] >= limit:
            where = "the items of its maps" if in_map else "a run"
            msg = f"{where} may have at most {limit:,} steps{' in all' if in_map else ''}; {name!r} is one more"
            raise LimitError(msg)
        self._steps[counted] += 1
        self._asked.add(token)
        self._unasked.discard(token)
        return key, recorded is None

    def claim_group(self, scope: Scope, name: str, kind: Literal["parallel", "map"], items: int) -> None:
        """Take the name of a parallel or a map for this pass; it is not recorded, and so it is no step.

        Raises:
            DefinitionError: the name is not a non-empty text.
            LimitError: the name is too long, or the maps of the run have too many items.
            DuplicateStepError: the name was taken before in this pass.
            NondeterminismError: it is recorded as a step.

        """
        self.check_name(name)
        token = step_token(scope, name)
        if token in self._asked:
            raise _used_twice(scope, name)
        _, recorded = self._memo.find(token, "run")
        if recorded is not None:
            self._check_kind(name, recorded, kind)
        if kind == "map":
            limit = self._limits.map_items_per_run
            if self._map_items + items > limit:
                msg = (
                    f"the maps of a run may have at most {limit:,} items together; "
                    f"{name!r} has {items:,}, and those before it {self._map_items:,}"
                )
                raise LimitError(msg)
            self._map_items += items
        self._asked.add(token)

    def _check_kind(self, name: str, recorded: StepKind, kind: StepKind | Literal["parallel", "map"]) -> None:
        if recorded != kind:
            msg = (
                f"step {name!r} is recorded as {recorded!r}, and the code now asks for it as {kind!r}; "
                "nothing was changed. Give the new step another name, or restore the code, then retry the run"
            )
            raise NondeterminismError(msg)

    def check_name(self, name: object) -> None:
        """Refuse what cannot be the name of a step.

        Raises:
            DefinitionError: it is not a non-empty text.
            LimitError: it is too long.

        """
        if not isinstance(name, str) or not name:
            msg = f"a step's name must be a non-empty text, got {name!r}"
            raise DefinitionError(msg)
        if len(name) <= self._limits.step_name_bytes and name.isascii():
            return
        try:
            size = len(name.encode())
        except UnicodeEncodeError as error:
            msg = f"a step's name must be valid text, got {name!r}: {error.reason}"
            raise DefinitionError(msg) from error
        if size > self._limits.step_name_bytes:
            msg = f"a step's name may have at most {self._limits.step_name_bytes:,} bytes, got {size:,}: {name[:40]!r}…"
            raise LimitError(msg)


def _used_twice(scope: Scope, name: str) -> DuplicateStepError:
    branch = "in a branch, use the step client that it is given, " if is_in_group() and not scope else ""
    msg = (
        f"step {name!r} was used twice in one pass; names must be unique within their scope "
        f"({branch}in a loop, add the index: f'{{name}}-{{index}}')"
    )
    return DuplicateStepError(msg)
