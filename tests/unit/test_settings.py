"""What an operator writes wrongly is told by its name, with what is wanted and where it was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from smi_adapter.settings import Settings, SettingsError, judged, read


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("profile", "smi", "must be 'spec', 'osm', 'traefik' or 'nsm', not 'smi'"),
        ("mode", "Enforce", "must be 'enforce', 'audit' or 'permissive'"),
        ("log_level", 3, "must be 'debug', 'info', 'warning' or 'error', not 3"),
        ("backend", 3, "must be a text"),
        ("trust_domain", "Cluster.Local", "must be a SPIFFE trust domain"),
        ("trust_domain", "cluster.local\n", "must be a SPIFFE trust domain"),
        ("certificate_seconds", "59", "must be a whole number of at least 60, not '59'"),
        ("certificate_seconds", "a day", "must be a whole number of at least 60"),
        ("xds_address", "18000", "must be host:port"),
        ("webhook_address", "nowhere", "must be host:port"),
        ("lease", "My_Lease", "must be the name of a Kubernetes object"),
        ("namespaces", ["shop", 3], "must be a list"),
        ("namespaces", 3, "must be a list"),
        ("token_audience", "", "must be a text that is not empty"),
        ("webhook_conversion", "perhaps", "must be true or false, not 'perhaps'"),
        ("profil", "osm", "there is no such setting; did you mean 'profile'?"),
        ("zzz", "osm", "there is no such setting; there are: backend, profile, mode"),
    ],
)
def test_an_unusable_setting_is_told_with_what_is_wanted_and_where_it_stands(
    name: str, value: Any, wanted: str
) -> None:
    with pytest.raises(SettingsError) as told:
        judged({name: value}, " or mesh.toml")
    assert f"setting {name!r}: {wanted}" in str(told.value)
    assert str(told.value).endswith(f"(set by a flag, SMI_ADAPTER_{name.upper()} or mesh.toml)")


@pytest.mark.parametrize(
    ("name", "written", "value"),
    [
        ("federated_domains", "a.example, b.example,", ("a.example", "b.example")),
        ("federated_domains", ["a.example"], ("a.example",)),
        ("namespaces", "", ()),
        ("certificate_seconds", "3600", 3600),
        ("certificate_seconds", 3600, 3600),
        *(("check_peer_address", word, False) for word in ("false", "False", "0", "off", "No", False)),
        *(("webhook_conversion", word, True) for word in ("true", "TRUE", "1", "on", "Yes", True)),
        ("webhook_address", "", ""),
        ("webhook_address", ":8443", ":8443"),
        ("xds_address", "[::]:18000", "[::]:18000"),
    ],
)
def test_a_setting_is_read_as_people_write_it(name: str, written: object, value: object) -> None:
    assert getattr(judged({name: written}), name) == value


def test_every_default_is_a_value_that_may_be_given() -> None:
    defaults = {name: getattr(Settings(), name) for name in Settings.__slots__}
    assert judged(defaults) == Settings()


def test_a_flag_wins_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text('profile = "osm"\nmode = "audit"\nlog_level = "debug"\nnamespaces = ["a", "b"]\n')
    monkeypatch.setenv("SMI_ADAPTER_CONFIG", str(file))
    monkeypatch.setenv("SMI_ADAPTER_MODE", "permissive")
    monkeypatch.setenv("SMI_ADAPTER_LOG_LEVEL", "error")
    found = read({"log_level": "warning", "trust_domain": None})
    assert found == Settings(profile="osm", mode="permissive", log_level="warning", namespaces=("a", "b"))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mesh.toml"
    for content in (b"profile", b'profile = "\xff"', None):
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(SettingsError, match=r"configuration file .*mesh\.toml"):
            read({}, file)
