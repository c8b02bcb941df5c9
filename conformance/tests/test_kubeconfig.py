"""A kubeconfig is read as kubectl reads it: several files, paths beside them, credentials that end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from smi_conformance.kubeconfig import Access, access
from smi_conformance.protocol import HarnessError


def config(server: str, user: Mapping[str, Any], *, name: str = "here", current: str = "") -> dict[str, Any]:
    return {
        "current-context": current,
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "clusters": [{"name": name, "cluster": {"server": server}}],
        "users": [{"name": name, "user": dict(user)}],
    }


def written(path: Path, content: Mapping[str, Any]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(dict(content)))
    return path


def read(context: str = "", path: str = "") -> tuple[Access, str]:
    async def go() -> tuple[Access, str]:
        found = await access(context, path)
        return found, (await found.headers()).get("authorization", "")

    return asyncio.run(go())


def test_of_several_files_the_first_that_says_something_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = written(tmp_path / "one", config("http://one", {"token": "1"}, name="a"))
    two = written(tmp_path / "two", config("http://two", {"token": "2"}, name="b", current="b"))
    three = written(tmp_path / "three", config("http://three", {"token": "3"}, name="a", current="a"))
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'missing'}:{one}::{two}:{three}")
    for context, server, token in (("", "http://two", "2"), ("a", "http://one", "1")):
        found, authorization = read(context)
        assert (found.server, authorization) == (server, f"Bearer {token}")
    found, _ = read("a", str(three))
    assert found.server == "http://three", "a file that is named is the only one"
    with pytest.raises(HarnessError, match="no context 'c'"):
        read("c")


def test_a_file_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "missing"))
    with pytest.raises(HarnessError, match=r"kubeconfig .*/missing: "):
        read()


@pytest.mark.parametrize("field", ["client-certificate", "client-key"])
def test_paths_begin_where_their_file_is(tmp_path: Path, field: str) -> None:
    file = written(tmp_path / "there" / "config", config("https://one", {field: "pki/own.pem"}, current="here"))
    with pytest.raises(HarnessError, match=f"names {tmp_path}/there/pki/own.pem: No such file"):
        read("", str(file))


def test_a_token_in_a_file_is_read_whenever_it_is_needed(tmp_path: Path) -> None:
    file = written(tmp_path / "there" / "config", config("http://one", {"tokenFile": "token"}, current="here"))
    (tmp_path / "there" / "token").write_text("first\n")

    async def story() -> list[str]:
        found = await access("", str(file))
        before = await found.headers()
        (tmp_path / "there" / "token").write_text("second\n")
        return [before["authorization"], (await found.headers())["authorization"]]

    assert asyncio.run(story()) == ["Bearer first", "Bearer second"]


@pytest.mark.parametrize(("lasts", "runs"), [(None, 1), (3600, 1), (5, 3)])
def test_a_credential_is_fetched_again_before_it_ends(tmp_path: Path, lasts: int | None, runs: int) -> None:
    end = datetime.fromtimestamp(time.time() + lasts, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if lasts else ""
    file = plugin(tmp_path, f', "expirationTimestamp": "{end}"' if lasts else "")

    async def story() -> dict[str, str]:
        found = await access("", str(file))
        await found.headers()
        return await found.headers()

    assert asyncio.run(story()) == {"authorization": f"Bearer t{runs}"}


def test_a_credential_that_is_refused_is_fetched_again_once_for_all_who_had_it(tmp_path: Path) -> None:
    file = plugin(tmp_path, "")

    async def story() -> list[dict[str, str]]:
        found = await access("", str(file))
        return await asyncio.gather(*(found.headers(refused="Bearer t1") for _ in range(3)))

    assert asyncio.run(story()) == [{"authorization": "Bearer t2"}] * 3


def plugin(folder: Path, more: str) -> Path:
    """Write a plugin beside a kubeconfig, that counts how often it ran; return the latter."""
    program = folder / "plugin"
    program.write_text(
        f"""#!/bin/sh
case "$KUBERNETES_EXEC_INFO" in *client.authentication.k8s.io/v1*) ;; *) exit 1 ;; esac
echo run >> {folder}/runs
echo '{{"status": {{"token": "t'$(grep -c run {folder}/runs)'"{more}}}}}'
"""
    )
    program.chmod(0o700)
    how = {"apiVersion": "client.authentication.k8s.io/v1", "command": "./plugin"}
    return written(folder / "config", config("http://one", {"exec": how}, current="here"))


@pytest.mark.parametrize(("kind", "field"), [("user", "as"), ("user", "password"), ("cluster", "proxy-url")])
def test_a_field_that_is_not_understood_is_refused(tmp_path: Path, kind: str, field: str) -> None:
    made = config("http://one", {"token": "t"}, current="here")
    made[f"{kind}s"][0][kind][field] = "somebody"
    with pytest.raises(HarnessError, match=f"{kind} .* has `{field}`"):
        asyncio.run(access("", str(written(tmp_path / "config", made))))
