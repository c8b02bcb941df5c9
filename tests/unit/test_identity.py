"""The embedded authority and the book-keeping of key pairs."""

from __future__ import annotations

import logging

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from smi_adapter.identity import Authority, Issuer, KeyPair
from smi_adapter.identity.ca import AuthorityFileError
from smi_adapter.identity.issuer import renewal_time

NOW = 1_800_000_000.0
WEB = "spiffe://cluster.local/ns/shop/sa/web"
CA = Authority.create("cluster.local", NOW)


def certificate(pair: KeyPair) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pair.certificate)


def test_a_leaf_is_exactly_one_spiffe_id_and_nothing_else() -> None:
    leaf = certificate(CA.issue(WEB, NOW, 3600))
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert [name.value for name in names.value] == [WEB]
    assert names.critical
    assert len(leaf.subject.rdns) == 0
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    key = leaf.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"


def test_a_leaf_is_signed_by_the_authority_and_backdated_five_minutes() -> None:
    pair = CA.issue(WEB, NOW, 60)
    leaf = certificate(pair)
    leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(CA.bundle))
    assert leaf.not_valid_before_utc.timestamp() == NOW - 300
    assert leaf.not_valid_after_utc.timestamp() == NOW + 60 == pair.expires_at
    key = serialization.load_pem_private_key(pair.private_key, None)
    assert key.public_key() == leaf.public_key()


@pytest.mark.parametrize(
    "identity",
    [
        "",
        "spiffe://cluster.local",
        "spiffe://cluster.local/",
        "spiffe://elsewhere/ns/a/sa/b",
        "https://cluster.local/x",
    ],
)
def test_an_id_of_another_domain_is_not_issued(identity: str) -> None:
    with pytest.raises(ValueError, match="not a SPIFFE id"):
        CA.issue(identity, NOW, 3600)


def test_a_life_below_a_minute_is_refused_and_none_outlives_the_root() -> None:
    with pytest.raises(ValueError, match="at least 60 s"):
        CA.issue(WEB, NOW, 59)
    short = Authority.create("cluster.local", NOW, 600)
    assert certificate(short.issue(WEB, NOW, 3600)).not_valid_after_utc.timestamp() == NOW + 600


def test_a_kept_authority_is_the_same_again() -> None:
    again = Authority.from_pem(CA.to_pem())
    assert (again.bundle, again.trust_domain) == (CA.bundle, "cluster.local")
    certificate(again.issue(WEB, NOW, 60)).verify_directly_issued_by(x509.load_pem_x509_certificate(CA.bundle))


def test_what_is_no_authority_is_refused() -> None:
    mixed = Authority.create("cluster.local", NOW).to_pem().split(b"-----BEGIN CERT")[0] + CA.bundle
    for damaged in (b"", b"garbage", CA.bundle, mixed):
        with pytest.raises(AuthorityFileError):
            Authority.from_pem(damaged)


def test_keys_are_in_no_repr_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    issuer = Issuer(CA)
    pair = issuer.key_pair(WEB, NOW)
    for text in (repr(CA), repr(issuer), repr(pair), str(pair), caplog.text):
        assert "PRIVATE" not in text
        assert pair.private_key.splitlines()[1].decode() not in text


def test_an_identity_keeps_its_pair_until_two_thirds_of_its_life_less_a_jitter() -> None:
    issuer = Issuer(CA, life=90)
    pair = issuer.key_pair(WEB, NOW)
    due = renewal_time(pair)
    assert NOW + 54 <= due <= NOW + 60
    assert issuer.next_due() == due
    assert issuer.key_pair(WEB, due - 0.1) is pair
    assert issuer.due(due - 0.1) == ()
    assert issuer.due(due) == (WEB,)
    renewed = issuer.key_pair(WEB, due)
    assert renewed.private_key != pair.private_key
    assert issuer.due(due) == ()


def test_the_jitter_spreads_a_fleet_and_is_the_same_in_every_process() -> None:
    issuer = Issuer(CA, life=3600)
    times = [renewal_time(issuer.key_pair(f"{WEB}{number}", NOW)) for number in range(50)]
    assert len(set(times)) == 50
    again = Issuer(CA, life=3600)
    assert [renewal_time(again.key_pair(f"{WEB}{number}", NOW)) for number in range(50)] == times


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 50)), max_size=12))
def test_whoever_is_told_in_time_never_holds_an_expired_certificate(history: list[tuple[str, float]]) -> None:
    issuer, now = Issuer(CA, life=60), NOW
    for name, pause in history:
        pair = issuer.key_pair(WEB + name, now)
        assert pair.expires_at > now
        assert pair.identity == WEB + name
        now += pause
        for due in issuer.due(now):
            assert issuer.key_pair(due, now).issued_at == now


def test_a_forgotten_identity_gets_a_new_key() -> None:
    issuer = Issuer(CA)
    pair = issuer.key_pair(WEB, NOW)
    issuer.forget(WEB)
    assert issuer.next_due() is None
    assert issuer.key_pair(WEB, NOW).private_key != pair.private_key
