"""Looks at a server without changing anything: settings, room, and what stands in a stream.

For `ironflow doctor`. It asks through any connection's plain requests, so that the contract of brokers stays
free of what nothing else needs.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from ironflow.broker.nats.provisioner import consumer_config, differences, merge, shards_in, strange, with_metadata
from ironflow.broker.nats.settings import API_PREFIX
from ironflow.broker.protocol import Broker, BrokerError, ConsumerSpec, StreamSpec, Unavailable

A = TypeVar("A", bound=msgspec.Struct)
Differences = dict[str, tuple[Any, Any]]
"""Settings that differ, as (is, shall be)."""

TIMEOUT_SECONDS = 2.0
NOT_FOUND = 404
NO_LEADER = 503


class Storage(msgspec.Struct, frozen=True):
    """What an account has stored, and may store; *limit_bytes* is None where it has no limit of its own."""

    used_bytes: int
    limit_bytes: int | None = None


class Replica(msgspec.Struct, frozen=True):
    """A server that keeps a copy of a stream that another one leads.

    Attributes:
        name: the server's.
        current: whether it has kept up lately.
        offline: whether its server is known to be down.
        lag: how many writes it has still to take over.
        active: nanoseconds since the leader heard of it.

    """

    name: str
    current: bool = False
    offline: bool = False
    lag: int = 0
    active: int = 0

    @property
    def silent_seconds(self) -> float:
        """For how long the leader has not heard of it."""
        return self.active / 1e9


class Placement(msgspec.Struct, frozen=True):
    """Where a stream is.

    Attributes:
        wanted: on how many servers it shall be; 0 where nobody answers who could tell.
        leader: the server that decides; "" where none answers, and for a server by itself.
        others: the other servers that have it.
        cluster: the name of the cluster, "?" where none answers, and "" for a server by itself.

    """

    wanted: int
    leader: str = ""
    others: tuple[Replica, ...] = ()
    cluster: str = ""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator has limited a stream to, and how much of that it holds; None where it has no such limit.

    Attributes:
        messages: how many it holds.
        size_bytes: how large they are.
        most_messages: how many it may hold.
        most_bytes: how large they may be together.
        most_message_bytes: how large one may be.
        drops_oldest: whether it makes room by forgetting, rather than refusing what comes.

    """

    messages: int
    size_bytes: int
    most_messages: int | None = None
    most_bytes: int | None = None
    most_message_bytes: int | None = None
    drops_oldest: bool = False

    @property
    def is_limited(self) -> bool:
        """Whether it may not hold whatever the server has room for."""
        return self.most_messages is not None or self.most_bytes is not None

    @property
    def room(self) -> float:
        """The share of its tightest limit that is left."""
        counts = ((self.messages, self.most_messages), (self.size_bytes, self.most_bytes))
        return min((1 - held / most for held, most in counts if most is not None), default=1.0)

    @property
    def limits(self) -> str:
        """What it holds and may hold, in words."""
        counts = ((self.messages, self.most_messages, "messages"), (self.size_bytes, self.most_bytes, "bytes"))
        return ", ".join(f"{held:,} of {most:,} {unit}" for held, most, unit in counts if most is not None)


class _Error(msgspec.Struct, frozen=True):
    code: int = 0
    description: str = ""


class _Answer(msgspec.Struct, frozen=True):
    error: _Error | None = None


class _Limits(msgspec.Struct, frozen=True):
    max_storage: int = -1


class _Account(_Answer, frozen=True):
    storage: int = 0
    limits: _Limits = _Limits()


class _State(msgspec.Struct, frozen=True):
    messages: int = 0
    bytes: int = 0
    subjects: dict[str, int] | None = None


class _Cluster(msgspec.Struct, frozen=True):
    name: str = ""
    leader: str = ""
    replicas: tuple[Replica, ...] = ()


class _Stream(_Answer, frozen=True):
    config: dict[str, Any] = {}
    cluster: _Cluster = _Cluster()
    state: _State = _State()
    total: int = 0


class _Consumer(_Answer, frozen=True):
    config: dict[str, Any] = {}
    paused: bool = False


