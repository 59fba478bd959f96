"""The accounts of a NATS server's configuration, made of what each role may do: pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import cast

import msgspec

from ironflow.names import Names
from ironflow.permissions import JETSTREAM, Role, api_prefix, inbox_prefix, secret_variable

ANSWER_EXPIRES = "2m"
"""How long a request may be answered. The engine takes up to a minute, where it waits for an event's runs."""


class Verbatim(msgspec.Struct, frozen=True):
    """Text that stands in a configuration as it is: a variable."""

    text: str


def accounts(names: Names, roles: Iterable[Role], *, nkeys: bool = False) -> dict[str, object]:
    """Return the accounts of a namespace, by name.

    Args:
        names: the namespace.
        roles: what :func:`ironflow.permissions.roles` returns, or some of it; the first one is the engine's.
        nkeys: whether users sign in with nkeys, in place of passwords.

    """
    engine, *others = roles
    core = account_name(names, engine)
    return {
        core: {
            "jetstream": Verbatim("enabled"),
            "users": [_user(names, engine, nkeys=nkeys, outside=False)],
            "exports": [
                *_exported_services(names, others),
                *({"stream": subject, "accounts": _hearing(names, others, subject)} for subject in _heard(others)),
            ],
            "imports": [
                {"service": {"account": account_name(names, role), "subject": subject}}
                for role in others
                for subject in role.answers
            ],
        },
        **{account_name(names, role): _outside(names, role, core, nkeys=nkeys) for role in others},
    }


def account_name(names: Names, role: Role) -> str:
    """Return the account of a role; JetStream is in the engine's, whose name is the namespace's."""
    # Lower case after upper case: no two namespaces can make the same name.
    return names.namespace.upper() if role.name == "engine" else f"{names.namespace.upper()}-{role.name}"


def user_name(names: Names, role: Role) -> str:
    """Return the user of a role."""
    return f"{names.namespace}-{role.name}"


def render(block: Mapping[str, object]) -> str:
    """Return what stands in a server's accounts block; those of several namespaces can stand in one."""
    return "".join(f"{json.dumps(name)}: {_text(account, 0)}\n" for name, account in block.items())


def _outside(names: Names, role: Role, core: str, *, nkeys: bool) -> dict[str, object]:
    return {
        "users": [_user(names, role, nkeys=nkeys, outside=True)],
        "exports": [{"service": subject, "accounts": [core], "response_type": "stream"} for subject in role.answers],
        "imports": [
            *(_imported_service(names, core, subject) for subject in role.asks),
            *({"stream": {"account": core, "subject": subject}} for subject in role.hears),
        ],
    }


def _user(names: Names, role: Role, *, nkeys: bool, outside: bool) -> dict[str, object]:
    allowed = [_local(names, subject) if outside else subject for subject in role.asks]
    secret = Verbatim(f"${secret_variable(names, role, 'NKEY' if nkeys else 'PASSWORD')}")
    permissions: dict[str, object] = {
        "publish": {"allow": allowed} | ({"deny": list(role.never)} if role.never else {}),
        "subscribe": {"allow": [f"{inbox_prefix(names, role)}.>", *role.hears, *role.answers]},
    }
    if role.answers:
        permissions["allow_responses"] = {"max": 1, "expires": ANSWER_EXPIRES}
    sign_in: dict[str, object] = {"nkey": secret} if nkeys else {"user": user_name(names, role), "password": secret}
    return sign_in | {"permissions": permissions}


def _exported_services(names: Names, roles: list[Role]) -> list[dict[str, object]]:
    subjects = dict.fromkeys(subject for role in roles for subject in role.asks)
    streams = {subject for role in roles for subject in role.streams}
    exported: list[dict[str, object]] = []
    for subject in subjects:
        asking = [account_name(names, role) for role in roles if subject in role.asks]
        exported.append({"service": subject, "accounts": asking})
        if subject in streams:
            exported[-1]["response_type"] = "stream"
    return exported


def _imported_service(names: Names, core: str, subject: str) -> dict[str, object]:
    local = _local(names, subject)
    imported: dict[str, object] = {"service": {"account": core, "subject": subject}}
    return imported if local == subject else imported | {"to": local}


def _local(names: Names, subject: str) -> str:
    """Return what a subject of the engine's account is called in the others."""
    return f"{api_prefix(names)}.{subject.removeprefix(JETSTREAM)}" if subject.startswith(JETSTREAM) else subject


def _heard(roles: list[Role]) -> list[str]:
    return list(dict.fromkeys(subject for role in roles for subject in role.hears))


def _hearing(names: Names, roles: list[Role], subject: str) -> list[str]:
    return [account_name(names, role) for role in roles if subject in role.hears]


def _text(value: object, depth: int) -> str:
    """Return a value as text: what fits on a line on one, anything else with one item a line."""
    if isinstance(value, Verbatim):
        return value.text
    if isinstance(value, dict):
        items = [f"{key}: {_text(item, depth + 1)}" for key, item in cast("dict[str, object]", value).items()]
        opening, closing = "{}"
    elif isinstance(value, list):
        items = [_text(item, depth + 1) for item in cast("list[object]", value)]
        opening, closing = "[]"
    else:
        return json.dumps(value)
    line = f"{opening}{', '.join(items)}{closing}"
    if len(line) <= _LONGEST_LINE - 2 * depth and "\n" not in line:
        return line
    margin = "  " * depth
    return "\n".join([opening, *(f"{margin}  {item}" for item in items), f"{margin}{closing}"])


_LONGEST_LINE = 110
