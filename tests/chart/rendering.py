"""Renders the chart with the Helm of the Python environment, and looks at manifests as the API server would."""

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from kubernetes_asyncio.client import models

CHART = Path(__file__).parent.parent.parent / "charts" / "smi-adapter"
VALUES = {path.name.removesuffix("-values.yaml"): path for path in sorted((CHART / "ci").glob("*-values.yaml"))}
HELM = Path(sys.executable).parent / "helm"
NAMESPACE = "mesh"
WATCHED = ("shop", "bank")
"""The namespaces of the variant `namespaced`."""

# Kinds of others, of which the Kubernetes client has no models.
NO_MODEL = {"Certificate", "Issuer", "PrometheusRule", "ServiceMonitor"}
_MODELS = {"Event": "EventsV1Event", "Subject": "RbacV1Subject"}


def helm(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run Helm 3."""
    return subprocess.run([str(HELM), *arguments], input=stdin, capture_output=True, text=True, timeout=60, check=False)


def render(values: Path | None = None, *arguments: str, release: str = "smi-adapter") -> list[dict[str, Any]]:
    """Return the manifests of a release, hooks included."""
    done = try_render(values, *arguments, release=release)
    assert done.returncode == 0, done.stderr
    return [item for item in yaml.safe_load_all(done.stdout) if item]


def try_render(
    values: Path | None = None, *arguments: str, release: str = "smi-adapter"
) -> subprocess.CompletedProcess[str]:
    """Render the chart, which may fail."""
    files = ("--values", str(values)) if values else ()
    return helm("template", release, str(CHART), "--namespace", NAMESPACE, *files, *arguments)


def of_kind(manifests: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Return the manifests of a kind."""
    return [item for item in manifests if item["kind"] == kind]


def is_hook(item: Mapping[str, Any]) -> bool:
    """Tell whether Helm makes the object only at some moment, and removes it afterwards."""
    return "helm.sh/hook" in (item["metadata"].get("annotations") or {})


def problems(item: Mapping[str, Any]) -> Iterator[str]:
    """Hold a manifest against the model of its kind: every unknown field and wrong type, with its path."""
    group, _, version = item["apiVersion"].rpartition("/")
    del group
    name = f"{version.capitalize()}{item['kind']}"
    return _against(_MODELS.get(item["kind"], name), item, item["kind"])


def _against(kind: str, value: Any, path: str) -> Iterator[str]:
    if kind == "object":
        return
    if form := re.fullmatch(r"list\[(.+)\]", kind):
        if not isinstance(value, list):
            yield f"{path}: {value!r} is no list"
            return
        for index, one in enumerate(value):
            yield from _against(form[1], one, f"{path}[{index}]")
    elif form := re.fullmatch(r"dict\(str, (.+)\)", kind):
        if not isinstance(value, dict):
            yield f"{path}: {value!r} is no map"
            return
        for key, one in value.items():
            yield from _against(form[1], one, f"{path}[{key}]")
    elif kind in _SCALARS:
        if type(value) not in _SCALARS[kind]:
            yield f"{path}: {value!r} is no {kind}"
    else:
        yield from _model(kind, value, path)


_SCALARS: Mapping[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "bool": (bool,),
    "float": (float, int),
    "datetime": (str,),
}


def _model(kind: str, value: Any, path: str) -> Iterator[str]:
    model = getattr(models, kind)
    if not isinstance(value, dict):
        yield f"{path}: {value!r} is no {kind}"
        return
    types = {wire: model.openapi_types[name] for name, wire in model.attribute_map.items()}
    for field, one in value.items():
        if field not in types:
            yield f"{path}.{field}: no field of {kind}"
        else:
            yield from _against(types[field], one, f"{path}.{field}")
