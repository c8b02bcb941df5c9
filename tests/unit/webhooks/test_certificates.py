"""The life of the certificates, by a clock that the test holds."""

from __future__ import annotations

import ssl
from dataclasses import replace
from itertools import pairwise

import pytest
from cryptography import x509

from smi_adapter.identity.ca import BACKDATED
from smi_adapter.webhooks import certificates
from smi_adapter.webhooks.certificates import Certificates, Lives, UnusableError
from smi_adapter.webhooks.server import tls_context

NAMES = ("hooks.smi-system.svc", "hooks.smi-system.svc.cluster.local")
LIVES = Lives(authority=90_000.0, serving=9_000.0, settling=60.0)
BEGIN = 1_800_000_000.0


def trusts(bundle: bytes, certificate: bytes) -> bool:
    leaf = x509.load_pem_x509_certificate(certificate)
    for root in x509.load_pem_x509_certificates(bundle):
        try:
            leaf.verify_directly_issued_by(root)
        except Exception:  # noqa: BLE001, S112 - the library's error is not public
            continue
        return True
    return False


def test_what_is_made_is_backdated_and_has_the_names() -> None:
    made = certificates.create(NAMES, LIVES, BEGIN)
    leaf = x509.load_pem_x509_certificate(made.serving.certificate)
    assert leaf.not_valid_before_utc.timestamp() == BEGIN - BACKDATED
    assert 300 <= BACKDATED <= 600
    assert certificates.names_of(made.serving.certificate) == frozenset(NAMES)
    assert trusts(made.bundle, made.serving.certificate)
    tls_context(made.serving.certificate, made.serving.private_key)


def test_nothing_changes_before_two_thirds_of_a_life() -> None:
    made = certificates.create(NAMES, LIVES, BEGIN)
    assert certificates.advance(made, NAMES, LIVES, BEGIN + 0.59 * LIVES.serving, reached=True) is made
    later = certificates.advance(made, NAMES, LIVES, BEGIN + 0.67 * LIVES.serving, reached=True)
    assert later.serving.certificate != made.serving.certificate
    assert later.bundle == made.bundle


def test_a_new_dns_name_renews_the_certificate_at_once() -> None:
    made = certificates.create(NAMES, LIVES, BEGIN)
    later = certificates.advance(made, (*NAMES, "other"), LIVES, BEGIN + 1, reached=True)
    assert "other" in certificates.names_of(later.serving.certificate)


def walk(
    held: Certificates, until: float, *, step: float = 61.0, reached: bool = True
) -> list[tuple[float, Certificates]]:
    states, now = [(BEGIN, held)], BEGIN
    while now < until:
        now += step
        new = certificates.advance(states[-1][1], NAMES, LIVES, now, reached=reached)
        if new is not states[-1][1]:
            states.append((now, new))
    return states


def test_over_years_every_state_trusts_what_its_neighbours_show() -> None:
    """A replica or an API server may be one state behind; nobody is ever shown what he does not trust."""
    states = walk(certificates.create(NAMES, LIVES, BEGIN), BEGIN + 3 * LIVES.authority)
    authorities = {held.authority.bundle for _, held in states}
    assert len(authorities) >= 4
    for (_, before), (now, after) in pairwise(states):
        assert trusts(before.bundle, after.serving.certificate)
        assert trusts(after.bundle, before.serving.certificate)
        for held in (before, after):
            assert trusts(held.bundle, held.serving.certificate)
            assert certificates.expiry(held.serving.certificate) > now
            assert certificates.expiry(held.authority.bundle) > now
        grew = set(x509.load_pem_x509_certificates(after.bundle)) - set(x509.load_pem_x509_certificates(before.bundle))
        assert not grew or after.authority.bundle == before.authority.bundle  # widened first, then it signs


def test_no_step_is_taken_before_the_last_one_has_reached_everybody() -> None:
    states = walk(certificates.create(NAMES, LIVES, BEGIN), BEGIN + LIVES.authority * 0.9, reached=False)
    assert {held.authority.bundle for _, held in states} == {states[0][1].authority.bundle}
    assert states[-1][1].coming is not None
    now, waiting = next((now, held) for now, held in states if held.coming is not None)
    early = certificates.advance(waiting, NAMES, LIVES, now + LIVES.settling - 1, reached=True)
    assert early.authority.bundle == waiting.authority.bundle


def test_every_state_is_stored_and_read_back() -> None:
    for _, held in walk(certificates.create(NAMES, LIVES, BEGIN), BEGIN + LIVES.authority):
        again = certificates.from_data(certificates.to_data(held))
        assert certificates.to_data(again) == certificates.to_data(held)
        assert again.serving.expires_at == pytest.approx(held.serving.expires_at, abs=1)


@pytest.mark.parametrize("name", ["authority.pem", "tls.crt", "tls.key", "since", "coming.pem", "leaving.crt"])
@pytest.mark.parametrize("garbage", [b"", b"garbage", b"\xff\x00", b"-----BEGIN CERTIFICATE-----\nAA\n"])
def test_garbage_is_refused_without_quoting_it(name: str, garbage: bytes) -> None:
    made = certificates.create(NAMES, LIVES, BEGIN)
    data = {**certificates.to_data(made), name: garbage}
    if not garbage and name in {"coming.pem", "leaving.crt"}:
        return
    with pytest.raises(UnusableError) as refusal:
        certificates.from_data(data)
    assert "garbage" not in str(refusal.value)


def test_parts_of_two_sets_do_not_fit() -> None:
    one, other = (certificates.create(NAMES, LIVES, BEGIN) for _ in range(2))
    with pytest.raises(UnusableError):
        certificates.from_data({**certificates.to_data(one), "tls.key": other.serving.private_key})
    with pytest.raises(UnusableError, match="did not sign"):
        certificates.from_data({**certificates.to_data(one), "authority.pem": other.authority.to_pem()})
    with pytest.raises(ValueError, match="do not fit"):
        tls_context(one.serving.certificate, other.serving.private_key)


def test_keys_are_in_no_repr() -> None:
    made = certificates.create(NAMES, LIVES, BEGIN)
    made = replace(made, coming=made.authority)
    assert "PRIVATE" not in repr(made)
    assert isinstance(tls_context(made.serving.certificate, made.serving.private_key), ssl.SSLContext)
