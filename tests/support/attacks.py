"""What a process that was taken over may try, and whether the server let it. Judged by what the server holds."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, NamedTuple

import nats
from nats.aio.client import Client as Nats
from nats.errors import ConnectionClosedError
from nats.errors import Error as NatsError

from ironflow.broker.nats import ConnectionSettings
from ironflow.names import Names, bucket_stream
from tests.support.eventually import eventually

FLUSH_SECONDS = 30
"""An attack that has not reached the server in this time was not made, and proves nothing."""
SETTLED_SECONDS = 0.15
"""Nothing says that nothing happens; the server on this machine needs a few milliseconds for what does."""
WORKS_WITHIN_SECONDS = 20.0
"""What a role may do is waited for: a server on a busy machine takes its time, and a right is none the less for it."""

INBOX = "stolen"
BAIT = "bait"


class Attacker:
    """A raw connection with the rights of a role, and what it has come to know.

    Args:
        connection: signed in.
        settings: how.
        names: the namespace.
        lease: names a delivery of queue "reports", which somebody else has.

    """

    def __init__(self, connection: Nats, settings: ConnectionSettings, names: Names, lease: str) -> None:
        self.connection = connection
        self.names = names
        self.lease = lease
        self.inbox = f"{settings.inbox_prefix}.{INBOX}"
        self.learned: list[str] = []

    async def send(self, subject: str, payload: bytes = b"{}", reply: str = "", **headers: str) -> None:
        """Publish as it is; what the server says of it comes in its own time, and is no evidence."""
        named = {name.replace("_", "-"): value for name, value in headers.items()} or None
        with contextlib.suppress(NatsError):
            await self.connection.publish(subject, payload, reply=reply, headers=named)

    async def ask(self, verb: str, request: object = None) -> None:
        """Ask JetStream, under each name that it may have; note what it tells."""
        payload = b"" if request is None else json.dumps(request).encode()
        for prefix in ("$JS.API", f"{self.names.namespace}.js"):
            await self.send(f"{prefix}.{verb}", payload, self.inbox)

    async def listen(self, subject: str) -> None:
        """Subscribe, and note all that comes."""

        async def note(message: Any) -> None:
            if (message.headers or {}).get("Status") is None and b'"error":' not in message.data:
                self.learned.append(message.subject)

        with contextlib.suppress(NatsError):
            await self.connection.subscribe(subject, cb=note)


class Attack(NamedTuple):
    """Something that must not work."""

    name: str
    attempt: Callable[[Attacker], Awaitable[None]]


async def try_attacks(
    url: str, admin: ConnectionSettings, role: ConnectionSettings, names: Names, may: Collection[str]
) -> dict[str, str]:
    """Make all attacks with the rights of a role; return what each has achieved, "" where nothing.

    Args:
        url: the server.
        admin: who sees all that it holds.
        role: the attacker.
        names: the namespace.
        may: the attacks that should achieve something, which is waited for; others have a moment.

    """
    outcomes: dict[str, str] = {}
    watcher = await _sign_in(url, admin)
    lease = await _take_a_report(watcher, names)
    try:
        for attack in ATTACKS:
            connection = await _sign_in(url, role)
            attacker = Attacker(connection, role, names, lease)
            await attacker.listen(f"{attacker.inbox}")
            heard = await _hints(watcher, names)
            before = await _state(watcher)
            await attack.attempt(attacker)
            with contextlib.suppress(ConnectionClosedError):
                await _reach_the_server(connection)
            await _whisper(watcher, names)
            # What the attacker may hear of that reaches it ahead of the answer to this, however slow the machine is.
            with contextlib.suppress(ConnectionClosedError):
                await _reach_the_server(connection)
            await asyncio.sleep(SETTLED_SECONDS)
            patience = WORKS_WITHIN_SECONDS if attack.name in may else 0.0
            outcomes[attack.name] = await _achieved(watcher, before, attacker, heard, patience)
            await eventually(lambda: _nothing_is_scheduled(watcher, names), WORKS_WITHIN_SECONDS)
            await heard.stop()
            await connection.close()
    finally:
        await watcher.close()
    return outcomes


async def _achieved(
    watcher: Nats, before: Mapping[str, object], attacker: Attacker, heard: _Hints, patience: float
) -> str:
    """Return what has changed, and what was learned or said; "" where that is nothing for so many seconds."""

    async def something() -> str:
        after = await _state(watcher)
        changed = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
        found = " ".join([*changed, *sorted(set(attacker.learned)), *heard.messages])
        assert found
        return found

    try:
        return await eventually(something, patience)
    except AssertionError:
        return ""


async def _nothing_is_scheduled(watcher: Nats, names: Names) -> None:
    """Check that what was scheduled has fired, so that it does not count for the attack behind."""
    assert _forged(names) not in await _state(watcher)


class _Hints:
    def __init__(self) -> None:
        self.messages: list[str] = []
        self.subscriptions: list[Any] = []

    async def note(self, message: Any) -> None:
        if message.data == b"forged":
            self.messages.append(message.subject)

    async def stop(self) -> None:
        for subscription in self.subscriptions:
            await subscription.unsubscribe()


async def _hints(watcher: Nats, names: Names) -> _Hints:
    """Hear what only the engine may say, and what is meant for its own ears."""
    hints = _Hints()
    inboxes = ("_INBOX.>", f"_INBOX_{names.namespace}-engine.>")
    for subject in (names.every_cancel, names.every_end, names.ask_for_claims, names.claims("reports"), *inboxes):
        hints.subscriptions.append(await watcher.subscribe(subject, cb=hints.note))
    await _reach_the_server(watcher)
    return hints


async def _whisper(watcher: Nats, names: Names) -> None:
    """Say in the engine's account what nobody else may hear."""
    ns = names.namespace
    for subject in (f"_INBOX_{ns}-engine.r.1", "_INBOX.x.1", f"{ns}.api.runs.list", names.claims("reports")):
        await watcher.publish(subject, b"secret")
    await _reach_the_server(watcher)


