"""Streams and consumers on a real server: made, changed, and left alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest
from nats.aio.client import Client

from ironflow.broker.embedded import EmbeddedServer
from ironflow.broker.nats import ConnectionSettings, NatsBroker, connect
from ironflow.broker.nats.provisioner import merge, stream_config
from ironflow.broker.protocol import BrokerError, ConsumerSpec, Publication, StreamSpec


class TestProvisioning:
    @pytest.fixture
    async def broker(self, nats_server: EmbeddedServer) -> AsyncGenerator[NatsBroker]:
        broker = await connect(ConnectionSettings(urls=(nats_server.url,)))
        yield broker
        await broker.close()

    async def config(self, broker: NatsBroker, stream: str) -> dict[str, Any]:
        answer = json.loads(await broker.request(f"$JS.API.STREAM.INFO.{stream}", b"", 5.0))
        config: dict[str, Any] = answer["config"]
        return config

    async def test_changed_settings_are_brought_in_and_messages_stay(self, broker: NatsBroker, namespace: str) -> None:
        spec = StreamSpec(name=namespace, subjects=(f"{namespace}.a.>",))
        await broker.ensure_stream(spec)
        await broker.publish(Publication(subject=f"{namespace}.a.1", payload=b"stays"))
        newer = msgspec.structs.replace(
            spec, subjects=(f"{namespace}.a.>", f"{namespace}.b.>"), max_age_seconds=3600, atomic_batches=True
        )
        await broker.ensure_stream(newer)
        config = await self.config(broker, namespace)
        assert config["max_age"] == 3600 * 10**9
        assert config["allow_atomic"] is True
        assert config["subjects"] == [f"{namespace}.a.>", f"{namespace}.b.>"]
        assert (await broker.stream_state(namespace)).messages == 1

    async def test_what_an_operator_has_set_stays(self, broker: NatsBroker, namespace: str) -> None:
        spec = StreamSpec(name=namespace, subjects=(f"{namespace}.>",))
        await broker.ensure_stream(spec)
        config = await self.config(broker, namespace) | {"max_bytes": 10**9, "description": "ours"}
        await broker.request(f"$JS.API.STREAM.UPDATE.{namespace}", json.dumps(config).encode(), 5.0)
        await broker.ensure_stream(msgspec.structs.replace(spec, max_age_seconds=60))
        config = await self.config(broker, namespace)
        assert (config["max_bytes"], config["description"], config["max_age"]) == (10**9, "ours", 60 * 10**9)

    async def test_what_cannot_be_changed_is_explained(self, broker: NatsBroker, namespace: str) -> None:
        spec = StreamSpec(name=namespace, subjects=(f"{namespace}.>",), deny_delete=True)
        await broker.ensure_stream(spec)
        with pytest.raises(BrokerError) as refused:
            await broker.ensure_stream(msgspec.structs.replace(spec, deny_delete=False))
        for part in (namespace, "deny_delete is True and should be False", "another namespace"):
            assert part in str(refused.value)

    async def test_two_engines_may_start_at_once(self, nats_server: EmbeddedServer, namespace: str) -> None:
        brokers = [await connect(ConnectionSettings(urls=(nats_server.url,))) for _ in range(4)]
        specs = [
            StreamSpec(name=namespace, subjects=(f"{namespace}.>",), max_age_seconds=age) for age in (60, 60, 60, 90)
        ]
        consumer = ConsumerSpec(
            stream=namespace, name="engine", filters=(">",), ack_wait_seconds=5.0, max_ack_pending=100
        )
        for _ in range(3):
            await asyncio.gather(
                *(broker.ensure_stream(spec) for broker, spec in zip(brokers, specs, strict=True)),
            )
            await asyncio.gather(*(broker.ensure_consumer(consumer) for broker in brokers))
        for broker in brokers:
            await broker.close()

    def test_fewer_copies_are_nobodys_default(self) -> None:
        three = StreamSpec(name="S", subjects=("s.>",), replicas=3)
        one = StreamSpec(name="S", subjects=("s.>",))
        assert merge(stream_config(three), one)["num_replicas"] == 3
        assert merge(stream_config(one), three)["num_replicas"] == 3

    async def test_buckets_are_read_by_other_clients(
        self, nats_server: EmbeddedServer, broker: NatsBroker, namespace: str
    ) -> None:
        bucket = f"{namespace}_runs"
        spec = StreamSpec(
            name=f"KV_{bucket}",
            subjects=(f"$KV.{bucket}.>",),
            one_per_subject="keep_last",
            bucket=True,
            deny_delete=True,
        )
        await broker.ensure_stream(spec)
        await broker.publish(Publication(subject=f"$KV.{bucket}.r1", payload=b"running", expected_revision=0))
        await broker.publish(Publication(subject=f"$KV.{bucket}.r1", payload=b"completed", expected_revision=1))
        client = Client()
        await client.connect(nats_server.url)
        values = await client.jetstream().key_value(bucket)
        assert (await values.get("r1")).value == b"completed"
        await values.purge("r1")
        assert await values.update("r1", b"again", last=3) == 4
        await client.close()
        await broker.ensure_stream(spec)
