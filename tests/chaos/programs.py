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

from ironflow.names import Scope, step_token
from ironflow.records import RunStatus, StepKind

SLEPT = "slept"
PUBLISHED = "published"


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
    timeout_milliseconds: int = 600_000


class Parallel(_Node, frozen=True, tag="parallel"):
    """``step.parallel``."""

    branches: tuple[tuple[Node, ...], ...] = ()


class Map(_Node, frozen=True, tag="map"):
    """``step.map``: the same body for so many items."""

    items: int = 1
    body: tuple[Node, ...] = ()


Node: TypeAlias = Work | Sleep | Publish | Wait | Parallel | Map
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
    """What a run must come to."""

    status: RunStatus
    steps: dict[str, ExpectedStep]


class _Ended(Exception):  # noqa: N818 - how a program ends early, rather than an error
    """The program ends here."""


def value_of(order: int, token: str) -> int:
    """Return what a body must return: a number that depends on the run and the step."""
    return zlib.crc32(f"{order}/{token}".encode())


def expect(order: Order) -> Expected:
    """Return what a run of an order must come to."""
    steps: dict[str, ExpectedStep] = {}
    try:
        _expect_all(order.program, (), frozenset(), order.number, steps)
    except _Ended:
        return Expected("failed", steps)
    return Expected("completed", steps)


def _expect_all(
    nodes: Sequence[Node], scope: Scope, after: frozenset[str], order: int, steps: dict[str, ExpectedStep]
) -> frozenset[str]:
    for node in nodes:
        after = _expect(node, scope, after, order, steps)
    return after


def _expect(
    node: Node, scope: Scope, after: frozenset[str], order: int, steps: dict[str, ExpectedStep]
) -> frozenset[str]:
    token = step_token(scope, node.name)
    match node:
        case Work():
            failing = node.fatal or node.ends_process
            steps[token] = ExpectedStep(
                token,
                "run",
                after,
                value=None if failing else value_of(order, token),
                failures=node.failures,
                fails=failing,
                optional=node.ends_process,
            )
            if failing and not node.caught:
                raise _Ended
        case Sleep():
            steps[token] = ExpectedStep(token, "sleep", after, at_least_ms=node.milliseconds)
        case Publish():
            steps[token] = ExpectedStep(token, "publish", after)
        case Wait():
            least = None if node.answered else node.timeout_milliseconds
            steps[token] = ExpectedStep(token, "wait_for_event", after, at_least_ms=least)
        case Parallel():
            ends = [
                _expect_all(branch, (*scope, node.name, index), after, order, steps)
                for index, branch in enumerate(node.branches)
            ]
            return frozenset().union(*ends) if ends else after
        case Map():
            ends = [
                _expect_all(node.body, (*scope, node.name, index), after, order, steps) for index in range(node.items)
            ]
            return frozenset().union(*ends) if ends else after
    return frozenset({token})


def output_of(nodes: Sequence[Node], recorded: Mapping[str, Any], scope: Scope = ()) -> list[Any]:
    """Return the output that a run must have, if these are the results that it recorded."""
    return [_output(node, recorded, scope) for node in nodes]


def _output(node: Node, recorded: Mapping[str, Any], scope: Scope) -> Any:
    token = step_token(scope, node.name)
    match node:
        case Work():
            return "failed" if node.fatal else recorded.get(token)
        case Sleep():
            return SLEPT
        case Publish():
            return PUBLISHED
        case Wait():
            return node.answered
        case Parallel():
            return [
                output_of(branch, recorded, (*scope, node.name, index)) for index, branch in enumerate(node.branches)
            ]
        case Map():
            return [output_of(node.body, recorded, (*scope, node.name, index)) for index in range(node.items)]
