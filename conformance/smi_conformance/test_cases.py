"""The tests that pytest collects: each case of the catalogue under each version. They do nothing without a target."""

from __future__ import annotations

import pytest

from smi_conformance.plugin import play
from smi_conformance.runner import Instance, instances


@pytest.mark.parametrize(
    "smi_instance", [pytest.param(item, id=f"{item.entry.id}-{item.version}") for item in instances()]
)
def test_case(smi_instance: Instance, request: pytest.FixtureRequest) -> None:
    """Play one case."""
    play(request, smi_instance)
