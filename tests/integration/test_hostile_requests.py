"""Requests that no client of ours would make: the engine refuses them, and nothing happens."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ironflow.broker.nats import NatsBroker, connect
from ironflow.messages import Claim, Claims
from ironflow.names import ENGINE_CONSUMER, Names, bucket_stream
from tests.support import eventually, fresh_namespace, holds_for
from tests.support.processes import functions_are_known
from tests.support.secured import Secured

INJECTED = "x\r\nPUB $KV.{bucket}.injected 2\r\n{{}}\r\nPUB x"
HOSTILE = (
    "*",
    ">",
    "",
    ".",
    "..",
    "a.b",
    "a b",
    "a\tb",
    "a\nb",
    "\x00",
    "é",
    "\ud800",
    "../../etc",
    "x" * 70_000,
    INJECTED,
)
"""Texts that mean something to NATS, to a shell or to a file system."""

FUNCTION: dict[str, Any] = {"id": "f", "queue": "orders", "triggers": [], "retry": {}, "timeout_ms": None}
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "runs.get": ("id", {}),
    "runs.steps": ("id", {}),
    "runs.part": ("id", {"part": "event"}),
    "runs.cancel": ("id", {}),
    "runs.retry": ("id", {}),
    "runs.list": ("function", {}),
    "runs.of_event": ("name", {"id": "i", "sequence": 1}),
    "events.list": ("name", {}),
    "functions.delete": ("id", {}),
}


async def ask(broker: NatsBroker, names: Names, verb: str, request: dict[str, Any]) -> Any:
    payload = msgspec.json.encode(request)
    return msgspec.json.decode(await broker.request(names.api(verb), payload, 10.0))


def encodable(text: str) -> bool:
    return text.isascii() or text.isprintable()


@pytest.fixture
def names() -> Names:
    return Names(fresh_namespace())


async def test_hostile_ids_in_requests_reach_nothing(names: Names, tmp_path: Path) -> None:
    with Secured(names, tmp_path).running() as secured:
        engine = secured.engine()
        secured.worker("orders", "flows.py")
        async with secured.client("operator") as operator:
            await functions_are_known(operator, "ten-steps")
        admin, worker = await connect(secured.settings("admin")), await connect(secured.settings("worker-orders"))
        for text in filter(encodable, HOSTILE):
            hostile = text.format(bucket=names.runs_bucket)
            for verb, (field, rest) in REQUESTS.items():
                reply = await ask(admin, names, verb, {field: hostile} | rest)
                assert reply["failure"] or not any((reply["result"] or {}).get(key) for key in ("runs", "changed"))
            if hostile != "orders":
                record = FUNCTION | {"queue": hostile}
                assert (await ask(worker, names, "functions.register", {"functions": [record]}))["failure"], hostile
        known = (await ask(admin, names, "functions.list", {}))["result"]["functions"]
        assert {function["queue"] for function in known} == {"orders"}
        assert FUNCTION["id"] not in {function["id"] for function in known}
        assert (await admin.stream_state(bucket_stream(names.runs_bucket))).last_sequence == 0
        assert "lost the connection" not in engine.log.read_text()
        assert "Traceback" not in engine.log.read_text()
        await asyncio.gather(admin.close(), worker.close())


async def test_an_engine_hands_back_nothing_but_tasks_of_the_queue_that_were_claimed(
    names: Names, tmp_path: Path
) -> None:
    """Who claims the task of another queue, or what is no task, under a name that nobody answers to, gets nothing."""
    with Secured(names, tmp_path).running() as secured:
        secured.engine()
        secured.worker("orders", "flows.py")
        async with secured.client("operator") as operator:
            await functions_are_known(operator, "ten-steps")
        worker, admin = await connect(secured.settings("worker-orders")), await connect(secured.settings("admin"))
        touched: list[str] = []

        async def note(request: Any) -> None:
            touched.append(request.subject)

        for subject in ("victim.>", f"$KV.{names.runs_bucket}.>", f"$JS.ACK.{names.all_shards[0].tasks}.>"):
            await admin.listen(subject, note)
        mine = f"$JS.ACK.{names.all_shards[0].tasks}.orders.1.2.3.4.5"
        leases: tuple[str, ...] = (
            f"$JS.ACK.{names.all_shards[0].tasks}.reports.1.2.3.4.5",
            "victim.subject",
            f"$KV.{names.runs_bucket}.x",
            mine,
        )
        leases += (f"{mine}\r\nPUB victim.x 0\r\n",)
        claims = tuple(Claim(task=number, lease=lease) for number, lease in enumerate(leases))
        worker.notify(names.claims("orders"), msgspec.json.encode(Claims(worker="ghost", begun=claims)))

        def only_mine() -> None:
            assert touched == [mine]

        await eventually(only_mine, within=10.0)
        await holds_for(only_mine, 0.3)
        await asyncio.gather(worker.close(), admin.close())


async def test_records_of_no_run_that_a_worker_writes_hold_nothing_up(names: Names, tmp_path: Path) -> None:
    """It may write anything below its own queue; the server also takes subjects with wildcards in them."""
    with Secured(names, tmp_path).running() as secured:
        engine = secured.engine()
        secured.worker("orders", "flows.py")
        async with secured.client("operator") as operator:
            await functions_are_known(operator, "ten-steps")
        async with secured.client("publisher") as publisher:
            run = await publisher.start("ten-steps")
            await run.result("20s")
            attacker = await connect(secured.settings("worker-orders"))
            queue = f"{names.namespace}.journal.orders"
            for rest in (">", "*.outcome.0", f"{run.id}.>", f"{run.id}.*.x", "x", "x.y", "x.outcome.y", "x.step.*.*.*"):
                for payload in (b"{}", b"", b"\xff", b"[" * 100_000):
                    attacker.notify(f"{queue}.{rest}", payload)
            assert await (await publisher.start("ten-steps")).result("20s") == 55
            assert await run.result("20s") == 55
            assert len(await run.steps()) == 10
            await attacker.close()
        assert "Traceback" not in engine.log.read_text()


async def test_messages_whose_subjects_are_no_text_are_done_with_and_hold_up_nothing(
    names: Names, tmp_path: Path
) -> None:
    with Secured(names, tmp_path).running() as secured:
        engine = secured.engine()
        secured.worker("orders", "flows.py")
        async with secured.client("operator") as operator:
            await functions_are_known(operator, "ten-steps")
        admin = await connect(secured.settings("admin"))
        for role, subject in (
            ("publisher", f"{names.namespace}.events.a"),
            ("worker-orders", f"{names.namespace}.journal.orders.r.outcome.0"),
        ):
            hostile = await connect(secured.settings(role))
            hostile._wire._write(b"PUB %b\xff 2\r\n{}\r\n" % subject.encode())  # noqa: SLF001 - no client of ours would
            assert await hostile._wire.barrier(5.0)  # noqa: SLF001 - as above
            await hostile.close()
        async with secured.client("publisher") as publisher:
            run = await publisher.start("ten-steps", id="behind")
            await run.result("30s")

        async def all_is_done_with() -> None:
            for stream, stored in ((names.events, 2), (names.all_shards[0].journal, 12)):
                assert (await admin.stream_state(stream)).last_sequence >= stored
                state = await admin.consumer_state(stream, ENGINE_CONSUMER)
                assert (state.pending, state.ack_pending) == (0, 0)

        await eventually(all_is_done_with, within=20.0)
        assert "lost the connection" not in engine.log.read_text()
        await admin.close()
