"""The consumers of splits: what canary controllers write, and expect to find again (CC-01 to CC-03)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from smi_conformance.catalog import GROUPS
from smi_conformance.layouts import Shop, shop
from smi_conformance.model import Split, Weight
from smi_conformance.registry import case
from smi_conformance.render import Manifest
from smi_conformance.trial import Trial


def _weights(t: Trial, canary: int, primary: int) -> tuple[Weight, Weight]:
    return (str(canary), str(primary)) if t.version == "v1alpha1" else (canary, primary)


def _flagger(t: Trial, s: Shop, canary: int, primary: int) -> Split:
    """Return the split as Flagger writes it: named like the apex, the canary listed first."""
    one, two = _weights(t, canary, primary)
    return Split(s.names["root"], s.ns, s.names["root"], ((s.names["v2"], one), (s.names["v1"], two)))


async def _as_written(t: Trial, split: Split) -> None:
    """See that the object is left as it was written; Flagger resets its weights when anything else differs."""
    if not t.needs("api"):
        return
    wanted = t.manifest(split)
    found = await t.harness.get(wanted)
    t.check(found is not None and found["spec"] == wanted["spec"], f"the object was changed: {found}")


@case("CC-01")
async def a_canary_in_flaggers_manner(t: Trial) -> None:
    s = await shop(t)
    for canary in (0, 10, 50, 100, 0):
        split = _flagger(t, s, canary, 100 - canary)
        await t.apply(split)
        shares = {"v2": canary / 100, "v1": 1 - canary / 100, "base": 0.0}
        await t.comes_near(s.client, s.to(), shares)
        await t.shares(s.client, s.to(), shares, n=1000, note=f"{canary} %")
        await _as_written(t, split)


@case("CC-02")
async def whole_quantities_come_back(t: Trial) -> None:
    s = await shop(t)
    split = _flagger(t, s, 0, 100)
    await t.apply(split)
    await t.shares(s.client, s.to(), {"v1": 1.0, "v2": 0.0, "base": 0.0}, n=500)
    await _as_written(t, split)
    if "ApiConversion" in t.claims.features and "v1alpha2" in t.harness.served[GROUPS["split"]] and t.needs("api"):
        found = await t.harness.get(t.manifest(split), "v1alpha2") or {}
        weights = [item["weight"] for item in found.get("spec", {}).get("backends", ())]
        t.check(weights == [0, 100], f"read under v1alpha2, the weights 0 and 100 are {weights}")


@case("CC-03")
async def a_canary_in_argo_rollouts_manner(t: Trial) -> None:
    """Name the root, which is the stable Service, as one of the backends beside a canary and an experiment.

    Weights are changed by a merge patch. What has an owner goes with it, so the owner has to be one that is there.
    """
    s = await shop(t)
    five, more, rest = (str(item) if t.version == "v1alpha1" else item for item in (5, 5, 90))
    weights: dict[str, Weight] = {"v1": five, "v2": more, "root": rest}
    split = t.manifest(replace(s.split(weights), annotations=(("example.com/owner", "rollout"),)))
    if t.needs("api"):
        split["metadata"]["ownerReferences"] = [await _owner(t, s)]
    await t.apply(split)
    await t.shares(s.client, s.to(), {"v1": 0.05, "v2": 0.05, "base": 0.9})
    await _metadata_stays(t, split)
    for service, app in (("v2", "v2"), ("root", "base")):  # the canary has everything before the root has again
        await _patched(t, split, [{"service": s.names[service], "weight": rest}])
        await t.reaches(s.client, s.to(), app)
    await t.shares(s.client, s.to(), {"base": 1.0, "v1": 0.0, "v2": 0.0}, n=500, note="stable")
    await _metadata_stays(t, split)


async def _patched(t: Trial, split: Manifest, backends: list[dict[str, Any]]) -> None:
    """Change the backends and nothing else."""
    change = {"spec": {"backends": backends}}
    if not t.needs("api"):
        await t.apply({**split, "spec": {**split["spec"], **change["spec"]}})
        return
    result = await t.harness.patch(split, change)
    t.check(result.accepted, f"a merge patch of the backends was refused with {result.code}: {result.message}")


async def _owner(t: Trial, s: Shop) -> dict[str, Any]:
    """Return a reference to the root's Service as an owner."""
    found = await t.harness.get(t.manifest(s.service("root"))) or {}
    uid = str(found.get("metadata", {}).get("uid", "unknown"))
    return {"apiVersion": "v1", "kind": "Service", "name": s.names["root"], "uid": uid}


async def _metadata_stays(t: Trial, split: Manifest) -> None:
    """See that the owner and the annotations are there that were written; others may have been added."""
    if not t.needs("api"):
        return
    metadata = (await t.harness.get(split) or {}).get("metadata", {})
    kept = metadata.get("annotations", {}).get("example.com/owner")
    t.check(kept == "rollout", f"an annotation was lost: {metadata.get('annotations')}")
    (owner,) = split["metadata"]["ownerReferences"]
    owners = [{key: item.get(key) for key in owner} for item in metadata.get("ownerReferences", ())]
    t.check(owner in owners, f"the owner was lost: {metadata.get('ownerReferences')}")