class Inspector:
    """Reads what JetStream's API says.

    Every method raises :class:`BrokerError` where the server refuses to answer or does not.

    Args:
        broker: a connection to NATS.
        api_prefix: what stands in place of "$JS.API" where JetStream is in another account.

    """

    def __init__(self, broker: Broker, api_prefix: str = API_PREFIX) -> None:
        self._broker = broker
        self._api_prefix = api_prefix

    async def storage(self) -> Storage:
        """Return what the account has stored and may store."""
        account = await self._ask("INFO", b"", _Account)
        if account.error is not None:
            raise _failure(account.error)
        limit = account.limits.max_storage
        return Storage(account.storage, limit if limit > 0 else None)

    async def stream_differences(self, spec: StreamSpec) -> Differences | None:
        """Return how a stream's settings differ from *spec*; None where there is no such stream."""
        found = await self._ask(f"STREAM.INFO.{spec.name}", b"", _Stream)
        if _is_missing(found):
            return None
        return differences(found.config, merge(found.config, spec))

    async def bounds(self, stream: str) -> Bounds | None:
        """Return what a stream is limited to; None where there is no such stream."""
        found = await self._ask(f"STREAM.INFO.{stream}", b"", _Stream)
        if _is_missing(found):
            return None

        def limit(key: str) -> int | None:
            most = int(found.config.get(key, -1))
            return most if most > 0 else None

        return Bounds(
            messages=found.state.messages,
            size_bytes=found.state.bytes,
            most_messages=limit("max_msgs"),
            most_bytes=limit("max_bytes"),
            most_message_bytes=limit("max_msg_size"),
            drops_oldest=found.config.get("discard") == "old",
        )

    async def placement(self, stream: str) -> Placement | None:
        """Return which servers have a stream; None where there is no such stream."""
        try:
            found = await self._ask(f"STREAM.INFO.{stream}", b"", _Stream)
            if _is_missing(found):
                return None
        except Unavailable:
            return Placement(0, cluster="?")
        cluster = found.cluster
        return Placement(found.config.get("num_replicas", 1), cluster.leader, cluster.replicas, cluster.name)

    async def consumer_differences(self, spec: ConsumerSpec) -> Differences | None:
        """Return how a consumer's settings differ from *spec*; None where there is no such consumer.

        What shall not be set at all shall be None; ``pause_until`` is among that while it is paused.
        """
        found = await self._ask(f"CONSUMER.INFO.{spec.stream}.{spec.name}", b"", _Consumer)
        if _is_missing(found):
            return None
        wanted = consumer_config(spec)
        pause: Differences = {"pause_until": (found.config.get("pause_until"), None)} if found.paused else {}
        return differences(found.config, with_metadata(found.config, wanted)) | strange(found.config, wanted) | pause

    async def shards(self, stream: str) -> int:
        """Return how many shards the namespace of a stream has; 1 where there is no such stream."""
        found = await self._ask(f"STREAM.INFO.{stream}", b"", _Stream)
        return 1 if _is_missing(found) else shards_in(found.config)

    async def subjects(self, stream: str, subject_filter: str) -> list[str]:
        """Return the subjects of a filter that have a message; none where there is no such stream."""
        subjects: list[str] = []
        while True:
            request = msgspec.json.encode({"subjects_filter": subject_filter, "offset": len(subjects)})
            found = await self._ask(f"STREAM.INFO.{stream}", request, _Stream)
            if _is_missing(found) or not found.state.subjects:
                return subjects
            subjects.extend(found.state.subjects)
            if len(subjects) >= found.total:
                return subjects

    async def _ask(self, verb: str, request: bytes, answer: type[A]) -> A:
        subject = f"{self._api_prefix}.{verb}"
        return msgspec.json.decode(await self._broker.request(subject, request, TIMEOUT_SECONDS), type=answer)


def _is_missing(answer: _Answer) -> bool:
    if answer.error is not None and answer.error.code != NOT_FOUND:
        raise _failure(answer.error)
    return answer.error is not None


def _failure(error: _Error) -> BrokerError:
    return (Unavailable if error.code == NO_LEADER else BrokerError)(error.description)
