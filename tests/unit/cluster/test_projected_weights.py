"""What the cluster source keeps of an object is enough for `decode` to read it as its author wrote it."""

import json

import pytest

from smi_adapter import decode
from smi_adapter.cluster.client import Resource
from smi_adapter.cluster.projection import Projection
from smi_adapter.snapshot import EMPTY

SPLITS = Resource("split.smi-spec.io", "v1alpha4", "trafficsplits", "TrafficSplit", namespaced=True)


@pytest.mark.parametrize(("weights", "milli"), [(["0", "100"], [0, 100_000]), (["500m", "1"], [500, 1000])])
def test_quantities_that_were_stored_as_v1alpha1_keep_their_meaning(weights: list[str], milli: list[int]) -> None:
    backends = [{"service": f"shop-{number}", "weight": weight} for number, weight in enumerate(weights)]
    stored = {
        "apiVersion": "split.smi-spec.io/v1alpha4",
        "kind": "TrafficSplit",
        "metadata": {"name": "shop", "namespace": "town", "uid": "u-1", "resourceVersion": "7"},
        "spec": {"service": "shop", "backends": backends},
    }
    projection = Projection(SPLITS)
    raw = projection.raw(projection.item(json.dumps(stored).encode()).value)
    snapshot, _ = decode.apply(EMPTY, {decode.ref_of(raw): raw}, cluster=True)
    [split] = snapshot.splits.values()
    assert [backend.weight for backend in split.backends] == milli
    assert not snapshot.problems
