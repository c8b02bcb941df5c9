"""The evaluator against the oracle, which shares no code with it: the same decisions, with exactly the same odds.

What lies between, from manifests to the Mesh, is the product's whole way: controllers, decode, translate. Real Envoys
are held to the same oracle elsewhere; here every arm is seen, not one sample.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from smi_adapter import decode, evaluate
from smi_adapter.mesh import Key, Mesh, Protocol, ServicePort
from smi_adapter.snapshot import Mode, Options, Profile
from smi_adapter.sources.controllers import Memory, reconcile
from smi_adapter.translate import translate
from tests.oracle import evaluator as oracle
from tests.oracle.budget import worlds_for
from tests.oracle.worlds import world

CLOSED, DENIED = oracle.CLOSED, oracle.Outcome(status=403)
BAD = oracle.Outcome(status=400)
SCALED = Fraction(1, 2**30)
"""How far a share may be off where weights had to be scaled to 32 bits (S2)."""


def compiled(objects: Sequence[Any], options: oracle.Options) -> tuple[Mesh, Mapping[Key, Any]]:
    raw = {decode.ref_of(item): item for item in objects}
    snapshot = decode.decode(reconcile(raw, Memory()).objects.values())
    chosen = Options(Profile(options.profile), Mode(options.mode), options.trust_domain)
    return translate(snapshot, chosen).mesh, snapshot.pods


def observed(mesh: Mesh, pods: Mapping[Key, Any], asked: oracle.Request) -> Mapping[oracle.Outcome, Fraction]:
    """Put a request of the oracle to our evaluator, and its answer into the oracle's words."""
    port = port_of(mesh, asked.to, asked.port)
    if port is None:
        return {CLOSED: Fraction(1)}
    http = port.protocol is Protocol.HTTP
    if http and asked.protocol == "tcp":  # bytes that are no HTTP are no Request of the evaluator
        return {BAD: Fraction(1)}
    namespace, account, pod = asked.source
    identity = f"spiffe://cluster.local/ns/{namespace}/sa/{account}"
    request = evaluate.Request(
        identity, asked.to, asked.port, asked.method, asked.path, asked.headers, pods[namespace, pod].address
    )
    found: defaultdict[oracle.Outcome, Fraction] = defaultdict(Fraction)
    for arm in evaluate.evaluate(mesh, request).arms:
        if arm.status is not None:
            found[oracle.Outcome(status=arm.status) if http else CLOSED] += arm.share
        elif arm.access == evaluate.DENIED:
            found[DENIED if http else CLOSED] += arm.share
        else:
            reached = answering(mesh, arm, asked.port)
            for name in reached:
                found[oracle.Outcome(served_by=name)] += arm.share / len(reached)
    return found


def port_of(mesh: Mesh, service: Key, number: int) -> ServicePort | None:
    found = mesh.services.get(service)
    return next((port for port in found.ports if port.number == number), None) if found is not None else None


def answering(mesh: Mesh, arm: evaluate.Arm, number: int) -> list[str]:
    """Return the pods that serve an arm."""
    assert arm.service is not None
    workloads = [mesh.workloads[tuple(name.split("/"))] for name in arm.workloads]  # type: ignore[index]
    names = {instance.name for workload in workloads for instance in workload.instances}
    port = port_of(mesh, tuple(arm.service.split("/")), number)  # type: ignore[arg-type]
    assert port is not None
    return [endpoint.pod for endpoint in port.endpoints if endpoint.pod in names]


def agree(expected: Mapping[oracle.Outcome, Fraction], found: Mapping[oracle.Outcome, Fraction]) -> bool:
    """Compare outcomes and shares; where nothing at all is behind a Service, 503 stands for 403.

    The oracle denies what no target opens; a proxy answers 503 to everybody where there is nobody who could deny.
    """
    if expected.keys() == {DENIED} and found.keys() == {oracle.Outcome(status=503)}:
        return True
    return expected.keys() == found.keys() and all(abs(expected[key] - found[key]) < SCALED for key in expected)


def has_lower_case_methods(objects: Sequence[Any]) -> bool:
    """Tell whether a group names a method such as `get`: our schema makes that match unusable and says so."""
    groups = (item for item in objects if item["kind"] == "HTTPRouteGroup")
    matches = (match for group in groups for match in group.get("spec", group).get("matches") or ())
    return any(method != method.upper() for match in matches for method in match.get("methods") or ())


def test_evaluator_and_oracle_agree_about_every_share(request: pytest.FixtureRequest) -> None:
    @settings(max_examples=2 * worlds_for(request.config), phases=[Phase.explicit, Phase.reuse, Phase.generate])
    @given(st.integers(0, 2**32))
    def check(seed: int) -> None:
        drawn = world(seed)
        assume(not has_lower_case_methods(drawn.objects))
        mesh, pods = compiled(drawn.objects, drawn.options)
        for asked in drawn.requests:
            expected = oracle.decide(drawn.objects, asked, drawn.options).shares
            found = observed(mesh, pods, asked)
            assert agree(expected, found), f"python -m tests.oracle {seed}\n{asked}\n{expected}\n{dict(found)}"

    check()