async def _reach_the_server(connection: Nats) -> None:
    """Wait until the server has taken all that was sent, and what it has sent before its answer has come."""
    # A ping of nats-py (2.16) overtakes what its flusher has not written yet; the second one comes behind that.
    for _ in range(2):
        await connection.flush(FLUSH_SECONDS)


async def _sign_in(url: str, settings: ConnectionSettings) -> Nats:
    async def ignore(_error: Exception) -> None: ...

    return await nats.connect(
        url,
        user=settings.user,
        password=settings.password,
        inbox_prefix=settings.inbox_prefix,
        error_cb=ignore,
        allow_reconnect=False,
    )


async def _take_a_report(watcher: Nats, names: Names) -> str:
    """Put a task into each queue, and take the one of "reports"; return what names its delivery."""
    for queue in ("orders", "reports"):
        await watcher.request(names.task(queue, "victim", 0), b"{}")
        await watcher.request(f"{names.namespace}.journal.{queue}.victim.input", b"{}")
    await watcher.request(f"$KV.{names.runs_bucket}.victim", b"{}")
    await watcher.request(f"{names.namespace}.events.secret", b"{}")
    pull = f"$JS.API.CONSUMER.MSG.NEXT.{names.all_shards[0].tasks}.reports"
    message = await watcher.request(pull, b'{"batch":1,"expires":5000000000}', timeout=5, old_style=True)
    return str(message.reply)


async def _state(watcher: Nats) -> dict[str, object]:
    """Return all that JetStream holds but the baits, which everybody may write who writes one; by what it is."""
    found: dict[str, object] = {}
    for name in (await _json(watcher, "STREAM.NAMES"))["streams"] or []:
        stream = await _json(watcher, f"STREAM.INFO.{name}", {"subjects_filter": ">"})
        subjects: dict[str, int] = stream["state"].get("subjects") or {}
        baits = sum(count for subject, count in subjects.items() if BAIT in subject)
        found[f"{name} settings"] = stream["config"]
        found[f"{name} position"] = (stream["state"]["first_seq"], stream["state"]["last_seq"] - baits)
        found |= {subject: count for subject, count in subjects.items() if BAIT not in subject}
        for consumer in (await _json(watcher, f"CONSUMER.LIST.{name}"))["consumers"] or []:
            found[f"{name}/{consumer['name']}"] = [
                consumer[key] for key in ("config", "delivered", "ack_floor", "num_ack_pending", "num_redelivered")
            ]
    return found


async def _json(watcher: Nats, verb: str, request: object = None) -> Any:
    payload = b"" if request is None else json.dumps(request).encode()
    return json.loads((await watcher.request(f"$JS.API.{verb}", payload, timeout=5)).data)


# The attacks

