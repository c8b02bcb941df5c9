"""Cases of the API, on a mesh that takes everything, as one does whose objects are files."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from smi_conformance.explain import Recorder
from smi_conformance.model import versions_for
from smi_conformance.places import Pool
from smi_conformance.protocol import ApiResult, App, Batch, Event, Reply, Req
from smi_conformance.registry import cases
from smi_conformance.render import Manifest
from smi_conformance.trial import Failure, Rules, Trial

Weights = Mapping[str, Any]
RULES = Rules(deadline=0.3, quiet=0.02, fixed=20)


class Taker(Recorder):
    """Takes a split of any weights, says that they are wrong, and makes of them what it is told."""

    def __init__(self, becomes: Callable[[Weights, Weights], Weights], *, speaks: bool = True) -> None:
        super().__init__()
        self._becomes, self._speaks = becomes, speaks
        self._splits: dict[str, Weights] = {}
        self._wrong: set[str] = set()

    async def apply(self, manifests: Sequence[Manifest], *, dry_run: bool = False) -> list[ApiResult]:
        for manifest in manifests:
            if manifest["kind"] == "TrafficSplit":
                name, backends = manifest["metadata"]["name"], manifest["spec"]["backends"]
                weights = {item["service"].partition("-")[0]: item["weight"] for item in backends}
                if any(type(weight) is not int or weight < 0 for weight in weights.values()):
                    self._wrong.add(name)
                    weights = dict(self._becomes(weights, self._splits[name]))
                self._splits[name] = weights
        return await super().apply(manifests, dry_run=dry_run)

    async def delete(self, manifests: Sequence[Manifest]) -> None:
        for manifest in manifests:
            self._splits.pop(manifest["metadata"]["name"], None)

    async def events(self, manifest: Manifest) -> list[Event]:
        wrong = self._speaks and manifest["metadata"]["name"] in self._wrong
        return [Event("Invalid", "spec.backends[0].weight", "Warning")] if wrong else []

    async def send(self, client: App, req: Req, batch: Batch, token: str) -> list[Reply]:
        del req
        split = next((split for split in self._splits.values() if split), {"base": 1})
        apps = [name for name, weight in split.items() for _ in range(weight)]
        return [
            Reply("ok", 200, f"{token}-{number}", backend={"app": apps[number % len(apps)], "ns": client.namespace})
            for number in range(batch.n)
        ]


def play(name: str, mesh: Taker) -> Trial:
    trial = Trial(mesh, Pool(mesh), RULES, ("v1alpha4", versions_for("split", "v1alpha4")))
    asyncio.run(cases()[name].play(trial))
    return trial


@pytest.mark.parametrize(
    ("becomes", "answered"),
    [
        (lambda _, before: before, {"v2": 200}),
        (lambda weights, _: {"v2": weights["v2"]}, {"v2": 200}),
        (lambda *_: {}, {"base": 200}),
    ],
    ids=["last good weights", "without that backend", "no split at all"],
)
def test_a_bad_weight_may_leave_the_others_the_last_good_weights_or_nobody(
    becomes: Callable[[Weights, Weights], Weights], answered: dict[str, int]
) -> None:
    assert play("API-09", Taker(becomes)).notes.observed == dict.fromkeys(("1.5", "-1", "10"), answered)


def test_a_bad_weight_that_is_made_a_good_one_is_found() -> None:
    def rounded(weights: Weights, _: Weights) -> Weights:
        return {name: abs(round(float(weight))) for name, weight in weights.items()}

    with pytest.raises(Failure, match=r"weight 1.5: its backend got 1\d\d of 200"):
        play("API-09", Taker(rounded))
    with pytest.raises(Failure, match="weight '10': its backend got 1"):
        play("API-09", Taker(lambda weights, last: rounded(weights, {}) if weights["v1"] == "10" else last))


def test_a_bad_weight_has_to_be_told() -> None:
    with pytest.raises(Failure, match="nothing about TrafficSplit odd0-"):
        play("API-09", Taker(lambda _, before: before, speaks=False))
