"""What a replica says of itself, and when streams may end, by what its source knows of the API server."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from smi_adapter.cluster.peers import PATIENCE
from smi_adapter.controller import Controller
from smi_adapter.findings import Finding
from smi_adapter.settings import Settings


@dataclass
class View:
    """A source of which only these two things are asked."""

    reachable: bool = True
    age: float = 0.0

    def cache_age(self) -> float:
        return self.age

    def findings(self) -> tuple[Finding, ...]:
        return ()

    def event_ages(self) -> Mapping[str, float]:
        return {}

    def relists(self) -> Mapping[tuple[str, str], int]:
        return {}


@pytest.fixture
def view() -> View:
    return View()


@pytest.fixture
def replica(view: View) -> Controller:
    client: Any = SimpleNamespace(namespace="smi-system", account="")
    source: Any = view
    made = Controller(Settings(), client, source)
    served: Any = object()
    made.compiled = served
    return made


def lost(replica: Controller, *, for_seconds: float) -> None:
    """Let the replica have been out of touch for a while, as its task `compare` notes."""
    replica._peers._lost_at = replica._peers._clock() - for_seconds


def test_an_expired_certificate_reads_below_zero_and_none_as_nothing(replica: Controller) -> None:
    replica.compiled = None
    assert replica._reading().certificate_expiry is None
    ended: Any = SimpleNamespace(expires=lambda: time.time() - 100.0)
    replica._webhooks = ended
    assert (replica._reading().certificate_expiry or 0.0) <= -100.0
    none_yet: Any = SimpleNamespace(expires=lambda: None)
    replica._webhooks = none_yet
    assert replica._reading().certificate_expiry is None


def test_a_kind_that_cannot_be_read_keeps_no_stream_beyond_its_token(replica: Controller, view: View) -> None:
    view.age = 600.0  # one kind is forbidden, say: tokens can be reviewed all the same
    assert replica._api_is_there()
    view.reachable = False
    assert not replica._api_is_there()


def test_a_replica_is_degraded_only_when_it_has_lost_touch_for_a_while(replica: Controller, view: View) -> None:
    assert replica.health().why == ()
    view.reachable = False
    lost(replica, for_seconds=PATIENCE / 2)
    assert replica.health().why == (), "an API server restarts"
    lost(replica, for_seconds=PATIENCE)
    assert replica.health().ready
    assert "does not answer" in replica.health().why[0]
    view.reachable, view.age = True, 45.0
    assert replica.health().why == ("some of what is served was last heard of 45 s ago",)
    view.age = 0.0
    assert replica.health().why == ()


def test_f11_a_replica_is_unready_while_another_is_better_informed(replica: Controller, view: View) -> None:
    view.reachable = False
    lost(replica, for_seconds=PATIENCE)
    replica._peers.better = "http://other:8080"
    assert not replica.health().ready
    assert "http://other:8080" in replica.health().why[-1]
    view.reachable = True
    assert replica.health().ready
