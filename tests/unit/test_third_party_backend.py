"""A backend of a third party is found, named and used without an edit of the core."""

import subprocess
import sys
from pathlib import Path

import pytest

from smi_adapter.backends import Files, UnknownBackendError, installed, load
from smi_adapter.backends.capabilities import supported
from smi_adapter.mesh import Feature
from tests.unit.meshes import EXAMPLES

DISTRIBUTION = Path(__file__).parent.parent / "toy_backend"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the distribution into a directory of its own, without an index and without a network."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    command += ["--no-deps", "--no-build-isolation", "--target", str(target), str(DISTRIBUTION)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return target


def test_it_is_not_there_before_it_is_installed() -> None:
    assert "toy" not in installed()


def test_installing_it_is_all_it_takes(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(site))
    assert "toy" in installed()
    backend = load("toy")
    assert backend.name == "toy"
    value, _, _ = EXAMPLES[Feature.MATCH_HEADER]
    rendered = backend.render(supported(value, backend).mesh)
    assert isinstance(rendered, Files)
    assert rendered.files["mesh.txt"].decode().splitlines()[1:5] == [
        "service shop/web for anybody",
        "  port 80 http",
        "    x-beta whole 'yes' -> shop/web-v1:80 x 90 + shop/web-v2:80 x 10 (TrafficSplit shop/canary)",
        "    everything -> shop/web:80 x 1 (the root itself)",
    ]


def test_an_unknown_name_is_answered_with_the_installed_ones(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(site))
    with pytest.raises(UnknownBackendError) as caught:
        load("istoi")
    assert "'istoi'" in str(caught.value)
    assert ", ".join(installed()) in str(caught.value)
    assert "toy" in str(caught.value)
