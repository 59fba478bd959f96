"""Settings that are refused."""

from __future__ import annotations

import shlex
import sys
from typing import NamedTuple

import pytest

from tests.e2e.bad_input.tables import (
    EACH_EXECUTABLE,
    NAMESPACE_RULE,
    UNREACHABLE,
    URL_RULE,
    USAGE,
    Bad,
    Place,
    assert_refused,
    ids_of,
    make_shop,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="commands are forked, and signals are POSIX")


class Setting(NamedTuple):
    """One line of the table of settings: arguments, environment variables, or [tool.ironflow]."""

    words: str = ""
    environment: dict[str, str] = {}  # noqa: RUF012 - nobody changes it
    project: str = ""
    complaint: str = ""
    code: int = USAGE

    @property
    def given(self) -> str:
        return " ".join([*(f"{key}={value}" for key, value in self.environment.items()), self.words, self.project])


SETTINGS = (
    Setting("--namespace Prod", complaint=f"namespace 'Prod' {NAMESPACE_RULE}"),
    Setting("--namespace a.b", complaint=f"namespace 'a.b' {NAMESPACE_RULE}"),
    Setting(f"--namespace {'x' * 33}", complaint=NAMESPACE_RULE),
    Setting("--namespace ''", complaint="'--namespace': it is empty; leave the option out for the default"),
    Setting(environment={"IRONFLOW_NAMESPACE": "Prod"}, complaint=f"namespace 'Prod' {NAMESPACE_RULE}"),
    Setting("--nats-url ''", complaint="'--nats-url': it is empty; leave the option out for the default"),
    *(
        Setting(f"--nats-url {shlex.quote(url)}", complaint=f"{url!r} {URL_RULE}")
        for url in (
            "http://127.0.0.1:8222",
            "nats:/127.0.0.1",
            "nats://",
            "nats://:4222",
            "nats://127.0.0.1:99999",
            "nats://127.0.0.1:port",
            "nats://[::1",
            "nats://my host:4222",
        )
    ),
    Setting("--nats-url nats://me:sesame@127.0.0.1:no", complaint=f"'nats://127.0.0.1:no' {URL_RULE}"),
    Setting("--nats-url nats://a,http://b", complaint=f"'http://b' {URL_RULE}"),
    Setting(environment={"NATS_URL": "http://x"}, complaint=f"'http://x' {URL_RULE}"),
    Setting(
        "--nats-url nowhere.invalid", complaint="cannot reach NATS at nowhere.invalid: unknown host", code=UNREACHABLE
    ),
    Setting("--creds missing.creds", complaint="cannot read the credentials file missing.creds: No such file"),
    Setting("--creds .", complaint="cannot read the credentials file .: Is a directory"),
    Setting("--creds data.json/x", complaint="cannot read the credentials file data.json/x: Not a directory"),
    Setting("--creds data.json", complaint="data.json is not a credentials file with a user JWT and an nkey seed"),
    Setting("--creds ''", complaint="'--creds': it is empty; leave the option out for the default"),
    Setting(environment={"NATS_CREDS": "missing.creds"}, complaint="cannot read the credentials file missing.creds: "),
    Setting(
        environment={"NATS_NKEY": "missing.nk"}, complaint="cannot read the nkey seed file missing.nk: No such file"
    ),
    Setting(environment={"NATS_NKEY": "data.json"}, complaint="data.json is not a file with the seed of a user's nkey"),
    Setting(environment={"NATS_CA": "missing.pem"}, complaint="cannot read the CA file missing.pem: No such file"),
    Setting(environment={"NATS_CA": "data.json"}, complaint="the TLS certificate or key cannot be used: "),
    Setting("--context nowhere", complaint="there is no NATS context 'nowhere' (looked for "),
    Setting("--context ''", complaint="'--context': it is empty; leave the option out for the default"),
    Setting(environment={"NATS_CONTEXT": "nowhere"}, complaint="there is no NATS context 'nowhere' (looked for "),
    Setting("--context broken", complaint="cannot read the NATS context "),
    Setting("--context web", complaint=f"'http://x' {URL_RULE}"),
    Setting(
        project='namespce = "x"', complaint="[tool.ironflow] has no setting 'namespce'; it has app, nats_url, name"
    ),
    Setting(project="namespace = 5", complaint="namespace of [tool.ironflow] must be a text that is not empty, got 5"),
    Setting(project='namespace = "Prod"', complaint=f"namespace 'Prod' {NAMESPACE_RULE}"),
    Setting(project='nats_url = "http://x"', complaint=f"'http://x' {URL_RULE}"),
    Setting(project="app = ", complaint="pyproject.toml: Invalid value (at line 2, column"),
)


@pytest.mark.usefixtures("nothing_stored")
class TestSettings:
    @pytest.mark.parametrize("setting", SETTINGS, ids=ids_of(setting.given for setting in SETTINGS))
    def test_a_setting_that_cannot_be_used_is_said_to_be_one(self, place: Place, setting: Setting) -> None:
        make_shop(place)
        place.file(".config/nats/context/broken.json", "{")
        place.file(".config/nats/context/web.json", '{"url": "http://x"}')
        place.file("pyproject.toml", f"[tool.ironflow]\n{setting.project}\n")
        # The project's settings count where the environment says nothing.
        unset = {"NATS_URL": "", "IRONFLOW_NAMESPACE": ""} if setting.project else {}
        called = [call._replace(words=(*call.words, *shlex.split(setting.words))) for call in EACH_EXECUTABLE]
        for outcome in place.commands.run_all(called, {**unset, **setting.environment}):
            assert_refused(outcome, Bad(setting.given, setting.complaint, setting.code))

    def test_an_app_of_the_project_that_does_not_exist_is_named(self, place: Place) -> None:
        place.file("pyproject.toml", '[tool.ironflow]\napp = "gone.py"\n')
        assert_refused(place.worker("--queue", "orders"), Bad("", f"no such file: {place.commands.folder / 'gone.py'}"))
        outcome = place.worker("--queue", "orders", IRONFLOW_APP="gone")
        assert_refused(outcome, Bad("", "no module named 'gone'; give a module name or a file (./gone.py)"))
