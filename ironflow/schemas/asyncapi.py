"""The AsyncAPI 3.0 document: channels, and the operations of clients, engines and workers on them."""

from __future__ import annotations

import re

import msgspec

from ironflow.broker.protocol import StreamSpec
from ironflow.broker.topology import streams
from ironflow.messages import Reply
from ironflow.names import Names
from ironflow.schemas.channels import PARAMETERS, VERBS, Channel, Role, core_channels, stored_channels
from ironflow.schemas.records import JsonObject, components, message_types, record_types
from ironflow.version import __version__

ASYNCAPI_VERSION = "3.0.0"
ROLES: dict[Role, str] = {
    "client": "whatever publishes events, starts runs and reads results",
    "engine": "decides: folds facts into run states and publishes tasks",
    "worker": "executes: pulls tasks and writes facts",
}

_PARAMETER = re.compile(r"\{(\w+)\}")


def asyncapi_document() -> JsonObject:
    """Return the document for the default namespace."""
    names = Names()
    channels = (*stored_channels(names), *core_channels(names), *_verb_channels(names))
    return {
        "asyncapi": ASYNCAPI_VERSION,
        "info": _info(names),
        "defaultContentType": "application/json",
        "servers": {"nats": {"host": "127.0.0.1:4222", "protocol": "nats", "description": "NATS with JetStream."}},
        "channels": _channels(channels, names),
        "operations": _operations(channels),
        "components": {"messages": _messages(channels), "schemas": _schemas()},
    }


def _info(names: Names) -> JsonObject:
    return {
        "title": "Ironflow",
        "version": __version__,
        "description": (
            "The subjects, streams and buckets through which clients, engines and workers meet. All of them "
            f"start with the namespace, which is `{names.namespace}` here. Readers ignore fields that they "
            "do not know."
        ),
        "license": {"name": "Apache-2.0"},
        "tags": [{"name": role, "description": text} for role, text in ROLES.items()],
    }


def _settings(spec: StreamSpec) -> JsonObject:
    """Return how a stream is set; the number of shards is a fact of its namespace."""
    fields: JsonObject = msgspec.json.decode(msgspec.json.encode(spec))
    del fields["shards"]
    return fields


def _verb_channels(names: Names) -> tuple[Channel, ...]:
    return tuple(
        Channel(
            name=f"api.{verb}",
            address=names.api(verb),
            text="A request to whichever engine gets it first.",
            message=request,
            senders=("client",),
            receivers=("engine",),
            answer=Reply,
        )
        for verb, (request, _) in sorted(VERBS.items())
    )


def _channels(channels: tuple[Channel, ...], names: Names) -> JsonObject:
    specs = {spec.name: _settings(spec) for spec in streams(names)}
    described: JsonObject = {}
    for channel in channels:
        described[channel.name] = {
            "address": channel.address,
            "description": channel.text,
            "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in [_message_name(channel)]},
            **_parameters(channel.address),
            **({"x-jetstream": specs[channel.stream]} if channel.stream else {}),
        }
        if channel.answer is not None:
            described[f"{channel.name}.reply"] = {
                "address": None,
                "description": "The reply subject that the request named.",
                "messages": _message_refs(_answer_name(channel)),
            }
    return described


def _parameters(address: str) -> JsonObject:
    found = {name: {"description": PARAMETERS[name]} for name in _PARAMETER.findall(address)}
    return {"parameters": found} if found else {}


def _operations(channels: tuple[Channel, ...]) -> JsonObject:
    operations: JsonObject = {}
    for channel in channels:
        for role in channel.senders:
            operations[f"{role}.sends.{channel.name}"] = _operation("send", role, channel)
        for role in channel.receivers:
            operations[f"{role}.receives.{channel.name}"] = _operation("receive", role, channel)
    return operations


def _operation(action: str, role: Role, channel: Channel) -> JsonObject:
    reply = f"{channel.name}.reply"
    return {
        "action": action,
        "channel": _channel_ref(channel.name),
        "tags": [{"name": role}],
        "messages": [_channel_message_ref(channel.name, _message_name(channel))],
        **(
            {
                "reply": {
                    "channel": _channel_ref(reply),
                    "messages": [_channel_message_ref(reply, _answer_name(channel))],
                }
            }
            if channel.answer is not None
            else {}
        ),
    }


def _messages(channels: tuple[Channel, ...]) -> JsonObject:
    found: JsonObject = {}
    for channel in channels:
        found[_message_name(channel)] = (
            {"payload": _payload(channel.message)} if channel.message else {"summary": "An empty body."}
        )
        if channel.answer is not None:
            found[_answer_name(channel)] = {"payload": _answer_payload(channel, channel.answer)}
    return dict(sorted(found.items()))


def _answer_payload(channel: Channel, answer: type[msgspec.Struct]) -> JsonObject:
    if answer is not Reply:
        return _payload(answer)
    _, result = VERBS[channel.name.removeprefix("api.")]
    if result is None:
        return _payload(Reply)
    either = {"anyOf": [_payload(result), {"type": "null"}]}
    return {"allOf": [_payload(Reply), {"type": "object", "properties": {"result": either}}]}


def _payload(struct: type[msgspec.Struct]) -> JsonObject:
    return {"$ref": f"#/components/schemas/{struct.__name__}"}


def _schemas() -> JsonObject:
    requests = tuple(request for request, _ in VERBS.values())
    every = dict.fromkeys((*record_types(), *message_types(), *requests))
    return components(tuple(every), "#/components/schemas/{name}")


def _message_name(channel: Channel) -> str:
    return channel.message.__name__ if channel.message else "Nothing"


def _answer_name(channel: Channel) -> str:
    if channel.answer is not Reply:
        return channel.answer.__name__ if channel.answer else "Nothing"
    return f"Reply.{channel.name.removeprefix('api.')}"


def _message_refs(name: str) -> JsonObject:
    return {name: {"$ref": f"#/components/messages/{name}"}}


def _channel_ref(name: str) -> JsonObject:
    return {"$ref": f"#/channels/{name}"}


def _channel_message_ref(channel: str, message: str) -> JsonObject:
    return {"$ref": f"#/channels/{channel}/messages/{message}"}
