"""Which batches the controller compiles beside the event loop: an object may cost more than a hundred others."""

from __future__ import annotations

import pytest

from smi_adapter.app import is_long
from smi_adapter.findings import Ref
from smi_adapter.smi.objects import SPECS_GROUP

GROUP = Ref("HTTPRouteGroup", "shop", "routes", SPECS_GROUP)
PATTERN = {"name": "m", "pathRegex": "/a.*", "methods": ["GET"]}


@pytest.mark.parametrize("form", [lambda matches: {"spec": {"matches": matches}}, lambda matches: {"matches": matches}])
def test_one_group_of_many_patterns_is_not_compiled_on_the_loop(form: object) -> None:
    assert callable(form)
    assert is_long({GROUP: form([PATTERN] * 256)})
    assert not is_long({GROUP: form([PATTERN])})


def test_many_objects_are_not_compiled_on_the_loop() -> None:
    assert is_long({Ref("Service", "shop", f"s{number}"): {} for number in range(200)})
    assert not is_long({Ref("Service", "shop", "s"): {}, GROUP: None})
