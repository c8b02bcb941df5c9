"""Changes of a world that must not change what the product decides: other names, another history, a bad neighbour.

No oracle is needed for these: the product is compared with itself, over the oracle's random worlds, on the whole way
from manifests to verdicts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from random import Random
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from smi_adapter.app import Compiled, Compiler, compiled
from smi_adapter.backends.envoy import BACKEND
from smi_adapter.decode import RawObject, ref_of
from smi_adapter.evaluate import Request, evaluate
from smi_adapter.findings import Ref
from smi_adapter.snapshot import Mode, Options, Profile
from smi_adapter.sources.controllers import Memory, reconcile
from tests.oracle import build as b
from tests.oracle.worlds import NAMESPACES, World, world

FEW = settings(max_examples=8, phases=[Phase.explicit, Phase.reuse, Phase.generate])
DRAWN = st.integers(0, 2**32).map(world)
RENAMED = {name: f"{name}-too" for name in NAMESPACES}  # in the same order, which decides between equals
A_NAMESPACE = re.compile(rf"\b({'|'.join(NAMESPACES)})\b(?!-)")

Objects = Mapping[Ref, RawObject]
Decision = tuple[str, tuple[tuple[str, Fraction, int | None, str, tuple[str, ...]], ...]]


def complete(objects: Iterable[RawObject]) -> Objects:
    return dict(reconcile({ref_of(item): item for item in objects}, Memory()).objects)


def options_of(drawn: World) -> Options:
    return Options(Profile(drawn.options.profile), Mode(drawn.options.mode), drawn.options.trust_domain)


def asked(drawn: World, state: Compiled) -> list[Request]:
    found = []
    for one in drawn.requests:
        namespace, account, pod = one.source
        identity, address = f"spiffe://cluster.local/ns/{namespace}/sa/{account}", state.snapshot.pods[namespace, pod]
        found.append(Request(identity, one.to, one.port, one.method, one.path, one.headers, address.address))
    return found


def decisions(state: Compiled, requests: Sequence[Request]) -> list[Decision]:
    verdicts = [evaluate(state.supported.mesh, request) for request in requests]
    return [
        (one.access, tuple((arm.service or "", arm.share, arm.status, arm.access, arm.workloads) for arm in one.arms))
        for one in verdicts
    ]


def renamed(value: Any) -> Any:
    """Give every namespace another name, wherever it stands: a namespace, an identity, a full name of a Service."""
    return A_NAMESPACE.sub(lambda found: RENAMED[found[0]], value)


@FEW
@given(DRAWN)
def test_renaming_namespaces_changes_no_decision(drawn: World) -> None:
    options = options_of(drawn)
    before = compiled(complete(drawn.objects).values(), BACKEND, options)
    after = compiled(complete(json.loads(renamed(json.dumps(drawn.objects)))).values(), BACKEND, options)
    requests = asked(drawn, before)
    others = [
        Request(
            renamed(r.source),
            (RENAMED[r.service[0]], r.service[1]),
            r.port,
            r.method,
            r.path,
            r.headers,
            r.source_address,
        )
        for r in requests
    ]
    expected = [
        (
            access,
            tuple((renamed(to), share, status, arm, tuple(map(renamed, by))) for to, share, status, arm, by in arms),
        )
        for access, arms in decisions(before, requests)
    ]
    assert decisions(after, others) == expected


@FEW
@given(DRAWN, st.integers(0, 2**32))
def test_a_restart_changes_no_decision(drawn: World, seed: int) -> None:
    options, objects = options_of(drawn), complete(drawn.objects)
    fresh = compiled(objects.values(), BACKEND, options)
    running, order = Compiler(BACKEND, options), list(objects)
    Random(seed).shuffle(order)
    half = order[: len(order) // 2]
    state = running.apply({ref: objects[ref] for ref in half})
    for ref in half[:3]:  # what went and came again leaves no trace
        running.apply({ref: None})
    state = running.apply({ref: objects[ref] for ref in [*order[len(half) :], *half[:3]]})
    requests = asked(drawn, fresh)
    assert decisions(state, requests) == decisions(fresh, requests)
    assert state.supported.mesh == fresh.supported.mesh


@FEW
@given(DRAWN)
def test_a_bad_neighbour_changes_no_decision(drawn: World) -> None:
    options, objects = options_of(drawn), complete(drawn.objects)
    before = compiled(objects.values(), BACKEND, options)
    requests, (namespace, name) = asked(drawn, before), drawn.requests[0].to
    account = drawn.requests[0].source[1]
    everything = [b.rule("bad-group")]
    bad: list[b.Object] = [
        b.target("bad-kind", {"kind": 7, "name": []}, everything, [b.account(account, namespace)], ns=namespace),
        b.target("bad-shape", b.account(account), everything, [], ns=namespace) | {"spec": "nothing"},
        b.target("bad-abroad", b.account(account, namespace), everything, [b.account(account)], ns="abroad"),
        b.split("bad-split", name, {name: 1}, ns=namespace) | {"spec": {"service": name, "backends": "none"}},
        b.split("bad-abroad", f"{name}.{namespace}", {f"{name}.{namespace}": 1}, ns="abroad"),
        b.route_group("bad-group", b.match("all"), ns="abroad"),
    ]
    after = compiled([*objects.values(), *bad], BACKEND, options)
    assert decisions(after, requests) == decisions(before, requests)
    assert {"bad-kind", "bad-shape", "bad-split"} <= {item.subject.name for item in after.findings()}
