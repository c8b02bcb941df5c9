"""Control planes for the suite: a shared one, one of its own for a test that breaks it, and a factory."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.cluster.control_plane import ControlPlane, StartControlPlane


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Etcd and kube-apiserver for the whole session: use a namespace of your own, and do not stop it."""
    with ControlPlane(tmp_path_factory.mktemp("api-server")) as started:
        yield started


@pytest.fixture(scope="session")
def api_server_with_controllers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Share one with kube-controller-manager as well: EndpointSlices, default ServiceAccounts, garbage collection."""
    with ControlPlane(tmp_path_factory.mktemp("with-controllers"), controller_manager=True) as started:
        yield started


@pytest.fixture
def start_control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartControlPlane]:
    """Start as many as a test needs, with further arguments for kube-apiserver; all end with the test."""
    with ExitStack() as running:

        def start(*arguments: str, controller_manager: bool = False) -> ControlPlane:
            folder = tmp_path_factory.mktemp("own-api-server")
            plane = ControlPlane(folder, controller_manager=controller_manager, arguments=arguments)
            return running.enter_context(plane)

        yield start


@pytest.fixture
def own_api_server(start_control_plane: StartControlPlane) -> ControlPlane:
    """Etcd and kube-apiserver for one test, which may stop, freeze and compact them."""
    return start_control_plane()


@pytest.fixture
def namespace(api_server: ControlPlane) -> str:
    """Return a new namespace on the shared API server, with its default ServiceAccount."""
    return api_server.new_namespace()
