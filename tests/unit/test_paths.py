"""What rules see of a path (R2). tests/live/test_paths.py asks a real Envoy the same."""

from __future__ import annotations

import pytest

from smi_adapter.paths import normalised, refusal
from tests.paths import CASES


@pytest.mark.parametrize(("sent", "seen"), CASES)
def test_path_is_seen_as_a_proxy_sees_it(sent: str, seen: str | None) -> None:
    assert (None if refusal(sent) else normalised(sent)) == (seen and seen.partition("?")[0])


def test_doing_it_twice_can_go_further() -> None:
    assert normalised("/public/%2e%2e;x/admin") == "/public/..;x/admin"
    assert normalised(normalised("/public/%2e%2e;x/admin")) == "/admin"


def test_a_refusal_says_why() -> None:
    assert "escaped slash" in refusal("/a%2fb")
    assert "fragment" in refusal("/a#b")
