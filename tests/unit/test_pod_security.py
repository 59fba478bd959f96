"""The checker of pods finds each thing that the restricted standard forbids."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.support.pod_security import omissions, violations

GOOD: dict[str, Any] = {
    "automountServiceAccountToken": False,
    "securityContext": {"runAsNonRoot": True, "runAsUser": 1, "seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [
        {
            "name": "it",
            "image": "it:1",
            "livenessProbe": {},
            "readinessProbe": {},
            "ports": [{"containerPort": 1}],
            "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
        }
    ],
    "volumes": [{"name": "scratch", "emptyDir": {}}],
}
CONTAINER = ("containers", 0)
SECURITY = (*CONTAINER, "securityContext")
LATEST = "it:latest"


def changed(path: tuple[str | int, ...], value: object) -> dict[str, Any]:
    """Return the good pod with one thing set, or left out where the value is None."""
    pod = copy.deepcopy(GOOD)
    place: Any = pod
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return pod


def test_a_restricted_pod_passes() -> None:
    assert violations(GOOD) == []
    assert omissions(GOOD) == []


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (("hostNetwork",), True, "hostNetwork is on"),
        (("hostPID",), True, "hostPID is on"),
        (("volumes",), [{"name": "node", "hostPath": {"path": "/"}}], "volume node is a hostPath"),
        (("securityContext", "sysctls"), [{"name": "kernel.msgmax"}], "sysctl kernel.msgmax"),
        (("securityContext", "runAsNonRoot"), None, "it may run as root"),
        (("securityContext", "runAsUser"), 0, "it runs as root"),
        (("securityContext", "seccompProfile"), None, "it has no seccomp profile"),
        ((*SECURITY, "seccompProfile"), {"type": "Unconfined"}, "it has no seccomp profile"),
        ((*SECURITY, "privileged"), True, "it is privileged"),
        ((*SECURITY, "allowPrivilegeEscalation"), None, "it may gain privileges"),
        ((*SECURITY, "capabilities"), None, "it keeps capabilities"),
        ((*SECURITY, "capabilities", "add"), ["SYS_ADMIN"], "it adds capabilities"),
        ((*SECURITY, "procMount"), "Unmasked", "it sees all of /proc"),
        ((*CONTAINER, "ports"), [{"containerPort": 1, "hostPort": 80}], "it takes port 80 of its node"),
        (("initContainers",), [{"name": "first"}], "first keeps capabilities"),
    ],
)
def test_what_the_standard_forbids_is_told(path: tuple[str | int, ...], value: object, problem: str) -> None:
    assert problem in violations(changed(path, value))


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (("automountServiceAccountToken",), None, "has a token for the API server"),
        ((*SECURITY, "readOnlyRootFilesystem"), None, "it may write to its root file system"),
        ((*CONTAINER, "image"), LATEST, "it has an image of no version"),
        ((*CONTAINER, "resources", "limits"), None, "it may take all memory"),
        ((*CONTAINER, "resources", "requests"), {"cpu": "1"}, "it asks for no memory"),
        ((*CONTAINER, "readinessProbe"), None, "it has no readinessProbe"),
    ],
)
def test_what_we_demand_beyond_it_is_told(path: tuple[str | int, ...], value: object, problem: str) -> None:
    assert omissions(changed(path, value)) == [problem]
