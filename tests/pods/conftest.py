"""One cluster with pods for the whole session, and the chart installed in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster import images, node
from tests.pods.release import Release
from tests.tools import SETS, ToolError, is_there


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[node.Node]:
    """Start a cluster of one node: use a namespace of your own."""
    unbuilt = [name for name in ("kubernetes", "node", "pods") if not is_there(SETS[name].name)]
    why = node.problem() or (f"run `make tools ARGS='{' '.join(unbuilt)}'`" if unbuilt else "")
    if why:
        pytest.fail(f"no cluster with pods here: {why}", pytrace=False)
    try:
        archives = images.build()
    except ToolError as problem:
        pytest.fail(f"no images: {problem}", pytrace=False)
    with node.Node(tmp_path_factory.mktemp("node"), archives) as started:
        yield started


@pytest.fixture(scope="module")
def release(cluster: node.Node) -> Iterator[Release]:
    """Install the chart as docs/install.md says; it goes with the module, and its namespace too."""
    installed = Release(cluster)
    installed.install()
    yield installed
    installed.remove()