SOON = "@at 2020-01-01T00:00:00Z"


def _forged(names: Names) -> str:
    return names.timer(0, "victim", 0, "forged")


async def write_kv(a: Attacker) -> None:
    for bucket in (a.names.runs_bucket, a.names.functions_bucket, a.names.waits_bucket, a.names.engines_bucket):
        await a.send(f"$KV.{bucket}.forged")


async def wipe_kv(a: Attacker) -> None:
    await a.send(f"$KV.{a.names.runs_bucket}.forged", Nats_Rollup="all")


async def forge_schedule(a: Attacker) -> None:
    target = f"{a.names.namespace}.fired.victim.timer"
    await a.send(_forged(a.names), Nats_Schedule=SOON, Nats_Schedule_Target=target)
    await a.send(target)
    await asyncio.sleep(0.3)  # the server looks at schedules four times a second


async def schedule_elsewhere(a: Attacker) -> None:
    target = a.names.event("ironflow.invoked")
    for subject in (a.names.event("forged"), a.names.journal_input("orders", "forged")):
        await a.send(subject, Nats_Schedule=SOON, Nats_Schedule_Target=target)


async def roll_up(a: Attacker) -> None:
    for subject in (a.names.event("forged"), a.names.journal_input("orders", "forged")):
        for what in ("all", "sub"):
            await a.send(subject, Nats_Rollup=what)


async def purge(a: Attacker) -> None:
    for stream in _streams(a.names):
        await a.ask(f"STREAM.PURGE.{stream}")


async def delete_streams(a: Attacker) -> None:
    for stream in _streams(a.names):
        await a.ask(f"STREAM.MSG.DELETE.{stream}", {"seq": 1})
        await a.ask(f"CONSUMER.DELETE.{stream}.engine")
        await a.ask(f"STREAM.DELETE.{stream}")


async def change_streams(a: Attacker) -> None:
    await a.ask("STREAM.CREATE.MINE", {"name": "MINE", "subjects": ["mine.>"]})
    await a.ask("STREAM.CREATE.COPY", {"name": "COPY", "sources": [{"name": a.names.events}]})
    await a.ask(f"STREAM.UPDATE.{a.names.events}", {"name": a.names.events, "subjects": [a.names.every_event]})


async def make_consumers(a: Attacker) -> None:
    for stream in _streams(a.names):
        config = {"name": "mine", "durable_name": "mine", "ack_policy": "none", "deliver_subject": a.inbox}
        await a.ask(f"CONSUMER.CREATE.{stream}.mine", {"stream_name": stream, "config": config})
        await a.ask(f"CONSUMER.DURABLE.CREATE.{stream}.mine", {"stream_name": stream, "config": config})
    await a.ask(f"CONSUMER.PAUSE.{a.names.all_shards[0].tasks}.reports", {"pause_until": "2100-01-01T00:00:00Z"})


async def follow_streams(a: Attacker) -> None:
    for stream in _streams(a.names):
        config = {"ack_policy": "none", "deliver_subject": a.inbox}
        await a.ask(f"CONSUMER.CREATE.{stream}", {"stream_name": stream, "config": config})


async def pull_from_another_queue(a: Attacker) -> None:
    for consumer in (
        f"{a.names.all_shards[0].tasks}.reports",
        f"{a.names.events}.engine",
        f"{a.names.all_shards[0].journal}.engine",
    ):
        await a.ask(f"CONSUMER.MSG.NEXT.{consumer}", {"batch": 5, "expires": 100_000_000})


async def read_tasks(a: Attacker) -> None:
    for stream in (
        a.names.all_shards[0].tasks,
        a.names.all_shards[0].timers,
        bucket_stream(a.names.runs_bucket),
        a.names.events,
    ):
        for verb in ("DIRECT.GET", "STREAM.MSG.GET"):
            await a.ask(f"{verb}.{stream}", {"seq": 1, "next_by_subj": ">"})
    await a.ask(f"STREAM.INFO.{a.names.all_shards[0].tasks}")
    await a.ask("STREAM.NAMES")


async def settle_another_queues_task(a: Attacker) -> None:
    for answer in (b"-NAK", b"+TERM", b"+ACK"):
        await a.send(a.lease, answer)


async def append_to_another_queue(a: Attacker) -> None:
    await a.send(a.names.journal_step("reports", "victim", "paid"))
    await a.send(a.names.journal_outcome("reports", "victim", 0))


