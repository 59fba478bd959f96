"""How to reach NATS: from the environment and from contexts of the `nats` CLI."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from ironflow.broker.nats.settings import (
    ConnectionSettings,
    context_file,
    from_context,
    from_environment,
    redact,
    split_urls,
)
from ironflow.errors import DefinitionError


def test_nothing_set_means_the_local_server() -> None:
    assert from_environment({}) == ConnectionSettings()
    assert from_environment({"NATS_URL": "", "NATS_TOKEN": ""}) == ConnectionSettings()
    assert ConnectionSettings().urls == ("nats://127.0.0.1:4222",)


def test_every_variable_has_its_setting() -> None:
    assert from_environment(
        {
            "NATS_URL": "nats://a:4222, tls://b:4222",
            "NATS_CREDS": "1",
            "NATS_NKEY": "2",
            "NATS_USER": "3",
            "NATS_PASSWORD": "4",
            "NATS_TOKEN": "5",
            "NATS_CA": "6",
            "NATS_CERT": "7",
            "NATS_KEY": "8",
            "NATS_INBOX_PREFIX": "_INBOX_me.",
            "NATS_JS_API_PREFIX": "shop.js",
        }
    ) == ConnectionSettings(
        urls=("nats://a:4222", "tls://b:4222"),
        creds="1",
        nkey="2",
        user="3",
        password="4",
        token="5",
        tls_ca="6",
        tls_cert="7",
        tls_key="8",
        inbox_prefix="_INBOX_me",
        api_prefix="shop.js",
    )


@pytest.mark.parametrize("variable", ["NATS_INBOX_PREFIX", "NATS_JS_API_PREFIX"])
@pytest.mark.parametrize("prefix", [".", "a b", "a.*", ">", "a..b", "a\r\nPUB x 0"])
def test_a_prefix_is_what_a_subject_can_start_with(variable: str, prefix: str) -> None:
    with pytest.raises(DefinitionError, match="is not what a subject can start with"):
        from_environment({variable: prefix})


@pytest.mark.parametrize("text", ["", " ", ",", " , "])
def test_an_empty_list_of_servers_is_the_local_one(text: str) -> None:
    assert split_urls(text) == ConnectionSettings().urls


def test_text_forms_show_no_secrets() -> None:
    settings = ConnectionSettings(
        urls=("nats://me:sesame@host:4222", "tls://t0ken@host:4223"),
        creds="/etc/my.creds",
        user="sesame-user",
        password="sesame-password",
        token="sesame-token",
        user_jwt="sesame-jwt",
        user_seed="sesame-seed",
    )
    for text in (repr(settings), str(settings), f"{settings}", settings.shown_urls):
        assert "sesame" not in text
        assert "t0ken" not in text
    assert "nats://host:4222, tls://host:4223" in repr(settings)
    assert "/etc/my.creds" in repr(settings)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nats://u:p@h:1", "nats://h:1"),
        ("nats://h:1", "nats://h:1"),
        ("u:p@h", "h"),
        ("nats://u:p@ss@h", "nats://h"),
        ("h", "h"),
    ],
)
def test_urls_are_shown_without_their_user(url: str, shown: str) -> None:
    assert redact(url) == shown


def context(folder: Path, **content: Any) -> Path:
    file = folder / "prod.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def test_a_context_is_read(tmp_path: Path) -> None:
    file = context(
        tmp_path,
        description="Production",
        url="nats://a:4222,nats://b:4222",
        creds="~/prod.creds",
        ca="/ca.pem",
        cert="/cert.pem",
        key="/key.pem",
        tls_first=True,
        inbox_prefix="_INBOX_me",
        user="",
        color_scheme="dark",
    )
    assert from_context(file) == ConnectionSettings(
        urls=("nats://a:4222", "nats://b:4222"),
        creds=str(Path.home() / "prod.creds"),
        tls_ca="/ca.pem",
        tls_cert="/cert.pem",
        tls_key="/key.pem",
        tls_first=True,
        inbox_prefix="_INBOX_me",
    )


def test_values_of_a_context_may_stand_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "password").write_text("from-file\n", encoding="utf-8")
    monkeypatch.setenv("MY_TOKEN", "from-environment")
    settings = from_context(
        context(
            tmp_path,
            password=f"file://{tmp_path}/password",
            token="env://MY_TOKEN",
            user_seed="data:;base64," + base64.b64encode(b"from-data").decode(),
            creds=f"file://{tmp_path}/x.creds",
        )
    )
    assert (settings.password, settings.token, settings.user_seed) == ("from-file", "from-environment", "from-data")
    assert settings.creds == f"{tmp_path}/x.creds"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"token": "op://vault/item/token"}, "token"),
        ({"creds": "nsc://operator/account/user"}, "creds"),
        ({"creds": "data:;base64,AAAA"}, "creds"),
        ({"token": "data:;base64,%%%"}, "token"),
        ({"token": "env://NOT_SET_ANYWHERE"}, "token"),
        ({"password": "file:///not/there"}, "password"),
        ({"socks_proxy": "127.0.0.1:1080"}, "socks_proxy"),
        ({"jetstream_domain": "hub"}, "jetstream_domain"),
    ],
)
def test_what_a_context_asks_for_in_vain_is_named(tmp_path: Path, content: dict[str, str], named: str) -> None:
    with pytest.raises(DefinitionError, match=named):
        from_context(context(tmp_path, **content))


def test_a_context_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match=r"no NATS context 'prod'.*nats context ls"):
        from_context(tmp_path / "prod.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00"])
def test_a_broken_context_is_an_error(tmp_path: Path, text: str) -> None:
    file = tmp_path / "broken.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(DefinitionError, match=r"broken\.json"):
        from_context(file)


def test_contexts_stand_where_the_nats_cli_keeps_them() -> None:
    assert context_file("prod", {}) == Path.home() / ".config/nats/context/prod.json"
    assert context_file("prod", {"XDG_CONFIG_HOME": "/x"}) == Path("/x/nats/context/prod.json")
