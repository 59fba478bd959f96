"""The manifests in ops/k8s as kustomize renders them, and the processes that they describe."""

from __future__ import annotations

import functools
import os
import subprocess
import sysconfig
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

OVERLAYS = Path(__file__).parents[2] / "ops" / "k8s" / "overlays"

Manifest = dict[str, Any]
Secret = Mapping[str, str]


@functools.cache
def rendered(overlay: str) -> tuple[Manifest, ...]:
    """Return what an overlay consists of, by the kubectl that is installed beside this Python.

    Args:
        overlay: its name; or "single+archive" for one with a component, as an operator would put it together.

    """
    name, *components = overlay.split("+")
    if not components:
        return _rendered(OVERLAYS / name)
    with tempfile.TemporaryDirectory() as folder:
        # Kustomize takes no absolute paths.
        above = Path(os.path.relpath(OVERLAYS.parent, Path(folder).resolve()))
        of_both = {
            "resources": [str(above / "overlays" / name)],
            "components": [str(above / "components" / component) for component in components],
        }
        (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(of_both))
        return _rendered(Path(folder))


def _rendered(folder: Path) -> tuple[Manifest, ...]:
    kubectl = Path(sysconfig.get_path("scripts")) / "kubectl"
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def of_kind(overlay: str, *kinds: str) -> dict[str, Manifest]:
    """Return the manifests of some kinds, by name."""
    return {each["metadata"]["name"]: each for each in rendered(overlay) if each["kind"] in kinds}


def pod_of(manifest: Manifest) -> Manifest:
    """Return the pod that a Deployment or StatefulSet makes."""
    return dict(manifest["spec"]["template"]["spec"])


def container_of(manifest: Manifest) -> Manifest:
    """Return its one container."""
    (container,) = pod_of(manifest)["containers"]
    return dict(container)


def environment_of(overlay: str, container: Manifest, secrets: Mapping[str, Secret] | None = None) -> dict[str, str]:
    """Return the variables that a container gets; without *secrets*, those that are not secret."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        if "configMapRef" in source:
            found |= of_kind(overlay, "ConfigMap")[source["configMapRef"]["name"]]["data"]
        elif secrets is not None:
            found |= secrets[source["secretRef"]["name"]]
    for each in container.get("env", ()):
        place = each.get("valueFrom", {}).get("secretKeyRef")
        if place is not None and secrets is not None:
            found[each["name"]] = secrets[place["name"]][place["key"]]
        elif "value" in each:
            found[each["name"]] = _expanded(each["value"], found)
    return found


def secrets_of(container: Manifest) -> set[tuple[str, str]]:
    """Return which keys of which secrets a container gets as variables; "" for all keys of one."""
    places = [each["valueFrom"].get("secretKeyRef") for each in container.get("env", ()) if "valueFrom" in each]
    whole = {(source["secretRef"]["name"], "") for source in container.get("envFrom", ()) if "secretRef" in source}
    return whole | {(place["name"], place["key"]) for place in places if place is not None}


def words_of(container: Manifest, environment: dict[str, str]) -> list[str]:
    """Return the command line, with its variables put in as Kubernetes does."""
    return [_expanded(word, environment) for word in (*container["command"], *container.get("args", ()))]


def port_of(container: Manifest, probe: str) -> int:
    """Return the port that a probe asks, which it names."""
    asked = container[probe]["httpGet"]["port"]
    return next(int(port["containerPort"]) for port in container["ports"] if port["name"] == asked)


def _expanded(text: str, environment: Mapping[str, str]) -> str:
    for name, value in environment.items():
        text = text.replace(f"$({name})", value)
    return text
