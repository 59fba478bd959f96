"""Streams and consumers as they shall be: made, or brought there without losing what they hold."""

from __future__ import annotations

from typing import Any

import msgspec

from ironflow.broker.nats.api import Api, ApiError
from ironflow.broker.protocol import BrokerError, ConsumerSpec, NoSuchStream, StreamSpec, WrongShards

STREAM_EXISTS = 10058
ATTEMPTS = 3
_NO_SUCH_MESSAGE = frozenset({10037, 10043, 10057})
"""No message found; and what deleting one fails with where it left a gap, or lies outside of what there is."""
SHARDS = "ironflow.shards"
"""What streams and consumers of a namespace that is divided have in their metadata: into how many shards."""
MAX_WAITING_PULLS = 4096
"""Pulls that wait at one consumer, of all clients; the server's 512 end at a few hundred workers."""


_HARMLESS = frozenset({"description", "metadata", "num_replicas", "pause_until", "sample_freq"})
"""What an operator may set of a consumer beside what is ours. A pause is not among its settings, see the inspector."""


class _StreamAnswer(msgspec.Struct):
    config: dict[str, Any] = {}


class _Answer(msgspec.Struct):
    pass


class _Purged(msgspec.Struct):
    purged: int = 0


def stream_config(spec: StreamSpec) -> dict[str, Any]:
    """Return the settings of a stream that are ours; the others stay as an operator has set them."""
    keep_first = spec.one_per_subject == "keep_first"
    # The server allows no window over the age: a message that is gone is no duplicate's first.
    window_seconds = min(spec.duplicate_window_seconds, spec.max_age_seconds or spec.duplicate_window_seconds)
    config: dict[str, Any] = {
        "name": spec.name,
        "subjects": list(spec.subjects),
        "storage": "file",
        "retention": "workqueue" if spec.retention == "work_queue" else "limits",
        # A bucket of the `nats` CLI refuses new values when full, and ours must too.
        "discard": "new" if keep_first or spec.bucket else "old",
        "discard_new_per_subject": keep_first,
        "max_msgs_per_subject": -1 if spec.one_per_subject == "no" else 1,
        "max_age": spec.max_age_seconds * 1_000_000_000,
        "duplicate_window": window_seconds * 1_000_000_000,
        "allow_direct": True,
        "allow_atomic": spec.atomic_batches,
        "allow_msg_schedules": spec.schedules,
        # Schedules imply it.
        "allow_rollup_hdrs": spec.bucket or spec.schedules,
        "deny_delete": spec.deny_delete,
        # Without acknowledgements all seems lost that is published.
        "no_ack": False,
        "sealed": False,
        "num_replicas": spec.replicas,
    }
    if spec.schedules:
        # Any limit would silently drop timers.
        config |= {"max_msgs": -1, "max_bytes": -1}
    return config | _metadata(spec.shards)


def merge(existing: dict[str, Any], spec: StreamSpec) -> dict[str, Any]:
    """Return the settings that an existing stream shall get."""
    merged = with_metadata(existing, stream_config(spec))
    if spec.age_stays_lifted and not existing.get("max_age"):
        merged["max_age"] = 0
    if spec.replicas == 1:
        # One is what a caller says who does not care. Fewer copies must be somebody's decision.
        merged["num_replicas"] = existing.get("num_replicas", 1)
    return merged


def shards_in(config: dict[str, Any]) -> int:
    """Return how many shards the namespace of a stream or consumer has, by its metadata."""
    return int(_noted(config).get(SHARDS, 1))


