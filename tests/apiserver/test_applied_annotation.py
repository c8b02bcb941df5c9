"""Which writers keep the annotation that a lost field is told by (SMI0509), on the real kubectl and API server.

docs/versions.md says who has to apply an object anew after having taken a field out: it is as true as this.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from smi_adapter import crds
from smi_adapter.smi import pruned
from smi_adapter.smi.objects import ACCESS_GROUP
from tests.cluster.control_plane import ControlPlane

pytestmark = pytest.mark.slow

PATH = "/spec/destination/port"


def _target(namespace: str) -> dict[str, Any]:
    account = {"kind": "ServiceAccount", "name": "shop", "namespace": namespace}
    spec = {
        "destination": {**account, "port": 80},
        "rules": [{"kind": "TCPRoute", "name": "any"}],
        "sources": [account],
    }
    metadata = {"name": "it", "namespace": namespace}
    return {"apiVersion": f"{ACCESS_GROUP}/v1alpha3", "kind": "TrafficTarget", "metadata": metadata, "spec": spec}


def _without(raw: dict[str, Any]) -> str:
    spec = {**raw["spec"], "destination": {k: v for k, v in raw["spec"]["destination"].items() if k != "port"}}
    return yaml.safe_dump({**raw, "spec": spec})


Write = Callable[[ControlPlane, str, dict[str, Any], Path], None]


def _edit(*options: str) -> Write:
    def run(plane: ControlPlane, namespace: str, _: dict[str, Any], tmp_path: Path) -> None:
        script = tmp_path / "editor.py"
        script.write_text(
            "import pathlib, sys, yaml\n"
            "path = pathlib.Path(sys.argv[1])\n"
            "raw = yaml.safe_load(path.read_text())\n"
            "del raw['spec']['destination']['port']\n"
            "path.write_text(yaml.safe_dump(raw))\n"
        )
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("KUBE_EDITOR", f"{shlex.quote(sys.executable)} {shlex.quote(str(script))}")
            plane.kubectl("edit", "traffictarget", "it", "-n", namespace, *options)

    return run


def _patch(kind: str, patch: Any) -> Write:
    def run(plane: ControlPlane, namespace: str, _: dict[str, Any], __: Path) -> None:
        plane.kubectl("patch", "traffictarget", "it", "-n", namespace, f"--type={kind}", "-p", json.dumps(patch))

    return run


def _given(*arguments: str) -> Write:
    def run(plane: ControlPlane, _: str, raw: dict[str, Any], __: Path) -> None:
        plane.kubectl(*arguments, "-f", "-", stdin=_without(raw))

    return run


def _replace_live(plane: ControlPlane, _: str, live: dict[str, Any], __: Path) -> None:
    """Do as one does who gets the object as YAML, edits that and replaces it."""
    plane.kubectl("replace", "-f", "-", stdin=_without(live))


def _put(plane: ControlPlane, namespace: str, live: dict[str, Any], _: Path) -> None:
    """Do as a program does that reads an object, changes it and writes it back."""
    path = f"/apis/{ACCESS_GROUP}/v1alpha3/namespaces/{namespace}/traffictargets/it"
    plane.kubectl("replace", "--raw", path, "-f", "-", stdin=json.dumps(yaml.safe_load(_without(live))))


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (_edit(), True),
        (_edit("--save-config"), False),
        (_given("apply"), False),
        (_given("apply", "--server-side", "--force-conflicts"), False),
        (_given("replace"), False),
        (_replace_live, False),
        (_patch("merge", {"spec": {"destination": {"port": None}}}), True),
        (_patch("json", [{"op": "remove", "path": PATH}]), True),
        (_put, True),
    ],
    ids=[
        "edit",
        "edit-save",
        "apply",
        "server-side",
        "replace-file",
        "replace-live",
        "merge-patch",
        "json-patch",
        "put",
    ],
)
def test_who_takes_a_field_out_is_believed_if_the_annotation_says_so_too(
    api_server: ControlPlane,
    namespace: str,
    tmp_path: Path,
    write: Write,
    told: bool,
) -> None:
    api_server.apply(*crds.definitions())
    manifest = _target(namespace)
    api_server.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(manifest))
    path = f"/apis/{ACCESS_GROUP}/v1alpha3/namespaces/{namespace}/traffictargets/it"
    live = api_server.get(path)
    write(api_server, namespace, live if write in (_replace_live, _put) else manifest, tmp_path)
    stored = api_server.get(path)
    assert "port" not in stored["spec"]["destination"], "or there is nothing to show"
    assert [problem.field for problem in pruned.problems(stored)] == (["spec.destination.port"] if told else [])
