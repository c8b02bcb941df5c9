"""What every backend owes the core, tried on every installed one and on a third party's.

A backend that is added is tested here without a line of new test: it is found by its entry point.
"""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings

from smi_adapter import decode
from smi_adapter.backends import Backend, Change, Files, Manifests, Rendered, XdsConfig, installed, load
from smi_adapter.backends.capabilities import supported
from smi_adapter.findings import CODES, Ref
from smi_adapter.mesh import Feature, Mesh, Protocol, service_features, workload_features
from smi_adapter.sources import controllers, files
from smi_adapter.translate import translate
from tests.toy_backend.smi_adapter_toy_backend import BACKEND as TOY
from tests.unit.meshes import EXAMPLES, meshes, reversed_mesh


def _backends() -> dict[str, Backend]:
    found: dict[str, Backend] = {"toy": TOY}
    for name in installed():
        if name == "envoy" and find_spec("smi_adapter.backends.envoy") is None:
            continue  # registered before it was written
        found[name] = load(name)
    return found


ROOT = Path(__file__).parent.parent.parent
CASES = sorted(
    [*ROOT.glob("tests/golden/*/in.yaml"), *ROOT.glob("docs/examples/*/*.yaml"), ROOT / "docs/examples/shop"]
)
BACKENDS = _backends()
every_backend = pytest.mark.parametrize("backend", BACKENDS.values(), ids=list(BACKENDS))


def content(rendered: Rendered) -> dict[str, Any]:
    """Return what would be delivered, without findings and without hints about what changed."""
    match rendered:
        case XdsConfig():
            return {"parts": rendered.parts, "scopes": rendered.scopes, "identities": rendered.identities}
        case Manifests():
            return {"objects": rendered.objects}
        case Files():
            return {"files": rendered.files}


def render(backend: Backend, value: Mesh) -> Rendered:
    return backend.render(supported(value, backend).mesh)


def test_the_built_in_backends_are_installed_as_a_third_party_s_would_be() -> None:
    assert {"envoy", "gateway_api"} <= set(installed())


@every_backend
def test_it_is_a_value_with_the_name_that_it_is_installed_under(backend: Backend) -> None:
    assert BACKENDS[backend.name] is backend
    assert isinstance(backend.features, frozenset)
    assert backend.features <= set(Feature)
    with pytest.raises(AttributeError):
        backend.features = frozenset()  # type: ignore[misc] # a backend is frozen


@every_backend
@pytest.mark.parametrize("feature", Feature, ids=lambda feature: feature.name)
def test_each_feature_used_is_rendered_or_named_in_a_finding(backend: Backend, feature: Feature) -> None:
    using, control, ref = EXAMPLES[feature]
    result = supported(using, backend)
    rendered = backend.render(result.mesh)
    told = {item.subject for item in (*result.findings, *rendered.findings)}
    if feature in backend.features:
        assert content(rendered) != content(render(backend, control)) or ref in told
    else:
        assert ref in told


@every_backend
@given(value=meshes())
@settings(max_examples=25, deadline=None)
def test_rendering_twice_gives_the_same_and_leaves_the_mesh_alone(backend: Backend, value: Mesh) -> None:
    before = repr(value)
    assert render(backend, value) == render(backend, value)
    assert repr(value) == before


@every_backend
@given(value=meshes())
@settings(max_examples=25, deadline=None)
def test_the_order_of_the_mesh_does_not_matter(backend: Backend, value: Mesh) -> None:
    # A mapping compares equal in any order, so look at the order of what comes out as well.
    first, second = render(backend, value), render(backend, reversed_mesh(value))
    assert repr(content(first)) == repr(content(second))
    assert first.findings == second.findings


@every_backend
@given(value=meshes(), later=meshes())
@settings(max_examples=50, deadline=None)
def test_rendering_a_change_gives_what_rendering_everything_gives(backend: Backend, value: Mesh, later: Mesh) -> None:
    # Not so for the doors of TCP ports: a mark that closes the connections of whoever lost a right has to remember
    # who had it (docs/adr/0012), so it depends on the way that was taken.
    old, new = (without_tcp_doors(supported(each, backend).mesh) for each in (value, later))
    rendered = backend.render(old)
    services = frozenset(k for k in {*old.services, *new.services} if old.services.get(k) != new.services.get(k))
    workloads = frozenset(k for k in {*old.workloads, *new.workloads} if old.workloads.get(k) != new.workloads.get(k))
    changed = backend.render(new, Change(old, rendered, services, workloads))
    assert content(changed) == content(backend.render(new))
    assert set(changed.findings) == set(backend.render(new).findings)


@every_backend
@given(value=meshes())
@settings(max_examples=25, deadline=None)
def test_its_findings_have_known_codes_and_name_objects_of_the_mesh(backend: Backend, value: Mesh) -> None:
    for item in render(backend, value).findings:
        assert item.code in CODES
        assert item.subject in _origins(value)


def without_tcp_doors(value: Mesh) -> Mesh:
    workloads = {
        key: replace(one, ports=tuple(port for port in one.ports if port.protocol is not Protocol.TCP))
        for key, one in value.workloads.items()
    }
    return replace(value, workloads=MappingProxyType(workloads))


def _origins(value: Mesh) -> set[Ref | None]:
    services, workloads = value.services.values(), value.workloads.values()
    return {
        *(one.origin for one in services),
        *(route.origin for one in services for port in one.ports for route in port.routes),
        *(one.origin for one in workloads),
        *(rule.origin for one in workloads for port in one.ports for rule in port.rules),
    }


@every_backend
def test_an_empty_mesh_renders(backend: Backend) -> None:
    assert render(backend, Mesh()).findings == ()


@every_backend
def test_a_mesh_without_services_or_without_workloads_renders(backend: Backend) -> None:
    using, _, _ = EXAMPLES[Feature.HTTP_SPLIT]
    guarded, _, _ = EXAMPLES[Feature.ACCESS_HTTP]
    render(backend, replace(using, workloads=MappingProxyType({})))
    render(backend, replace(guarded, services=MappingProxyType({})))


def _mesh_of(path: Path) -> Mesh:
    """Return what is translated from files, as `smi-adapter translate --to mesh` does it."""
    world = controllers.reconcile(files.read_tree(path).objects, controllers.Memory())
    return translate(decode.decode(world.objects.values())).mesh


@every_backend
@pytest.mark.parametrize("case", CASES, ids=lambda path: str(path.relative_to(ROOT)))
def test_it_renders_what_users_write_and_every_object_that_it_cannot_serve_is_named(
    backend: Backend, case: Path
) -> None:
    value = _mesh_of(case)
    asked = [pair for one in value.services.values() for pair in service_features(one)]
    asked += [pair for one in value.workloads.values() for pair in workload_features(one)]
    result = supported(value, backend)
    assert {item.subject for item in result.findings} == {
        ref for feature, ref in asked if feature not in backend.features
    }
    rendered = backend.render(result.mesh)
    assert rendered == backend.render(result.mesh)
    assert repr(content(rendered)) == repr(content(render(backend, reversed_mesh(value))))
