"""Small workflows as data, and the plain model of what each must come to.

One durable function (tests/chaos/workflow.py) executes any program. The model knows nothing of passes, retries
or crashes: it says which steps a run must have recorded, what each must be worth, and which must come first.
A new kind of step is one more node here, one branch in the model and one in the workflow.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from ironflow.names import COMPENSATE_PREFIX, Scope, invoke_event_id, run_id, step_token
from ironflow.records import CompensationStatus, RunStatus, StepKind

SLEPT = "slept"
PUBLISHED = "published"
FAILED = "failed"
CHILD_FUNCTION = "child-program"
"""The id of the function that executes the programs of children."""


class _Node(msgspec.Struct, frozen=True, tag=True):
    name: str


class Work(_Node, frozen=True, tag="work"):
    """``step.run`` of a body that is witnessed.

    Attributes:
        milliseconds: how long the body takes.
        failures: how often it fails before it succeeds.
        fatal: it always fails, and for good; only at the top, where nothing runs beside it.
        caught: the handler goes on after the failure.
        ends_process: the body ends its process, each time.

    """

    milliseconds: int = 5
    failures: int = 0
    fatal: bool = False
    caught: bool = False
    ends_process: bool = False


class Sleep(_Node, frozen=True, tag="sleep"):
    """``step.sleep``."""

    milliseconds: int = 200


class Publish(_Node, frozen=True, tag="publish"):
    """``step.publish`` of the event that answers the wait of that name; "" answers none."""

    answers: str = ""


class Wait(_Node, frozen=True, tag="wait"):
    """``step.wait_for_event``.

    Attributes:
        answered: whether an answer is published, by the harness or a step before; if not, it times out.
        by_harness: it is the harness that answers.

    """

    answered: bool = True
    by_harness: bool = True
    timeout_milliseconds: int = 24 * 3_600_000
    """Longer than any row takes: the timer of a wait that an event has ended stays until then, and means nothing."""


class Parallel(_Node, frozen=True, tag="parallel"):
    """``step.parallel``."""

    branches: tuple[tuple[Node, ...], ...] = ()


class Map(_Node, frozen=True, tag="map"):
    """``step.map``: the same body for so many items."""

    items: int = 1
    body: tuple[Node, ...] = ()


class Saga(_Node, frozen=True, tag="saga"):
    """Steps one after the other, each with an undo; only at the top, where the order of undos is certain.

    Attributes:
        steps: what is done; the last may be fatal.
        undo_failures: how often each undo fails before it succeeds.

    """

    steps: tuple[Work, ...] = ()
    undo_failures: int = 0


class Child(_Node, frozen=True, tag="child"):
    """``step.invoke`` of a run that executes a program of its own, in which nothing waits for an event.

    Attributes:
        program: what it executes.
        caught: the handler goes on after its failure.

    """

    program: tuple[Node, ...] = ()
    caught: bool = False


Node: TypeAlias = Work | Sleep | Publish | Wait | Parallel | Map | Saga | Child
Program: TypeAlias = tuple[Node, ...]


class Order(msgspec.Struct, frozen=True):
    """One run to be: the data of its event.

    Attributes:
        number: unique in its load.
        answer_after: seconds from the start of the run to the harness's answers to its waits.

    """

    number: int
    program: Program
    answer_after: float = 0.0


def answer_key(order: int, wait: str) -> str:
    """Return what the event must hold that answers a wait."""
    return f"{order}/{wait}"


def child_run(parent: str, token: str) -> str:
    """Return the run that a step of a run invokes."""
    return run_id(CHILD_FUNCTION, invoke_event_id(parent, token))


def undo_of(step: Work, saga: Saga) -> Work:
    """Return what undoes a step of a saga."""
    return Work(COMPENSATE_PREFIX + step.name, milliseconds=step.milliseconds, failures=saga.undo_failures)


def harness_waits(nodes: Sequence[Node]) -> Iterator[str]:
    """Yield the names of the waits that the harness has to answer; they are at the top."""
    for node in nodes:
        if isinstance(node, Wait) and node.answered and node.by_harness:
            yield node.name


# The model


class ExpectedStep(msgspec.Struct, frozen=True):
    """A step that must have been recorded, once.

    Attributes:
        after: the tokens of the steps whose results must have been recorded before this one's body begins.
        value: what its result must be worth; None where it has no such value.
        at_least_ms: how long it must have waited; None where that is not its kind.
        failures: the most attempts that may have failed.
        fails: whether the recorded result is a failure.
        optional: there may be no result, since nothing lives to record it.

    """

    token: str
    kind: StepKind
    after: frozenset[str]
    value: int | None = None
    at_least_ms: int | None = None
    failures: int = 0
    fails: bool = False
    optional: bool = False


class Expected(msgspec.Struct, frozen=True):
    """What a run must come to.

    Attributes:
        children: what the runs execute that its steps invoke, by token.
        compensation: how its undos go, where it has any to run.

    """

    status: RunStatus
    steps: dict[str, ExpectedStep]
    children: dict[str, Order] = {}
    compensation: CompensationStatus | None = None


class _Ended(Exception):  # noqa: N818 - how a program ends early, rather than an error
    """The program ends here."""


def value_of(order: int, token: str) -> int:
    """Return what a body must return: a number that depends on the run and the step."""
    return zlib.crc32(f"{order}/{token}".encode())


def expect(order: Order) -> Expected:
    """Return what a run of an order must come to."""
    return _Model(order.number).run(order.program)


class _Model:
    """Goes through a program as if nothing could ever go wrong.

    Args:
        order: the number of the order.

    """

    def __init__(self, order: int) -> None:
        self._order = order
        self._steps: dict[str, ExpectedStep] = {}
        self._children: dict[str, Order] = {}
        self._undos: list[Work] = []

    def run(self, program: Program) -> Expected:
        """Return what a run of a program must come to."""
        try:
            self._all(program, (), frozenset())
        except _Ended:
            self._undo_all()
            return Expected("failed", self._steps, self._children, "completed" if self._undos else None)
        return Expected("completed", self._steps, self._children)

    def _all(self, nodes: Sequence[Node], scope: Scope, after: frozenset[str]) -> frozenset[str]:
        """Expect nodes one after the other; return the steps that whatever comes then must come after."""
        for node in nodes:
            after = self._one(node, scope, after)
        return after

    def _one(self, node: Node, scope: Scope, after: frozenset[str]) -> frozenset[str]:
        token = step_token(scope, node.name)
        match node:
            case Work():
                self._work(node, token, after)
            case Sleep():
                self._steps[token] = ExpectedStep(token, "sleep", after, at_least_ms=node.milliseconds)
            case Publish():
                self._steps[token] = ExpectedStep(token, "publish", after)
            case Wait():
                least = None if node.answered else node.timeout_milliseconds
                self._steps[token] = ExpectedStep(token, "wait_for_event", after, at_least_ms=least)
            case Parallel():
                return self._together(list(node.branches), (*scope, node.name), after)
            case Map():
                return self._together([node.body] * node.items, (*scope, node.name), after)
            case Saga():
                return self._saga(node, scope, after)
            case Child():
                self._child(node, token, after)
        return frozenset({token})

    def _work(self, node: Work, token: str, after: frozenset[str]) -> None:
        failing = node.fatal or node.ends_process
        self._steps[token] = ExpectedStep(
            token,
            "run",
            after,
            value=None if failing else value_of(self._order, token),
            failures=node.failures,
            fails=failing,
            optional=node.ends_process,
        )
        if failing and not node.caught:
            raise _Ended

    def _together(self, branches: Sequence[Program], scope: Scope, after: frozenset[str]) -> frozenset[str]:
        ends = [self._all(branch, (*scope, index), after) for index, branch in enumerate(branches)]
        return frozenset().union(*ends) if ends else after

    def _saga(self, node: Saga, scope: Scope, after: frozenset[str]) -> frozenset[str]:
        for step in node.steps:
            after = self._one(step, scope, after)
            self._undos.append(undo_of(step, node))
        return after

    def _child(self, node: Child, token: str, after: frozenset[str]) -> None:
        self._children[token] = Order(self._order, node.program)
        fails = _fails(node)
        self._steps[token] = ExpectedStep(token, "invoke", after, fails=fails)
        if fails and not node.caught:
            raise _Ended

    def _undo_all(self) -> None:
        """Expect the undos of all that was done, the newest first, each after the one before."""
        after = frozenset(list(self._steps)[-1:])
        for undo in reversed(self._undos):
            token = step_token((), undo.name)
            self._steps[token] = ExpectedStep(
                token, "compensate", after, value=value_of(self._order, token), failures=undo.failures
            )
            after = frozenset({token})


def output_of(nodes: Sequence[Node], recorded: Mapping[str, Any], scope: Scope = ()) -> list[Any]:
    """Return the output that a run must have, if these are the results that it recorded."""
    return [_output(node, recorded, scope) for node in nodes]


def _output(node: Node, recorded: Mapping[str, Any], scope: Scope) -> Any:
    inner = (*scope, node.name)
    match node:
        case Sleep() | Publish():
            return SLEPT if isinstance(node, Sleep) else PUBLISHED
        case Wait():
            return node.answered
        case Parallel():
            return [output_of(branch, recorded, (*inner, index)) for index, branch in enumerate(node.branches)]
        case Map():
            return [output_of(node.body, recorded, (*inner, index)) for index in range(node.items)]
        case Saga():
            return output_of(node.steps, recorded, scope)
        case Work() | Child():
            return FAILED if _fails(node) else recorded.get(step_token(scope, node.name))


def _fails(node: Work | Child) -> bool:
    return node.fatal if isinstance(node, Work) else expect(Order(0, node.program)).status == "failed"
