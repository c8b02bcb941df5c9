"""The name of an installation fits into a label, and no two have the same."""

import re

import pytest

from smi_adapter.cluster.ownership import installation

LABEL = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


@pytest.mark.parametrize("namespace", ["mesh", "m" * 63, "m-" * 23 + "m" * 17])
@pytest.mark.parametrize("lease", ["smi-adapter", "smi.adapter", "s" * 253])
def test_the_name_of_an_installation_is_a_label(namespace: str, lease: str) -> None:
    assert LABEL.fullmatch(installation(namespace, lease))


def test_installations_have_different_names() -> None:
    leases = [("a", "b.c"), ("a", "b-c"), ("a-b", "c"), ("m" * 63, "a"), ("m" * 63, "b"), ("m" * 62, "m.a")]
    assert len({installation(*one) for one in leases}) == len(leases)
