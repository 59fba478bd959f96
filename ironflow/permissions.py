"""What each kind of process may do on NATS, and nothing beyond: pure.

A permission to publish is not enough of a wall by itself. Whoever may send one request may name any subject for the
answer, and the server stores it there: a worker that reads back a record of its own, with a foreign journal subject as
the place for the answer, would have forged a result. So every role but the engine's lives in an account of its own,
and reaches the engine's account through imports only; an answer can go nowhere but into the asker's own account.
"""

from __future__ import annotations

import msgspec

from ironflow.errors import DefinitionError
from ironflow.names import ENGINE_CONSUMER, Names, bucket_stream
from ironflow.triggers import INVOKED

JETSTREAM = "$JS.API."

READ_VERBS = (
    *("engine.status", "events.list", "functions.list", "queues.list"),
    *("runs.get", "runs.list", "runs.of_event", "runs.part", "runs.steps", "workers.list"),
)
"""What the engine answers and what changes nothing."""
FOLLOW_VERBS = ("runs.get", "runs.of_event", "runs.part", "runs.steps")
"""What it takes to follow a run by its id, or by the event that started it."""


class Role(msgspec.Struct, frozen=True, kw_only=True):
    """A user of NATS and all that it may do, beside hearing answers.

    Attributes:
        name: unique within the namespace.
        asks: the subjects that it may send to.
        streams: those of them that many messages answer.
        hears: what it may listen to.
        answers: what it may listen to and answer.
        never: what it may not send to, although *asks* covers it.

    """

    name: str
    asks: tuple[str, ...]
    streams: tuple[str, ...] = ()
    hears: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    never: tuple[str, ...] = ()


def api_prefix(names: Names) -> str:
    """Return what stands in place of ``$JS.API`` in all accounts but the engine's.

    There, the subject itself is taken: the server answers it in every account, and says that it has no JetStream.
    """
    return f"{names.namespace}.js"


def inbox_prefix(names: Names, role: Role) -> str:
    """Return what the subjects for a role's answers start with."""
    return f"_INBOX_{names.namespace}-{role.name}"


def engine(names: Names) -> Role:
    """Return what engines may do. They make and change streams, and delete none of them."""
    buckets = (names.runs_bucket, names.waits_bucket, names.functions_bucket, names.engines_bucket)
    shards = names.all_shards
    streams = (names.events, *names.shard_streams, *map(bucket_stream, buckets))
    consumed = names.consumed_streams
    # The journal and the run states are emptied of runs whose retention is over, EVENTS of what an archive has.
    swept = map(bucket_stream, (names.waits_bucket, names.runs_bucket))
    mine = (stream for shard in shards for stream in (shard.tasks, shard.timers, shard.journal))
    emptied = (names.events, *mine, *swept)
    # What may be in hand when a run ends is deleted one by one.
    picked = (stream for shard in shards for stream in (shard.tasks, shard.timers))
    # It reads them on and on, into its lists and into an archive, with consumers that the server names and forgets.
    followed = (names.events, *(shard.journal for shard in shards), bucket_stream(names.runs_bucket))
    stored = (each for shard in shards for each in (shard.every_task, shard.every_record, shard.every_timer))
    return Role(
        name="engine",
        asks=(
            f"{JETSTREAM}INFO",
            *(
                f"{JETSTREAM}{verb}.{stream}"
                for stream in streams
                for verb in ("STREAM.CREATE", "STREAM.UPDATE", "STREAM.INFO", "STREAM.MSG.GET", "DIRECT.GET")
            ),
            *(f"{JETSTREAM}STREAM.PURGE.{stream}" for stream in emptied),
            *(f"{JETSTREAM}STREAM.MSG.DELETE.{stream}" for stream in picked),
            *(f"{JETSTREAM}CONSUMER.CREATE.{stream}.{ENGINE_CONSUMER}" for stream in consumed),
            *(f"{JETSTREAM}CONSUMER.MSG.NEXT.{stream}.{ENGINE_CONSUMER}" for stream in consumed),
            *(f"{JETSTREAM}CONSUMER.INFO.{stream}.{ENGINE_CONSUMER}" for stream in consumed),
            *(f"$JS.ACK.{stream}.{ENGINE_CONSUMER}.>" for stream in consumed),
            *(f"{JETSTREAM}CONSUMER.CREATE.{stream}" for stream in followed),
            *(f"{JETSTREAM}CONSUMER.MSG.NEXT.{stream}.*" for stream in followed),
            *(
                subject
                for shard in shards
                for subject in (
                    f"{JETSTREAM}CONSUMER.CREATE.{shard.tasks}.*",
                    f"{JETSTREAM}CONSUMER.INFO.{shard.tasks}.*",
                    f"$JS.ACK.{shard.tasks}.*.>",  # it hands back what workers had that have died
                )
            ),
            names.every_event,
            *stored,
            *(f"$KV.{bucket}.>" for bucket in buckets),
            names.every_end,
            names.every_cancel,
            names.every_told(),
            names.ask_for_claims,
            names.worker_census,
            names.every_worker_ping,
        ),
        hears=(names.every_event, names.every_claim, names.every_cancel),
        answers=(names.api(">"),),
    )


