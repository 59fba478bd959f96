"""The streams, buckets and consumers of a namespace, as they shall be."""

from __future__ import annotations

from ironflow.broker.protocol import ConsumerSpec, StreamSpec
from ironflow.names import ENGINE_CONSUMER, Names, bucket_stream
from ironflow.shards import Shard

DAY = 24 * 60 * 60
EVENTS_KEPT_SECONDS = 7 * DAY
"""How far back a wait finds its event; what is older is forgotten, by the server or where an archive has it first."""
ENGINE_ACK_WAIT_SECONDS = 5.0
ENGINE_MAX_ACK_PENDING = 10_000
FIRED_MAX_ACK_PENDING = 200_000
"""Naks that wait for their time count against it, and so do bursts of timers."""
TASK_LEASE_SECONDS = 10.0
TASK_DUPLICATE_SECONDS = 60
"""For so long the server knows a task that was used up. An engine that was stopped for longer looks by itself whether
a pass has ended, and the server keeps every id in memory."""
TASK_MAX_ACK_PENDING = 100_000
"""Bounds how many passes of one queue run at a time, over all workers."""


def streams(names: Names, replicas: int = 1, *, archived: bool = False) -> tuple[StreamSpec, ...]:
    """Return every stream of a namespace, the ones behind buckets included.

    Args:
        names: the namespace.
        replicas: on how many servers each is kept.
        archived: EVENTS is emptied by who archives it; the server, which does not wait for the archive, forgets none.

    """
    return (
        StreamSpec(
            name=names.events,
            subjects=(f"{names.namespace}.events.>",),
            max_age_seconds=0 if archived else EVENTS_KEPT_SECONDS,
            # Of an engine without an archive beside others, or whose URL was forgotten, no event must be lost.
            age_stays_lifted=True,
            atomic_batches=True,
            replicas=replicas,
            shards=names.shards,
        ),
        *(stream for shard in names.all_shards for stream in _streams_of(shard, names.shards, replicas)),
        *(
            StreamSpec(
                name=bucket_stream(bucket),
                subjects=(f"$KV.{bucket}.>",),
                one_per_subject="keep_last",
                atomic_batches=True,
                deny_delete=True,
                bucket=True,
                replicas=replicas,
                shards=names.shards,
            )
            for bucket in (names.runs_bucket, names.waits_bucket, names.functions_bucket, names.engines_bucket)
        ),
    )


def _streams_of(shard: Shard, shards: int, replicas: int) -> tuple[StreamSpec, ...]:
    """Return the streams of one of so many shards."""
    return (
        StreamSpec(
            name=shard.tasks,
            subjects=(shard.every_task,),
            retention="work_queue",
            one_per_subject="keep_first",
            duplicate_window_seconds=TASK_DUPLICATE_SECONDS,
            atomic_batches=True,
            replicas=replicas,
            shards=shards,
        ),
        StreamSpec(
            name=shard.journal,
            subjects=(shard.every_record,),
            one_per_subject="keep_first",
            atomic_batches=True,
            deny_delete=True,
            replicas=replicas,
            shards=shards,
        ),
        # The server allows no other discard policy than "old" beside schedules, and any limit on such a
        # stream would silently drop timers. So it has none.
        StreamSpec(
            name=shard.timers,
            subjects=(shard.every_timer, shard.every_fired),
            retention="work_queue",
            schedules=True,
            atomic_batches=True,
            replicas=replicas,
            shards=shards,
        ),
    )


def engine_consumers(names: Names) -> tuple[ConsumerSpec, ...]:
    """Return the consumers that all engines of a namespace share."""
    return (
        ConsumerSpec(
            stream=names.events,
            name=ENGINE_CONSUMER,
            filters=(f"{names.namespace}.events.>",),
            ack_wait_seconds=ENGINE_ACK_WAIT_SECONDS,
            max_ack_pending=ENGINE_MAX_ACK_PENDING,
            shards=names.shards,
        ),
        *(consumer for shard in names.all_shards for consumer in _consumers_of(shard, names.shards)),
    )


def _consumers_of(shard: Shard, shards: int) -> tuple[ConsumerSpec, ...]:
    """Return the consumers of engines in one of so many shards."""
    return (
        # Step results need no decision, so the engine does not read them.
        ConsumerSpec(
            stream=shard.journal,
            name=ENGINE_CONSUMER,
            filters=tuple(shard.journal_kind(kind) for kind in ("wait", "try", "closed", "retry", "outcome")),
            ack_wait_seconds=ENGINE_ACK_WAIT_SECONDS,
            max_ack_pending=ENGINE_MAX_ACK_PENDING,
            shards=shards,
        ),
        ConsumerSpec(
            stream=shard.timers,
            name=ENGINE_CONSUMER,
            filters=(shard.every_fired,),
            ack_wait_seconds=ENGINE_ACK_WAIT_SECONDS,
            max_ack_pending=FIRED_MAX_ACK_PENDING,
            shards=shards,
        ),
    )


def queue_consumers(names: Names, queue: str, lease_seconds: float = TASK_LEASE_SECONDS) -> tuple[ConsumerSpec, ...]:
    """Return the consumers that all workers of a queue share, one for each shard."""
    return tuple(
        ConsumerSpec(
            stream=shard.tasks,
            name=queue,
            filters=(shard.tasks_of_queue(queue),),
            ack_wait_seconds=lease_seconds,
            max_ack_pending=TASK_MAX_ACK_PENDING,
            shards=names.shards,
        )
        for shard in names.all_shards
    )