def with_metadata(existing: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Return settings changed to those that are wanted; what others have noted in the metadata stays."""
    merged = existing | wanted
    if "metadata" in wanted:
        merged["metadata"] = _noted(existing) | wanted["metadata"]
    return merged


def _noted(config: dict[str, Any]) -> dict[str, str]:
    metadata: dict[str, str] | None = config.get("metadata")
    return metadata or {}


def _metadata(shards: int) -> dict[str, Any]:
    return {"metadata": {SHARDS: str(shards)}} if shards > 1 else {}


def differences(existing: dict[str, Any], wanted: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what differs, as (is, shall be). The server leaves out what is off or zero."""
    return {
        key: (existing.get(key), value)
        for key, value in wanted.items()
        if existing.get(key) != value and (existing.get(key) or value)
    }


def consumer_config(spec: ConsumerSpec) -> dict[str, Any]:
    """Return all settings of a consumer."""
    return {
        "name": spec.name,
        "durable_name": spec.name,
        "filter_subjects": list(spec.filters),
        "ack_policy": "explicit",
        "ack_wait": round(spec.ack_wait_seconds * 1_000_000_000),
        "max_ack_pending": spec.max_ack_pending,
        "max_deliver": -1,
        "max_waiting": MAX_WAITING_PULLS,
        "deliver_policy": "all",
        "replay_policy": "instant",
    } | _metadata(spec.shards)


def strange(existing: dict[str, Any], wanted: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what is set of a consumer and shall not be, as (is, None): each such setting changes what it delivers."""
    return {
        key: (value, None) for key, value in existing.items() if value and key not in wanted and key not in _HARMLESS
    }


class Provisioner:
    """Makes and changes streams and consumers.

    Args:
        api: JetStream's API.

    """

    def __init__(self, api: Api) -> None:
        self._api = api

    async def ensure_stream(self, spec: StreamSpec) -> None:
        """Create a stream or bring it to *spec*; any number of processes may do so at the same time.

        Raises:
            WrongShards: it exists, in a namespace with another number of shards.
            BrokerError: it exists, differs, and cannot be changed; the message says what and what to do.

        """
        wanted = stream_config(spec)
        for _ in range(ATTEMPTS):
            try:
                # Answers with success also where an equal one exists.
                await self._api.call(f"STREAM.CREATE.{spec.name}", wanted, _Answer)
            except ApiError as error:
                if error.err_code != STREAM_EXISTS:
                    message = f"cannot create the stream {spec.name}: {error.description}"
                    raise BrokerError(message) from error
            else:
                return
            try:
                await self._update(spec)
            except NoSuchStream:
                continue  # deleted since the first request
            return
        message = f"the stream {spec.name} is being deleted and created by somebody else"
        raise BrokerError(message)

    async def ensure_consumer(self, spec: ConsumerSpec) -> None:
        """Create a consumer or bring it to *spec*.

        Raises:
            NoSuchStream: its stream does not exist.
            BrokerError: it cannot be made or changed; the message says why.

        """
        request = {"stream_name": spec.stream, "config": consumer_config(spec), "action": ""}
        try:
            await self._api.call(f"CONSUMER.CREATE.{spec.stream}.{spec.name}", request, _Answer)
        except ApiError as error:
            message = (
                f"cannot bring the consumer {spec.name} of the stream {spec.stream} to its settings: "
                f"{error.description}. Delete the consumer to have it made anew; it then starts over"
            )
            raise BrokerError(message) from error

    async def purge(self, stream: str, subject_filter: str, up_to: int) -> int:
        """Delete the messages of a filter, of sequences up to *up_to* where given; return how many there were."""
        request: dict[str, str | int] = {"filter": subject_filter}
        if up_to:
            request["seq"] = up_to + 1  # the server means the first that stays
        return (await self._api.call(f"STREAM.PURGE.{stream}", request, _Purged)).purged

    async def delete(self, stream: str, sequence: int) -> bool:
        """Delete one message; return whether it was there."""
        # Erasing means to overwrite it on disk too, which costs a rewrite of its block.
        request = {"seq": sequence, "no_erase": True}
        try:
            await self._api.call(f"STREAM.MSG.DELETE.{stream}", request, _Answer)
        except ApiError as error:
            if error.err_code in _NO_SUCH_MESSAGE:
                return False
            raise
        return True

    async def _update(self, spec: StreamSpec) -> None:
        stream = spec.name
        existing = (await self._api.call(f"STREAM.INFO.{stream}", None, _StreamAnswer)).config
        if (standing := shards_in(existing)) != spec.shards:
            raise WrongShards(spec.shards, standing, f"the stream {stream}")
        merged = merge(existing, spec)
        changes = differences(existing, merged)
        if not changes:
            return
        try:
            await self._api.call(f"STREAM.UPDATE.{stream}", merged, _Answer)
        except ApiError as error:
            listed = ", ".join(f"{key} is {old} and should be {new}" for key, (old, new) in changes.items())
            message = (
                f"the stream {stream} has other settings than this version needs, and NATS refuses to change "
                f"them ({error.description}): {listed}. Back it up and delete it (its messages go with it), "
                "or use another namespace"
            )
            raise BrokerError(message) from error
