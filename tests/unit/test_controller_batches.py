"""Which batches the controller compiles beside the event loop: an object may cost more than a hundred others."""

from __future__ import annotations

import pytest

from smi_adapter.app import is_long
from smi_adapter.findings import Ref
from smi_adapter.smi.objects import ACCESS_GROUP, SPECS_GROUP
from smi_adapter.smi.pruned import APPLIED

GROUP = Ref("HTTPRouteGroup", "shop", "routes", SPECS_GROUP)
PATTERN = {"name": "m", "pathRegex": "/a.*", "methods": ["GET"]}


@pytest.mark.parametrize("form", [lambda matches: {"spec": {"matches": matches}}, lambda matches: {"matches": matches}])
def test_one_group_of_many_patterns_is_not_compiled_on_the_loop(form: object) -> None:
    assert callable(form)
    assert is_long({GROUP: form([PATTERN] * 256)})
    assert not is_long({GROUP: form([PATTERN])})


@pytest.mark.parametrize("field", ["sources", "rules", "specs", "backends"])
def test_one_object_of_many_items_is_not_compiled_on_the_loop(field: str) -> None:
    target = Ref("TrafficTarget", "shop", "t", ACCESS_GROUP)
    assert is_long({target: {field: [{}] * 256}})
    assert is_long({target: {"spec": {field: [{}] * 256}}})
    assert not is_long({target: {"spec": {field: [{}]}}})


def test_an_object_that_was_applied_as_a_long_text_is_not_compiled_on_the_loop() -> None:
    def applied(text: object) -> dict[str, object]:
        return {"metadata": {"annotations": {APPLIED: text}}}

    assert is_long({GROUP: applied("x" * 100_000)})
    assert not is_long({GROUP: applied("x")})
    assert not is_long({GROUP: {"metadata": {"annotations": None}}})


def test_many_objects_are_not_compiled_on_the_loop() -> None:
    assert is_long({Ref("Service", "shop", f"s{number}"): {} for number in range(200)})
    assert not is_long({Ref("Service", "shop", "s"): {}, GROUP: None})
