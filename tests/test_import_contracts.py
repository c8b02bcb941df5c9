"""Plant a violation of each import contract in a tree of empty modules and see that import-linter finds it.

A contract that is wrong looks exactly like one that is kept. A plain layers contract, for one, lets a backend
import `smi`, since that is only further down.
"""

import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

PYPROJECT: Final = Path(__file__).parent.parent / "pyproject.toml"

# The shape of the package, reduced to what the contracts name.
MODULES: Final = (
    "__init__", "cli/__init__", "demo/__init__", "app", "settings", "findings", "snapshot", "mesh", "decode",
    "evaluate", "regex",
    "translate/__init__", "translate/access", "smi/__init__", "smi/objects", "smi/wire", "smi/schema",
    "backends/__init__", "backends/envoy/__init__", "backends/envoy/routes", "backends/gateway_api",
    "envoy_api/__init__", "delivery/__init__", "delivery/xds/__init__", "sources/__init__", "sources/directory",
    "embedded_api/__init__", "identity/__init__", "identity/ca", "telemetry/__init__",
)  # fmt: skip

# What design.md allows and the contracts must go on allowing.
ALLOWED: Final = {
    "cli/__init__": "from smi_adapter import app, demo",
    "demo/__init__": "from smi_adapter import app",
    "app": "from smi_adapter import backends, delivery, sources, translate",
    "delivery/xds/__init__": "import asyncio, grpc\nfrom smi_adapter import envoy_api, identity",
    "sources/directory": "import asyncio, watchfiles\nfrom smi_adapter import decode",
    "telemetry/__init__": "import aiohttp, prometheus_client",
    "controller": "from smi_adapter import app, cluster, delivery, identity, telemetry",
    "cluster/__init__": "import aiohttp, kubernetes_asyncio\nfrom smi_adapter import decode, identity",
    "decode": "from smi_adapter import findings, snapshot\nfrom smi_adapter.smi import wire",
    "translate/access": "from smi_adapter import mesh, regex, snapshot\nfrom smi_adapter.smi import objects",
    "backends/envoy/routes": "from smi_adapter import envoy_api, findings, mesh, regex",
    "smi/wire": "from smi_adapter.smi import objects",
    "smi/schema": "import jsonschema",
    "local": "from smi_adapter import app, runfolder, sources\nfrom smi_adapter.backends.envoy import bootstrap",
    "evaluate": "from smi_adapter import mesh, paths, regex",
    "dump": "from smi_adapter import findings",
    "overlay": "",
    "paths": "",
    "runfolder": "import asyncio",
    "snapshot": "from smi_adapter.smi import objects",
    "settings": "",
}

VIOLATIONS: Final = {
    # contract id: (module, the line that breaks it)
    "layers": ("decode", "import smi_adapter.sources.directory"),
    "backends-see-the-mesh": ("backends/envoy/routes", "import smi_adapter.smi.objects"),
    "backends-are-independent": ("backends/gateway_api", "import smi_adapter.backends.envoy.routes"),
    "mesh-is-neutral": ("mesh", "import smi_adapter.smi.objects"),
    "pure-core": ("translate/access", "import asyncio"),
    "pure-backends": ("backends/gateway_api", "import grpc"),
    "same-input-same-bytes": ("evaluate", "import random"),
    "kubernetes-at-the-edge": ("sources/directory", "import kubernetes_asyncio"),
    "envoy-api-users": ("translate/__init__", "import smi_adapter.envoy_api"),
    "composition-root": ("__main__", "import smi_adapter.app"),
}


def _contract_names() -> dict[str, str]:
    contracts = tomllib.loads(PYPROJECT.read_text())["tool"]["importlinter"]["contracts"]
    return {contract["id"]: contract["name"] for contract in contracts}


def _lint(tree: Path, sources: Mapping[str, str]) -> tuple[int, str]:
    """Write the package with these module bodies and run the project's own contracts over it."""
    for module in {*MODULES, *sources}:
        path = tree / "smi_adapter" / f"{module}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(sources.get(module, "") + "\n")
    (tree / "pyproject.toml").write_text(PYPROJECT.read_text())
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_intended_imports_are_allowed(tmp_path: Path) -> None:
    code, output = _lint(tmp_path, ALLOWED)
    assert code == 0, output


@pytest.mark.parametrize("contract", sorted(VIOLATIONS))
def test_a_planted_violation_is_found(contract: str, tmp_path: Path) -> None:
    module, line = VIOLATIONS[contract]
    code, output = _lint(tmp_path, ALLOWED | {module: f"{ALLOWED.get(module, '')}\n{line}"})
    assert code != 0
    assert f"{_contract_names()[contract]} BROKEN" in output


def test_a_module_without_a_place_in_the_layers_is_found(tmp_path: Path) -> None:
    code, output = _lint(tmp_path, {**ALLOWED, "utils": ""})
    assert code != 0
    assert "utils" in output


def test_an_indirect_import_breaks_purity(tmp_path: Path) -> None:
    """The core may not reach asyncio through a module that is allowed to be below it."""
    planted = {"findings": "import asyncio", "mesh": "import smi_adapter.findings"}
    code, output = _lint(tmp_path, ALLOWED | planted)
    assert code != 0
    assert f"{_contract_names()['pure-core']} BROKEN" in output


def test_every_contract_has_a_planted_violation() -> None:
    assert sorted(VIOLATIONS) == sorted(_contract_names())
