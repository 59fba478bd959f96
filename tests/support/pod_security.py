"""The Pod Security Standard "restricted", and what else a pod of ours owes: pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
"""The kinds that the standard allows."""
PROFILES = {"RuntimeDefault", "Localhost"}


def violations(pod: Json) -> list[str]:
    """Return what a pod's specification does that the standard forbids, or does not do that it demands."""
    context: Json = pod.get("securityContext", {})
    return [
        *(f"{name} is on" for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name)),
        *_volumes(pod),
        *(f"sysctl {each['name']}" for each in context.get("sysctls", ())),
        *(problem for container in _containers(pod) for problem in _container(container, context)),
    ]


def omissions(pod: Json) -> list[str]:
    """Return what we demand beyond the standard: nothing to steal, nothing to write to, bounds, and probes."""
    missing = [] if pod.get("automountServiceAccountToken") is False else ["has a token for the API server"]
    for container in pod["containers"]:
        name, resources = container["name"], container.get("resources", {})
        if not container.get("securityContext", {}).get("readOnlyRootFilesystem"):
            missing.append(f"{name} may write to its root file system")
        if container["image"].partition(":")[2] in {"", "latest"}:
            missing.append(f"{name} has an image of no version")
        missing += [
            f"{name} asks for no {what}" for what in ("cpu", "memory") if what not in resources.get("requests", {})
        ]
        if "memory" not in resources.get("limits", {}):
            missing.append(f"{name} may take all memory")
        missing += [f"{name} has no {probe}" for probe in ("livenessProbe", "readinessProbe") if probe not in container]
    return missing


def _containers(pod: Json) -> list[Json]:
    return [each for kind in ("initContainers", "containers", "ephemeralContainers") for each in pod.get(kind, ())]


def _volumes(pod: Json) -> Iterator[str]:
    for volume in pod.get("volumes", ()):
        yield from (f"volume {volume['name']} is a {kind}" for kind in volume.keys() - {"name"} - VOLUMES)


def _container(container: Json, of_pod: Json) -> Iterator[str]:
    name, context = container["name"], container.get("securityContext", {})
    both = {**of_pod, **context}
    capabilities = context.get("capabilities", {})
    if context.get("privileged"):
        yield f"{name} is privileged"
    if context.get("allowPrivilegeEscalation") is not False:
        yield f"{name} may gain privileges"
    if both.get("runAsNonRoot") is not True:
        yield f"{name} may run as root"
    if both.get("runAsUser") == 0:
        yield f"{name} runs as root"
    if both.get("seccompProfile", {}).get("type") not in PROFILES:
        yield f"{name} has no seccomp profile"
    if "ALL" not in capabilities.get("drop", ()):
        yield f"{name} keeps capabilities"
    if set(capabilities.get("add", ())) - {"NET_BIND_SERVICE"}:
        yield f"{name} adds capabilities"
    if context.get("procMount", "Default") != "Default":
        yield f"{name} sees all of /proc"
    yield from (
        f"{name} takes port {port['hostPort']} of its node"
        for port in container.get("ports", ())
        if port.get("hostPort")
    )