async def publish_tasks(a: Attacker) -> None:
    for queue in ("orders", "reports"):
        await a.send(a.names.task(queue, "forged", 0))


async def publish_reserved_events(a: Attacker) -> None:
    for name in ("ironflow.invoked", "ironflow.invoked.more", "ironflow.detached.more"):
        await a.send(a.names.event(name))


async def say_what_the_engine_says(a: Attacker) -> None:
    for subject in (a.names.cancelled("victim"), a.names.ended("victim"), a.names.ask_for_claims):
        await a.send(subject, b"forged")


async def claim_for_another_queue(a: Attacker) -> None:
    await a.send(a.names.claims("reports"), b"forged")


async def answer_for_the_server(a: Attacker) -> None:
    await a.send(f"_INBOX_{a.names.namespace}-engine.r.1", b"forged")
    await a.send("_INBOX.x.1", b"forged")


async def overhear(a: Attacker) -> None:
    ns = a.names.namespace
    for subject in (">", "_INBOX.>", f"_INBOX_{ns}-engine.>", f"{ns}.api.>", f"{ns}.claims.*", "$JS.ACK.>", "*.>"):
        await a.listen(subject)


async def use_wildcards_as_ids(a: Attacker) -> None:
    """Name everything at once, where one's own queue, run or event belongs."""
    ns = a.names.namespace
    for verb in ("STREAM.PURGE", "STREAM.INFO", "STREAM.DELETE", "STREAM.MSG.GET", "DIRECT.GET", "CONSUMER.LIST"):
        for every in ("*", ">"):
            await a.ask(f"{verb}.{every}", {"seq": 1})
    for every in (f"{a.names.all_shards[0].tasks}.*", f"{a.names.all_shards[0].tasks}.>", "*.*"):
        await a.ask(f"CONSUMER.MSG.NEXT.{every}", {"batch": 5, "expires": 100_000_000})
        await a.ask(f"CONSUMER.INFO.{every}")
    for subject in ("journal.>", "journal.*.victim.outcome.0", "tasks.*.victim.0", "timers.>"):
        await a.send(f"{ns}.{subject}")
    for run in ("victim.step.>", "*.step.paid", "victim step paid", "..", "victim/../../reports/victim"):
        await a.send(f"{ns}.journal.reports.{run}")


async def inject_replies(a: Attacker) -> None:
    """Have answers stored where this role may not write: what it reads back, what it pulls, and acknowledgements."""
    ns, own = a.names.namespace, a.names.journal_step("orders", "mine", BAIT)
    await a.send(own, b'{"forged":true}')
    places = [
        a.names.journal_step("reports", "victim", "injected"),
        a.names.task("reports", "injected", 0),
        f"$KV.{a.names.runs_bucket}.injected",
        f"{ns}.fired.victim.injected",
    ]
    for number, place in enumerate(places):
        read = json.dumps({"last_by_subj": own}).encode()
        for prefix in ("$JS.API", f"{ns}.js"):
            await a.send(f"{prefix}.DIRECT.GET.{a.names.all_shards[0].journal}", read, place)
            await a.send(f"{prefix}.STREAM.MSG.GET.{a.names.all_shards[0].journal}", read, place)
            await a.send(f"{prefix}.CONSUMER.INFO.{a.names.all_shards[0].tasks}.orders", b"", place)
        await a.send(f"{own}{number}", b"{}", place)
        await a.send(a.names.event(BAIT), b"{}", place)


def _streams(names: Names) -> tuple[str, ...]:
    return (
        names.events,
        names.all_shards[0].tasks,
        names.all_shards[0].journal,
        names.all_shards[0].timers,
        bucket_stream(names.runs_bucket),
    )


ATTACKS = tuple(
    Attack(attempt.__name__.replace("_", " "), attempt)
    for attempt in (
        *(write_kv, wipe_kv, forge_schedule, schedule_elsewhere, roll_up, change_streams, make_consumers),
        *(
            follow_streams,
            pull_from_another_queue,
            read_tasks,
            settle_another_queues_task,
            append_to_another_queue,
            publish_tasks,
        ),
        *(publish_reserved_events, say_what_the_engine_says, claim_for_another_queue, answer_for_the_server),
        # These come last, so that there is something left to be read and taken.
        *(overhear, use_wildcards_as_ids, inject_replies, purge, delete_streams),
    )
)
