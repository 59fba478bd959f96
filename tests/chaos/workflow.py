"""The durable function that executes programs, watched."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

import msgspec

import ironflow
from ironflow import Context, Function, InvokeError, NonRetryableError, Retry, Step, StepError
from ironflow.names import Scope, digest, step_token
from tests.chaos.programs import (
    CHILD_FUNCTION,
    FAILED,
    PUBLISHED,
    SLEPT,
    Child,
    Map,
    Node,
    Order,
    Parallel,
    Publish,
    Saga,
    Sleep,
    Wait,
    Work,
    answer_key,
    undo_of,
    value_of,
)
from tests.chaos.witness import LOADED_AT, Line, LineKind, Witness, fresh_nonce

FUNCTION = "program"
QUEUE = "chaos"
START = "chaos.start"
ANSWER = "chaos.answer"
NOISE = "chaos.noise"
RETRY = Retry(max_attempts=6, initial_delay="100ms", max_delay="1s", jitter=0)


class _Result(msgspec.Struct):
    value: int
    nonce: str


class _Pass:
    """One pass of a run.

    Args:
        ctx: what the handler was given.
        witness: where everything is noted.

    """

    def __init__(self, ctx: Context[Any], witness: Witness) -> None:
        self._run = ctx.run.id
        self._witness = witness
        self._order = msgspec.convert(ctx.event.data, Order)
        self._id = fresh_nonce()
        self._step = ctx.step

    async def execute(self) -> list[Any]:
        """Execute the order's program; note when the handler is entered and left."""
        self._note("pass", loaded_ms=LOADED_AT.get() or 0.0)
        try:
            return await self._all(self._order.program, self._step, ())
        finally:
            self._note("left")

    async def _all(self, nodes: Sequence[Node], step: Step, scope: Scope) -> list[Any]:
        return [await self._one(node, step, scope) for node in nodes]

    async def _one(self, node: Node, step: Step, scope: Scope) -> Any:
        match node:
            case Work():
                return await self._work(node, step, scope)
            case Sleep():
                await step.sleep(node.name, node.milliseconds / 1000)
                return SLEPT
            case Publish():
                event = ANSWER if node.answers else NOISE
                await step.publish(event, {"key": answer_key(self._order.number, node.answers)}, name=node.name)
                return PUBLISHED
            case Wait():
                return await self._wait(node, step)
            case Child():
                return await self._child(node, step)
            case Parallel() | Map() | Saga():
                return await self._several(node, step, scope)

    async def _several(self, node: Parallel | Map | Saga, step: Step, scope: Scope) -> list[Any]:
        match node:
            case Parallel():
                return await step.parallel(
                    node.name,
                    [self._branch(nodes, (*scope, node.name, index)) for index, nodes in enumerate(node.branches)],
                )
            case Map():

                async def each(_: int, own: Step, index: int) -> list[Any]:
                    return await self._all(node.body, own, (*scope, node.name, index))

                return await step.map(node.name, range(node.items), each)
            case Saga():
                return [await self._with_undo(each, node, step, scope) for each in node.steps]

    async def _with_undo(self, node: Work, saga: Saga, step: Step, scope: Scope) -> Any:
        result = await self._work(node, step, scope)
        undo = undo_of(node, saga)
        step.compensate(node.name, self._body, step_token(scope, undo.name), undo)
        return result

    async def _child(self, node: Child, step: Step) -> Any:
        try:
            return await step.invoke(CHILD_FUNCTION, Order(self._order.number, node.program), name=node.name)
        except InvokeError:
            if not node.caught:
                raise
            return FAILED

    def _branch(self, nodes: Sequence[Node], scope: Scope) -> Any:
        async def branch(own: Step) -> list[Any]:
            return await self._all(nodes, own, scope)

        return branch

    async def _wait(self, node: Wait, step: Step) -> bool:
        event = await step.wait_for_event(
            node.name,
            event=ANSWER,
            match="data.key",
            value=answer_key(self._order.number, node.name),
            timeout=node.timeout_milliseconds / 1000,
            on_timeout="none",
        )
        return event is not None

    async def _work(self, node: Work, step: Step, scope: Scope) -> Any:
        token = step_token(scope, node.name)
        try:
            result: _Result = await step.run(node.name, self._body, token, node)
        except StepError:
            if not node.caught:
                raise
            return FAILED
        self._note("saw", seen={token: result.nonce})
        return msgspec.to_builtins(result)

    async def _body(self, token: str, node: Work) -> _Result:
        self._note("begin", token)
        await asyncio.sleep(node.milliseconds / 1000)
        if node.ends_process:
            os._exit(13)
        if node.fatal:
            self._note("failed", token)
            raise NonRetryableError("as the program says")
        if self._witness.spend(digest(f"{self._run}/{token}".encode()), node.failures):
            self._note("failed", token)
            raise ConnectionError("as the program says")
        result = _Result(value_of(self._order.number, token), fresh_nonce())
        self._note("end", token, nonce=result.nonce)
        return result

    def _note(
        self,
        kind: LineKind,
        step: str = "",
        *,
        loaded_ms: float = 0.0,
        nonce: str = "",
        seen: dict[str, str] | None = None,
    ) -> None:
        line = Line(
            kind,
            self._witness.now_ms(),
            os.getpid(),
            self._run,
            step,
            self._id,
            loaded_ms=loaded_ms,
            nonce=nonce,
            seen=seen or {},
        )
        self._witness.write(line)


def program_functions(witness: Witness) -> tuple[Function[Any, Any], Function[Any, Any]]:
    """Return the durable functions that execute the programs of orders, and of the children of these."""

    async def program(ctx: Context[Any]) -> list[Any]:
        return await _Pass(ctx, witness).execute()

    return (
        ironflow.function(id=FUNCTION, queue=QUEUE, triggers=[START], retry=RETRY)(program),
        ironflow.function(id=CHILD_FUNCTION, queue=QUEUE, retry=RETRY)(program),
    )