def worker(names: Names, *queues: str) -> Role:
    """Return what workers of these queues may do."""
    of_queues = [(shard, queue) for shard in names.all_shards for queue in queues]
    pulls = tuple(f"{JETSTREAM}CONSUMER.MSG.NEXT.{shard.tasks}.{queue}" for shard, queue in of_queues)
    reads = tuple(f"{JETSTREAM}DIRECT.GET.{shard.journal}" for shard in names.all_shards)
    return Role(
        name="-".join(("worker", *queues)),
        asks=(
            *pulls,
            *(f"$JS.ACK.{shard.tasks}.{queue}.>" for shard, queue in of_queues),
            *(shard.journal_of_queue(queue) for shard, queue in of_queues),
            *reads,
            *(f"{JETSTREAM}STREAM.MSG.GET.{shard.journal}" for shard in names.all_shards),
            *(f"{JETSTREAM}CONSUMER.INFO.{shard.tasks}.{queue}" for shard, queue in of_queues),
            *(names.claims(queue) for queue in queues),
            names.every_event,
            names.api("functions.register"),
        ),
        streams=(*pulls, *reads),
        hears=(names.every_cancel, names.ask_for_claims, *map(names.every_told, queues)),
        answers=(names.worker_census, names.every_worker_ping),
        # Runs that are started, but for those that its own runs start and leave to themselves.
        never=(names.event(INVOKED), names.every_longer_reserved_event),
    )


def publisher(names: Names) -> Role:
    """Return what programs may do that publish events, start runs and wait for their results."""
    return Role(
        name="publisher",
        asks=(names.every_event, *map(names.api, FOLLOW_VERBS)),
        hears=(names.every_end,),
    )


def reader(names: Names) -> Role:
    """Return what those may do who only look, through the engine."""
    return Role(name="reader", asks=tuple(map(names.api, READ_VERBS)), hears=(names.every_end,))


def operator(names: Names) -> Role:
    """Return what those may do who look after a namespace: all that the engine offers, and ``ironflow doctor``."""
    consumed = names.consumed_streams
    buckets = (names.runs_bucket, names.waits_bucket, names.functions_bucket, names.engines_bucket)
    streams = (names.events, *names.shard_streams, *map(bucket_stream, buckets))
    tasks = [shard.tasks for shard in names.all_shards]
    functions = f"{JETSTREAM}DIRECT.GET.{bucket_stream(names.functions_bucket)}"
    return Role(
        name="operator",
        asks=(
            names.api(">"),
            f"{JETSTREAM}INFO",
            *(f"{JETSTREAM}STREAM.INFO.{stream}" for stream in streams),
            *(f"{JETSTREAM}CONSUMER.INFO.{stream}.{ENGINE_CONSUMER}" for stream in consumed),
            *(f"{JETSTREAM}CONSUMER.INFO.{stream}.*" for stream in tasks),
            *(
                f"{JETSTREAM}STREAM.MSG.GET.{stream}"
                for stream in (*tasks, *map(bucket_stream, (names.runs_bucket, names.functions_bucket)))
            ),
            functions,
            names.worker_census,
        ),
        streams=(functions, names.worker_census),
        hears=(names.every_end,),
    )


def roles(names: Names, workers: tuple[tuple[str, ...], ...]) -> tuple[Role, ...]:
    """Return all roles of a namespace, the engine's first.

    Args:
        names: the namespace.
        workers: the queues of each kind of worker.

    Raises:
        DefinitionError: two kinds of workers would have the same name.

    """
    found = (
        engine(names),
        *(worker(names, *queues) for queues in workers),
        publisher(names),
        reader(names),
        operator(names),
    )
    variables = [secret_variable(names, role) for role in found]
    for role, variable in zip(found, variables, strict=True):
        if variables.count(variable) > 1:
            msg = f"{variable} would be the variable of two users, {role.name!r} is one; name each queue once"
            raise DefinitionError(msg)
    return found


def secret_variable(names: Names, role: Role, kind: str = "PASSWORD") -> str:
    """Return the environment variable of nats-server that holds a role's password or public nkey."""
    return f"{names.namespace}_{role.name}_{kind}".upper().replace("-", "_")
