"""`diff` begins with what a change means, in words."""

from __future__ import annotations

from smi_adapter.cli import differences
from smi_adapter.mesh import Mesh
from tests.worlds import NS, bookstore


def test_a_service_that_a_split_takes_over_routes_otherwise() -> None:
    before, after = bookstore().mesh(), bookstore().split("s", "bookstore", {"bookstore-v1": 1}).mesh()
    assert differences.of_service((NS, "bookstore"), before, after).startswith(
        f"Service {NS}/bookstore routes otherwise"
    )
    assert differences.of_service((NS, "new"), Mesh(), after) == f"Service {NS}/new is new"
    assert differences.of_service((NS, "bookstore"), after, Mesh()) == f"Service {NS}/bookstore is gone"


def test_a_workload_says_whom_it_lets_in_and_whom_no_more() -> None:
    before, world = bookstore().mesh(), bookstore()
    world.targets.clear()
    after = world.mesh()
    key = (NS, "bookstore-v1")
    assert "no longer lets in spiffe://" in differences.of_workload(key, before, after)
    assert f"Workload {NS}/bookstore-v1 lets in spiffe://" in differences.of_workload(key, after, before)
    assert differences.of_workload(key, Mesh(), after).endswith("is new")
