"""What a bug report must not hold."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smi_adapter.cli import redact
from smi_adapter.webhooks import certificates
from smi_adapter.webhooks.certificates import Lives

SECRET = "hunter2hunter2"
TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    "line",
    [
        f"Authorization: Bearer {SECRET}",
        f'"authorization": "Basic {SECRET}"',
        f"got token {TOKEN} from a proxy",
        f"password={SECRET} user=me",
        f"api_key: '{SECRET}'",
        f"dial https://me:{SECRET}@db.example.org/x",
        f"Cookie: session={SECRET}",
        f'level=info msg="x" secret="{SECRET}"',
    ],
)
def test_secrets_in_logs_are_left_out(line: str) -> None:
    shown = redact.text(line)
    assert SECRET not in shown
    assert TOKEN not in shown
    assert redact.GONE in shown


def test_private_keys_are_left_out_also_when_cut_off() -> None:
    made = certificates.create(("x",), Lives(), 1_800_000_000.0)
    key = made.serving.private_key.decode()
    body = key.splitlines()[1]
    assert body not in redact.text(f"before\n{key}\nafter")
    assert "after" in redact.text(f"before\n{key}\nafter")
    assert body not in redact.text(key[:120])


def test_ordinary_lines_stay() -> None:
    line = "ready: 12 objects in force after 0.3 s; TrafficSplit shop/web SMI0102 BackendNotFound"
    assert redact.text(line) == line


def test_an_object_keeps_what_explains_a_bug() -> None:
    raw: dict[str, Any] = {
        "metadata": {
            "name": "x",
            "annotations": {
                "smi-adapter.io/paused": "true",
                "kubectl.kubernetes.io/last-applied-configuration": SECRET,
            },
            "managedFields": [{"manager": "me"}],
        },
        "spec": {
            "matches": [{"name": "m", "pathRegex": "/a", "headers": {"x-token": SECRET}}, {"headers": [{"y": SECRET}]}],
            "env": [{"name": "SMI_ADAPTER_MODE", "value": "audit"}, {"name": "HTTPS_PROXY", "value": SECRET}],
            "caBundle": "QUJD",
        },
    }
    shown = redact.tree(raw)
    assert SECRET not in json.dumps(shown)
    assert shown["metadata"]["annotations"]["smi-adapter.io/paused"] == "true"
    assert shown["spec"]["matches"][0] == {"name": "m", "pathRegex": "/a", "headers": {"x-token": redact.GONE}}
    assert shown["spec"]["env"][0] == {"name": "SMI_ADAPTER_MODE", "value": "audit"}
    assert shown["spec"]["caBundle"].startswith("sha256:")


def test_where_a_webhook_is_called_is_left_out() -> None:
    service = {"name": "smi-adapter-webhooks", "namespace": "mesh", "path": f"/{SECRET}"}
    webhooks = [{"clientConfig": {"service": service}}, {"clientConfig": {"url": f"https://example.org/{SECRET}"}}]
    shown = redact.tree({"webhooks": webhooks, "path": "/kept"})
    assert SECRET not in json.dumps(shown)
    assert shown["webhooks"][0]["clientConfig"]["service"] == {**service, "path": redact.GONE}
    assert shown["path"] == "/kept"


@given(st.recursive(st.none() | st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(
    st.sampled_from(["annotations", "headers", "env", "caBundle", "clientConfig", "path", "x"]), inner)))  # fmt: skip
def test_anything_can_be_redacted(value: Any) -> None:
    json.dumps(redact.tree(value))
